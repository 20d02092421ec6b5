"""Lists of neighbours as `neighbours` has them: plain, or in stores of format version 1 as sets.

Positions and pixels are integers, so "nearest first, equal distances by lower row" follows exactly from the positions,
and in a set the neighbours of a pixel may have any order. `arrivals` are smaller (`arcpipe.store.arrivals`).
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


def decode_neighbours(
    stored: NDArray[Any],
    coding: str,
    positions: NDArray[Any],
    offsets: NDArray[np.int64],
    pixel_offsets: NDArray[np.int64],
    sizes: NDArray[Any],
) -> NDArray[Any]:
    """The lists (pixels, n) of some clouds, nearest first, from what is stored and their positions (m, 2).

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
