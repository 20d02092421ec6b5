"""The nearest anchors of all pixels, and of anchors, compiled.

A pyramid of cells finds what may be near to a small block of pixels.

All pixels of a block of `SIDE` x `SIDE` have their n nearest anchors among those that lie within `reach` of it: the
distance of the n-th nearest from the middle of the block, and from there to the furthest corner. A first bound comes
from the anchors of the block before. Empty regions cost little, because the pyramid knows that they are empty.

Then all pixels of the block look at each of these anchors at once, a pixel in every lane of a vector: distance and row
of an anchor are one number, and the n smallest numbers of a lane are kept in order by exchanging, without a branch.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic
from numpy.typing import NDArray

from arcpipe.compiled import compiled

SIDE = 4
"""Pixels a side of a block: 4 was the fastest of 2, 4 and 8 at 5 % anchors."""
LANES = SIDE * SIDE
PER_CELL = 4
MOST_NODES = 4
"""Nodes a side that a search begins with: so far down in the pyramid."""

intrinsic: Any = numba_intrinsic
"""What it makes is called without the typing context, which its type hints do not know."""


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


@compiled
def build_pyramid(positions):
    """Sort anchors (k, 2) of whole pixels, int64, into cells of about `PER_CELL`."""
    k = len(positions)
    corner, end = positions[0].copy(), positions[0].copy()
    for i in range(k):
        for axis in range(2):
            corner[axis], end[axis] = min(corner[axis], positions[i, axis]), max(end[axis], positions[i, axis])
    area = float(end[0] - corner[0] + 1) * float(end[1] - corner[1] + 1)
    cell = max(1, round(math.sqrt(PER_CELL * area / k)))
    down, across = (end[0] - corner[0]) // cell + 1, (end[1] - corner[1]) // cell + 1
    levels, counts = lay_levels(down, across)
    for i in range(k):
        counts[(positions[i, 0] - corner[0]) // cell * across + (positions[i, 1] - corner[1]) // cell] += 1
    for level in range(1, len(levels)):
        below, wide = levels[level - 1], levels[level, 1]
        for node in range(below[1] * below[2]):
            counts[levels[level, 0] + node // below[1] // 2 * wide + node % below[1] // 2] += counts[below[0] + node]
    starts = np.zeros(down * across + 1, np.int64)
    starts[1:] = np.cumsum(counts[: down * across])
    free = starts[:-1].copy()
    rows, places = np.empty(k, np.int32), np.empty((k, 2), np.int64)
    for i in range(k):
        c = (positions[i, 0] - corner[0]) // cell * across + (positions[i, 1] - corner[1]) // cell
        rows[free[c]], places[free[c], 0], places[free[c], 1] = i, positions[i, 0], positions[i, 1]
        free[c] += 1
    return Pyramid(rows, places, starts, counts, levels, cell, corner)


@compiled
def lay_levels(down, across):
    """Where the levels above so many cells lie, and no anchors in any of them."""
    n_levels, d, a = 1, down, across
    while d * a > 1:
        d, a, n_levels = (d + 1) // 2, (a + 1) // 2, n_levels + 1
    levels, end = np.empty((n_levels, 3), np.int64), 0
    for level in range(n_levels):
        levels[level, 0], levels[level, 1], levels[level, 2] = end, across, down
        end += down * across
        down, across = (down + 1) // 2, (across + 1) // 2
    return levels, np.zeros(end, np.int64)


@compiled
def gather(pyramid, top, left, bottom, right, reach, stack, found):
    """Put into `found` the (sorted) numbers of all anchors within `reach` of a rectangle; returns how many."""
    counts, levels, starts, corner = pyramid.counts, pyramid.levels, pyramid.starts, pyramid.corner
    limit, far = reach * reach, int(reach) + 1
    size, begin = pyramid.cell, 0
    while begin < len(levels) - 1 and max(bottom - top, right - left) + 2 * far > MOST_NODES * size:
        size, begin = size << 1, begin + 1
    across, waiting, n_found = levels[begin, 1], 0, 0
    last_row, last_column = (bottom + far - corner[0]) // size, (right + far - corner[1]) // size
    for row in range(max(0, (top - far - corner[0]) // size), min(last_row + 1, levels[begin, 2])):
        for column in range(max(0, (left - far - corner[1]) // size), min(last_column + 1, across)):
            if counts[levels[begin, 0] + row * across + column]:
                stack[waiting, 0], stack[waiting, 1], stack[waiting, 2] = begin, row, column
                waiting += 1
    while waiting:
        waiting -= 1
        level, row, column = stack[waiting, 0], stack[waiting, 1], stack[waiting, 2]
        size, across = pyramid.cell << level, levels[level, 1]
        first_row, first_column = corner[0] + row * size, corner[1] + column * size
        down = max(0, first_row - bottom, top - (first_row + size - 1))
        aside = max(0, first_column - right, left - (first_column + size - 1))
        if float(down) * down + float(aside) * aside > limit:
            continue
        if level == 0:
            for i in range(starts[row * across + column], starts[row * across + column + 1]):
                found[n_found] = i
                n_found += 1
            continue
        level, across = level - 1, levels[level - 1, 1]
        for r in range(2 * row, min(2 * row + 2, levels[level, 2])):
            for c in range(2 * column, min(2 * column + 2, across)):
                if counts[levels[level, 0] + r * across + c]:
                    stack[waiting, 0], stack[waiting, 1], stack[waiting, 2] = level, r, c
                    waiting += 1
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
    most = np.int64(0)
    for f in range(n_found):
        down, aside = pyramid.places[found[f], 0] - row, pyramid.places[found[f], 1] - column
        most = max(most, down * down + aside * aside)
    return math.sqrt(most)


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


@intrinsic
def offer(typing, near, n, down, aside, shift, row):
    """Let the pixels of a block choose between the n anchors that they have, `near` (n * LANES,) int32, and one more.

    `down`, `aside`: int32, from the first pixel of the block to the anchor. What a pixel has of an anchor is its
    squared distance, `shift` bits higher than its row: smaller is nearer, or of equal distance and lower row.
    """

    def generate(context, builder, signature, arguments):
        near, n, down, aside, shift, row = arguments
        number, vector = ir.IntType(32), ir.VectorType(ir.IntType(32), LANES)

        def splat(value):
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(number, 0))
            return builder.shuffle_vector(one, one, ir.Constant(vector, [0] * LANES))

        rows = builder.sub(splat(down), ir.Constant(vector, [lane // SIDE for lane in range(LANES)]))
        columns = builder.sub(splat(aside), ir.Constant(vector, [lane % SIDE for lane in range(LANES)]))
        distance = builder.add(builder.mul(rows, rows), builder.mul(columns, columns))
        key = cgutils.alloca_once_value(builder, builder.or_(builder.shl(distance, splat(shift)), splat(row)))
        first = context.make_array(signature.args[0])(context, builder, near).data
        with cgutils.for_range(builder, n) as loop:
            place = builder.gep(first, [builder.mul(loop.index, ir.Constant(loop.index.type, LANES))])
            place = builder.bitcast(place, vector.as_pointer())
            ours, theirs = builder.load(place, align=4), builder.load(key)
            nearer = builder.icmp_signed("<", theirs, ours)
            builder.store(builder.select(nearer, theirs, ours), place, align=4)
            builder.store(builder.select(nearer, ours, theirs), key)
        return context.get_dummy_value()

    return types.void(near, types.intp, types.int32, types.int32, types.int32, types.int32), generate


@compiled
def choose_together(pyramid, top, left, bottom, right, found, n_found, near, bits, result, width):
    """Let all pixels of a block choose among some anchors, whose distances and rows fit into 32 bits together."""
    n = result.shape[1]
    near[:] = 2**31 - 1
    for f in range(n_found):
        i = found[f]
        down, aside = pyramid.places[i, 0] - top, pyramid.places[i, 1] - left
        offer(near, n, np.int32(down), np.int32(aside), np.int32(bits), pyramid.rows[i])
    mask = (1 << bits) - 1
    for i in range(top, bottom + 1):
        for j in range(left, right + 1):
            lane = (i - top) * SIDE + j - left
            for s in range(n):
                result[i * width + j, s] = near[s * LANES + lane] & mask


@compiled
def nearest_of_all(positions, height, width, n):
    """Find the n nearest of the anchors (k, 2) int64 of all pixels of an image, (height * width, n) int32."""
    pyramid, k = build_pyramid(positions), len(positions)
    result = np.empty((height * width, n), np.int32)
    found, numbers = np.empty(k, np.int64), np.empty(k, np.int64)
    for i in range(k):
        numbers[pyramid.rows[i]] = i
    bits = 0
    while 1 << bits < k:
        bits += 1
    margin = 2 * SIDE + math.sqrt(2.0) * pyramid.cell  # of cells within reach, and of what a block has beyond the image
    stack = np.empty((4 * len(pyramid.levels) + (MOST_NODES + 2) ** 2, 3), np.int64)
    distances, rows, near = np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n * LANES, np.int32)
    before, row_before = np.arange(n), np.arange(n)
    for top in range(0, height, SIDE):
        before[:] = row_before
        for left in range(0, width, SIDE):
            bottom, right = min(top + SIDE, height) - 1, min(left + SIDE, width) - 1
            row, column = (top + bottom) // 2, (left + right) // 2
            corner = math.sqrt((bottom - row) ** 2 + (right - column) ** 2) + 1e-3  # covers the last bit of the roots
            bound = furthest(pyramid, before, n, row, column)
            reach = bound + corner
            n_found = gather(pyramid, top, left, bottom, right, reach, stack, found)
            if (reach + margin) ** 2 * (1 << bits) < 2**31:
                choose_together(pyramid, top, left, bottom, right, found, n_found, near, bits, result, width)
            else:
                choose(pyramid, row, column, found, n_found, distances, rows)
                reach = math.sqrt(distances[n - 1]) + corner
                n_found = keep_near(pyramid, found, n_found, top, left, bottom, right, reach)
                for i in range(top, bottom + 1):
                    for j in range(left, right + 1):
                        choose(pyramid, i, j, found, n_found, distances, result[i * width + j])
            for s in range(n):
                before[s] = numbers[result[row * width + column, s]]
            if left == 0:
                row_before[:] = before
    return result


@compiled
def sum_gaps(positions, neighbours, width):
    """Sum and sum of squares of all `anchor - pixel`, whole numbers, both axes."""
    total, squares, row, column = 0, 0, 0, 0
    for pixel in range(len(neighbours)):
        for s in range(neighbours.shape[1]):
            down = positions[neighbours[pixel, s], 0] - row
            aside = positions[neighbours[pixel, s], 1] - column
            total += down + aside
            squares += down * down + aside * aside
        column += 1
        if column == width:
            row, column = row + 1, 0
    return total, squares


@compiled
def distances_between(positions, ends, count):
    """The mean distance (k,) of every place (k, 2) int64 to its `count` nearest others of the same image (all of them,
    of fewer); the places of an image begin at each of `ends`."""
    means = np.zeros(len(positions))
    for i in range(len(ends) - 1):
        measure_distances(positions[ends[i] : ends[i + 1]], count, means[ends[i] : ends[i + 1]])
    return means


@compiled
def measure_distances(positions, count, means):
    """Write what `distances_between` returns, of one image: ring after ring of the cells around a place."""
    k = len(positions)
    count = min(count, k - 1)
    if count < 1:
        return
    pyramid = build_pyramid(positions)
    places, starts, cell, corner = pyramid.places, pyramid.starts, pyramid.cell, pyramid.corner
    across, down = pyramid.levels[0, 1], pyramid.levels[0, 2]
    best = np.empty(count, np.int64)
    for i in range(k):
        best[:] = 2**62
        home_row, home_column = (places[i, 0] - corner[0]) // cell, (places[i, 1] - corner[1]) // cell
        ring = 0
        while ring <= max(down, across):
            # All places in rings further out are more than (ring - 1) cells away.
            if ring > 0 and best[count - 1] <= ((ring - 1) * cell) ** 2:
                break
            for r in range(max(0, home_row - ring), min(down, home_row + ring + 1)):
                inner = abs(r - home_row) < ring
                for c in range(max(0, home_column - ring), min(across, home_column + ring + 1)):
                    if inner and abs(c - home_column) < ring:
                        continue
                    for j in range(starts[r * across + c], starts[r * across + c + 1]):
                        if j == i:
                            continue
                        away, aside = places[i, 0] - places[j, 0], places[i, 1] - places[j, 1]
                        square = away * away + aside * aside
                        if square < best[count - 1]:
                            s = count - 1
                            while s > 0 and square < best[s - 1]:
                                best[s] = best[s - 1]
                                s -= 1
                            best[s] = square
            ring += 1
        total = 0.0
        for s in range(count):
            total += math.sqrt(float(best[s]))
        means[pyramid.rows[i]] = total / count
