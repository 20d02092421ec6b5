"""The two pictures of a run: its curves and its confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from arcpipe.files import write_drawn

NUMBERS_UP_TO = 20
"""Classes up to which the matrix shows counts; above, cells are too small to read."""

NAMES_UP_TO = 50
MARKERS_UP_TO = 40
COLOURS = {"train": "#0072b2", "test": "#d55e00", "val": "#009e73"}  # Okabe and Ito: told apart by everybody
LABEL_CHARACTERS = 16


def draw_curves(path: Path, epochs: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> None:
    """Draw loss and accuracy of training and of `splits`. `epochs`: the lines of kind `epoch` of metrics.jsonl."""
    from matplotlib.figure import Figure  # a second to import, for which no training should wait
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, quantity, factor, unit in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), (1, 100), ("cross-entropy", "%"), strict=True
    ):
        for name in ("train", *splits):
            points = [(e["epoch"], factor * e[f"{name}_{quantity}"]) for e in epochs if f"{name}_{quantity}" in e]
            x, y = zip(*points, strict=True) if points else ((), ())
            label = f"{name}, last {y[-1]:.3g}" if y else name
            marker = "o" if len(x) < MARKERS_UP_TO else None
            axes.plot(x, y, color=COLOURS.get(name, "#555555"), label=label, marker=marker, markersize=3)
        axes.set(title=quantity, xlabel="epoch", ylabel=unit)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    write_drawn(path, partial(figure.savefig, dpi=120, format="png"))


def draw_confusion(path: Path, confusion: Sequence[Sequence[int]], classes: Sequence[str], title: str) -> None:
    """Draw the confusion matrix: rows are true classes, colour is the share of the row."""
    from matplotlib.figure import Figure

    counts = np.array(confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = float(np.clip(0.5 * len(classes) + 2, 4, 14))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    if len(classes) <= NUMBERS_UP_TO:
        for i, j in np.ndindex(*counts.shape):
            if counts[i, j]:
                colour = "white" if shares[i, j] > 0.55 else "black"
                axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8, color=colour)
    names = [_shorten(name) for name in classes] if len(classes) <= NAMES_UP_TO else []
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(title=title, xlabel="taken for", ylabel="true class")
    write_drawn(path, partial(figure.savefig, dpi=100, format="png"))


def draw_calibration(path: Path, bins: Sequence[tuple[int, float, float]], error: float, split: str) -> None:
    """Draw the reliability diagram: share right against confidence, and how many images have which confidence.

    `bins`: of `Measures.calibration`. A bar below the diagonal is confidence that is not earned.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = 1 / max(len(bins), 1)
    middles = [(i + 0.5) * width for i in range(len(bins))]
    total = max(sum(n for n, _, _ in bins), 1)
    upper.plot([0, 1], [0, 1], color="#555555", linestyle="--", linewidth=1)
    upper.bar(middles, [share for _, _, share in bins], 0.94 * width, color=COLOURS["train"], alpha=0.85)
    known = [(mean, share) for n, mean, share in bins if n]
    upper.plot(*zip(*known, strict=True), "o", color=COLOURS["test"], markersize=4) if known else None
    upper.set(title=f"{split}: calibration error {100 * error:.2f} %", ylabel="share that is right", ylim=(0, 1))
    lower.bar(middles, [100 * n / total for n, _, _ in bins], 0.94 * width, color="#999999")
    lower.set(xlabel="confidence", ylabel="images, %", xlim=(0, 1))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    write_drawn(path, partial(figure.savefig, dpi=110, format="png"))


def _shorten(name: str) -> str:
    """Both ends stay: names often differ in the last characters only."""
    half = LABEL_CHARACTERS // 2
    return name if len(name) <= LABEL_CHARACTERS else f"{name[:half]}…{name[1 - half :]}"
