"""The fit of the kind `basis`, compiled: the least-squares problem of every anchor, and its solution.

`basis_kernel` has the equation.

A fit is a pass over the anchors, each with the pixels in which it has a share. Their functions make a small system,
which is solved. Sums run in one order that depends on the image alone.
"""

# Compiled functions: what their arguments are stands in `basis_loops`; Numba finds their types itself.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np

from arcpipe.arc.kernels.basis_loops import find_row, lay_row, lay_shares, lay_work, scene_of
from arcpipe.arc.kernels.simd import LANES, ROWS, block_1, block_2, fma, load, load_from, multiply, splat, store
from arcpipe.compiled import bare, compiled

BUILT_ON_SHA256 = "d399299a4663500e1d55772f1a16b1e41c57234dde3b71f83b8add7884b7ccfa"
"""See `arcpipe.compiled`: of `basis_loops.py`, `simd.py` and `vectors.py`."""

PAIRS = 64
"""Pixels of an anchor whose products are added at once."""


@compiled
def lay_patches(profiles, orders, width, channels, knots, per_scale, inverse, patches):
    """Fill `rows` and `grams`; `inverse` (levels,)."""
    angle, size = np.zeros(width, np.float32), channels * width
    for level in range(len(inverse)):
        first, last = patches.starts[level], patches.starts[level + 1]
        weighted = np.empty((last - first) * size, np.float32)
        for i in range(first, last):
            lay_row(
                profiles, orders, width, channels, knots, per_scale,
                float(patches.places[i, 0]), float(patches.places[i, 1]), inverse[level], angle, patches.rows, i * size,
            )  # fmt: skip
            root = np.float32(math.sqrt(patches.weights[i]))
            weighted[(i - first) * size : (i - first + 1) * size] = root * patches.rows[i * size : (i + 1) * size]
        gram = patches.grams[level * width * width : (level + 1) * width * width]
        add_products(weighted, (last - first) * channels, width, gram)


@compiled
def users_of(scene, k):
    """List which (pixel, slot) pairs give each anchor a share: starts (k + 1,), and `pixel * n + slot`, rising."""
    n = len(scene.slots)
    starts = np.zeros(k + 1, np.int64)
    for pixel in range(len(scene.uses)):
        for s in range(scene.uses[pixel]):
            starts[scene.neighbours[pixel, s] + 1] += 1
    for i in range(k):
        starts[i + 1] += starts[i]
    filled, pairs = starts[:-1].copy(), np.empty(starts[k], np.int32)
    for pixel in range(len(scene.uses)):
        for s in range(scene.uses[pixel]):
            anchor = scene.neighbours[pixel, s]
            pairs[filled[anchor]] = pixel * n + s
            filled[anchor] += 1
    return starts, pairs


@compiled
def solve_each(table, scenes, patch, damping, latents):
    """Fit the latents (flat, rows of `table.width`) of some images on this thread."""
    for i in range(len(scenes.columns)):
        scene, first = scene_of(scenes, i), scenes.anchor_ends[i] * table.width
        for b in range(len(scene.blocks)):
            lay_shares(table, scene, scene.blocks[b])
        k = len(scene.anchors)
        starts, pairs = users_of(scene, k)
        solve_latents(table, scene, starts, pairs, patch, damping, 0, k, latents[first : first + k * table.width])


@compiled
def solve_latents(table, scene, starts, pairs, patch, damping, first, last, latents):
    """Fit the latents (flat, rows of `table.width`) of the anchors from `first` to `last`, each by itself; `patch` is
    the weight of its patch."""
    n, channels, width = len(scene.slots), len(table.colours), len(table.vectors) * LANES
    work, size = lay_work(table, n), channels * width
    rows, colours = np.empty(PAIRS * size, np.float32), np.empty(PAIRS * channels, np.float32)
    around = np.empty(len(table.patches.weights) * channels, np.float32)
    own, right = np.empty(width * width, np.float32), np.empty(width, np.float32)
    for anchor in range(first, last):
        own[:] = 0
        right[:] = 0
        if patch > 0:
            count, at = lay_patch(table, scene, anchor, around)
            add_rows(table.patches.rows, at * size, around, count * channels, width, right)
            gram = scene.levels[anchor] * width * width
            for k in range(width):
                right[k] *= np.float32(patch)
            for k in range(width * width):
                own[k] = np.float32(patch) * table.patches.grams[gram + k]
        for k in range(width):
            own[k * width + k] += np.float32(damping)
        for start in range(starts[anchor], starts[anchor + 1], PAIRS):
            stop = min(start + PAIRS, starts[anchor + 1])
            gather_rows(table, scene, anchor, pairs, start, stop, rows, colours, work)
            add_products(rows, (stop - start) * channels, width, own)
            add_rows(rows, 0, colours, (stop - start) * channels, width, right)
        solve_system(own, width, right, latents, anchor * width)


@bare
def lay_patch(table, scene, anchor, colours):
    """Copy the colours of the pixels of an anchor's patch, times their weights; beyond an edge of the image, those of
    the pixels at the edge. Returns how many places there are, and the first of them."""
    level, columns, channels = scene.levels[anchor], scene.columns, len(table.colours)
    rows, first = len(scene.uses) // columns, table.patches.starts[level]
    count = table.patches.starts[level + 1] - first
    for i in range(count):
        row = min(max(scene.anchors[anchor, 0] + table.patches.places[first + i, 0], 0), rows - 1)
        column = min(max(scene.anchors[anchor, 1] + table.patches.places[first + i, 1], 0), columns - 1)
        for c in range(channels):
            colours[i * channels + c] = table.patches.weights[first + i] * scene.target[row * columns + column, c]
    return count, first


@bare
def gather_rows(table, scene, anchor, pairs, start, stop, rows, colours, work):
    """Copy the functions of the basis at some of the pixels of an anchor, and the pixels' colours, times the roots of
    their weights."""
    n, channels = len(scene.slots), len(table.colours)
    size = channels * len(table.vectors) * LANES
    row = pairs[start] // n // scene.columns if start < stop else 0
    for i in range(start, stop):
        pixel = pairs[i] // n
        while pixel >= (row + 1) * scene.columns:  # pixels rise: a division for each took a third of the time
            row += 1
        factor = np.float32(math.sqrt(scene.weights[pixel] * scene.shares[pixel, pairs[i] - pixel * n]))
        for c in range(channels):
            colours[(i - start) * channels + c] = factor * scene.target[pixel, c]
        address = find_row(table, scene, anchor, row, pixel - row * scene.columns, work.rows, 0, work)
        for v in range(0, size, LANES):
            store(rows, (i - start) * size + v, multiply(splat(factor), load_from(address, v)))


@bare
def add_products(rows, count, width, own):
    """Add to `own` (width, width) the products of all columns of `rows` (count, width), in its upper half at least."""
    for i in range(0, width, ROWS):
        v = i // LANES * LANES
        while v < width:
            at = i * width + v
            if width - v >= 2 * LANES:
                block_2(own, at, width, own, at, width, rows, i, 1, width, rows, v, width, count)
                v += 2 * LANES
            else:
                block_1(own, at, width, own, at, width, rows, i, 1, width, rows, v, width, count)
                v += LANES


@bare
def add_rows(rows, at, factors, count, width, total):
    """Add to `total` (width,) `count` of `rows` (flat) from `at` on, each times its factor.

    Even and odd rows are added up apart: a sum waits for its last product, and two of two registers each need not.
    """
    v = 0
    while v < width:
        second = v + LANES if v + LANES < width else v
        even, even_2 = load(total, v), load(total, second)
        odd, odd_2 = splat(np.float32(0)), splat(np.float32(0))
        for i in range(0, count - 1, 2):
            first, next_ = splat(factors[i]), splat(factors[i + 1])
            here, there = at + i * width, at + (i + 1) * width
            even, odd = fma(first, load(rows, here + v), even), fma(next_, load(rows, there + v), odd)
            even_2 = fma(first, load(rows, here + second), even_2)
            odd_2 = fma(next_, load(rows, there + second), odd_2)
        if count % 2:
            last, here = splat(factors[count - 1]), at + (count - 1) * width
            even, even_2 = fma(last, load(rows, here + v), even), fma(last, load(rows, here + second), even_2)
        one = splat(np.float32(1))
        store(total, v, fma(one, odd, even))
        if second > v:
            store(total, second, fma(one, odd_2, even_2))
        v = second + LANES


@bare
def solve_system(own, width, right, out, at):
    """Write the solution of `own` x = `right` into `out` from `at` on: the upper Cholesky factor of `own`, forwards and
    back. Both are overwritten; of `own` (width, width), positive definite, the upper half is read."""
    for j in range(width):
        scale = np.float32(1 / math.sqrt(max(own[j * width + j], np.float32(1e-12))))
        spread = splat(scale)
        for v in range(j // LANES * LANES, width, LANES):
            store(own, j * width + v, multiply(spread, load(own, j * width + v)))
        right[j] *= scale
        below = splat(-right[j])
        for v in range((j + 1) // LANES * LANES, width, LANES):
            row = load(own, j * width + v)
            for i in range(j + 1, v + LANES):
                store(own, i * width + v, fma(splat(-own[j * width + i]), row, load(own, i * width + v)))
            kept = right[j]
            store(right, v, fma(below, row, load(right, v)))
            right[j] = kept
    for j in range(width - 1, -1, -1):
        value = right[j]
        for i in range(j + 1, width):
            value -= own[j * width + i] * out[at + i]
        out[at + j] = value / own[j * width + j]
