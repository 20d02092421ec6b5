"""Charts as inline SVG, and one as a picture beside the sheets.

Colours and letters of the SVG are those of the page, so they follow it into the dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.files import write_drawn
from arcpipe.inspect.markup import Markup, tag
from arcpipe.inspect.pixels import coloured
from arcpipe.store.summary import SHARES

HUES = 4  # classes s0 to s3 of the page's style
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe and Ito's: apart for everybody
WIDTH, LEFT, RIGHT, FOOT = 400, 44, 8, 36
HEAD_ROW = 15  # of one split's line of quantiles, above the bars
PLOT = 130
MAP_CELLS = 24
MOST_DIMENSIONS = 256


@dataclass(frozen=True, slots=True)
class Frame:
    """Where values lie in a chart: `low` to `high` from left to right, 0 to `top` (or `bottom` to `top`) upwards."""

    low: float
    high: float
    top: float
    above: int
    bottom: float = 0.0
    plot: int = PLOT

    @property
    def height(self) -> int:
        return self.above + self.plot + FOOT

    def x(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (value - self.low) / span, 2)

    def y(self, value: float) -> float:
        span = self.top - self.bottom or 1.0
        return round(self.above + self.plot * (1 - (value - self.bottom) / span), 2)


def hue(index: int) -> str:
    """The class that gives the `index`-th split its colour."""
    return f"s{index % HUES}"


def key(index: int) -> Markup:
    """A square of a split's colour, for the head of its row in a table."""
    square = tag("rect", width=10, height=10)
    return tag("svg", square, class_=f"key {hue(index)}", viewBox="0 0 10 10", aria_hidden="true")


def bar(share: float) -> Markup:
    """A horizontal bar as long as `share`, which is between 0 and 1."""
    filled = tag("rect", width=round(100 * min(max(share, 0.0), 1.0), 2), height=8, class_="full")
    look = {"class_": "bar s0", "viewBox": "0 0 100 8", "preserveAspectRatio": "none"}
    return tag("svg", filled, aria_hidden="true", **look)


def histogram(values: Mapping[str, NDArray[Any]], axis: str, about: str, *, whole: bool = False) -> Markup:
    """A histogram of each split as the share of its values, and above it where its quantiles are.

    The thin line reaches from the least to the greatest value, the thick one from the 5 % to the 95 % quantile; the
    dot is the median. Values that are not finite are left out. `whole`: values are whole numbers.
    """
    finite = {name: np.asarray(v, np.float64)[np.isfinite(v)] for name, v in values.items()}
    pooled = np.concatenate([np.zeros(0), *finite.values()])
    edges = _whole_edges(pooled) if whole else _edges(pooled)
    shares = {
        name: 100 * np.histogram(own, edges)[0] / len(own) if len(own) else np.zeros(len(edges) - 1)
        for name, own in finite.items()
    }
    top = max([1e-9, *(float(share.max()) for share in shares.values())])
    frame = Frame(float(edges[0]), float(edges[-1]), top, above=HEAD_ROW * len(finite) + 8)
    shapes: list[Markup] = _axes(frame, axis, " %")
    for i, (name, own) in enumerate(finite.items()):
        if len(own):
            shapes.append(tag("path", d=_steps(frame, edges, shares[name]), class_=f"area {hue(i)}"))
            shapes += _quantile_line(frame, own, i, name)
    return _chart(frame, shapes, about)


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
    edges = _edges(pooled).tolist()
    for i, (split, values) in enumerate(finite.items()):
        hue, share = PALETTE[i % len(PALETTE)], np.full(len(values), 100 / len(values))
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


def deviations(mean: Sequence[float], std: Sequence[float], about: str) -> Markup:
    """Mean (dot) and one standard deviation up and down (bar) of each dimension, the first 256 of them."""
    centre, spread = np.asarray(mean[:MOST_DIMENSIONS], np.float64), np.asarray(std[:MOST_DIMENSIONS], np.float64)
    count = len(centre)
    reach = max(1e-9, float(np.abs(np.concatenate([centre - spread, centre + spread])).max()))
    frame = Frame(-0.5, count - 0.5, reach, above=8, bottom=-reach)
    shapes = _axes(frame, "dimension", whole=True)
    shapes.append(_line(frame.x(frame.low), frame.y(0), frame.x(frame.high), frame.y(0), "axis"))
    thick = round(0.55 * (WIDTH - LEFT - RIGHT) / max(count, 1), 2)
    for i, (m, s) in enumerate(zip(centre.tolist(), spread.tolist(), strict=True)):
        told = tag("title", f"dimension {i}: mean {m:.4g}, standard deviation {s:.4g}")
        left, upper = frame.x(i) - thick / 2, frame.y(m + s)
        size = {"width": thick, "height": round(frame.y(m - s) - upper, 2)}
        shapes.append(tag("rect", told, x=round(left, 2), y=upper, class_="area s0", **size))
        shapes.append(tag("circle", cx=frame.x(i), cy=frame.y(m), r=min(2.5, max(0.6, thick / 3)), class_="full s0"))
    return _chart(frame, shapes, about)


def size_map(sizes: NDArray[Any], about: str) -> Markup:
    """How many images have which width and height: darker squares hold more."""
    tall, wide = (np.asarray(sizes, np.float64)[:, i] for i in (0, 1))
    reach = [float(max(tall.max(), 1)), float(max(wide.max(), 1))]
    counts, _, _ = np.histogram2d(tall, wide, MAP_CELLS, [[0, reach[0]], [0, reach[1]]])
    frame = Frame(0, reach[1], reach[0], above=8, plot=220)
    shapes = _axes(frame, "width, and upwards height, pixels", whole=True)
    across, up = reach[1] / MAP_CELLS, reach[0] / MAP_CELLS
    for i, j in np.argwhere(counts).tolist():
        left, upper = frame.x(j * across), frame.y((i + 1) * up)
        strength = round(float(0.25 + 0.75 * np.sqrt(counts[i, j] / counts.max())), 3)
        told = tag("title", f"about {(j + 0.5) * across:.0f} wide and {(i + 0.5) * up:.0f} high: {counts[i, j]:,.0f}")
        size = {"width": round(frame.x(across) - LEFT, 2), "height": round(frame.y(0) - frame.y(up), 2)}
        shapes.append(tag("rect", told, x=left, y=upper, class_="full s0", fill_opacity=strength, **size))
    return _chart(frame, shapes, about)


def error_scale(limit: float) -> Markup:
    """The colours of the error pictures: black is 0, pale yellow is `limit` and more."""
    colours = coloured(np.linspace(0, 1, 9), "magma").tolist()
    stops = [tag("stop", offset=i / 8, stop_color="#{:02x}{:02x}{:02x}".format(*c)) for i, c in enumerate(colours)]
    drawn = (
        tag("defs", tag("linearGradient", *stops, id="magma")),
        tag("text", "0", x=0, y=12),
        tag("rect", x=14, y=2, width=100, height=12, fill="url(#magma)"),
        tag("text", f"≥ {limit:g}", x=120, y=12),
    )
    return tag("svg", *drawn, class_="scale", viewBox="0 0 170 16", role="img", aria_label=f"error, 0 to {limit:g}")


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """12 to 60 bins over all values; a single value gets a bin of its own."""
    if not len(values):
        return np.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    if high - low < 0.1:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, int(np.clip(np.sqrt(len(values)), 12, 60)) + 1)


def _whole_edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bins around whole numbers, at most 60 of one width, with room at both ends."""
    if not len(values):
        return np.array([0.0, 1.0])
    low, high = int(values.min()), int(values.max())
    step = max(1, -(-(high - low + 1) // 60))
    pad = max(0, 5 - (high - low)) // 2  # a single value is a bar, not a wall
    return np.arange(low - pad * step, high + step + pad * step + 1, step, dtype=np.float64) - 0.5


def _steps(frame: Frame, edges: NDArray[np.float64], shares: NDArray[np.float64]) -> Markup:
    """The outline of a histogram, closed along its foot."""
    points = [f"M{frame.x(float(edges[0]))} {frame.y(0)}"]
    for left, right, share in zip(edges[:-1].tolist(), edges[1:].tolist(), shares.tolist(), strict=True):
        points.append(f"L{frame.x(left)} {frame.y(share)}H{frame.x(right)}")
    return Markup("".join(points) + f"V{frame.y(0)}Z")  # numbers only, and longer than a text may be


def _quantile_line(frame: Frame, values: NDArray[np.float64], index: int, name: str) -> list[Markup]:
    worst, low, median, high, best = (frame.x(value) for value in np.quantile(values, SHARES).tolist())
    y, own = 8 + HEAD_ROW * index, hue(index)
    middle = tag("circle", tag("title", f"{name}: median {np.median(values):.4g}"), cx=median, cy=y, r=4)
    return [
        tag("g", _line(worst, y, best, y, f"line {own}"), _line(low, y, high, y, f"thick {own}")),
        tag("g", middle, class_=f"dot {own}"),
    ]


def _axes(frame: Frame, across: str, unit: str = "", *, whole: bool = False) -> list[Markup]:
    base = frame.above + frame.plot
    shapes = [tag("path", d=f"M{LEFT} {frame.above}V{base}H{WIDTH - RIGHT}", class_="axis")]
    for value in _ticks(frame.low, frame.high, 7, whole=whole):
        shapes.append(tag("text", f"{value:,.6g}", x=frame.x(value), y=base + 14, text_anchor="middle"))
    for value in _ticks(frame.bottom, frame.top, 4):
        y = frame.y(value)
        shapes.append(tag("text", f"{value:,.6g}{unit}", x=LEFT - 5, y=y + 4, text_anchor="end"))
        shapes.append(_line(LEFT - 3, y, LEFT, y, "axis"))
    shapes.append(tag("text", across, x=WIDTH - RIGHT, y=base + 30, text_anchor="end"))
    return shapes


def _ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
    return [float(value) + 0.0 for value in found if low <= value <= high]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _chart(frame: Frame, shapes: Sequence[Markup], about: str) -> Markup:
    return tag("svg", *shapes, class_="chart", viewBox=f"0 0 {WIDTH} {frame.height}", role="img", aria_label=about)
