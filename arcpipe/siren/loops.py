"""The fit of one sine network to one image, compiled: forward, backward and Adam, all steps in one call.

Everything is feature-major and flat: row i of a layer's values are the pixels of its neuron i, so that pixels lie in
the lanes of a register. Widths are padded to whole blocks by neurons of zero weights, which stay zero: sin(0) = 0
brings no gradient to what leaves them, and zero weights bring none to what enters them. Sums have one fixed order.
"""

# Compiled functions: Numba finds the types of their arguments itself.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from math import pi
from typing import Any

import numpy as np
from llvmlite import ir

from arcpipe.compiled import bare
from arcpipe.vectors import LANES, ROWS, Vectors

BUILT_ON_SHA256 = "4e7d95d5854297219ff37ab5b1b3570abb48c5b371d02bd0dff7d7007b58f935"

STEP = 3 * LANES
"""Pixels that a block of a product has: with `ROWS` neurons, 12 sums stay in registers."""

VECTORS = Vectors(LANES)
load, store, splat, fma = VECTORS.load, VECTORS.store, VECTORS.splat, VECTORS.fma
add, subtract, multiply, divide = VECTORS.add, VECTORS.subtract, VECTORS.multiply, VECTORS.divide
root, total, block = VECTORS.root, VECTORS.total, VECTORS.block(3, start_is_column=True)
nearest = VECTORS.elementwise(1, lambda builder, a: VECTORS.call(builder, "llvm.nearbyint", a))


def _flipped(builder: Any, value: Any, turns: Any) -> Any:
    """`value` with its sign changed where `turns`, a whole number, is odd."""
    odd = builder.shl(builder.fptosi(turns, VECTORS.integers), ir.Constant(VECTORS.integers, [31] * LANES))
    return builder.bitcast(builder.xor(builder.bitcast(value, VECTORS.integers), odd), VECTORS.floats)


flipped = VECTORS.elementwise(2, _flipped)


f32 = np.float32
PER_PI, PI_HIGH, PI_LOW = f32(1 / pi), f32(-3.140625), f32(3.140625 - pi)
"""pi in two pieces, the first short enough that its multiples up to 2**15 are exact."""
S3, S5, S7, S9, S11 = (f32(value) for value in (-1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800))
C2, C4, C6, C8, C10, C12 = (f32(value) for value in (-1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800, 1 / 479001600))
"""Taylor's series: within 6e-8 of sine and cosine up to a quarter turn either way."""
ONE = f32(1)


@bare
def sines(values, at, slopes, slopes_at, count, omega):
    """Turn `count` values z in place into sin(omega z); `slopes` become omega cos(omega z)."""
    for i in range(0, count, LANES):
        x = multiply(load(values, at + i), splat(omega))
        turns = nearest(multiply(x, splat(PER_PI)))
        r = fma(turns, splat(PI_LOW), fma(turns, splat(PI_HIGH), x))
        q = multiply(r, r)
        s = fma(fma(fma(fma(splat(S11), q, splat(S9)), q, splat(S7)), q, splat(S5)), q, splat(S3))
        c = fma(fma(fma(fma(splat(C12), q, splat(C10)), q, splat(C8)), q, splat(C6)), q, splat(C4))
        c = fma(fma(c, q, splat(C2)), q, splat(ONE))
        store(values, at + i, flipped(fma(multiply(s, q), r, r), turns))
        store(slopes, slopes_at + i, flipped(multiply(c, splat(omega)), turns))


@bare
def product(out, out_at, stride, a, a_at, a_row, a_k, start, start_at, b, b_at, b_stride, n_rows, n_k, n):
    """`out[r, p] = start[r] + sum over k, rising, of a[r, k] b[k, p]`; `n_rows` and `n` are whole blocks.

    Of each matrix: the flat array, the element where it begins, and the steps between rows (of `a` also between k).
    """
    for p in range(0, n, STEP):
        for r in range(0, n_rows, ROWS):
            block(out, out_at + r * stride + p, stride, start, start_at + r, 1, a, a_at + r * a_row, a_row, a_k,
                  b, b_at + p, b_stride, n_k)  # fmt: skip


@bare
def gradients(grad, at, bias_at, n_columns, g, g_at, g_stride, h, h_at, h_stride, n_rows, n):
    """Add to `grad[r, i]` the sum over pixels of `g[r, p] h[i, p]`, and to those of the biases that of `g[r, p]`.

    `n_rows` are whole blocks, `n_columns` is even.
    """
    zero = splat(f32(0))
    for r in range(0, n_rows, ROWS):
        g0 = g_at + r * g_stride
        g1, g2, g3 = g0 + g_stride, g0 + 2 * g_stride, g0 + 3 * g_stride
        for i in range(0, n_columns, 2):
            x0 = h_at + i * h_stride
            x1 = x0 + h_stride
            s00 = s01 = s10 = s11 = s20 = s21 = s30 = s31 = zero
            for p in range(0, n, LANES):
                v0, v1 = load(h, x0 + p), load(h, x1 + p)
                d0, d1, d2, d3 = load(g, g0 + p), load(g, g1 + p), load(g, g2 + p), load(g, g3 + p)
                s00, s01, s10, s11 = fma(d0, v0, s00), fma(d0, v1, s01), fma(d1, v0, s10), fma(d1, v1, s11)
                s20, s21, s30, s31 = fma(d2, v0, s20), fma(d2, v1, s21), fma(d3, v0, s30), fma(d3, v1, s31)
            w = at + r * n_columns + i
            grad[w] += total(s00)
            grad[w + 1] += total(s01)
            grad[w + n_columns] += total(s10)
            grad[w + n_columns + 1] += total(s11)
            grad[w + 2 * n_columns] += total(s20)
            grad[w + 2 * n_columns + 1] += total(s21)
            grad[w + 3 * n_columns] += total(s30)
            grad[w + 3 * n_columns + 1] += total(s31)
        for k in range(ROWS):
            s = zero
            for p in range(0, n, LANES):
                s = add(s, load(g, g0 + k * g_stride + p))
            grad[bias_at + r + k] += total(s)


@bare
def errors(y, y_at, stride, target, t_at, t_stride, valid, v_at, channels, n, offset, factor):
    """Turn outputs in place into the gradient of the loss; the sum of squared errors is returned."""
    squares = splat(f32(0))
    for c in range(channels):
        for p in range(0, n, LANES):
            at = y_at + c * stride + p
            gap = subtract(add(load(y, at), splat(offset)), load(target, t_at + c * t_stride + p))
            gap = multiply(gap, load(valid, v_at + p))
            squares = fma(gap, gap, squares)
            store(y, at, multiply(gap, splat(factor)))
    return total(squares)


@bare
def adam(values, grad, first, second, rate, unbias, beta1, beta2, eps):
    """One step of Adam; `unbias` is 1 / sqrt(1 - beta2^t), and `rate` has its own correction in it already."""
    for i in range(0, len(values), LANES):
        g = load(grad, i)
        m = fma(splat(beta1), load(first, i), multiply(splat(ONE - beta1), g))
        v = fma(splat(beta2), load(second, i), multiply(splat(ONE - beta2), multiply(g, g)))
        store(first, i, m)
        store(second, i, v)
        move = divide(multiply(splat(rate), m), fma(root(v), splat(unbias), splat(eps)))
        store(values, i, subtract(load(values, i), move))


@bare
def slope(values, at, slopes, slopes_at, count):
    """Multiply `count` values by slopes, in place."""
    for i in range(0, count, LANES):
        store(values, at + i, multiply(load(values, at + i), load(slopes, slopes_at + i)))


@bare
def fit(
    values, widths, channels, places, target, valid, counts, length, tile, scratch, grad, first, second, rates, omega,
    offset, beta1, beta2, eps, stop, losses,
):  # fmt: skip
    """Fit a network; `values`, its padded parameters, change in place. Returns the steps taken.

    `widths` (layers + 1): padded, the first is 2. `places` (batches, 2, length), `target` (batches, channels, length)
    and `valid` (batches, length): coordinates, colours and 1 for a pixel, 0 for padding. `counts`: pixels of each
    mini-batch, which are taken in turn. `tile`: pixels worked on together. `scratch`: zeros, see `scratch_length`.
    `losses` (steps): mean squared errors before every step; the fit ends where one is at most `stop`.
    """
    n_layers, width = len(widths) - 1, 0
    for w in widths:
        width = max(width, w)
    ahead = width  # before it, zeros
    for step in range(len(rates)):
        b = step % len(counts)
        places_at, target_at, valid_at = b * 2 * length, b * channels * length, b * length
        grad[:] = f32(0)
        loss = 0.0
        for begin in range(0, length, tile):
            n = min(tile, length - begin)
            at, h, h_at, stride = 0, places, places_at + begin, length
            for i in range(n_layers):  # forward: layer i's values, then its slopes, one layer after the other
                n_in, n_out = widths[i], widths[i + 1]
                out_at = ahead + 2 * i * width * tile
                product(scratch, out_at, tile, values, at, n_in, 1, values, at + n_in * n_out, h, h_at, stride, n_out,
                        n_in, n)  # fmt: skip
                at += (n_in + 1) * n_out
                if i + 1 < n_layers:
                    for r in range(n_out):
                        row = r * tile
                        sines(scratch, out_at + row, scratch, out_at + width * tile + row, n, omega)
                h, h_at, stride = scratch, out_at, tile
            factor = f32(2.0 / (counts[b] * channels))
            loss += errors(scratch, h_at, tile, target, target_at + begin, length, valid, valid_at + begin, channels,
                           n, offset, factor)  # fmt: skip
            for i in range(n_layers - 1, -1, -1):  # backward: a layer's gradient takes the place of its slopes
                n_in, n_out = widths[i], widths[i + 1]
                at -= (n_in + 1) * n_out
                g_at = ahead + (2 * i + (1 if i + 1 < n_layers else 0)) * width * tile
                x, x_at, x_stride = places, places_at + begin, length
                if i > 0:
                    x, x_at, x_stride = scratch, ahead + 2 * (i - 1) * width * tile, tile
                gradients(grad, at, at + n_in * n_out, n_in, scratch, g_at, tile, x, x_at, x_stride, n_out, n)
                if i > 0:
                    slopes_at, fresh_at = x_at + width * tile, ahead + 2 * n_layers * width * tile
                    n_k = channels if i + 1 == n_layers else n_out
                    product(scratch, fresh_at, tile, values, at, 1, n_in, scratch, 0, scratch, g_at, tile, n_in, n_k, n)
                    for r in range(n_in):
                        slope(scratch, slopes_at + r * tile, scratch, fresh_at + r * tile, n)
        losses[step] = loss / (counts[b] * channels)
        if losses[step] <= stop or not np.isfinite(losses[step]):
            return step
        t = step + 1
        rate, unbias = rates[step] / (1.0 - beta1**t), 1.0 / np.sqrt(1.0 - beta2**t)
        adam(values, grad, first, second, f32(rate), f32(unbias), f32(beta1), f32(beta2), f32(eps))
    return len(rates)


def scratch_length(widths: Any, tile: int) -> int:
    """Floats that `fit` needs beside its arguments: zeros, and all layers of a tile."""
    width = int(max(widths))
    return width + (2 * (len(widths) - 1) + 1) * width * tile
