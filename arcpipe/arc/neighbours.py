"""The indexing function U_n (thesis eq. 7): the nearest anchors of every pixel, exact to the last tie.

By `kernels.grid` where anchors are whole pixels (0.03 to 0.05 microseconds a pixel from 32x32 to
12 megapixels), else by NumPy and SciPy (0.3 to 1.5). Distances are compared as squared distances, equal ones by the
lower row: what a brute-force comparison in integers gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from arcpipe.errors import TooFewAnchorsError

DENSE_ANCHORS = 128
"""Up to so many anchors every distance is computed; a tree is faster beyond (32x32 pixels, process CPU time)."""
BAND = 2**16
"""Pixels looked up at once: bounds the work memory to some 30 MB, whatever the image."""


def nearest_anchors(positions: NDArray[Any], size: tuple[int, int], n: int) -> NDArray[np.int32]:
    """Find the `n` anchors nearest to every pixel centre.

    Args:
        positions: (k, 2) row and column, pixels; integers, or floats after an edit. Pixel (0, 0) is centred on 0.
        size: height and width of the image, pixels.
        n: neighbours per pixel.

    Returns:
        (height * width, n) int32 rows of `positions`: pixels in raster order, anchors nearest first, equal distances by
        lower row.

    Raises:
        TooFewAnchorsError: k < n.
    """
    find = Finder(positions, n)
    height, width = size
    if find.whole:
        from arcpipe.arc.kernels.grid import nearest_of_all

        # A copy: Numba compiles once more for arrays that may not be written.
        nearest: NDArray[np.int32] = nearest_of_all(np.array(positions, np.int64, order="C"), height, width, n)
        return nearest
    found = np.empty((height * width, n), np.int32)
    for start, stop in _bands(height * width):
        found[start:stop] = find(np.stack(np.divmod(np.arange(start, stop), width), axis=1))
    return found


def relative_statistics(
    positions: NDArray[Any], neighbours: NDArray[Any], size: tuple[int, int]
) -> tuple[float, float]:
    """Mean and standard deviation of all relative positions `anchor - pixel` of one image, one scalar each.

    Args:
        positions: (k, 2) row and column, pixels.
        neighbours: (height * width, n) rows of `positions`, raster order.
        size: height and width of the image, pixels.

    Returns:
        mean, std over pixels, neighbours and both axes, in pixels, each a float32 value, as a store keeps them. A std
        of 0 (one pixel) is given as 1. Population std, summed in float64 (exact for integer positions).
    """
    total = squares = 0.0
    if np.issubdtype(positions.dtype, np.integer):
        from arcpipe.arc.kernels.grid import sum_gaps

        total, squares = sum_gaps(np.array(positions, np.int64, order="C"), _as_rows(neighbours), size[1])
        return _mean_and_std(total, squares, neighbours.size * 2)
    for start, stop in _bands(len(neighbours)):
        pixels = np.stack(np.divmod(np.arange(start, stop), size[1]), axis=1)
        gaps = positions[neighbours[start:stop]].astype(np.float64) - pixels[:, None]
        total += float(gaps.sum())
        squares += float(np.square(gaps).sum())
    return _mean_and_std(total, squares, neighbours.size * 2)


def _as_rows(neighbours: NDArray[Any]) -> NDArray[np.int32]:
    """The one kind of array that the compiled loop is made for; no copy of what the search gives."""
    rows = np.ascontiguousarray(neighbours, np.int32)
    return rows if rows.flags.writeable else rows.copy()


def _mean_and_std(total: float, squares: float, count: int) -> tuple[float, float]:
    count = max(1, count)
    mean = total / count
    std = float(np.float32(np.sqrt(max(0.0, squares / count - mean * mean))))
    return float(np.float32(mean)), std or 1.0


class Finder:
    """Looks up points among fixed anchors; the work memory grows with the points of one call.

    Raises:
        TooFewAnchorsError: fewer anchors than `n`.
    """

    def __init__(self, positions: NDArray[Any], n: int) -> None:
        if len(positions) < n:
            raise TooFewAnchorsError(
                "A cloud has fewer anchors than neighbours are asked for.",
                details=[f"expected at least {n} anchors", f"found {len(positions)}"],
                fix=["keep more anchors: mask or mix a smaller share of the cloud"],
            )
        self.n = n
        self.whole = np.issubdtype(positions.dtype, np.integer)
        self.anchors: NDArray[Any] = positions.astype(np.int64 if self.whole else np.float64)
        self.tree: cKDTree | None = None

    def __call__(self, points: NDArray[Any]) -> NDArray[np.int64]:
        """(p, n) rows of the anchors nearest to points (p, 2), nearest first, equal distances by lower row."""
        if self.whole and len(self.anchors) <= DENSE_ANCHORS and np.issubdtype(points.dtype, np.integer):
            return _by_all_distances(self.anchors, points.astype(np.int64), self.n)
        if self.tree is None:
            self.tree = cKDTree(self.anchors)
        return _by_tree(self.tree, self.anchors, points, self.n)


def _by_all_distances(anchors: NDArray[np.int64], points: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Partition keys (squared distance, row) packed into one integer: ties need no second look."""
    k = len(anchors)
    furthest = 2 * (int(np.abs(anchors).max(initial=0)) + int(np.abs(points).max(initial=0)) + 1) ** 2
    kind = np.int32 if furthest * k < 2**31 else np.int64
    anchors, points = anchors.astype(kind), points.astype(kind)
    key = np.square(points[:, :1] - anchors[:, 0])
    key += np.square(points[:, 1:] - anchors[:, 1])
    key *= kind(k)
    key += np.arange(k, dtype=kind)
    if n < k:
        key = np.partition(key, n - 1, axis=1)[:, :n]
    key.sort(axis=1)
    return (key % kind(k)).astype(np.int64)


def _by_tree(tree: cKDTree, anchors: NDArray[Any], points: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Ask the tree for a few more than `n`, and again for more where a tie may go on beyond the last one."""
    found = np.empty((len(points), n), np.int64)
    open_points = np.arange(len(points))
    asked = min(n + 3, len(anchors))
    while len(open_points):
        places = points[open_points]
        rows = tree.query(places, k=np.arange(1, asked + 1), workers=1)[1]
        squared = np.square(anchors[rows] - places[:, None]).sum(axis=2)
        order = np.lexsort((rows, squared), axis=1)
        rows, squared = np.take_along_axis(rows, order, 1), np.take_along_axis(squared, order, 1)
        found[open_points] = rows[:, :n]
        if asked == len(anchors):
            break
        # The margin covers the last bit of floats, in which the tree and this comparison may differ.
        closed = squared[:, n - 1] < squared[:, -1] * (1 - 1e-12)
        open_points = open_points[~closed]
        asked = min(2 * asked, len(anchors))
    return found


def _bands(count: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + BAND, count)) for start in range(0, count, BAND))
