"""The indexing function U_n (thesis eq. 7): the nearest anchors of every pixel, exact to the last tie.

All pixels of an image are looked up by `kernels.grid`, where anchors are whole pixels (0.03 to 0.05 microseconds a
pixel from 32x32 to 12 megapixels), other places by SciPy (0.3 to 1.5). Distances are compared as squared distances,
equal ones by the lower row: what a brute-force comparison in integers gives.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.kernels.grid import nearest_of_all, sum_gaps
from arcpipe.errors import TooFewAnchorsError

if TYPE_CHECKING:
    from scipy.spatial import cKDTree


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
    return nearest_of_all(_whole(positions), *size, n)


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
    """Looks up any points among fixed anchors; the work memory grows with the points of one call.

    Raises:
        TooFewAnchorsError: fewer anchors than `n`.
    """

    def __init__(self, positions: NDArray[Any], n: int) -> None:
        _check_number(len(positions), n)
        self.n, self.anchors = n, positions.astype(np.float64)

    @cached_property
    def _tree(self) -> cKDTree:
        from scipy.spatial import cKDTree

        return cKDTree(self.anchors)

    def __call__(self, points: NDArray[Any]) -> NDArray[np.int64]:
        """(p, n) rows of the anchors nearest to points (p, 2), nearest first, equal distances by lower row.

        The tree is asked for a few more than `n`, and again for more where a tie may go on beyond the last one.
        """
        n, k = self.n, len(self.anchors)
        found = np.empty((len(points), n), np.int64)
        open_points = np.arange(len(points))
        asked = min(n + 3, k)
        while len(open_points):
            places = points[open_points]
            rows = self._tree.query(places, k=np.arange(1, asked + 1), workers=1)[1]
            squared = np.square(self.anchors[rows] - places[:, None]).sum(axis=2)
            order = np.lexsort((rows, squared), axis=1)
            rows, squared = np.take_along_axis(rows, order, 1), np.take_along_axis(squared, order, 1)
            found[open_points] = rows[:, :n]
            if asked == k:
                break
            # The margin covers the last bit of floats, in which the tree and this comparison may differ.
            closed = squared[:, n - 1] < squared[:, -1] * (1 - 1e-12)
            open_points = open_points[~closed]
            asked = min(2 * asked, k)
        return found
