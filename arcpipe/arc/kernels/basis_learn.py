"""How a basis is learned, compiled: the loss of fitted clouds and its slopes by the basis (see `arc.learn_basis`)."""

# Compiled functions: what their arguments are stands in `basis_loops`; Numba finds their types itself.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np

from arcpipe.arc.kernels.basis_loops import lay_angle, lay_row, lay_work, scene_of, see, squared_distance
from arcpipe.arc.kernels.basis_solve import lay_patch
from arcpipe.arc.kernels.simd import LANES, fma, load, multiply, place, row_dots, splat, store
from arcpipe.compiled import bare, compiled, inlined

BUILT_ON_SHA256 = "aea7c4f0f5233ad4daad36653097d38515f5ea48b655d599720c04ee43f2ce89"
"""See `arcpipe.compiled`: of `basis_loops.py`, `basis_solve.py`, `simd.py` and `vectors.py`."""


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
