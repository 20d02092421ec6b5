"""The table of an experiment: as Markdown for people, as CSV for machines, and drawn as bars with their spread."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from arcpipe.files import write_drawn
from arcpipe.pipeline.results import Cell, Row

FACTS = {"images": "images", "clouds": "clouds", "psnr": "PSNR, dB", "epochs": "epochs", "minutes": "minutes"}
"""Facts of a row and their headings: of the training split; minutes are those of one training."""
HUES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")  # Okabe and Ito: told apart by everybody
BAR = 0.36  # inches that a bar takes
NAME_CHARACTERS, TITLE_CHARACTERS = 26, 90


def markdown(title: str, thesis: str, columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Lines of the table: per column ours (mean ± deviation over seeds) and the thesis's number, %."""
    with_thesis = [name for name in columns if any(_cell(row, name).thesis is not None for row in rows)]
    head = ["arm"]
    for name in columns:
        head += [name] + ([thesis] if name in with_thesis else [])
    lines = [f"**{title}**, %", ""] if title else []
    lines += [_line([*head, *FACTS.values()]), _line(["---"] + ["--:"] * (len(head) - 1 + len(FACTS)))]
    for row in rows:
        cells = [f"*{row.name}*" if row.reference else row.name]
        for name in columns:
            cell = _cell(row, name)
            cells.append(ours(cell))
            if name in with_thesis:
                cells.append("" if cell.thesis is None else f"{cell.thesis:.2f}")
        lines.append(_line([*cells, *(_fact(name, row.facts.get(name)) for name in FACTS)]))
    if any(row.reference for row in rows):
        lines += ["", "In italics: methods that only the thesis measured."]
    return lines


def comma_separated(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """One line per row and column; accuracies in %."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "column", "mean", "deviation", "seeds", "thesis", "reference", *FACTS, "parameters"])
    for row in rows:
        for name in columns:
            if name in row.cells:
                cell = row.cells[name]
                facts = [_number(row.facts.get(fact)) for fact in (*FACTS, "parameters")]
                numbers = [_number(cell.mean), _number(cell.deviation), len(cell.values), _number(cell.thesis)]
                writer.writerow([row.name, name, *numbers, int(row.reference), *facts])
    return text.getvalue()


def draw_results(path: Path, title: str, thesis: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Draw all rows, top to bottom as in the table: our numbers as bars, those of the thesis as diamonds.

    Every column has its colour. What is missing leaves a gap.
    """
    from matplotlib.figure import Figure

    bars = [(row, name) for row in rows for name in columns if name in row.cells]
    figure = Figure(figsize=(8.5, 1.5 + BAR * len(bars) + 0.12 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places, middles, at = [], [], 0.0
    for row in rows:
        own = [name for name in columns if name in row.cells]
        places += [at + i for i in range(len(own))]
        middles.append(at + (len(own) - 1) / 2)
        at += len(own) + 0.5
    seen: set[str] = set()
    for (row, name), place in zip(bars, places, strict=True):
        cell, hue = row.cells[name], HUES[columns.index(name) % len(HUES)]
        if cell.mean is not None:
            label = name if name not in seen else None
            seen.add(name)
            axes.barh(place, cell.mean, 0.82, color=hue, alpha=0.85, xerr=cell.deviation, capsize=3, label=label)
            beside = axes.get_yaxis_transform()  # in a column of their own: clear of bars and diamonds
            axes.text(1.01, place, ours(cell), va="center", ha="left", fontsize=9, transform=beside)
        if cell.thesis is not None:
            label = None if "" in seen else thesis
            seen.add("")
            axes.plot(cell.thesis, place, "D", color="black", markerfacecolor="white", markersize=6, label=label)
    axes.set_yticks(middles, [textwrap.fill(row.name, NAME_CHARACTERS) for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, %")
    heading = textwrap.fill(title.replace("$", r"\$"), TITLE_CHARACTERS, break_on_hyphens=False)
    figure.suptitle(heading, x=0.01, ha="left", fontweight="bold", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    if seen:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    write_drawn(path, partial(figure.savefig, dpi=120, format="png"))


def ours(cell: Cell) -> str:
    """`51.23 ± 0.41 (3)`, the number of seeds in brackets; `51.23` for one; empty where nothing is measured."""
    if cell.mean is None:
        return ""
    if cell.deviation is None:
        return f"{cell.mean:.2f}"
    return f"{cell.mean:.2f} ± {cell.deviation:.2f} ({len(cell.values)})"


def _cell(row: Row, name: str) -> Cell:
    return row.cells.get(name, Cell((), None))


def _fact(name: str, value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
