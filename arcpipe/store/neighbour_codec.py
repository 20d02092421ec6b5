"""Lists of neighbours as `neighbours` has them: plain, or in stores of format version 1 as sets.

Positions and pixels are integers, so "nearest first, equal distances by lower row" follows exactly from the positions,
and in a set the neighbours of a pixel may have any order. `arrivals` are smaller (`arcpipe.store.arrivals`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.store.arrivals import Geometry

SETS, PLAIN = "sets", "plain"
ROW_BITS = 31
"""Of a key, (squared distance, row). A squared distance has the other 33: images had at most 2**16 pixels a side."""
BAND = 2**17
"""Pixels decoded at once, to bound the work memory."""


def decode_neighbours(stored: NDArray[Any], coding: str, where: Geometry) -> NDArray[Any]:
    """The lists (pixels, n) of some clouds, nearest first, from what is stored and their positions.

    Raises:
        ValueError: an unknown coding, or a row that no cloud has.
    """
    if coding == PLAIN:
        return stored
    if coding != SETS:
        raise ValueError(f"unknown coding of neighbours: {coding!r}")
    decoded = np.empty_like(stored)
    places = where.positions.astype(np.int64)
    for start in range(0, len(stored), BAND):
        rows = stored[start : start + BAND].astype(np.int64)
        pixels = np.arange(start, start + len(rows))
        cloud = np.searchsorted(where.pixel_offsets, pixels, side="right") - 1
        counts = np.diff(where.offsets)[cloud]
        if rows.size and (rows.min() < 0 or (rows.max(axis=1) >= counts).any()):
            raise ValueError("a neighbour is a row that its cloud does not have")
        y, x = np.divmod(pixels - where.pixel_offsets[cloud], where.sizes[cloud, 1])
        gaps = places[where.offsets[cloud, None] + rows] - np.stack([y, x], axis=1)[:, None]
        keys = ((gaps * gaps).sum(axis=2).view(np.uint64) << ROW_BITS) | rows.view(np.uint64)
        keys.sort(axis=1)
        decoded[start : start + BAND] = keys & (2**ROW_BITS - 1)
    return decoded
