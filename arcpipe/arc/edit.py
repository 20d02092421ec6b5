"""Changes of a fitted cloud (thesis figures 3, 5 and 6): places moved, points dropped, clouds mixed. NumPy only.

All are pure: they return a new cloud without neighbours and PSNR, which no longer hold (`engine.decode` finds the
neighbours again). Standardisation (`relative`) and size stay (but for a crop's size). Moved positions are float32 and
may lie outside the image.

Given the `Maps` of a decoder of the kind `basis`, `rotate`, `flip`, `shear` and `recolour` change latents too, so that
the cloud decodes to the changed picture. Without, latents stay as they are, as in the thesis: every small patch decodes
to what it was before. `shift`, `zoom` and `crop` need no maps: with anchors that have scales, they change the picture.
Sine networks (recipe `siren`) have no anchors: all but `add_noise` refuse them with a ValueError.
A cloud that brings its decoder along, as those of `store["train/17"]` and of a `Fitter` do, needs no `maps`:

>>> import arcpipe as ap
>>> cloud = ap.open_store("store/digits.zarr")["train/17"]
>>> turned = ap.edit.rotate(ap.edit.flip(cloud, axis="columns"), 15)
>>> ap.decode(turned).shape
(32, 32, 1)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from arcpipe.arc.maps import Maps
from arcpipe.cloud import BasisRecord, Cloud, SirenRecord


def push(cloud: Cloud, reach_px: float, rng: np.random.Generator) -> Cloud:
    """Move every anchor by itself, uniformly within `reach_px` either way on each axis."""
    return _moved(cloud, cloud.positions + rng.uniform(-reach_px, reach_px, cloud.positions.shape))


def add_noise(cloud: Cloud, sigma: float, rng: np.random.Generator) -> Cloud:
    """Add Gaussian noise of standard deviation `sigma` to the latents; they become float32."""
    noise = rng.standard_normal(cloud.latents.shape, np.float32)
    noise *= np.float32(sigma)
    noise += cloud.latents
    return replace(cloud, latents=noise, neighbours=None, psnr=float("nan"))  # of a sine network too: its parameters


def shift(cloud: Cloud, by_px: ArrayLike) -> Cloud:
    """Move all anchors by the same (row, column)."""
    return _moved(cloud, cloud.positions + np.asarray(by_px, np.float64))


def displace(cloud: Cloud, rng: np.random.Generator) -> Cloud:
    """Put the whole cloud anywhere inside its image, by whole pixels, every place equally likely.

    An axis on which the anchors (after other edits) reach farther than the image does is left alone.
    """
    if not len(cloud):
        return cloud
    low = -np.floor(cloud.positions.min(axis=0)).astype(np.int64)
    high = np.array(cloud.size) - 1 - np.ceil(cloud.positions.max(axis=0)).astype(np.int64)
    room = high >= low
    return shift(cloud, np.where(room, rng.integers(np.where(room, low, 0), np.where(room, high, 0) + 1), 0))


def rotate(cloud: Cloud, degrees: float, maps: Maps | None = None) -> Cloud:
    """Turn all anchors about the middle of the image, counter-clockwise as one sees it (rows point down)."""
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    turned, maps = _about_middle(cloud, np.array([[cosine, -sine], [sine, cosine]])), _maps(cloud, maps)
    return turned if maps is None else changed(turned, latents=maps.rotated(cloud.latents, degrees))


def flip(cloud: Cloud, axis: Literal["rows", "columns", "both"] = "columns", maps: Maps | None = None) -> Cloud:
    """Mirror the anchors: `rows` upside down, `columns` left to right."""
    chosen = np.array([axis in ("rows", "both"), axis in ("columns", "both")])
    if not chosen.any():
        raise ValueError(f"axis is rows, columns or both, not {axis!r}")
    mirrored = _moved(cloud, np.where(chosen, 2 * _middle(cloud) - cloud.positions, cloud.positions))
    maps = _maps(cloud, maps)
    if maps is None:
        return mirrored
    signs = np.where(chosen[:, None], maps.mirror, np.float32(1)).prod(0)
    return changed(mirrored, latents=cloud.latents * signs)


def zoom(cloud: Cloud, factor: float) -> Cloud:
    """Make the picture `factor` times as large about its middle: places and scales."""
    return _about_middle(cloud, factor * np.eye(2))


def shear(cloud: Cloud, slope: float, maps: Maps | None = None) -> Cloud:
    """Move every row sideways by `slope` times its distance from the middle, downwards to the right.

    With `maps` latents change as far as they can: it is no exact change of the picture.
    """
    matrix = np.array([[1.0, 0.0], [slope, 1.0]])
    sheared, maps = _about_middle(cloud, matrix), _maps(cloud, maps)
    return sheared if maps is None else changed(sheared, latents=maps.plane(matrix)(cloud.latents))


def crop(cloud: Cloud, low: ArrayLike, size: tuple[int, int], *, margin: float = 0.0, least: int = 0) -> Cloud:
    """Cut a window: its first pixel `low` (row, column), its height and width. Anchors outside are dropped.

    `margin`: keep those outside up to so many of their scales (pixels, where anchors have none) from the window's edge.
    They may be what the nearest pixels of the window consist of. At least `least` stay (or all, of fewer), the nearest.
    """
    places = cloud.positions - np.asarray(low, np.float64)
    outside = np.maximum(-0.5 - places, places - np.array(size) + 0.5).max(axis=1, initial=-np.inf)
    if cloud.scales is not None:
        outside = outside / cloud.scales
    kept = outside <= margin
    kept[np.argsort(outside, kind="stable")[:least]] = True
    return replace(keep(_moved(cloud, places), np.flatnonzero(kept)), size=size)


def recolour(cloud: Cloud, matrix: ArrayLike, offset: ArrayLike = 0.0, maps: Maps | None = None) -> Cloud:
    """Change all colours c into `matrix (c - 0.5) + 0.5 + offset`, as far as latents can show it.

    `arcpipe.arc.maps` has the matrices and offsets of brightness, contrast, saturation and hue.

    Raises:
        ValueError: there are no maps: the cloud's decoder is unknown, or of the kind `concat`.
    """
    maps = _maps(cloud, maps)
    if maps is None:
        raise ValueError("colours change in clouds of the kind basis whose decoder is known")
    return changed(cloud, latents=maps.colour(matrix, offset)(cloud.latents))


def keep(cloud: Cloud, rows: NDArray[Any]) -> Cloud:
    """Keep some anchors: rows, or one bool for each."""
    scales = None if cloud.scales is None else cloud.scales[rows]
    return changed(cloud, positions=cloud.positions[rows], latents=cloud.latents[rows], scales=scales)


def mask(cloud: Cloud, share: float, rng: np.random.Generator, *, least: int = 1) -> Cloud:
    """Drop `share` of the anchors, drawn uniformly; the rest keep their order. `least` stay (or all, of fewer)."""
    kept = max(round(len(cloud) * (1 - share)), min(least, len(cloud)))
    return keep(cloud, _draw(len(cloud), kept, rng))


def stack(first: Cloud, second: Cloud) -> Cloud:
    """Put all anchors of `second` behind those of `first`; everything else is the first one's."""
    return _joined(first, slice(None), second, slice(None))


def mix(first: Cloud, second: Cloud, share: float, rng: np.random.Generator) -> Cloud:
    """ARCMix: random anchors of both, `share` of the first and the others' share of the second. One stays at least."""
    n_first, n_second = round(share * len(first)), round((1 - share) * len(second))
    if n_first + n_second == 0:
        n_first = min(1, len(first))
    rows = _draw(len(first), n_first, rng)
    return _joined(first, rows, second, _draw(len(second), n_second, rng))


def mix_box(first: Cloud, second: Cloud, low: ArrayLike, high: ArrayLike) -> Cloud:
    """Replace what `first` has in a box by what `second` has there (figure 6).

    `low` and `high` are (row, column), pixels; a place p is inside where low <= p < high on both axes.
    """
    return _joined(first, ~_inside(first, low, high), second, _inside(second, low, high))


def changed(cloud: Cloud, **arrays: Any) -> Cloud:
    """The same cloud with other positions, latents or scales. Raises ValueError for a sine network, which has none."""
    if isinstance(cloud.decoder, SirenRecord):
        raise ValueError(f"{cloud.path or 'this'} is a sine network: it has no anchors that could be changed")
    return replace(cloud, **arrays, neighbours=None, psnr=float("nan"))


def _joined(first: Cloud, rows: Any, second: Cloud, other_rows: Any) -> Cloud:
    positions = np.concatenate([first.positions[rows], second.positions[other_rows]])
    latents = np.concatenate([first.latents[rows], second.latents[other_rows]])
    scales = None
    if first.scales is not None and second.scales is not None:
        scales = np.concatenate([first.scales[rows], second.scales[other_rows]])
    return changed(first, positions=positions, latents=latents, scales=scales)


def _inside(cloud: Cloud, low: ArrayLike, high: ArrayLike) -> NDArray[np.bool_]:
    within = (cloud.positions >= np.asarray(low)) & (cloud.positions < np.asarray(high))
    return np.asarray(within.all(axis=1))


def _draw(count: int, kept: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(rng.permutation(count)[:kept])


def _maps(cloud: Cloud, maps: Maps | None) -> Maps | None:
    """The given maps, or those of the decoder that the cloud brings along."""
    return Maps(cloud.decoder) if maps is None and isinstance(cloud.decoder, BasisRecord) else maps


def _middle(cloud: Cloud) -> NDArray[np.float64]:
    return (np.array(cloud.size, np.float64) - 1) / 2


def _moved(cloud: Cloud, positions: NDArray[Any]) -> Cloud:
    return changed(cloud, positions=positions.astype(np.float32))


def _about_middle(cloud: Cloud, matrix: NDArray[np.float64]) -> Cloud:
    """Places, seen from the middle of the image, go to `matrix` times them; scales grow as the root of the area."""
    if not np.isfinite(matrix).all() or not np.linalg.det(matrix):
        raise ValueError(f"no picture is left: its places would be multiplied by {matrix.tolist()}")
    moved = _moved(cloud, (cloud.positions - _middle(cloud)) @ matrix.T + _middle(cloud))
    growth = float(np.sqrt(abs(np.linalg.det(matrix))))
    if cloud.scales is None or abs(growth - 1) < 1e-12:
        return moved
    return replace(moved, scales=(cloud.scales * growth).astype(np.float32))
