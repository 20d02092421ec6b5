"""The nearest anchors of all pixels, compiled: a pyramid of cells finds what may be near to a small block of pixels.

All pixels of a block of `SIDE` x `SIDE` have their n nearest anchors among those that lie within `reach` of it: the
distance of the n-th nearest from the middle of the block, and from there to the furthest corner. A first bound comes
from the anchors of the block before. Empty regions cost little, because the pyramid knows that they are empty.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arcpipe.compiled import compiled

SIDE = 4
"""Pixels a side of a block: 4 was the fastest of 2, 4 and 8 at 5 % anchors."""
PER_CELL = 2


class Pyramid(NamedTuple):
    """Anchors sorted by cell, `rows` (k,) and their `places` (k, 2) int64, cell c owning `starts[c]:starts[c + 1]`.

    Level 0 has the cells, a level above joins 2 x 2 of the one below, up to a single one. `counts`: anchors of every
    node, level after level in raster order, level l from `levels[l, 0]` on, with `levels[l, 1]` nodes across and
    `levels[l, 2]` down. Cells are `cell` pixels wide and begin at `corner` (2,).
    """

    rows: NDArray[np.int32]
    places: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    levels: NDArray[np.int64]
    cell: int
    corner: NDArray[np.int64]


def build_pyramid(positions: NDArray[Any]) -> Pyramid:
    """Sort anchors (k, 2) of whole pixels into cells of about `PER_CELL`."""
    places = positions.astype(np.int64)
    corner = places.min(axis=0)
    down, across = (places.max(axis=0) - corner + 1).tolist()
    cell = max(1, round(math.sqrt(PER_CELL * down * across / len(places))))
    shape = (-(-down // cell), -(-across // cell))
    cells = (places[:, 0] - corner[0]) // cell * shape[1] + (places[:, 1] - corner[1]) // cell
    order = np.argsort(cells, kind="stable")
    counts = [np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)]
    while counts[-1].size > 1:
        below = counts[-1]
        even = np.pad(below, [(0, below.shape[0] % 2), (0, below.shape[1] % 2)])
        counts.append(even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2])
    ends = np.cumsum([0, *(level.size for level in counts)])
    return Pyramid(
        rows=order.astype(np.int32),
        places=places[order],
        starts=np.concatenate([[0], np.cumsum(counts[0].ravel())]),
        counts=np.concatenate([level.ravel() for level in counts]),
        levels=np.array([(end, *level.shape[::-1]) for end, level in zip(ends, counts, strict=False)], np.int64),
        cell=cell,
        corner=corner,
    )


@compiled
def gather(pyramid, top, left, bottom, right, reach, stack, found):
    """Put into `found` the (sorted) numbers of all anchors within `reach` of a rectangle; returns how many."""
    counts, levels, starts, corner = pyramid.counts, pyramid.levels, pyramid.starts, pyramid.corner
    limit = reach * reach
    stack[0, 0], stack[0, 1], stack[0, 2] = len(levels) - 1, 0, 0
    waiting, n_found = 1, 0
    while waiting:
        waiting -= 1
        level, row, column = stack[waiting, 0], stack[waiting, 1], stack[waiting, 2]
        across = levels[level, 1]
        if row >= levels[level, 2] or column >= across or counts[levels[level, 0] + row * across + column] == 0:
            continue
        size = pyramid.cell << level
        first_row, first_column = corner[0] + row * size, corner[1] + column * size
        down = max(0, first_row - bottom, top - (first_row + size - 1))
        aside = max(0, first_column - right, left - (first_column + size - 1))
        if float(down) * down + float(aside) * aside > limit:
            continue
        if level:
            for child in range(4):
                stack[waiting, 0] = level - 1
                stack[waiting, 1] = 2 * row + child // 2
                stack[waiting, 2] = 2 * column + child % 2
                waiting += 1
            continue
        for i in range(starts[row * across + column], starts[row * across + column + 1]):
            found[n_found] = i
            n_found += 1
    return n_found


@compiled
def choose(pyramid, row, column, found, n_found, distances, rows):
    """Of some anchors take the nearest to a pixel: `rows`, nearest first, equal distances by lower row."""
    n = len(rows)
    for s in range(n):
        distances[s], rows[s] = np.int64(2**62), 2**31 - 1
    for f in range(n_found):
        i = found[f]
        down, aside = pyramid.places[i, 0] - row, pyramid.places[i, 1] - column
        distance, anchor = down * down + aside * aside, pyramid.rows[i]
        s = n - 1
        if distance > distances[s] or (distance == distances[s] and anchor > rows[s]):
            continue
        while s > 0 and (distance < distances[s - 1] or (distance == distances[s - 1] and anchor < rows[s - 1])):
            distances[s], rows[s] = distances[s - 1], rows[s - 1]
            s -= 1
        distances[s], rows[s] = distance, anchor


@compiled
def furthest(pyramid, found, n_found, row, column):
    """The largest distance of some anchors from a place."""
    most = 0.0
    for f in range(n_found):
        down, aside = pyramid.places[found[f], 0] - row, pyramid.places[found[f], 1] - column
        most = max(most, math.sqrt(down * down + aside * aside))
    return most


@compiled
def keep_near(pyramid, found, n_found, top, left, bottom, right, reach):
    """Drop from `found` what is further than `reach` from a rectangle; returns how many stay."""
    kept = 0
    for f in range(n_found):
        row, column = pyramid.places[found[f], 0], pyramid.places[found[f], 1]
        down, aside = max(0, row - bottom, top - row), max(0, column - right, left - column)
        if float(down) * down + float(aside) * aside <= reach * reach:
            found[kept] = found[f]
            kept += 1
    return kept


@compiled
def search(pyramid, height, width, n):
    """Find the n nearest anchors of all pixels of an image, (height * width, n) int32."""
    result = np.empty((height * width, n), np.int32)
    found, numbers = np.empty(len(pyramid.rows), np.int64), np.empty(len(pyramid.rows), np.int64)
    for i in range(len(pyramid.rows)):
        numbers[pyramid.rows[i]] = i
    stack = np.empty((4 * len(pyramid.levels) + 4, 3), np.int64)
    distances, rows = np.empty(n, np.int64), np.empty(n, np.int32)
    before, row_before = np.arange(n), np.arange(n)
    for top in range(0, height, SIDE):
        before[:] = row_before
        for left in range(0, width, SIDE):
            bottom, right = min(top + SIDE, height) - 1, min(left + SIDE, width) - 1
            row, column = (top + bottom) // 2, (left + right) // 2
            corner = math.sqrt((bottom - row) ** 2 + (right - column) ** 2) + 1e-3  # covers the last bit of the roots
            bound = furthest(pyramid, before, n, row, column)
            n_found = gather(pyramid, top, left, bottom, right, bound + corner, stack, found)
            choose(pyramid, row, column, found, n_found, distances, rows)
            reach = math.sqrt(distances[n - 1]) + corner
            n_found = keep_near(pyramid, found, n_found, top, left, bottom, right, reach)
            for s in range(n):
                before[s] = numbers[rows[s]]
            if left == 0:
                row_before[:] = before
            for i in range(top, bottom + 1):
                for j in range(left, right + 1):
                    choose(pyramid, i, j, found, n_found, distances, result[i * width + j])
    return result
