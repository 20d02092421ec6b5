"""The figure beside the sheets: the distribution of PSNR."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.files import write_drawn

HUES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe and Ito's palette: apart for everybody


def draw_psnr(psnr: Mapping[str, NDArray[Any]], title: str, out: Path) -> None:
    """Write a histogram of PSNR, one outline per split with its mean. Splits without a finite value are left out.

    `psnr` holds one value per cloud of each split, dB. Shares, not counts, so that splits of any size compare.
    """
    from matplotlib.figure import Figure

    finite = {split: np.asarray(v, np.float64)[np.isfinite(v)] for split, v in psnr.items()}
    finite = {split: values for split, values in finite.items() if len(values)}
    figure = Figure(figsize=(8, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    pooled = np.concatenate([np.zeros(0), *finite.values()])
    edges = bin_edges(pooled).tolist()
    for i, (split, values) in enumerate(finite.items()):
        hue, share = HUES[i % len(HUES)], np.full(len(values), 100 / len(values))
        name = f"{split}: {len(values):,} clouds, mean {values.mean():.2f} dB"
        axes.hist(values, edges, weights=share, histtype="stepfilled", facecolor=hue, alpha=0.25)
        axes.hist(values, edges, weights=share, histtype="step", edgecolor=hue, linewidth=1.6, label=name)
        axes.axvline(values.mean(), color=hue, linewidth=1.2, linestyle="--")
    # A name is no formula: matplotlib would read what stands between dollar signs.
    axes.set_title(title.replace("$", r"\$"), loc="left", fontweight="bold")
    axes.set_xlabel("PSNR of the reconstruction, dB")
    axes.set_ylabel("share of the split's clouds, %")
    axes.spines[["top", "right"]].set_visible(False)
    if finite:
        axes.legend(frameon=False)
    write_drawn(out, partial(figure.savefig, format="png"))


def bin_edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """12 to 60 bins over all values; a single value gets a bin of its own."""
    if not len(values):
        return np.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    if high - low < 0.1:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, int(np.clip(np.sqrt(len(values)), 12, 60)) + 1)
