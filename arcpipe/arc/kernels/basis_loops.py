"""The loops of the kind `basis`, compiled: what a cloud decodes to, and the sums of its least-squares problem.

Decoding is a pass over the pixels of a block: it looks up the functions of the basis for a pixel's near anchors and
multiplies them with the latents. A fit is a pass over the anchors, each with the pixels in which it has a share: their
functions make a small system, which is solved. Sums run in one order that depends on the image alone.
"""

# Compiled functions: what their arguments are stands at `Table`, `Scene` and `Work`; Numba finds their types itself.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.kernels.simd import (
    LANES,
    ROWS,
    block_1,
    block_2,
    fma,
    four_totals,
    load,
    load_from,
    multiply,
    place,
    row_dots,
    splat,
    store,
    subtract,
)
from arcpipe.cloud import ends_from
from arcpipe.compiled import bare, compiled, inlined

BUILT_ON_SHA256 = "2a547449d751a2898e07ee6c6299dc882501e1597c82cce42c77ae992a7d9647"

PAIRS = 64
"""Pixels of an anchor whose products are added at once."""
SIDE = 128
"""Pixels a side of a block. The blocks of a large image can be worked on by several threads."""


class Patches(NamedTuple):
    """What an anchor of each scale describes beside its share of the picture: `places` (p, 2), whole pixels from the
    anchor, with `weights` (p,), those of a level from `starts[level]`. `rows` (p, channels, width), flat: the basis's
    functions there; `grams` (levels, width, width), flat: the weighted sums of the products of any two of them, in the
    upper half at least."""

    starts: NDArray[np.int64]
    places: NDArray[np.int64]
    weights: NDArray[np.float32]
    rows: NDArray[np.float32]
    grams: NDArray[np.float32]


class Table(NamedTuple):
    """A basis as compiled code reads it.

    Flat `profiles` (knots, channels, width); `orders` (width,) m of each number of a latent, -1 for padding. `rows`:
    for the first of the scales, one after the other, the basis's functions at the whole pixels up to `around[level]`
    away each way, (side, side, channels, width), those of a level from `starts[level]`. `patches`: of all scales. Of
    `vectors` and `colours` only the lengths matter: registers in a row, and channels.
    """

    profiles: NDArray[np.float32]
    orders: NDArray[np.int64]
    rows: NDArray[np.float32]
    starts: NDArray[np.int64]
    around: NDArray[np.int64]
    patches: Patches
    vectors: tuple[int, ...]
    colours: tuple[int, ...]
    width: int
    channels: int
    knots: int
    per_scale: float
    sharpness: float
    floor: float


class Scene(NamedTuple):
    """An image and its anchors.

    `anchors` (k, 2), with `inverse`, 1 / scale, and the level of each scale in a `Table` (-1: none). `neighbours`
    (pixels, n) rows of them, `shares` (pixels, n): once these are known, the first `uses` (pixels,) of a pixel are
    those above 0. `weights` (pixels,) in all sums, `target` (pixels, channels) colour less 0.5. `blocks` (b, 4): top,
    left, bottom, right. Of `slots` only the length matters: n, known when loops are compiled.
    """

    anchors: NDArray[np.int64]
    inverse: NDArray[np.float32]
    levels: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    shares: NDArray[np.float32]
    uses: NDArray[np.int64]
    weights: NDArray[np.float32]
    target: NDArray[np.float32]
    blocks: NDArray[np.int64]
    slots: tuple[int, ...]
    columns: int


class Scenes(NamedTuple):
    """Some images: `all` holds their arrays end to end (of `columns` it says nothing). Those of image i begin at
    `anchor_ends[i]`, `pixel_ends[i]` and `block_ends[i]`; it is `columns[i]` pixels wide."""

    all: Scene
    anchor_ends: NDArray[np.int64]
    pixel_ends: NDArray[np.int64]
    block_ends: NDArray[np.int64]
    columns: NDArray[np.int64]


class Work(NamedTuple):
    """Memory for one pixel: the basis's functions at each near anchor, where they are not in `Table.rows`; the address
    of each anchor's functions; partial sums; what each anchor gives; the pixel's colour; cosines and sines."""

    rows: NDArray[np.float32]
    address: NDArray[np.int64]
    parts: NDArray[np.float32]
    each: NDArray[np.float32]
    colour: NDArray[np.float32]
    angle: NDArray[np.float32]
    pulls: NDArray[np.float32]


@compiled
def lay_work(table, n):
    """Work memory for pixels of n near anchors."""
    groups = -(-n * table.channels // 4) * 4
    return Work(
        np.zeros(n * table.channels * table.width, np.float32),
        np.zeros(n, np.int64),
        np.zeros(groups * LANES, np.float32),
        np.zeros(groups, np.float32),
        np.zeros(table.channels, np.float32),
        np.zeros(table.width, np.float32),
        np.zeros(n, np.float32),
    )


@bare
def lay_angle(down, right, orders, out):
    """Write cos(m a) and sin(m a) of the angle of a place (down, right) seen from its anchor; 0 for m > 0 at 0."""
    distance = math.sqrt(down * down + right * right)
    cosine, sine = (right / distance, down / distance) if distance > 0 else (0.0, 0.0)
    real, imaginary, order, k = 1.0, 0.0, 0, 0
    while k < len(orders) and orders[k] >= 0:
        while order < orders[k]:
            real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
            order += 1
        out[k] = real
        if order:
            out[k + 1] = imaginary
            k += 1
        k += 1


@bare
def lay_row(profiles, orders, width, channels, knots, per_scale, down, right, inverse, angle, out, at):
    """Write the functions of the basis, (channels, width), at a place (down, right) as seen from its anchor."""
    lay_angle(down, right, orders, angle)
    distance = np.float32(math.sqrt(down * down + right * right)) * inverse
    distance = min(distance * np.float32(per_scale), np.float32(knots - 1) - np.float32(1e-5))
    knot = int(distance)
    part, first, step = splat(np.float32(distance - np.float32(knot))), knot * channels * width, channels * width
    for c in range(channels):
        for v in range(0, width, LANES):
            here = first + c * width + v
            low = load(profiles, here)
            value = fma(part, subtract(load(profiles, here + step), low), low)
            store(out, at + c * width + v, multiply(value, load(angle, v)))


@compiled
def lay_rows(profiles, orders, width, channels, knots, per_scale, inverse, around, out, at):
    """Fill a level of `Table.rows`."""
    angle = np.zeros(width, np.float32)
    for down in range(-around, around + 1):
        for right in range(-around, around + 1):
            lay_row(
                profiles, orders, width, channels, knots, per_scale,
                float(down), float(right), inverse, angle, out, at,
            )  # fmt: skip
            at += channels * width


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


@inlined
def find_row(table, scene, anchor, row, column, rows, at, work):
    """The address of the functions of the basis at a pixel as seen from an anchor: in the table, or computed now and
    put into `rows`."""
    level, size = scene.levels[anchor], len(table.colours) * len(table.vectors) * LANES
    down, right = row - scene.anchors[anchor, 0], column - scene.anchors[anchor, 1]
    around = table.around[level]
    if abs(down) <= around and abs(right) <= around:
        return place(table.rows, table.starts[level] + ((down + around) * (2 * around + 1) + right + around) * size)
    lay_row(
        table.profiles, table.orders, table.width, table.channels, table.knots, table.per_scale,
        float(down), float(right), scene.inverse[anchor], work.angle, rows, at,
    )  # fmt: skip
    return place(rows, at)


@inlined
def see(table, scene, latents, row, column, work):
    """Decode a pixel."""
    channels, width = len(table.colours), len(table.vectors) * LANES
    pixel = row * scene.columns + column
    size, uses = channels * width, scene.uses[pixel]
    for s in range(uses):
        anchor = scene.neighbours[pixel, s]
        work.address[s] = find_row(table, scene, anchor, row, column, work.rows, s * size, work)
        row_dots(
            work.address[s], latents, anchor * width, work.parts, s * channels * LANES, table.vectors, table.colours
        )
    for i in range(0, uses * channels, 4):
        totals = four_totals(
            load(work.parts, i * LANES),
            load(work.parts, (i + 1) * LANES),
            load(work.parts, (i + 2) * LANES),
            load(work.parts, (i + 3) * LANES),
        )
        work.each[i], work.each[i + 1], work.each[i + 2], work.each[i + 3] = totals
    for c in range(channels):
        total = np.float32(0)
        for s in range(uses):
            total += scene.shares[pixel, s] * work.each[s * channels + c]
        work.colour[c] = total


@bare
def render(table, scene, block, latents, picture, work):
    """Write the colours less 0.5 of the pixels of a block into `picture` (pixels, channels)."""
    for row in range(block[0], block[2]):
        for column in range(block[1], block[3]):
            see(table, scene, latents, row, column, work)
            for c in range(table.channels):
                picture[row * scene.columns + column, c] = work.colour[c]


@compiled
def render_places(table, positions, inverse, latents, places, near, picture):
    """Write the colours less 0.5 of any places (p, 2) into `picture`; `near` (p, n) are their nearest anchors."""
    n, channels, width = near.shape[1], table.channels, table.width
    work, shares = lay_work(table, n), np.empty(n, np.float32)
    for p in range(len(places)):
        for s in range(n):
            anchor = near[p, s]
            down, right = places[p, 0] - positions[anchor, 0], places[p, 1] - positions[anchor, 1]
            shares[s] = np.float32(down * down + right * right) * (inverse[anchor] * inverse[anchor])
        soften(shares, table.sharpness, table.floor)
        for c in range(channels):
            picture[p, c] = 0
        for s in range(n):
            if shares[s] == 0:
                continue
            anchor = near[p, s]
            lay_row(
                table.profiles, table.orders, width, channels, table.knots, table.per_scale,
                places[p, 0] - positions[anchor, 0], places[p, 1] - positions[anchor, 1], inverse[anchor],
                work.angle, work.rows, 0,
            )  # fmt: skip
            for c in range(channels):
                total = np.float32(0)
                for k in range(width):
                    total += work.rows[c * width + k] * latents[anchor * width + k]
                picture[p, c] += shares[s] * total


@inlined
def squared_distance(scene, anchor, row, column):
    """The squared distance of a pixel from an anchor, in the anchor's scale."""
    down, right = row - scene.anchors[anchor, 0], column - scene.anchors[anchor, 1]
    return np.float32(down * down + right * right) * (scene.inverse[anchor] * scene.inverse[anchor])


@bare
def soften(squares, sharpness, floor):
    """Turn squared distances (n,) into shares that add up to 1; what is not above the floor has none."""
    least = np.float32(3e38)
    for s in range(len(squares)):
        least = min(least, squares[s])
    total, lowest = np.float32(0), np.float32(math.log(floor)) if floor > 0 else np.float32(-3e38)
    for s in range(len(squares)):
        power = np.float32(sharpness) * (least - squares[s])
        squares[s] = max(math.exp(power) - np.float32(floor), np.float32(0)) if power > lowest else np.float32(0)
        total += squares[s]
    for s in range(len(squares)):
        squares[s] /= total


@bare
def lay_shares(table, scene, block):
    """Compute the shares of the near anchors of all pixels of a block, and the weights of the pixels; the anchors of a
    pixel that have a share come first, in their old order.

    A pixel that is farther from all anchors than the profiles reach weighs less, so that a plane of such pixels weighs
    as much as the disc within reach.
    """
    n, reach = len(scene.slots), np.float32((table.knots - 1) / table.per_scale)
    for row in range(block[0], block[2]):
        for column in range(block[1], block[3]):
            pixel = row * scene.columns + column
            nearest = np.float32(3e38)
            for s in range(n):
                anchor = scene.neighbours[pixel, s]
                squared = squared_distance(scene, anchor, row, column)
                scene.shares[pixel, s] = squared
                nearest = min(nearest, squared)
            far = min(np.float32(1), reach * reach / nearest)
            scene.weights[pixel] = far * far
            soften(scene.shares[pixel], table.sharpness, table.floor)
            uses = 0
            for s in range(n):
                anchor, share = scene.neighbours[pixel, s], scene.shares[pixel, s]
                if share > 0:
                    scene.neighbours[pixel, s], scene.shares[pixel, s] = scene.neighbours[pixel, uses], np.float32(0)
                    scene.neighbours[pixel, uses], scene.shares[pixel, uses] = anchor, share
                    uses += 1
            scene.uses[pixel] = uses


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


@compiled
def scene_of(scenes, i):
    """One of the images."""
    anchors = slice(scenes.anchor_ends[i], scenes.anchor_ends[i + 1])
    pixels = slice(scenes.pixel_ends[i], scenes.pixel_ends[i + 1])
    scene = scenes.all
    return Scene(
        scene.anchors[anchors], scene.inverse[anchors], scene.levels[anchors],
        scene.neighbours[pixels], scene.shares[pixels], scene.uses[pixels], scene.weights[pixels], scene.target[pixels],
        scene.blocks[scenes.block_ends[i] : scenes.block_ends[i + 1]], scene.slots, scenes.columns[i],
    )  # fmt: skip


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


@bare
def learn(table, scene, block, latents, slopes, sums, work):
    """Add up the loss of a block and its slopes by the profiles and by the sharpness, the latents held.

    Args:
        slopes: Flat, as `table.profiles`; added to.
        sums: Added to: squared errors of the pixels, of the near anchors by themselves, and the slope by sharpness.
            `learn_patches` adds to the second.
    """
    channels, width = len(table.colours), len(table.vectors) * LANES
    step, pulls = table.channels * table.width, work.pulls
    for row in range(block[0], block[2]):
        for column in range(block[1], block[3]):
            see(table, scene, latents, row, column, work)
            pixel = row * scene.columns + column
            weight, uses = scene.weights[pixel], scene.uses[pixel]
            mean, nearest, most = np.float32(0), np.float32(3e38), np.float32(0)
            for s in range(uses):
                share, own = scene.shares[pixel, s], np.float32(0)
                for c in range(channels):
                    error = work.each[s * channels + c] - scene.target[pixel, c]
                    own += error * error
                    work.each[s * channels + c] = 2 * weight * share * error
                pulls[s] = weight * own
                mean, most = mean + share * pulls[s], max(most, share)
                nearest = min(nearest, squared_distance(scene, scene.neighbours[pixel, s], row, column))
                sums[1] += share * pulls[s]
            for c in range(channels):
                error = work.colour[c] - scene.target[pixel, c]
                sums[0] += error * error
            for s in range(uses):
                anchor = scene.neighbours[pixel, s]
                down, right = row - scene.anchors[anchor, 0], column - scene.anchors[anchor, 1]
                squared = squared_distance(scene, anchor, row, column)
                # The nearest anchor's share is (1 - floor) / total: a share's own exponential is share + floor / total.
                exponential = scene.shares[pixel, s] + np.float32(table.floor / (1 - table.floor)) * most
                sums[2] -= exponential * (pulls[s] - mean) * (squared - nearest)
                lay_angle(float(down), float(right), table.orders, work.angle)
                knot, fraction = find_knot(table, np.float32(math.sqrt(squared)))
                for c in range(channels):
                    pull, at = work.each[s * channels + c], knot * step + c * width
                    first, second = splat(np.float32(pull * (1 - fraction))), splat(np.float32(pull * fraction))
                    for v in range(0, width, LANES):
                        value = multiply(load(latents, anchor * width + v), load(work.angle, v))
                        store(slopes, at + v, fma(first, value, load(slopes, at + v)))
                        store(slopes, at + step + v, fma(second, value, load(slopes, at + step + v)))


@inlined
def find_knot(table, distance):
    """The knot of the profiles below a distance, in scales, and the part of the way to the next one."""
    place = min(distance * np.float32(table.per_scale), np.float32(table.knots - 1) - np.float32(1e-5))
    knot = int(place)
    return knot, np.float32(place - np.float32(knot))


@bare
def learn_patches(table, scene, latents, patch, pulled, sums, work, colours):
    """Add up the loss of the patches, and into `pulled` (as `table.patches.rows`) its slopes by the functions there."""
    channels, width = len(table.colours), len(table.vectors) * LANES
    size = channels * width
    for anchor in range(len(scene.anchors)):
        count, first = lay_patch(table, scene, anchor, colours)
        for i in range(count):
            at, weight = (first + i) * size, table.patches.weights[first + i]
            row_dots(
                place(table.patches.rows, at), latents, anchor * width, work.parts, 0, table.vectors, table.colours
            )
            for c in range(channels):
                value = np.float32(0)
                for lane in range(LANES):
                    value += work.parts[c * LANES + lane]
                error = weight * value - colours[i * channels + c]
                sums[1] += patch * error * error / weight
                pull = splat(np.float32(2 * patch * error))
                for v in range(0, width, LANES):
                    here = at + c * width + v
                    store(pulled, here, fma(pull, load(latents, anchor * width + v), load(pulled, here)))


@compiled
def pull_profiles(table, inverse, pulled, slopes):
    """Add to `slopes` those by the profiles that follow from `pulled`; `inverse` (levels,), 1 / scale."""
    channels, width = len(table.colours), len(table.vectors) * LANES
    step, angle = channels * width, np.zeros(width, np.float32)
    for level in range(len(inverse)):
        for i in range(table.patches.starts[level], table.patches.starts[level + 1]):
            down, right = float(table.patches.places[i, 0]), float(table.patches.places[i, 1])
            lay_angle(down, right, table.orders, angle)
            knot, fraction = find_knot(table, np.float32(math.sqrt(down * down + right * right)) * inverse[level])
            first, second = splat(np.float32(1 - fraction)), splat(fraction)
            for c in range(channels):
                at = knot * step + c * width
                for v in range(0, width, LANES):
                    value = multiply(load(pulled, i * step + c * width + v), load(angle, v))
                    store(slopes, at + v, fma(first, value, load(slopes, at + v)))
                    store(slopes, at + step + v, fma(second, value, load(slopes, at + step + v)))


@compiled
def learn_each(table, scenes, latents, patch, pulled, slopes, sums):
    """Do `learn` for all blocks of some images, `latents` flat and end to end, and `learn_patches`."""
    work = lay_work(table, len(scenes.all.slots))
    colours = np.empty(len(table.patches.weights) * table.channels, np.float32)
    for i in range(len(scenes.columns)):
        first, last = scenes.anchor_ends[i] * table.width, scenes.anchor_ends[i + 1] * table.width
        scene = scene_of(scenes, i)
        for b in range(len(scene.blocks)):
            learn(table, scene, scene.blocks[b], latents[first:last], slopes, sums, work)
        if patch > 0:
            learn_patches(table, scene, latents[first:last], patch, pulled, sums, work, colours)


@compiled
def gram(table, scene, block, total):
    """Add up the products of all pairs of the basis's functions, `total` (width, width), over the near anchors of a
    block, weighted as in a fit; returns the sum of the weights."""
    channels, width = len(table.colours), len(table.vectors) * LANES
    angle, values, weights = np.zeros(width, np.float32), np.zeros(channels * width, np.float32), 0.0
    for row in range(block[0], block[2]):
        for column in range(block[1], block[3]):
            pixel = row * scene.columns + column
            for s in range(scene.uses[pixel]):
                anchor, share = scene.neighbours[pixel, s], scene.shares[pixel, s]
                weights += share
                lay_row(
                    table.profiles, table.orders, width, channels, table.knots, table.per_scale,
                    float(row - scene.anchors[anchor, 0]), float(column - scene.anchors[anchor, 1]),
                    scene.inverse[anchor], angle, values, 0,
                )  # fmt: skip
                for c in range(channels):
                    for k in range(width):
                        for m in range(k + 1):
                            total[k, m] += share * values[c * width + k] * values[c * width + m]
    return weights


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


def blocks_of(height: int, width: int) -> NDArray[np.int64]:
    """The blocks (b, 4) of an image: top, left, bottom, right."""
    return np.array(
        [
            (top, left, min(top + SIDE, height), min(left + SIDE, width))
            for top in range(0, height, SIDE)
            for left in range(0, width, SIDE)
        ],
        np.int64,
    )


def lay_scenes(
    images: Sequence[NDArray[Any]],
    anchors: Sequence[NDArray[Any]],
    scales: NDArray[Any],
    levels: NDArray[np.int64],
    neighbours: Sequence[NDArray[Any]],
) -> Scenes:
    """Scenes whose shares are still to be computed; `scales` and `levels` of all anchors end to end."""
    blocks = [blocks_of(*image.shape[:2]) for image in images]
    pixel_ends = ends_from([image.shape[0] * image.shape[1] for image in images])
    n, channels = neighbours[0].shape[1], images[0].shape[2]
    target = np.concatenate([image.reshape(-1, channels) for image in images], dtype=np.float32, casting="unsafe")
    target -= np.float32(0.5)
    scene = Scene(
        anchors=np.concatenate(anchors, dtype=np.int64),
        inverse=(1 / scales).astype(np.float32),
        levels=levels,
        neighbours=np.concatenate(neighbours, dtype=np.int32),  # a copy: `lay_shares` changes their order
        shares=np.empty((pixel_ends[-1], n), np.float32),
        uses=np.empty(pixel_ends[-1], np.int64),
        weights=np.empty(pixel_ends[-1], np.float32),
        target=target,
        blocks=np.concatenate(blocks),
        slots=(0,) * n,
        columns=0,
    )
    columns = np.array([image.shape[1] for image in images], np.int64)
    ends = ends_from([len(places) for places in anchors]), pixel_ends, ends_from([len(some) for some in blocks])
    return Scenes(scene, *ends, columns)
