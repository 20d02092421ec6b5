"""Changes of a fitted cloud (thesis figures 3, 5 and 6): places moved, points dropped, clouds mixed. NumPy only.

All are pure: they return a new cloud without neighbours and PSNR, which no longer hold (`engine.decode` finds the
neighbours again). Standardisation (`relative`) and size stay: latents keep what they have learned. Moved positions are
float32 and may lie outside the image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from arcpipe.cloud import Cloud


def push(cloud: Cloud, reach_px: float, rng: np.random.Generator) -> Cloud:
    """Move every anchor by itself, uniformly within `reach_px` either way on each axis."""
    return _moved(cloud, cloud.positions + rng.uniform(-reach_px, reach_px, cloud.positions.shape))


def shift(cloud: Cloud, by_px: ArrayLike) -> Cloud:
    """Move all anchors by the same (row, column)."""
    return _moved(cloud, cloud.positions + np.asarray(by_px, np.float64))


def rotate(cloud: Cloud, degrees: float) -> Cloud:
    """Turn all anchors about the middle of the image, counter-clockwise as one sees it (rows point down)."""
    angle = np.deg2rad(degrees)
    middle = _middle(cloud)
    row, column = (cloud.positions - middle).T
    turned = np.stack(
        [np.cos(angle) * row - np.sin(angle) * column, np.sin(angle) * row + np.cos(angle) * column], axis=1
    )
    return _moved(cloud, turned + middle)


def flip(cloud: Cloud, *, rows: bool = False, columns: bool = False) -> Cloud:
    """Mirror the anchors: `rows` upside down, `columns` left to right."""
    return _moved(cloud, np.where([rows, columns], 2 * _middle(cloud) - cloud.positions, cloud.positions))


def keep(cloud: Cloud, rows: NDArray[Any]) -> Cloud:
    """Keep some anchors: rows, or one bool for each."""
    return replace(
        cloud,
        positions=cloud.positions[rows],
        latents=cloud.latents[rows],
        neighbours=None,
        psnr=float("nan"),
    )


def mask(cloud: Cloud, share: float, rng: np.random.Generator, *, least: int = 1) -> Cloud:
    """Drop `share` of the anchors, drawn uniformly; the rest keep their order. `least` stay (or all, of fewer)."""
    kept = max(round(len(cloud) * (1 - share)), min(least, len(cloud)))
    return keep(cloud, _draw(len(cloud), kept, rng))


def stack(first: Cloud, second: Cloud) -> Cloud:
    """Put all anchors of `second` behind those of `first`; everything else is the first one's."""
    return replace(
        first,
        positions=np.concatenate([first.positions, second.positions]),
        latents=np.concatenate([first.latents, second.latents]),
        neighbours=None,
        psnr=float("nan"),
    )


def mix(first: Cloud, second: Cloud, share: float, rng: np.random.Generator) -> Cloud:
    """ARCMix: random anchors of both, `share` of the first and the others' share of the second. One stays at least."""
    n_first, n_second = round(share * len(first)), round((1 - share) * len(second))
    if n_first + n_second == 0:
        n_first = min(1, len(first))
    drawn = keep(first, _draw(len(first), n_first, rng))
    return stack(drawn, keep(second, _draw(len(second), n_second, rng)))


def mix_box(first: Cloud, second: Cloud, low: ArrayLike, high: ArrayLike) -> Cloud:
    """Replace what `first` has in a box by what `second` has there (figure 6).

    `low` and `high` are (row, column), pixels; a place p is inside where low <= p < high on both axes.
    """
    return stack(keep(first, ~_inside(first, low, high)), keep(second, _inside(second, low, high)))


def _inside(cloud: Cloud, low: ArrayLike, high: ArrayLike) -> NDArray[np.bool_]:
    within = (cloud.positions >= np.asarray(low)) & (cloud.positions < np.asarray(high))
    return np.asarray(within.all(axis=1))


def _draw(count: int, kept: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(rng.permutation(count)[:kept])


def _middle(cloud: Cloud) -> NDArray[np.float64]:
    return (np.array(cloud.size, np.float64) - 1) / 2


def _moved(cloud: Cloud, positions: NDArray[Any]) -> Cloud:
    return replace(cloud, positions=positions.astype(np.float32), neighbours=None, psnr=float("nan"))
