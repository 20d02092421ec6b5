"""How positions are written: as the gaps between Morton codes, which rise inside a cloud.

The gaps are small numbers: 0.3 bytes a point less than rows and columns take (docs/store-format.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import morton_codes


def encode_gaps(positions: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[Any]:
    """Gaps (m,) between the Morton codes of positions (m, 2); the first of each cloud is a code itself.

    In the narrowest unsigned type that holds them all. Clouds are in Morton order.
    """
    codes = morton_codes(positions)
    gaps = np.diff(codes, prepend=np.uint64(0))
    first = offsets[:-1][np.diff(offsets) > 0]
    gaps[first] = codes[first]
    return gaps.astype(np.min_scalar_type(int(gaps.max(initial=0))))


def decode_gaps(gaps: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[Any]:
    """Positions (m, 2) of the points at `offsets`: uint16, or uint32 where one is above 65,535."""
    codes = np.cumsum(gaps, dtype=np.uint64)  # sums of many clouds may overflow, and their differences are right again
    before = np.concatenate([np.zeros(1, np.uint64), codes])[offsets[:-1]]
    codes -= np.repeat(before, np.diff(offsets))
    positions = np.stack([_without_gaps(codes >> np.uint64(1)), _without_gaps(codes)], axis=1)
    return positions.astype(np.uint16 if int(positions.max(initial=0)) < 2**16 else np.uint32)


def _without_gaps(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The number that every second bit of the codes makes, from the lowest on."""
    values = codes & np.uint64(0x5555555555555555)
    for shift, mask in (
        (1, 0x3333333333333333),
        (2, 0x0F0F0F0F0F0F0F0F),
        (4, 0x00FF00FF00FF00FF),
        (8, 0x0000FFFF0000FFFF),
        (16, 0x00000000FFFFFFFF),
    ):
        values = (values | (values >> np.uint64(shift))) & np.uint64(mask)
    return values
