"""How the neighbour cache is written: in an order that compresses, since positions give back the order by distance.

Positions and pixels are integers, so "nearest first, equal distances by lower row" follows exactly from the positions.
What is stored may therefore have any order inside a pixel: every neighbour that the pixel to the left has too keeps its
column, and new ones fill the columns that became free. Each column then is a run of equal numbers along a row of the
image. Nearer neighbours first, as they come from the search, is more than twice as large (see docs/store-format.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

SETS, PLAIN = "sets", "plain"
MAX_SIDE = 2**16  # a squared distance has then at most 33 bits, which leaves 31 for the row of the anchor
ROW_BITS = np.uint64(31)
BAND = 2**17  # pixels decoded at once, to bound the work memory


def encode_neighbours(
    neighbours: NDArray[Any],
    positions: NDArray[Any],
    offsets: NDArray[np.int64],
    pixel_offsets: NDArray[np.int64],
    sizes: NDArray[Any],
) -> tuple[NDArray[Any], str]:
    """Code the neighbours (pixels, n) of some clouds for compression.

    Returns:
        The stored numbers, same shape and type, and the name of their coding: `sets` as above, or `plain` (as they are)
        where some pixel has its neighbours not in order of distance, has one twice, or an image is too large.
    """
    if neighbours.size == 0 or int(sizes.max()) > MAX_SIDE:
        return neighbours, PLAIN
    ordered = decodes_to(neighbours, neighbours, SETS, positions, offsets, pixel_offsets, sizes)
    if not ordered or any(_has_twins(neighbours[start : start + BAND]) for start in range(0, len(neighbours), BAND)):
        return neighbours, PLAIN
    stored = np.empty_like(neighbours)
    for size in np.unique(sizes, axis=0):
        height, width = int(size[0]), int(size[1])
        begins = pixel_offsets[:-1][(sizes == size).all(axis=1)]
        shape = (-1, height, width, neighbours.shape[1])
        if height * width > 8 * BAND:  # a slice needs no copy
            for begin in begins.tolist():
                own = slice(begin, begin + height * width)
                _keep_columns(neighbours[own].reshape(shape), stored[own].reshape(shape))
            continue
        for some in np.array_split(begins, -(-len(begins) * height * width // (8 * BAND))):
            rows = some[:, None] + np.arange(height * width)
            arranged = np.empty((len(some), *shape[1:]), stored.dtype)
            _keep_columns(neighbours[rows].reshape(shape), arranged)
            stored[rows] = arranged.reshape(*rows.shape, -1)
    return stored, SETS


def decodes_to(
    neighbours: NDArray[Any],
    stored: NDArray[Any],
    coding: str,
    positions: NDArray[Any],
    offsets: NDArray[np.int64],
    pixel_offsets: NDArray[np.int64],
    sizes: NDArray[Any],
) -> bool:
    """Whether `decode_neighbours` gives these neighbours, without having all of them in memory once more."""
    if coding == PLAIN:
        return np.array_equal(stored, neighbours)
    places = positions.astype(np.int64)
    return all(
        np.array_equal(_decode_band(stored, band, places, offsets, pixel_offsets, sizes), neighbours[band])
        for band in _bands(len(stored))
    )


def decode_neighbours(
    stored: NDArray[Any],
    coding: str,
    positions: NDArray[Any],
    offsets: NDArray[np.int64],
    pixel_offsets: NDArray[np.int64],
    sizes: NDArray[Any],
) -> NDArray[Any]:
    """Undo `encode_neighbours` for some clouds, given their positions (m, 2).

    Raises:
        ValueError: an unknown coding, or a row that no cloud has.
    """
    if coding == PLAIN:
        return stored
    if coding != SETS:
        raise ValueError(f"unknown coding of neighbours: {coding!r}")
    decoded = np.empty_like(stored)
    places = positions.astype(np.int64)
    for band in _bands(len(stored)):
        decoded[band] = _decode_band(stored, band, places, offsets, pixel_offsets, sizes)
    return decoded


def _bands(count: int) -> Iterator[slice]:
    return (slice(start, min(start + BAND, count)) for start in range(0, count, BAND))


def _decode_band(
    stored: NDArray[Any],
    band: slice,
    places: NDArray[np.int64],
    offsets: NDArray[np.int64],
    pixel_offsets: NDArray[np.int64],
    sizes: NDArray[Any],
) -> NDArray[np.uint64]:
    """Decode some rows. Raises ValueError for a row that no cloud has."""
    pixels = np.arange(band.start, band.stop)
    cloud = np.searchsorted(pixel_offsets, pixels, side="right") - 1
    counts = np.diff(offsets)[cloud]
    if stored[band].size and (stored[band].min() < 0 or (stored[band].max(axis=1) >= counts).any()):
        raise ValueError("a neighbour is a row that its cloud does not have")
    row, column = np.divmod(pixels - pixel_offsets[cloud], sizes[cloud, 1])
    keys = _distance_keys(stored[band], places, offsets[cloud], row, column)
    _sort_planes(keys)
    own: NDArray[np.uint64] = (keys & ((np.uint64(1) << ROW_BITS) - np.uint64(1))).T
    return own


def _distance_keys(
    neighbours: NDArray[Any],
    positions: NDArray[np.int64],
    first_point: NDArray[np.int64],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
) -> NDArray[np.uint64]:
    """(n, pixels): squared distance in the high 33 bits, the anchor's row in the low 31: sorting them is the order."""
    keys = np.empty((neighbours.shape[1], len(neighbours)), np.uint64)
    for slot in range(len(keys)):
        own = neighbours[:, slot].astype(np.int64)
        points = first_point + own
        gap_row, gap_column = positions[points, 0] - row, positions[points, 1] - column
        distance = (gap_row * gap_row + gap_column * gap_column).astype(np.uint64)
        keys[slot] = (distance << ROW_BITS) | own.astype(np.uint64)
    return keys


def _sort_planes(keys: NDArray[np.uint64]) -> None:
    """Sort each column of (n, pixels) in place: whole planes compared and exchanged, where that is few exchanges."""
    if len(keys) > 8:
        keys.sort(axis=0)
        return
    for end in range(len(keys) - 1, 0, -1):
        for i in range(end):
            low = np.minimum(keys[i], keys[i + 1])
            np.maximum(keys[i], keys[i + 1], out=keys[i + 1])
            keys[i] = low


def _has_twins(neighbours: NDArray[Any]) -> bool:
    ordered = np.sort(neighbours, axis=1)
    return bool((ordered[:, 1:] == ordered[:, :-1]).any())


def _keep_columns(sets: NDArray[Any], arranged: NDArray[Any]) -> None:
    """Arrange the sets of (images, height, width, n): down the first column of pixels, then along all rows at once."""
    arranged[:, 0, 0] = sets[:, 0, 0]
    for y in range(1, sets.shape[1]):
        arranged[:, y, 0] = _arrange(arranged[:, y - 1, 0], sets[:, y, 0])
    for x in range(1, sets.shape[2]):
        before = arranged[:, :, x - 1].reshape(-1, sets.shape[3])
        arranged[:, :, x] = _arrange(before, sets[:, :, x].reshape(before.shape)).reshape(arranged[:, :, x].shape)


def _arrange(before: NDArray[Any], members: NDArray[Any]) -> NDArray[Any]:
    """Order each row of `members` (b, n) so that what `before` has too is in the same column."""
    same = before[:, :, None] == members[:, None, :]
    arranged = before.copy()
    arranged[~same.any(axis=2)] = members[~same.any(axis=1)]  # as many columns are free as members are new
    return arranged
