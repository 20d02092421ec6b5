"""The loops of the kind `basis`, compiled: their arrays, and what a cloud decodes to.

Decoding is a pass over the pixels of a block. It looks up the functions of the basis for a pixel's near anchors, and
multiplies them with the latents. `basis_solve` has the loops of a fit, `basis_learn` those by which a basis is learned.
"""

# Compiled functions: what their arguments are stands at `Table`, `Scene` and `Work`; Numba finds their types itself.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.kernels.simd import LANES, fma, four_totals, load, multiply, place, row_dots, splat, store, subtract
from arcpipe.compiled import bare, compiled, inlined

BUILT_ON_SHA256 = "e50f687ec01f53adb1f0238754a00f5bba663a07613ccbf13d53a76e451d795a"
"""See `arcpipe.compiled`: of `simd.py` and `vectors.py`."""

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
def render(table, scenes, latents):
    """The colours (pixels, channels) of the only image of `scenes`."""
    scene = scene_of(scenes, 0)
    work, picture = lay_work(table, len(scene.slots)), np.empty(scene.target.shape, np.float32)
    for b in range(len(scene.blocks)):
        lay_shares(table, scene, scene.blocks[b])
        render_block(table, scene, scene.blocks[b], latents, picture, work)
    return picture


@bare
def render_block(table, scene, block, latents, picture, work):
    """Write the colours of the pixels of a block into `picture` (pixels, channels)."""
    for row in range(block[0], block[2]):
        for column in range(block[1], block[3]):
            see(table, scene, latents, row, column, work)
            for c in range(table.channels):
                picture[row * scene.columns + column, c] = work.colour[c] + np.float32(0.5)


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
