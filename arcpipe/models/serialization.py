"""Space-filling curves on integer grids: how a cloud is laid in a row so that near points come near each other.

Source: Point Transformer v3 (arXiv 2312.10035), section 4.1: two curves, each also with its axes exchanged.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from arcpipe.cloud import morton

Curve = Literal["z", "z-transposed", "hilbert", "hilbert-transposed"]
CURVES: tuple[Curve, ...] = get_args(Curve)

COORD_BITS = 22
"""Coordinates lie in [0, 2**22), so a code takes 44 bits and leaves 19 for the number of the cloud."""
CODE_BITS = 2 * COORD_BITS


def encode(coords: Tensor, curve: Curve) -> Tensor:
    """Place of every grid cell along a curve.

    Args:
        coords: (m, 2) int64, (row, column), each in [0, 2**22).
        curve: one of `CURVES`; the transposed ones exchange row and column first.

    Returns:
        (m,) int64 codes in [0, 2**44). A code depends on its own cell only, never on other cells.
    """
    row, column = coords.unbind(1)
    if curve.endswith("transposed"):
        row, column = column, row
    return hilbert(row, column) if curve.startswith("hilbert") else morton(row, column)


def hilbert(row: Tensor, column: Tensor) -> Tensor:
    """Place of (m,) cells along the Hilbert curve of 2**22 by 2**22 cells; consecutive codes are adjacent cells.

    Works from the highest bit down: each level picks a quadrant, then turns the rest into that quadrant's frame.
    The levels above the largest coordinate are skipped in twos: there, every cell is in the first quadrant, which
    exchanges the axes, and two exchanges are none. So a code does not depend on the other cells.
    """
    code = torch.zeros_like(row)
    if not len(row):
        return code
    levels = int((row | column).max()).bit_length()
    for level in reversed(range(levels + levels % 2)):
        high, low = row >> level & 1, column >> level & 1
        code = code << 2 | (3 * high ^ low)
        flip = -(high & ~low)  # all ones where the quadrant runs backwards; only lower bits are read from here on
        row, column = row ^ flip, column ^ flip
        swap = (row ^ column) & (low - 1)
        row, column = row ^ swap, column ^ swap
    return code
