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

import numpy as np

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
from arcpipe.compiled import compiled

BUILT_ON_SHA256 = "e50f687ec01f53adb1f0238754a00f5bba663a07613ccbf13d53a76e451d795a"
"""See `arcpipe.compiled`: of `simd.py` and `vectors.py`."""


@compiled
def multiply_rows(out, out_at, out_step, start, start_at, start_step, a, a_at, a_row, a_k, b, b_at, b_k, n_k, n, width):
    """`simd.block` for n rows (a multiple of `ROWS`) and a width of any multiple of `LANES`."""
    for i in range(0, n, ROWS):
        to, begin, factor, j = out_at + i * out_step, start_at + i * start_step, a_at + i * a_row, 0
        # Four vectors are twice two: a block of one would wait for its few sums.
        while j + 3 * LANES <= width and j + 4 * LANES != width:
            block_3(out, to + j, out_step, start, begin + j, start_step, a, factor, a_row, a_k, b, b_at + j, b_k, n_k)
            j += 3 * LANES
        while j + 2 * LANES <= width:
            block_2(out, to + j, out_step, start, begin + j, start_step, a, factor, a_row, a_k, b, b_at + j, b_k, n_k)
            j += 2 * LANES
        if j < width:
            block_1(out, to + j, out_step, start, begin + j, start_step, a, factor, a_row, a_k, b, b_at + j, b_k, n_k)


@compiled
def project(t, network, scene, work, latents):
    """Multiply the latents of a tile, each for its slots."""
    n, z, zp, hp, step = network.n, network.z, network.zp, network.hp, work.near_step
    cut, image = scene.cut, scene.tile_image[t]
    first, count = cut.tile_rows[t], cut.tile_rows[t + 1] - cut.tile_rows[t]
    mean, std = scene.mean[image], scene.std[image]
    for row in range(count):
        latent = cut.row_latents[first + row]
        if latent > scene.n_latents:
            latent = cut.ghosts[latent - scene.n_latents - 1]
        for j in range(0, zp, LANES):
            store(work.near, row * step + j, load(latents, latent * zp + j))
        for axis in range(2):
            place = (scene.positions[2 * latent + axis] - cut.origins[2 * t + axis] - mean) / std
            work.near[row * step + z + axis] = place
    for s in range(n):
        begin, end = cut.slot_rows[t * (n + 1) + s], cut.slot_rows[t * (n + 1) + s + 1]
        multiply_rows(
            work.projected, begin * hp, hp, network.start, s * hp, 0, work.near, begin * step, step, 1,
            network.forward, s * (z + 2) * hp, hp, z + 2, end - begin, hp,
        )  # fmt: skip


@compiled
def decode_pixels(t, weight, network, scene, work):
    """Decode the pixels of a tile: their hidden values into `work.hidden`, into `work.errors` the gradient of each
    output (3) and the pixel's place (2). Returns the sum of the squared errors."""
    hp, slots, channels = network.hp, scene.slots, network.channels
    cut, image = scene.cut, scene.tile_image[t]
    width, inverse, first_pixel = scene.widths[image], np.float32(1) / scene.std[image], scene.image_pixels[image]
    origin_row, origin_column = cut.origins[2 * t], cut.origins[2 * t + 1]
    projected, hidden, rows, errors = work.projected, work.hidden, cut.rows, work.errors
    place, output, bias = network.place, network.output, network.output_bias
    first, squares = cut.tile_pixels[t], 0.0
    for i in range(first, cut.tile_pixels[t + 1]):
        pixel = cut.pixels[i]
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
def carry_back(n_pixels, hidden, at, width, errors, output):
    """Replace the values of the last hidden layer, which begin at `at`, by their gradients."""
    for j in range(0, width, LANES):
        out_0, out_1, out_2 = load(output, j), load(output, width + j), load(output, 2 * width + j)
        for i in range(n_pixels):
            gradient = fma(splat(errors[5 * i]), out_0,
                           fma(splat(errors[5 * i + 1]), out_1, multiply(splat(errors[5 * i + 2]), out_2)))  # fmt: skip
            store(hidden, at + i * width + j, gated(load(hidden, at + i * width + j), gradient))


@compiled
def collect(t, network, scene, work, gradient, learn, learned):
    """Sum the gradients of a tile's pixels into its rows, and multiply those back into the gradients of its latents;
    of the first layer too with `learn`."""
    n, zp, hp, step, cut = network.n, network.zp, network.hp, work.near_step, scene.cut
    first, sums, hidden, users = cut.tile_rows[t], work.sums, work.hidden, cut.users
    nothing = splat(np.float32(0))
    for s in range(n):
        begin, end = cut.slot_rows[t * (n + 1) + s], cut.slot_rows[t * (n + 1) + s + 1]
        for row in range(begin, end):
            start, stop = cut.row_users[first + row], cut.row_users[first + row + 1]
            j = 0
            # A row has few pixels: what costs is to begin and end the loop over them, so it does many sums.
            while j + 8 * LANES <= hp:
                sum_0, sum_1, sum_2, sum_3 = nothing, nothing, nothing, nothing
                sum_4, sum_5, sum_6, sum_7 = nothing, nothing, nothing, nothing
                for u in range(start, stop):
                    at = users[u] * hp + j
                    sum_0 = add(sum_0, load(hidden, at))
                    sum_1 = add(sum_1, load(hidden, at + LANES))
                    sum_2 = add(sum_2, load(hidden, at + 2 * LANES))
                    sum_3 = add(sum_3, load(hidden, at + 3 * LANES))
                    sum_4 = add(sum_4, load(hidden, at + 4 * LANES))
                    sum_5 = add(sum_5, load(hidden, at + 5 * LANES))
                    sum_6 = add(sum_6, load(hidden, at + 6 * LANES))
                    sum_7 = add(sum_7, load(hidden, at + 7 * LANES))
                at = row * hp + j
                store(sums, at, sum_0)
                store(sums, at + LANES, sum_1)
                store(sums, at + 2 * LANES, sum_2)
                store(sums, at + 3 * LANES, sum_3)
                store(sums, at + 4 * LANES, sum_4)
                store(sums, at + 5 * LANES, sum_5)
                store(sums, at + 6 * LANES, sum_6)
                store(sums, at + 7 * LANES, sum_7)
                j += 8 * LANES
            while j < hp:
                sum_0 = nothing
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
                latent = cut.row_latents[first + row0 + i] * zp
                for j in range(0, zp, LANES):
                    store(gradient, latent + j, add(load(gradient, latent + j), load(work.back, i * zp + j)))
        if learn:
            size = network.first_rows
            multiply_rows(
                learned.forward, s * size * hp, hp, learned.forward, s * size * hp, hp, work.near, begin * step, 1,
                step, sums, begin * hp, hp, end - begin, size, hp,
            )  # fmt: skip


@compiled
def learn_output(n_pixels, hidden, start, width, errors, learned):
    """Add a tile to the gradients of the output layer, given the values of the last hidden one, from `start` on."""
    for j in range(0, width, LANES):
        out_0, out_1 = load(learned.output, j), load(learned.output, width + j)
        out_2 = load(learned.output, 2 * width + j)
        for i in range(n_pixels):
            value = load(hidden, start + i * width + j)
            out_0 = fma(splat(errors[5 * i]), value, out_0)
            out_1 = fma(splat(errors[5 * i + 1]), value, out_1)
            out_2 = fma(splat(errors[5 * i + 2]), value, out_2)
        store(learned.output, j, out_0)
        store(learned.output, width + j, out_1)
        store(learned.output, 2 * width + j, out_2)
    for i in range(n_pixels):
        for c in range(3):
            learned.output_bias[c] += errors[5 * i + c]


@compiled
def learn_start(t, network, scene, work, learned):
    """Add a tile to the gradients of the first bias and of the pixels' places; after `carry_back`."""
    hp, hidden, errors = network.hp, work.hidden, work.errors
    n_pixels = scene.cut.tile_pixels[t + 1] - scene.cut.tile_pixels[t]
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
def hide_pixels(t, network, scene, work):
    """The first half of `decode_pixels` where more hidden layers follow: values of the first, and places."""
    hp, slots = network.hp, scene.slots
    cut, image = scene.cut, scene.tile_image[t]
    width, inverse = scene.widths[image], np.float32(1) / scene.std[image]
    projected, hidden, rows, errors, place = work.projected, work.hidden, cut.rows, work.errors, network.place
    first = cut.tile_pixels[t]
    for i in range(first, cut.tile_pixels[t + 1]):
        pixel = cut.pixels[i]
        down = (np.float32(pixel // width) - cut.origins[2 * t]) * inverse
        right = (np.float32(pixel % width) - cut.origins[2 * t + 1]) * inverse
        errors[(i - first) * 5 + 3], errors[(i - first) * 5 + 4] = down, right
        for j in range(0, hp, LANES):
            value = load(projected, rows[i * slots] * hp + j)
            for s in range(1, slots):
                value = add(value, load(projected, rows[i * slots + s] * hp + j))
            value = fma(splat(down), load(place, j), fma(splat(right), load(place, hp + j), value))
            store(hidden, (i - first) * hp + j, gated(value, value))


@compiled
def deepen(n_pixels, network, work):
    """Take the pixels through the hidden layers behind the first. Returns where the values of the last one begin."""
    widths, padded, before, at = network.widths, -(-n_pixels // ROWS) * ROWS, 0, 0
    for i in range(1, len(widths)):
        values, width = work.hidden if i == 1 else work.deep, widths[i]
        multiply_rows(
            work.deep, at, width, network.deep_bias, network.bias_at[i], 0, values, before, widths[i - 1], 1,
            network.deep, network.deep_at[i], width, widths[i - 1], padded, width,
        )  # fmt: skip
        for j in range(at, at + padded * width, LANES):
            value = load(work.deep, j)
            store(work.deep, j, gated(value, value))
        before = at
        at += work.deep_rows * width
    return before


@compiled
def compare_pixels(t, start, weight, network, scene, work):
    """The second half of `decode_pixels`: outputs from the last hidden values, from `start` on."""
    width, channels, errors, output = network.widths[-1], network.channels, work.errors, network.output
    cut, first_pixel = scene.cut, scene.image_pixels[scene.tile_image[t]]
    first, squares = cut.tile_pixels[t], 0.0
    for i in range(first, cut.tile_pixels[t + 1]):
        out_0, out_1, out_2 = splat(np.float32(0)), splat(np.float32(0)), splat(np.float32(0))
        for j in range(0, width, LANES):
            value = load(work.deep, start + (i - first) * width + j)
            out_0 = fma(value, load(output, j), out_0)
            out_1 = fma(value, load(output, width + j), out_1)
            out_2 = fma(value, load(output, 2 * width + j), out_2)
        to, target = (i - first) * 5, (first_pixel + cut.pixels[i]) * channels
        errors[to], errors[to + 1], errors[to + 2] = total(out_0), total(out_1), total(out_2)
        for c in range(channels):
            error = errors[to + c] + network.output_bias[c] - scene.target[target + c]
            squares += error * error
            errors[to + c] = 2 * weight * error
        for c in range(channels, 3):
            errors[to + c] = 0
    return squares


@compiled
def surface(n_pixels, start, network, work, learn, learned):
    """Carry the gradients of the last hidden layer, which begin at `start`, back to `work.hidden`.

    Each layer's gradients replace its values; with `learn`, those of the weights are added to `learned`.
    """
    widths, padded = network.widths, -(-n_pixels // ROWS) * ROWS
    for i in range(len(widths) - 1, 0, -1):
        width, below = widths[i], widths[i - 1]
        values = work.hidden if i == 1 else work.deep
        before = 0 if i == 1 else start - work.deep_rows * below
        if learn:
            multiply_rows(
                learned.deep, network.deep_at[i], width, learned.deep, network.deep_at[i], width, values, before, 1,
                below, work.deep, start, width, n_pixels, below, width,
            )  # fmt: skip
            for p in range(n_pixels):
                for j in range(0, width, LANES):
                    at = network.bias_at[i] + j
                    store(
                        learned.deep_bias, at, add(load(learned.deep_bias, at), load(work.deep, start + p * width + j))
                    )
        multiply_rows(
            work.carried, 0, below, work.zeros, 0, 0, work.deep, start, width, 1,
            network.deep_back, network.deep_at[i], below, width, padded, below,
        )  # fmt: skip
        for j in range(0, n_pixels * below, LANES):
            store(values, before + j, gated(load(values, before + j), load(work.carried, j)))
        start = before


@compiled
def walk(first, last, weight, network, scene, work, latents, gradient, learn, learned):
    """Add the gradients of the tiles `first` to `last` to `gradient`. Returns the sum of the squared errors."""
    squares, deep = 0.0, len(network.widths) > 1
    for t in range(first, last):
        n_pixels = scene.cut.tile_pixels[t + 1] - scene.cut.tile_pixels[t]
        if n_pixels == 0:
            continue
        project(t, network, scene, work, latents)
        if deep:
            hide_pixels(t, network, scene, work)
            start = deepen(n_pixels, network, work)
            squares += compare_pixels(t, start, weight, network, scene, work)
            if learn:
                learn_output(n_pixels, work.deep, start, network.widths[-1], work.errors, learned)
            carry_back(n_pixels, work.deep, start, network.widths[-1], work.errors, network.output)
            surface(n_pixels, start, network, work, learn, learned)
        else:
            squares += decode_pixels(t, weight, network, scene, work)
            if learn:
                learn_output(n_pixels, work.hidden, 0, network.hp, work.errors, learned)
            carry_back(n_pixels, work.hidden, 0, network.hp, work.errors, network.output)
        if learn:
            learn_start(t, network, scene, work, learned)
        collect(t, network, scene, work, gradient, learn, learned)
    return squares


@compiled
def mini_batch(step, image, scene):
    """The first tile of an image's mini-batch in a step, and its number of pixels."""
    first = scene.image_tiles[image] + step % scene.n_batches[image] * scene.n_squares[image]
    return first, scene.cut.tile_pixels[first + scene.n_squares[image]] - scene.cut.tile_pixels[first]


@compiled
def walk_band(step, image, band, network, scene, work, latents, gradient, learn, learned):
    """`walk` over one band of an image's mini-batch."""
    first, n_pixels = mini_batch(step, image, scene)
    weight, bands = np.float32(1 / (n_pixels * network.channels)), scene.cut.bands
    # Bands count squares through all images, tiles those of every mini-batch.
    first -= bands[scene.image_bands[image]]
    return walk(
        first + bands[band], first + bands[band + 1],
        weight, network, scene, work, latents, gradient, learn, learned,
    )  # fmt: skip


@compiled
def mean_square(squares, step, image, network, scene):
    """The loss of an image from its sum of squared errors."""
    _, n_pixels = mini_batch(step, image, scene)
    return squares / (n_pixels * network.channels)


@compiled
def lay_ghosts(gradient, scene, zp):
    """Add the gradients of ghosts to those of their latents, and clear them."""
    for ghost in range(len(scene.cut.ghosts)):
        at, to = (scene.n_latents + 1 + ghost) * zp, scene.cut.ghosts[ghost] * zp
        for j in range(0, zp, LANES):
            store(gradient, to + j, add(load(gradient, to + j), load(gradient, at + j)))
            store(gradient, at + j, splat(np.float32(0)))


@compiled
def accumulate(step, network, scene, work, latents, gradient, losses, learn, learned):
    """Add the gradients of one step to `gradient`, and set `losses` (images,) to each image's loss."""
    for image in range(len(losses)):
        squares = 0.0
        for band in range(scene.image_bands[image], scene.image_bands[image + 1]):
            squares += walk_band(step, image, band, network, scene, work, latents, gradient, learn, learned)
        losses[image] = mean_square(squares, step, image, network, scene)
    lay_ghosts(gradient, scene, network.zp)


@compiled
def move(parameters, gradient, first, second, start, stop, step, lr, slow, slower, eps):
    """One step of Adam (counted from 1) over elements `start:stop`; the formula of `arcpipe.arc.adam`. Clears the
    gradient."""
    rate = splat(np.float32(-lr / (1 - slow**step)))
    spread = splat(np.float32(math.sqrt(1 - slower**step)))
    keep, fresh, small = splat(np.float32(slower)), splat(np.float32(1 - slower)), splat(np.float32(eps))
    share = splat(np.float32(1 - slow))
    for j in range(start, stop, LANES):
        now = load(gradient, j)
        mean = load(first, j)
        mean = fma(share, subtract(now, mean), mean)
        square = fma(multiply(fresh, now), now, multiply(load(second, j), keep))
        store(first, j, mean)
        store(second, j, square)
        scaled = divide(mean, add(divide(root(square), spread), small))
        store(parameters, j, fma(rate, scaled, load(parameters, j)))
        store(gradient, j, splat(np.float32(0)))


@compiled
def fit_latents(
    steps, network, scene, work, latents, gradient, first, second, losses, learned, rates, slow, slower, eps
):
    """Take all steps under a frozen decoder; `losses` (steps, images)."""
    for step in range(steps):
        accumulate(step, network, scene, work, latents, gradient, losses[step], False, learned)
        move(latents, gradient, first, second, 0, len(first), step + 1, rates[step], slow, slower, eps)
