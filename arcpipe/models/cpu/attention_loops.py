"""Attention within patches as compiled loops: eight heads to a register, nothing padded, nothing copied.

Heads have 2 to 16 channels and patches some 20 tokens, so products of matrices have no room to be fast, and the
scores, one for each head and pair, are most of the memory. Here the scores of a pair of tokens are computed in
registers from the tokens' own rows, and the backward computes them again instead of reading them.

Channels lie heads last, so the same lane of all registers belongs to one head. With fewer than eight heads a register
holds several channels of each, whose sums are folded together: its lanes then repeat the heads' scores.
"""

# Compiled functions: Numba finds the types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math

import numpy as np

from arcpipe.compiled import compiled
from arcpipe.models.cpu.lanes import (
    add,
    divide,
    exponential,
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

BUILT_ON_SHA256 = "da6dca721d9fae5d2aeec50b43fc0d936c959859de5073f1a610343fee34a9c3"
"""See `arcpipe.compiled`: of `lanes.py` and `vectors.py`."""


@compiled
def place_keys(query, n, members, coords, width, lanes, step, keys, places):
    """Where to read for the n keys of a query: `keys` the token's row, `places` the biases of the distance."""
    reach = width // 2
    for j in range(n):
        key = members[j]
        row = min(max(coords[query, 0] - coords[key, 0], -reach), reach) + reach
        column = min(max(coords[query, 1] - coords[key, 1], -reach), reach) + reach
        keys[j] = key * step
        places[j] = (row * width + column) * lanes


@compiled
def dot(a, a_at, b, b_at, channels, heads):
    """For every lane's head, the product of its channels in `a` and `b`."""
    total = splat(np.float32(0))
    for c in range(0, channels, max(heads, 8)):
        total = fma(load(a, a_at + c), load(b, b_at + c), total)
    if heads < 8:
        total = fold_4(total)
        if heads < 4:
            total = fold_2(total)
            if heads < 2:
                total = fold_1(total)
    return total


@compiled
def attend(qkv, coords, table, order, starts, first, last, longest, heads, channels, out, top, share):
    """Attend in the patches `first` to `last`. See `arcpipe.models.attention` for the equation.

    Flat float32, t tokens, l = max(heads, 8): `qkv` (t, 3, channels), a token's channels heads last; `table`
    (width, width, l), biases of the heads, repeated to eight; `out` (t, channels); and for the backward `top`, `share`
    (t, l), the largest score and one over the sum of exponentials. `order`, `starts`: see `Patches`; `longest` patch.
    """
    lanes, step = max(heads, 8), 3 * channels
    width, scale = int(math.sqrt(len(table) // lanes)), splat(np.float32(np.sqrt(heads / channels)))
    keys, places = np.empty(longest, np.int64), np.empty(longest, np.int64)
    weights = np.empty(longest * 8, np.float32)
    for patch in range(first, last):
        members = order[starts[patch] : starts[patch + 1]]
        n = len(members)
        for i in range(n):
            query = members[i]
            place_keys(query, n, members, coords, width, lanes, step, keys, places)
            for h in range(0, lanes, 8):
                own = query * step + h
                most = splat(np.float32(-np.inf))
                for j in range(n):
                    score = dot(qkv, own, qkv, keys[j] + channels + h, channels, heads)
                    score = fma(score, scale, load(table, places[j] + h))
                    store(weights, 8 * j, score)
                    most = larger(most, score)
                total = splat(np.float32(0))
                for j in range(n):
                    weight = exponential(subtract(load(weights, 8 * j), most))
                    store(weights, 8 * j, weight)
                    total = add(total, weight)
                inverse = divide(splat(np.float32(1)), total)
                store(top, query * lanes + h, most)
                store(share, query * lanes + h, inverse)
                for c in range(h, channels, lanes):
                    mixed = splat(np.float32(0))
                    for j in range(n):
                        mixed = fma(load(weights, 8 * j), load(qkv, keys[j] + 2 * channels + c), mixed)
                    store(out, query * channels + c, multiply(mixed, inverse))


@compiled
def attend_backward(
    qkv,
    coords,
    table,
    order,
    starts,
    first,
    last,
    longest,
    heads,
    channels,
    out,
    top,
    share,
    upstream,
    grad,
    table_grad,
):
    """Gradients from `upstream` (t, channels), added to `grad` (as `qkv`) and `table_grad` (as `table`), both zeros."""
    lanes, step = max(heads, 8), 3 * channels
    width, scale = int(math.sqrt(len(table) // lanes)), splat(np.float32(np.sqrt(heads / channels)))
    keys, places = np.empty(longest, np.int64), np.empty(longest, np.int64)
    weights, slopes = np.empty(longest * 8, np.float32), np.empty(longest * 8, np.float32)
    for patch in range(first, last):
        members = order[starts[patch] : starts[patch + 1]]
        n = len(members)
        for i in range(n):
            query = members[i]
            place_keys(query, n, members, coords, width, lanes, step, keys, places)
            for h in range(0, lanes, 8):
                own, mine = query * step + h, query * channels + h
                most, inverse = load(top, query * lanes + h), load(share, query * lanes + h)
                # A softmax's gradient: w (g - sum over keys of w g), and that sum is upstream times output.
                mean = dot(upstream, mine, out, mine, channels, heads)
                for j in range(n):
                    other = keys[j] + channels + h
                    score = fma(dot(qkv, own, qkv, other, channels, heads), scale, load(table, places[j] + h))
                    weight = multiply(exponential(subtract(score, most)), inverse)
                    slope = dot(upstream, mine, qkv, other + channels, channels, heads)
                    slope = multiply(weight, subtract(slope, mean))
                    store(table_grad, places[j] + h, add(load(table_grad, places[j] + h), slope))
                    store(weights, 8 * j, weight)
                    store(slopes, 8 * j, multiply(slope, scale))
                for c in range(0, channels, lanes):
                    asked, arriving = load(qkv, own + c), load(upstream, mine + c)
                    query_slope = splat(np.float32(0))
                    for j in range(n):
                        at = keys[j] + channels + c + h
                        slope = load(slopes, 8 * j)
                        query_slope = fma(slope, load(qkv, at), query_slope)
                        store(grad, at, fma(slope, asked, load(grad, at)))
                        store(grad, at + channels, fma(load(weights, 8 * j), arriving, load(grad, at + channels)))
                    store(grad, own + c, query_slope)
