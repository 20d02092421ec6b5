"""Attention within patches as compiled loops: eight heads to a register, nothing padded, nothing copied.

Heads have 2 to 16 channels and patches some 20 to 60 tokens, so products of matrices have no room to be fast, and the
scores, one for each head and pair, are most of the memory. Here the scores of a few queries are computed at once from
the tokens' own rows, and the backward computes them again instead of reading them.

Channels lie heads last, so the same lane of all registers belongs to one head. With fewer than eight heads a register
holds several channels of each, whose sums are folded together: its lanes then repeat the heads' scores. More than
eight are worked on in groups of eight, whose rows lie one after the other.
"""

# Compiled functions: Numba finds the types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import numpy as np

from arcpipe.compiled import compiled
from arcpipe.models.cpu.lanes import (
    WIDE,
    add,
    divide,
    exponentials,
    fma,
    fold_1,
    fold_2,
    fold_4,
    larger,
    load,
    multiply,
    splat,
    store,
    subtract,
)
from arcpipe.models.cpu.rows import add_rows, halves, mixture, products, twice

BUILT_ON_SHA256 = "9344876dd15a3a868dd359b695a128c9400450c069b0ce8289824367c0844a63"
"""See `arcpipe.compiled`: of `lanes.py`, `rows.py` and `vectors.py`."""
QUERIES = 4
"""So many queries meet a key at once: its row is read for all of them."""

load_wide, store_wide, splat_wide = WIDE.load, WIDE.store, WIDE.splat
add_wide, subtract_wide, multiply_wide = WIDE.add, WIDE.subtract, WIDE.multiply


@compiled
def place_members(members, coords, step, rows, columns, starts):
    """Grid positions of the tokens of a patch, and where their rows begin."""
    for j in range(len(members)):
        token = members[j]
        rows[j], columns[j] = coords[token, 0], coords[token, 1]
        starts[j] = token * step


@compiled
def rows_of(numbers, block, n, step, at):
    """Where the rows of the four queries from `block` on begin; the last of n stands for those that are missing."""
    one, two, three = min(block + 1, n - 1), min(block + 2, n - 1), min(block + 3, n - 1)
    return numbers[block] * step + at, numbers[one] * step + at, numbers[two] * step + at, numbers[three] * step + at


@compiled
def place_biases(i, n, rows, columns, width, lanes, places):
    """Where the biases of a query's distances to all keys begin."""
    reach = width // 2
    row, column = rows[i], columns[i]
    for j in range(n):
        up = min(max(row - rows[j], -reach), reach) + reach
        left = min(max(column - columns[j], -reach), reach) + reach
        places[j] = (up * width + left) * lanes


@compiled
def folded(value, heads):
    """For every lane, the sum of all the lanes of its head."""
    if heads < 8:
        value = fold_4(value)
        if heads < 4:
            value = fold_2(value)
            if heads < 2:
                value = fold_1(value)
    return value


@compiled
def add_biases(scores, at, n, scale, heads, table, places, h):
    """Make scores of products: times the scale, plus the bias of the distance. Gives the largest."""
    most = splat(np.float32(-np.inf))
    for j in range(n):
        score = folded(load(scores, at + 8 * j), heads)
        score = fma(score, scale, load(table, places[j] + h))
        store(scores, at + 8 * j, score)
        most = larger(most, score)
    return most


@compiled
def exponentiate(scores, at, n, most):
    """Make weights of scores, e**(score - most), two keys at a time. Gives their sum."""
    store(scores, at + 8 * n, splat(np.float32(-np.inf)))  # the partner of the last key of an odd number
    total, wide = splat_wide(np.float32(0)), twice(most)
    for j in range(0, n, 2):
        weight = exponentials(subtract_wide(load_wide(scores, at + 8 * j), wide))
        store_wide(scores, at + 8 * j, weight)
        total = add_wide(total, weight)
    return halves(total)


@compiled
def attend(qkv, coords, table, width, order, starts, first, last, longest, heads, run, out, top, share):
    """Attend in the patches `first` to `last`. See `arcpipe.models.attention` for the equation.

    Flat float32, t tokens, g groups of at most eight heads: `qkv` (t, 3, g, channels of a group), heads last; `table`
    (width, width, g, 8), biases of the heads, repeated to eight; `out` (t, g, channels of a group); and for the
    backward `top`, `share` (t, g, 8), the largest score and one over the sum of exponentials. `order`, `starts`: see
    `Patches`; `longest` patch; `run`: see `arcpipe.models.cpu.rows`.
    """
    group, groups = 8 * len(run), max(heads // 8, 1)
    channels, lanes = group * groups, 8 * groups
    scale, stride = splat(np.float32(np.sqrt(heads / channels))), 8 * (longest + 1)
    rows, columns = np.empty(longest, np.int32), np.empty(longest, np.int32)
    tokens, places = np.empty(longest, np.int64), np.empty(longest, np.int32)
    scores = np.empty(QUERIES * stride, np.float32)
    for patch in range(first, last):
        members = order[starts[patch] : starts[patch + 1]]
        n = len(members)
        place_members(members, coords, 3 * channels, rows, columns, tokens)
        for block in range(0, n, QUERIES):
            for g in range(groups):
                at = g * group
                queries = rows_of(tokens, block, n, 1, at)
                for j in range(n):
                    products(qkv, queries, qkv, tokens[j] + channels + at, run, scores, 8 * j, stride)
                for q in range(min(QUERIES, n - block)):
                    query = members[block + q]
                    place_biases(block + q, n, rows, columns, width, lanes, places)
                    most = add_biases(scores, q * stride, n, scale, heads, table, places, 8 * g)
                    total = exponentiate(scores, q * stride, n, most)
                    inverse = divide(splat(np.float32(1)), total)
                    store(top, query * lanes + 8 * g, most)
                    store(share, query * lanes + 8 * g, inverse)
                    to = query * channels + at
                    mixture(scores, q * stride, qkv, tokens, 2 * channels + at, n, run, inverse, out, to)


@compiled
def slope_of_biases(weights, slopes, at, n, mean, scale, heads, table_grad, places, h):
    """A softmax's gradient, weight times (slope - mean), is added to the biases, and left behind times the scale."""
    for j in range(n):
        slope = folded(load(slopes, at + 8 * j), heads)
        slope = multiply(load(weights, at + 8 * j), subtract(slope, mean))
        store(table_grad, places[j] + h, add(load(table_grad, places[j] + h), slope))
        store(slopes, at + 8 * j, multiply(slope, scale))


@compiled
def attend_backward(
    qkv, coords, table, width, order, starts, first, last, longest, heads, run,
    out, top, share, upstream, grad, table_grad,
):  # fmt: skip
    """Gradients from `upstream` (as `out`), added to `grad` (as `qkv`) and `table_grad` (as `table`), both zeros."""
    group, groups = 8 * len(run), max(heads // 8, 1)
    channels, lanes = group * groups, 8 * groups
    scale, stride = splat(np.float32(np.sqrt(heads / channels))), 8 * (longest + 1)
    rows, columns = np.empty(longest, np.int32), np.empty(longest, np.int32)
    tokens, places = np.empty(longest, np.int64), np.empty(longest, np.int32)
    weights, slopes = np.empty(QUERIES * stride, np.float32), np.empty(QUERIES * stride, np.float32)
    own = np.empty(8, np.float32)
    for patch in range(first, last):
        members = order[starts[patch] : starts[patch + 1]]
        n = len(members)
        place_members(members, coords, 3 * channels, rows, columns, tokens)
        for block in range(0, n, QUERIES):
            for g in range(groups):
                at = g * group
                queries = rows_of(tokens, block, n, 1, at)
                arriving = rows_of(members, block, n, channels, at)
                for j in range(n):
                    products(qkv, queries, qkv, tokens[j] + channels + at, run, weights, 8 * j, stride)
                    products(upstream, arriving, qkv, tokens[j] + 2 * channels + at, run, slopes, 8 * j, stride)
                for q in range(QUERIES):
                    if block + q >= n:  # a repeated query, which counts for nothing
                        weights[q * stride : (q + 1) * stride] = 0
                        slopes[q * stride : (q + 1) * stride] = 0
                        continue
                    query = members[block + q]
                    mine = query * channels + at
                    place_biases(block + q, n, rows, columns, width, lanes, places)
                    add_biases(weights, q * stride, n, scale, heads, table, places, 8 * g)
                    exponentiate(weights, q * stride, n, load(top, query * lanes + 8 * g))
                    inverse = load(share, query * lanes + 8 * g)
                    wide = twice(inverse)
                    for j in range(0, n, 2):
                        spot = q * stride + 8 * j
                        store_wide(weights, spot, multiply_wide(load_wide(weights, spot), wide))
                    # The sum over keys of weight times slope is upstream times output.
                    products(upstream, (mine,), out, mine, run, own, 0, 0)
                    mean = folded(load(own, 0), heads)
                    slope_of_biases(weights, slopes, q * stride, n, mean, scale, heads, table_grad, places, 8 * g)
                    to = query * 3 * channels + at
                    mixture(slopes, q * stride, qkv, tokens, channels + at, n, run, splat(np.float32(1)), grad, to)
                for j in range(n):
                    key = tokens[j] + channels + at
                    add_rows(slopes, 8 * j, stride, qkv, queries, run, grad, key)
                    add_rows(weights, 8 * j, stride, upstream, arriving, run, grad, key + channels)
