"""How far the anchors of an image lie from each other, compiled."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np

from arcpipe.compiled import compiled


@compiled
def distances_between(positions, ends, count):
    """The mean distance (k,) of every place (k, 2) to its `count` nearest others of the same image (all of them, of
    fewer); the places of an image begin at each of `ends`.

    Places are sorted along a curve or by rows; they are looked up in square cells of about two of them.
    """
    means = np.zeros(len(positions))
    for i in range(len(ends) - 1):
        measure_distances(positions[ends[i] : ends[i + 1]], count, means[ends[i] : ends[i + 1]])
    return means


@compiled
def measure_distances(positions, count, means):
    """Write what `distances_between` returns, of one image."""
    k = len(positions)
    count = min(count, k - 1)
    if count < 1:
        return
    top, left, bottom, right = positions[0, 0], positions[0, 1], positions[0, 0], positions[0, 1]
    for i in range(k):
        top, bottom = min(top, positions[i, 0]), max(bottom, positions[i, 0])
        left, right = min(left, positions[i, 1]), max(right, positions[i, 1])
    cell = max(1, int(math.sqrt(2.0 * (bottom - top + 1) * (right - left + 1) / k)))
    down, across = (bottom - top) // cell + 1, (right - left) // cell + 1
    starts = np.zeros(down * across + 1, np.int64)
    cells = np.empty(k, np.int64)
    for i in range(k):
        cells[i] = (positions[i, 0] - top) // cell * across + (positions[i, 1] - left) // cell
        starts[cells[i] + 1] += 1
    for i in range(down * across):
        starts[i + 1] += starts[i]
    filled, members = starts[:-1].copy(), np.empty(k, np.int64)
    for i in range(k):
        members[filled[cells[i]]] = i
        filled[cells[i]] += 1
    best = np.empty(count, np.int64)
    for i in range(k):
        best[:] = 2**62
        home_row, home_column = cells[i] // across, cells[i] % across
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
                    for m in range(starts[r * across + c], starts[r * across + c + 1]):
                        j = members[m]
                        if j == i:
                            continue
                        away, aside = positions[i, 0] - positions[j, 0], positions[i, 1] - positions[j, 1]
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
        means[i] = total / count
