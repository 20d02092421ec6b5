"""The figure of an experiment: our numbers as bars with their spread over seeds, the thesis's as diamonds."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from arcpipe.files import write_drawn
from arcpipe.pipeline.results import Row
from arcpipe.pipeline.table import ours

HUES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")  # Okabe and Ito: told apart by everybody
BAR = 0.36  # inches that a bar takes
NAME_CHARACTERS, TITLE_CHARACTERS = 26, 90


def draw_results(path: Path, title: str, thesis: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Draw all rows, top to bottom as in the table; every column has its colour. What is missing leaves a gap."""
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
