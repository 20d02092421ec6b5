"""The table of an experiment, as Markdown for people and as CSV for machines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from arcpipe.pipeline.results import Cell, Row

FACTS = {"images": "images", "clouds": "clouds", "psnr": "PSNR, dB", "epochs": "epochs", "minutes": "minutes"}
"""Facts of a row and their headings: of the training split; minutes are those of one training."""


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
