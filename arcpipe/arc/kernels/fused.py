"""The step of the fit as one pass over the pixels of a tile, compiled by Numba: one thread, no lock, no allocation.

The form is that of `arcpipe.arc.factorised`, with three differences that save work and change only the rounding:

* A latent is multiplied for a slot only where a pixel of the tile has it there: in a mini-batch of a quarter of the
  pixels many (latent, slot) pairs have none.
* Relative positions split as the latents do: `(anchor - pixel - mean) / std` is a term of the anchor, which joins its
  latent as two more values, and a term of the pixel that is the same for all slots. Both count from the middle of the
  tile, so that numbers stay small in a large image.
* All that lies between latents and gradients stays in the cache of one core: a tile is passed over four times (project,
  decode, carry back, collect), and a row sums the pixels that use it, so that nothing is scattered.

Sums run in one order that depends on the image alone. Flat arrays of rows of padded length; see `layout` for shapes.
"""

# Compiled functions: what their arguments are stands in `layout`, and Numba finds their types itself.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit

from arcpipe.arc.kernels.simd import (
    LANES,
    ROWS,
    add,
    block_1,
    block_2,
    block_3,
    divide,
    fma,
    gated,
    load,
    multiply,
    root,
    splat,
    store,
    subtract,
    total,
)

SIMD_SHA256 = "acf05855e4072419f74715d06c03f139196327a8da8f7efed6d781c3873c1b2e"
"""Numba looks for changes in this file only before it takes compiled code from its cache on disk; a test keeps this
the hash of `simd.py`, so that a change there is a change here."""

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile at the first call, and keep the result on disk where a folder can be written."""
    try:
        kept: F = njit(function, nogil=True, cache=True, error_model="numpy")
        return kept
    except RuntimeError:  # "cannot cache function: no locator available"
        fresh: F = njit(function, nogil=True, error_model="numpy")
        return fresh


@compiled
def multiply_rows(out, out_at, out_step, start, start_at, start_step, a, a_at, a_row, a_k, b, b_at, b_k, n_k, n, width):
    """`simd.block` for n rows (a multiple of `ROWS`) and a width of any multiple of `LANES`."""
    for i in range(0, n, ROWS):
        to, begin, factor, j = out_at + i * out_step, start_at + i * start_step, a_at + i * a_row, 0
        while j + 3 * LANES <= width:
            block_3(out, to + j, out_step, start, begin + j, start_step, a, factor, a_row, a_k, b, b_at + j, b_k, n_k)
            j += 3 * LANES
        if j + 2 * LANES <= width:
            block_2(out, to + j, out_step, start, begin + j, start_step, a, factor, a_row, a_k, b, b_at + j, b_k, n_k)
            j += 2 * LANES
        if j < width:
            block_1(out, to + j, out_step, start, begin + j, start_step, a, factor, a_row, a_k, b, b_at + j, b_k, n_k)


@compiled
def project(t, network, scene, work, latents):
    """Multiply the latents of a tile, each for its slots."""
    n, z, zp, hp, step = network.n, network.z, network.zp, network.hp, work.near_step
    first, count = scene.tile_rows[t], scene.tile_rows[t + 1] - scene.tile_rows[t]
    image = scene.tile_image[t]
    mean, std = scene.mean[image], scene.std[image]
    for row in range(count):
        latent = scene.row_latents[first + row]
        for j in range(0, zp, LANES):
            store(work.near, row * step + j, load(latents, latent * zp + j))
        for axis in range(2):
            place = (scene.positions[2 * latent + axis] - scene.origins[2 * t + axis] - mean) / std
            work.near[row * step + z + axis] = place
    for s in range(n):
        begin, end = scene.slot_rows[t * (n + 1) + s], scene.slot_rows[t * (n + 1) + s + 1]
        multiply_rows(
            work.projected, begin * hp, hp, network.start, s * hp, 0, work.near, begin * step, step, 1,
            network.forward, s * (z + 2) * hp, hp, z + 2, end - begin, hp,
        )  # fmt: skip


@compiled
def decode_pixels(t, weight, network, scene, work):
    """Decode the pixels of a tile: their hidden values into `work.hidden`, into `work.errors` the gradient of each
    output (3) and the pixel's place (2). Returns the sum of the squared errors."""
    hp, slots, channels = network.hp, scene.slots, network.channels
    image = scene.tile_image[t]
    width, inverse, first_pixel = scene.widths[image], np.float32(1) / scene.std[image], scene.image_pixels[image]
    origin_row, origin_column = scene.origins[2 * t], scene.origins[2 * t + 1]
    projected, hidden, rows, errors = work.projected, work.hidden, scene.rows, work.errors
    place, output, bias = network.place, network.output, network.output_bias
    first, squares = scene.tile_pixels[t], 0.0
    for i in range(first, scene.tile_pixels[t + 1]):
        pixel = scene.pixels[i]
        down = (np.float32(pixel // width) - origin_row) * inverse
        right = (np.float32(pixel % width) - origin_column) * inverse
        at, to = i * slots, (i - first) * hp
        r0, r1, r2, r3 = rows[at] * hp, rows[at + 1] * hp, rows[at + 2] * hp, rows[at + 3] * hp
        out_0, out_1, out_2 = splat(np.float32(0)), splat(np.float32(0)), splat(np.float32(0))
        for j in range(0, hp, LANES):
            value = add(add(load(projected, r0 + j), load(projected, r1 + j)),
                        add(load(projected, r2 + j), load(projected, r3 + j)))  # fmt: skip
            for s in range(4, slots):
                value = add(value, load(projected, rows[at + s] * hp + j))
            value = fma(splat(down), load(place, j), fma(splat(right), load(place, hp + j), value))
            value = gated(value, value)
            store(hidden, to + j, value)
            out_0 = fma(value, load(output, j), out_0)
            out_1 = fma(value, load(output, hp + j), out_1)
            out_2 = fma(value, load(output, 2 * hp + j), out_2)
        to = (i - first) * 5
        errors[to], errors[to + 1], errors[to + 2] = total(out_0), total(out_1), total(out_2)
        errors[to + 3], errors[to + 4] = down, right
        target = (first_pixel + pixel) * channels
        for c in range(channels):
            error = errors[to + c] + bias[c] - scene.target[target + c]
            squares += error * error
            errors[to + c] = 2 * weight * error
        for c in range(channels, 3):
            errors[to + c] = 0
    return squares


@compiled
def carry_back(n_pixels, network, work):
    """Replace the hidden values of a tile's pixels by their gradients."""
    hp, hidden, errors, output = network.hp, work.hidden, work.errors, network.output
    for j in range(0, hp, LANES):
        out_0, out_1, out_2 = load(output, j), load(output, hp + j), load(output, 2 * hp + j)
        for i in range(n_pixels):
            gradient = fma(splat(errors[5 * i]), out_0,
                           fma(splat(errors[5 * i + 1]), out_1, multiply(splat(errors[5 * i + 2]), out_2)))  # fmt: skip
            store(hidden, i * hp + j, gated(load(hidden, i * hp + j), gradient))


@compiled
def collect(t, network, scene, work, gradient, learn, learned):
    """Sum the gradients of a tile's pixels into its rows, and multiply those back into the gradients of its latents;
    of the first layer too with `learn`."""
    n, zp, hp, step = network.n, network.zp, network.hp, work.near_step
    first, sums, hidden, users = scene.tile_rows[t], work.sums, work.hidden, scene.users
    for s in range(n):
        begin, end = scene.slot_rows[t * (n + 1) + s], scene.slot_rows[t * (n + 1) + s + 1]
        for row in range(begin, end):
            start, stop = scene.row_users[first + row], scene.row_users[first + row + 1]
            j = 0
            while j + 3 * LANES <= hp:
                sum_0, sum_1, sum_2 = splat(np.float32(0)), splat(np.float32(0)), splat(np.float32(0))
                for u in range(start, stop):
                    at = users[u] * hp + j
                    sum_0 = add(sum_0, load(hidden, at))
                    sum_1 = add(sum_1, load(hidden, at + LANES))
                    sum_2 = add(sum_2, load(hidden, at + 2 * LANES))
                store(sums, row * hp + j, sum_0)
                store(sums, row * hp + j + LANES, sum_1)
                store(sums, row * hp + j + 2 * LANES, sum_2)
                j += 3 * LANES
            while j < hp:
                sum_0 = splat(np.float32(0))
                for u in range(start, stop):
                    sum_0 = add(sum_0, load(hidden, users[u] * hp + j))
                store(sums, row * hp + j, sum_0)
                j += LANES
            if (row - begin + 1) % ROWS:
                continue
            row0 = row + 1 - ROWS
            multiply_rows(
                work.back, 0, zp, work.zeros, 0, 0, sums, row0 * hp, hp, 1,
                network.backward, s * hp * zp, zp, network.h, ROWS, zp,
            )  # fmt: skip
            for i in range(ROWS):
                latent = scene.row_latents[first + row0 + i] * zp
                for j in range(0, zp, LANES):
                    store(gradient, latent + j, add(load(gradient, latent + j), load(work.back, i * zp + j)))
        if learn:
            size = network.first_rows
            multiply_rows(
                learned.forward, s * size * hp, hp, learned.forward, s * size * hp, hp, work.near, begin * step, 1,
                step, sums, begin * hp, hp, end - begin, size, hp,
            )  # fmt: skip


@compiled
def learn_output(t, network, scene, work, learned):
    """Add a tile to the gradients of the output layer; between `decode_pixels` and `carry_back`."""
    hp, hidden, errors = network.hp, work.hidden, work.errors
    n_pixels = scene.tile_pixels[t + 1] - scene.tile_pixels[t]
    for j in range(0, hp, LANES):
        out_0, out_1, out_2 = (load(learned.output, j), load(learned.output, hp + j), load(learned.output, 2 * hp + j))
        for i in range(n_pixels):
            value = load(hidden, i * hp + j)
            out_0 = fma(splat(errors[5 * i]), value, out_0)
            out_1 = fma(splat(errors[5 * i + 1]), value, out_1)
            out_2 = fma(splat(errors[5 * i + 2]), value, out_2)
        store(learned.output, j, out_0)
        store(learned.output, hp + j, out_1)
        store(learned.output, 2 * hp + j, out_2)
    for i in range(n_pixels):
        for c in range(3):
            learned.output_bias[c] += errors[5 * i + c]


@compiled
def learn_start(t, network, scene, work, learned):
    """Add a tile to the gradients of the first bias and of the pixels' places; after `carry_back`."""
    hp, hidden, errors = network.hp, work.hidden, work.errors
    n_pixels = scene.tile_pixels[t + 1] - scene.tile_pixels[t]
    for j in range(0, hp, LANES):
        bias, down, right = load(learned.bias, j), load(learned.place, j), load(learned.place, hp + j)
        for i in range(n_pixels):
            gradient = load(hidden, i * hp + j)
            bias = add(bias, gradient)
            down = fma(splat(errors[5 * i + 3]), gradient, down)
            right = fma(splat(errors[5 * i + 4]), gradient, right)
        store(learned.bias, j, bias)
        store(learned.place, j, down)
        store(learned.place, hp + j, right)


@compiled
def accumulate(step, network, scene, work, latents, gradient, losses, learn, learned):
    """Set `gradient` to that of one step, and `losses` (images,) to each image's loss."""
    for j in range(0, len(gradient), LANES):
        store(gradient, j, splat(np.float32(0)))
    for image in range(len(losses)):
        batch = step % scene.n_batches[image]
        first = scene.image_tiles[image] + batch * scene.n_squares[image]
        n_pixels = scene.tile_pixels[first + scene.n_squares[image]] - scene.tile_pixels[first]
        weight = np.float32(1 / (n_pixels * network.channels))
        squares = 0.0
        for t in range(first, first + scene.n_squares[image]):
            if scene.tile_pixels[t] == scene.tile_pixels[t + 1]:
                continue
            project(t, network, scene, work, latents)
            squares += decode_pixels(t, weight, network, scene, work)
            if learn:
                learn_output(t, network, scene, work, learned)
            carry_back(scene.tile_pixels[t + 1] - scene.tile_pixels[t], network, work)
            if learn:
                learn_start(t, network, scene, work, learned)
            collect(t, network, scene, work, gradient, learn, learned)
        losses[image] = squares / (n_pixels * network.channels)


@compiled
def move(parameters, gradient, first, second, n, step, lr, slow, slower, eps):
    """One step of Adam (counted from 1) over the first n elements; the formula of `arcpipe.arc.adam`."""
    rate = splat(np.float32(-lr / (1 - slow**step)))
    spread = splat(np.float32(math.sqrt(1 - slower**step)))
    keep, fresh, small = splat(np.float32(slower)), splat(np.float32(1 - slower)), splat(np.float32(eps))
    share = splat(np.float32(1 - slow))
    for j in range(0, n, LANES):
        now = load(gradient, j)
        mean = load(first, j)
        mean = fma(share, subtract(now, mean), mean)
        square = fma(multiply(fresh, now), now, multiply(load(second, j), keep))
        store(first, j, mean)
        store(second, j, square)
        scaled = divide(mean, add(divide(root(square), spread), small))
        store(parameters, j, fma(rate, scaled, load(parameters, j)))


@compiled
def fit_latents(
    steps, network, scene, work, latents, gradient, first, second, losses, learned, rates, slow, slower, eps
):
    """Take all steps under a frozen decoder; `losses` (steps, images)."""
    for step in range(steps):
        accumulate(step, network, scene, work, latents, gradient, losses[step], False, learned)
        move(latents, gradient, first, second, len(latents) - network.zp, step + 1, rates[step], slow, slower, eps)
