"""The indexing function U_n (thesis eq. 7): the nearest anchors of every pixel, exact to the last tie.

All pixels of an image are looked up by `kernels.grid`, where anchors are whole pixels (0.03 to 0.05 microseconds a
pixel from 32x32 to 12 megapixels), other places by NumPy and SciPy (0.3 to 1.5). Distances are compared as squared
distances, equal ones by the lower row: what a brute-force comparison in integers gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.kernels.grid import nearest_of_all, sum_gaps
from arcpipe.errors import TooFewAnchorsError

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

DENSE_ANCHORS = 128
"""Up to so many anchors every distance is computed; a tree is faster beyond (32x32 pixels, process CPU time)."""


def nearest_anchors(positions: NDArray[np.integer[Any]], size: tuple[int, int], n: int) -> NDArray[np.int32]:
    """Find the `n` anchors nearest to every pixel centre.

    Args:
        positions: (k, 2) row and column, whole pixels; `Finder` serves others. Pixel (0, 0) is centred on 0.
        size: height and width of the image, pixels.
        n: neighbours per pixel.

    Returns:
        (height * width, n) int32 rows of `positions`: pixels in raster order, anchors nearest first, equal distances by
        lower row.

    Raises:
        TooFewAnchorsError: k < n.
    """
    _check_number(len(positions), n)
    nearest: NDArray[np.int32] = nearest_of_all(_whole(positions), *size, n)
    return nearest


def relative_statistics(
    positions: NDArray[np.integer[Any]], neighbours: NDArray[Any], size: tuple[int, int]
) -> tuple[float, float]:
    """Mean and standard deviation of all relative positions `anchor - pixel` of one image, one scalar each.

    Args:
        positions: (k, 2) row and column, whole pixels.
        neighbours: (height * width, n) rows of `positions`, raster order.
        size: height and width of the image, pixels.

    Returns:
        mean, std over pixels, neighbours and both axes, in pixels, each a float32 value, as a store keeps them. A std
        of 0 (one pixel) is given as 1. Population std, of exact sums.
    """
    total, squares = sum_gaps(_whole(positions), np.require(neighbours, np.int32, ["C", "A", "W"]), size[1])
    count = max(1, neighbours.size * 2)
    mean = total / count
    std = float(np.float32(np.sqrt(max(0.0, squares / count - mean * mean))))
    return float(np.float32(mean)), std or 1.0


def _whole(positions: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """A copy: Numba compiles once more for arrays that may not be written. Floats raise a TypeError."""
    return positions.astype(np.int64, order="C", casting="same_kind")


def _check_number(k: int, n: int) -> None:
    if k < n:
        raise TooFewAnchorsError(
            "A cloud has fewer anchors than neighbours are asked for.",
            details=[f"expected at least {n} anchors", f"found {k}"],
            fix=["keep more anchors: mask or mix a smaller share of the cloud"],
        )


class Finder:
    """Looks up points among fixed anchors; the work memory grows with the points of one call.

    Raises:
        TooFewAnchorsError: fewer anchors than `n`.
    """

    def __init__(self, positions: NDArray[Any], n: int) -> None:
        _check_number(len(positions), n)
        self.n = n
        self.whole = np.issubdtype(positions.dtype, np.integer)
        self.anchors: NDArray[Any] = positions.astype(np.int64 if self.whole else np.float64)
        self.tree: cKDTree | None = None

    def __call__(self, points: NDArray[Any]) -> NDArray[np.int64]:
        """(p, n) rows of the anchors nearest to points (p, 2), nearest first, equal distances by lower row."""
        if self.whole and len(self.anchors) <= DENSE_ANCHORS and np.issubdtype(points.dtype, np.integer):
            return _by_all_distances(self.anchors, points.astype(np.int64), self.n)
        if self.tree is None:
            from scipy.spatial import cKDTree

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
