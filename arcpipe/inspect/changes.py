"""Changes that pictures and clouds can both be given: what a changed cloud decodes to, beside the changed picture.

The changed picture is exact: its pixels are decoded where they lie in the old one (`expected`), not resampled from old
pixels. How far a resampling of the old pixels by cubic splines is from that is told too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc import edit as arc_edit
from arcpipe.arc import maps as arc_maps
from arcpipe.arc.maps import Maps
from arcpipe.arc.render import render_cloud, render_places
from arcpipe.cloud import Cloud, DecoderRecord

Floats = NDArray[np.float64]
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Change:
    """One change.

    `words`: what it does. `cloud` changes a cloud, its latents too where there are `Maps`. `back`: where places (p, 2)
    of the changed picture lie in the old one of a size. `size` of the changed picture. `colours` (matrix, offset): old
    colours c become `matrix (c - 0.5) + 0.5 + offset`.
    """

    words: str
    cloud: Callable[[Cloud, Maps | None], Cloud]
    back: Callable[[Floats, Size], Floats] = lambda places, size: places
    size: Callable[[Size], Size] = lambda size: size
    colours: tuple[Floats, Floats] | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """Pictures in [0, 1] after a change, and how near they are to `expected`, dB where the old picture reaches to.

    `expected`: the old cloud, decoded where the new pixels lie. `followed`: what the changed cloud decodes to. `alone`:
    what it does with latents and scales as they were; None where they are. `resampled_db`: of the old pixels,
    interpolated; None where colours change.
    """

    cloud: Cloud
    expected: NDArray[np.float32]
    followed: NDArray[np.float32]
    alone: NDArray[np.float32] | None
    followed_db: float
    alone_db: float | None
    resampled_db: float | None


def compare(cloud: Cloud, record: DecoderRecord, change: Change, maps: Maps | None) -> Compared:
    """Change a cloud and its picture. `maps` of the record, None for the kind `concat`."""
    size = change.size(cloud.size)
    places = change.back(np.mgrid[: size[0], : size[1]].reshape(2, -1).T.astype(np.float64), cloud.size)
    inside = ((places >= -1e-6) & (places <= np.array(cloud.size) - 1 + 1e-6)).all(axis=1).reshape(size)

    def recoloured(colours: NDArray[Any]) -> NDArray[np.float32]:
        if change.colours is not None:
            matrix, offset = change.colours
            colours = (colours - 0.5) @ matrix.T + 0.5 + offset
        return np.clip(colours, 0, 1).astype(np.float32).reshape(*size, -1)

    expected = recoloured(render_places(cloud, record, places))
    changed = change.cloud(cloud, maps)
    followed = render_cloud(changed, record)
    alone = None
    if changed.size == cloud.size and not (changed.latents is cloud.latents and changed.scales is cloud.scales):
        alone = render_cloud(replace(changed, latents=cloud.latents, scales=cloud.scales), record)
    resampled = None if change.colours is not None else recoloured(_spline(render_cloud(cloud, record), places))

    def near(found: NDArray[np.float32] | None) -> float | None:
        return None if found is None else _decibels(found[inside], expected[inside])

    return Compared(changed, expected, followed, alone, near(followed) or 0.0, near(alone), near(resampled))


def _spline(picture: NDArray[np.float32], places: Floats) -> NDArray[np.float32]:
    from scipy.ndimage import map_coordinates

    channels = [map_coordinates(plane, places.T, order=3, mode="nearest") for plane in picture.transpose(2, 0, 1)]
    return np.stack(channels, axis=1).astype(np.float32)


def _decibels(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """PSNR of colours in [0, 1], at most 120 dB: float32 has no more."""
    error = float(np.square(found.astype(np.float64) - expected).mean()) if found.size else 0.0
    return -10 * float(np.log10(max(error, 1e-12)))


def _linear(matrix: Floats) -> Callable[[Floats, Size], Floats]:
    """`back` of a change that puts a place p, seen from the middle, at `matrix p`."""
    inverse = np.linalg.inv(matrix)

    def back(places: Floats, size: Size) -> Floats:
        middle = (np.array(size) - 1) / 2
        moved: Floats = (places - middle) @ inverse.T + middle
        return moved

    return back


def rotated(degrees: float) -> Change:
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    words = f"turned by {degrees:g}° about the middle"
    return Change(words, lambda cloud, maps: arc_edit.rotate(cloud, degrees, maps), _linear(matrix))


def flipped(axis: Literal["rows", "columns", "both"]) -> Change:
    signs = {"rows": [-1.0, 1.0], "columns": [1.0, -1.0], "both": [-1.0, -1.0]}
    words = {"rows": "top and bottom exchanged", "columns": "left and right exchanged", "both": "both axes flipped"}
    return Change(words[axis], lambda cloud, maps: arc_edit.flip(cloud, axis, maps), _linear(np.diag(signs[axis])))


def zoomed(factor: float) -> Change:
    return Change(
        f"{factor:g} times as large", lambda cloud, maps: arc_edit.zoom(cloud, factor), _linear(factor * np.eye(2))
    )


def sheared(slope: float) -> Change:
    matrix = np.array([[1.0, 0.0], [slope, 1.0]])
    words = f"rows moved sideways by {slope:g} of their height"
    return Change(words, lambda cloud, maps: arc_edit.shear(cloud, slope, maps), _linear(matrix))


def cropped(share: float, margin: float = 0.0, least: int = 4) -> Change:
    """The middle of the picture, a share of its sides; `least`: anchors that it needs to be decoded."""

    def window(size: Size) -> Size:
        return max(round(share * size[0]), 1), max(round(share * size[1]), 1)

    def low(size: Size) -> Floats:
        return np.floor((np.array(size) - window(size)) / 2)

    return Change(
        f"the middle {share:g} of its sides" + (f", with {margin:g} scales around" if margin else ""),
        lambda cloud, maps: arc_edit.crop(cloud, low(cloud.size), window(cloud.size), margin=margin, least=least),
        lambda places, size: places + low(size),
        window,
    )


def recoloured(name: str, strength: float, channels: int) -> Change:
    """`brightness`, `contrast`, `saturation` or `hue`. Raises ValueError where clouds have no `Maps`."""
    of_channels = (channels,) if name in ("brightness", "contrast") else ()
    matrix, offset = getattr(arc_maps, name)(strength, *of_channels)

    def follow(cloud: Cloud, maps: Maps | None) -> Cloud:
        if maps is None:
            raise ValueError("the colours of a cloud of the kind concat cannot be changed")
        return arc_edit.recolour(cloud, matrix, offset, maps)

    words = f"hues turned by {360 * strength:g}°" if name == "hue" else f"{name} times {strength:g}"
    return Change(words, follow, colours=(matrix, offset))


COLOURS = {"brightness": (1.2, 0.6, 1.5), "contrast": (0.7, 1.5, 0.3), "saturation": (0.5, 1.5, 0.0)}
COLOURS |= {"hue": (0.05, 0.1, 0.5)}


def changes(name: str, record: DecoderRecord) -> tuple[Change, ...]:
    """The three levels of `rotate`, `flip`, `zoom`, `crop`, `shear`, or of a change of colours."""
    if name in COLOURS:
        return tuple(recoloured(name, strength, record.channels) for strength in COLOURS[name])
    least = record.n_neighbours
    levels: dict[str, tuple[Change, ...]] = {
        "rotate": (rotated(30), rotated(90), rotated(150)),
        "flip": (flipped("columns"), flipped("rows"), flipped("both")),
        "zoom": (zoomed(1.5), zoomed(3), zoomed(0.7)),
        "crop": (cropped(0.75, 0, least), cropped(0.5, 0, least), cropped(0.75, 2, least)),
        "shear": (sheared(0.1), sheared(0.3), sheared(-0.5)),
    }
    return levels[name]


PICTURES = ("rotate", "flip", "zoom", "crop", "shear", *COLOURS)
"""All changes that have levels."""
