"""The planar convolution's pairs and products as compiled loops: rows are read in place and added in registers."""

# Compiled functions: Numba finds the types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import numpy as np

from arcpipe.compiled import compiled
from arcpipe.models.cpu.lanes import gathered_1, gathered_4, outer_4

BUILT_ON_SHA256 = "090903e6bce824ebb9913008b5127057584184c51fd6b4ddd9906aeec988902c"
"""See `arcpipe.compiled`: of `lanes.py` and `vectors.py`."""

PAIRS_AT_ONCE = 64
"""Pairs whose rows stay in the first cache while all blocks of a weight's gradient pass over them."""


@compiled
def spread_bits(value):
    """A zero bit above every bit, as `cloud.spread`."""
    value = (value | value << 16) & 0x0000FFFF0000FFFF
    value = (value | value << 8) & 0x00FF00FF00FF00FF
    value = (value | value << 4) & 0x0F0F0F0F0F0F0F0F
    value = (value | value << 2) & 0x3333333333333333
    return (value | value << 1) & 0x5555555555555555


@compiled
def find_neighbours(keys, coords, kernel, code_bits, coord_bits, first, last, begins, ends, near):
    """For the voxels `first` to `last`: the voxel at every place of the window's first half, -1 where there is none.

    `near` (kernel ** 2 // 2, v) int32; `begins`, `ends` (v,): the rows of the voxel's cloud.
    """
    reach = kernel // 2
    for voxel in range(first, last):
        cloud = keys[voxel] >> code_bits << code_bits
        for place in range(kernel * kernel // 2):
            row = coords[voxel, 0] + place // kernel - reach
            column = coords[voxel, 1] + place % kernel - reach
            found = -1
            if row >= 0 and column >= 0 and row < 1 << coord_bits and column < 1 << coord_bits:
                wanted = cloud | spread_bits(row) << 1 | spread_bits(column)
                low, high = begins[voxel], ends[voxel]
                while low < high:
                    middle = (low + high) // 2
                    if keys[middle] < wanted:
                        low = middle + 1
                    else:
                        high = middle
                if low < ends[voxel] and keys[low] == wanted:
                    found = low
            near[place, voxel] = found


@compiled
def list_pairs(near, counts, source, target):
    """Write the pairs of the whole window, place after place in raster order, targets rising within a place.

    `near` is for the first half; the other half has the same pairs with their ends exchanged. With `source` of length 0
    only the `counts` (2 half,) are found.
    """
    half, n_voxels = near.shape
    other = np.empty(n_voxels, np.int32)
    at = 0
    for place in range(2 * half):
        row = near[place if place < half else 2 * half - 1 - place]
        if place >= half:
            other[:] = -1
            for voxel in range(n_voxels):
                if row[voxel] >= 0:
                    other[row[voxel]] = voxel
            row = other
        begin = at
        for voxel in range(n_voxels):
            if row[voxel] >= 0:
                if len(source):
                    source[at] = row[voxel]
                    target[at] = voxel
                at += 1
        counts[place] = at - begin


@compiled
def add_products(features, weights, source, target, bounds, first, last, inputs, outputs, out):
    """Add to every target row in `first` to `last` the product of each of its sources and the place's weight.

    Flat float32: `features` (v, inputs), `weights` (places, inputs, outputs), `out` (v, outputs). `bounds`
    (places + 1,): where the pairs of each place begin. `outputs` is a multiple of 16.
    """
    for place in range(len(bounds) - 1):
        pairs = target[bounds[place] : bounds[place + 1]]
        low = bounds[place] + np.searchsorted(pairs, first)
        high = bounds[place] + np.searchsorted(pairs, last)
        whole = low + (high - low) // 4 * 4
        weight = place * inputs * outputs
        for o in range(0, outputs, 16):
            for p in range(low, whole, 4):
                gathered_4(out, target, outputs, o, features, source, inputs, p, weights, weight, inputs)
            for p in range(whole, high):
                gathered_1(out, target, outputs, o, features, source, inputs, p, weights, weight, inputs)


@compiled
def add_outer_products(features, upstream, source, target, bounds, first, last, inputs, outputs, grad):
    """Add the weights' gradients for the input channels `first` to `last`, multiples of 4; `grad` as `weights`."""
    for place in range(len(bounds) - 1):
        for low in range(bounds[place], bounds[place + 1], PAIRS_AT_ONCE):
            high = min(low + PAIRS_AT_ONCE, bounds[place + 1])
            for i in range(first, last, 4):
                at = (place * inputs + i) * outputs
                for o in range(0, outputs, 16):
                    outer_4(grad, at, features, source, inputs, i, upstream, target, outputs, o, low, high)
