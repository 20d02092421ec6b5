"""Changes of a fitted cloud (thesis figures 3, 5 and 6): places moved, points dropped, clouds mixed. NumPy only.

All are pure: they return a new cloud without neighbours and PSNR, which no longer hold (`engine.decode` finds the
neighbours again). Standardisation (`relative`) and size stay: latents keep what they have learned. Moved positions are
float32 and may lie outside the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from arcpipe.cloud import Cloud


def push(cloud: Cloud, reach_px: float, rng: np.random.Generator) -> Cloud:
    """Move every anchor by itself, uniformly within `reach_px` either way on each axis."""
    return _moved(cloud, cloud.positions + rng.uniform(-reach_px, reach_px, cloud.positions.shape))


def add_noise(cloud: Cloud, sigma: float, rng: np.random.Generator) -> Cloud:
    """Add Gaussian noise of standard deviation `sigma` to the latents; they become float32."""
    noise = rng.standard_normal(cloud.latents.shape, np.float32)
    noise *= np.float32(sigma)
    noise += cloud.latents
    return changed(cloud, cloud.positions, noise)


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


def rotate(cloud: Cloud, degrees: float) -> Cloud:
    """Turn all anchors about the middle of the image, counter-clockwise as one sees it (rows point down)."""
    angle = np.deg2rad(degrees)
    cosine, sine, middle = np.cos(angle), np.sin(angle), _middle(cloud)
    row, column = (cloud.positions - middle).T
    turned = np.empty((len(cloud), 2))
    turned[:, 0] = cosine * row - sine * column
    turned[:, 1] = sine * row + cosine * column
    return _moved(cloud, turned + middle)


def flip(cloud: Cloud, *, rows: bool = False, columns: bool = False) -> Cloud:
    """Mirror the anchors: `rows` upside down, `columns` left to right."""
    return _moved(cloud, np.where([rows, columns], 2 * _middle(cloud) - cloud.positions, cloud.positions))


def keep(cloud: Cloud, rows: NDArray[Any]) -> Cloud:
    """Keep some anchors: rows, or one bool for each."""
    return changed(cloud, cloud.positions[rows], cloud.latents[rows])


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


def changed(cloud: Cloud, positions: NDArray[Any], latents: NDArray[Any]) -> Cloud:
    """The same cloud with other anchors; `dataclasses.replace` took a quarter of the time of all augmentations."""
    return Cloud(
        positions,
        latents,
        cloud.size,
        cloud.relative,
        label=cloud.label,
        repeat=cloud.repeat,
        sample_id=cloud.sample_id,
        path=cloud.path,
    )


def _joined(first: Cloud, rows: Any, second: Cloud, other_rows: Any) -> Cloud:
    positions = np.concatenate([first.positions[rows], second.positions[other_rows]])
    return changed(first, positions, np.concatenate([first.latents[rows], second.latents[other_rows]]))


def _inside(cloud: Cloud, low: ArrayLike, high: ArrayLike) -> NDArray[np.bool_]:
    within = (cloud.positions >= np.asarray(low)) & (cloud.positions < np.asarray(high))
    return np.asarray(within.all(axis=1))


def _draw(count: int, kept: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(rng.permutation(count)[:kept])


def _middle(cloud: Cloud) -> NDArray[np.float64]:
    return (np.array(cloud.size, np.float64) - 1) / 2


def _moved(cloud: Cloud, positions: NDArray[Any]) -> Cloud:
    return changed(cloud, positions.astype(np.float32), cloud.latents)
