"""What `basis_batch` does in plain torch, as Triton kernels: no function of the basis and no system is kept.

A program of the solver has one anchor. It computes the functions of the basis at the anchor's pixels, some at a time,
adds up their products and solves the system by elimination in registers. The profiles (some 13 kB) stay in the first
cache. An anchor sums its own pixels, so the kernel contains no atomic. A program of `measure_pixels` has some pixels,
which it decodes; their errors alone are written.
"""

# Kernels: Triton finds the types of their arguments itself; pointers are described where they are passed.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from arcpipe.arc.kernels.basis_batch import CHUNK, Batch, Profiles, sort

WARPS = 4
"""Warps of a program. Chosen without a measurement."""
PIXELS = 32
"""Pixels that a program decodes. Chosen without a measurement."""
FUSED = {"enable_fp_fusion": True}
"""Products are added in one rounding. Said at each launch: Triton's own answer changes from 3.9 to 3.10."""
PRODUCTS = "tf32x3"
"""How functions are multiplied: about float32 by tensor cores."""


@triton.jit
def lay_angles(down, right, orders, sines, MOST: tl.constexpr):
    """cos(m a) or sin(m a) (pairs, width) of places as seen from their anchor; 0 for m > 0 at the anchor itself."""
    distance = tl.sqrt(down * down + right * right)
    least = tl.maximum(distance, 1.0)  # whole pixels: below 1 there is 0 alone
    cosine, sine = right / least, down / least
    real, imaginary = cosine * 0 + 1, cosine * 0
    angles = tl.where(orders[None, :] == 0, real[:, None], 0.0)
    for order in tl.static_range(1, MOST + 1):
        turned = real * cosine - imaginary * sine
        imaginary = real * sine + imaginary * cosine
        real = turned
        wave = tl.where(sines[None, :], imaginary[:, None], real[:, None])
        angles = tl.where(orders[None, :] == order, wave, angles)
    return distance, angles


@triton.jit
def functions_of(profiles, knot, part, angles, numbers, C: tl.constexpr, c: tl.constexpr, Z: tl.constexpr):
    """The functions of one channel (pairs, width)."""
    at = profiles + knot[:, None] * (C * Z) + c * Z + numbers[None, :]
    low = tl.load(at)
    return (low + part[:, None] * (tl.load(at + C * Z) - low)) * angles


@triton.jit
def lay_pairs(
    places, anchors, inverse, pairs, orders, sines, anchor, first, stop, knots, per_scale,
    N: tl.constexpr, Z: tl.constexpr, L: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """What the functions of the basis need of L pairs of an anchor from `first`: pair, whether it is there, pixel,
    knot, part of the way to the next one, angles."""
    at = first + tl.arange(0, L)
    inside = at < stop
    pair = tl.load(pairs + at, mask=inside, other=0)
    pixel = pair // N
    numbers = tl.arange(0, Z)
    down = (tl.load(places + 2 * pixel) - tl.load(anchors + 2 * anchor)).to(tl.float32)
    right = (tl.load(places + 2 * pixel + 1) - tl.load(anchors + 2 * anchor + 1)).to(tl.float32)
    distance, angles = lay_angles(down, right, tl.load(orders + numbers), tl.load(sines + numbers) != 0, MOST)
    place = tl.minimum(distance * tl.load(inverse + anchor) * per_scale, knots - 1 - 1e-5)
    knot = place.to(tl.int32)
    return pair, inside, pixel, knot, place - knot.to(tl.float32), angles


@triton.jit
def pull_of_patch(
    anchors, frames, target, patch_places, patch_weights, patch_rows, anchor, level,
    C: tl.constexpr, Z: tl.constexpr, L: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """The weighted products (width,) of the colours of an anchor's patch with the functions there."""
    numbers, right = tl.arange(0, Z), tl.zeros([Z], tl.float32)
    first, rows = tl.load(frames + 3 * anchor), tl.load(frames + 3 * anchor + 1)
    columns = tl.load(frames + 3 * anchor + 2)
    for start in range(0, Q, L):
        at = level * Q + start + tl.arange(0, L)
        row = tl.load(anchors + 2 * anchor) + tl.load(patch_places + 2 * at)
        column = tl.load(anchors + 2 * anchor + 1) + tl.load(patch_places + 2 * at + 1)
        row = tl.minimum(tl.maximum(row, 0), rows - 1)
        column = tl.minimum(tl.maximum(column, 0), columns - 1)
        pixel, weight = first + row * columns + column, tl.load(patch_weights + at)
        for c in tl.static_range(C):
            functions = tl.load(patch_rows + at[:, None] * (C * Z) + c * Z + numbers[None, :])
            right += tl.sum(functions * (weight * tl.load(target + pixel * C + c))[:, None], axis=0)
    return right


@triton.jit
def solve_anchors(
    places, anchors, inverse, levels, frames, pairs, orders, sines, profiles, patch_places, patch_weights, patch_rows,
    grams, starts, shares, weights, target, latents, knots, per_scale, patch, damping, PRODUCTS: tl.constexpr,
    N: tl.constexpr, C: tl.constexpr, Z: tl.constexpr, L: tl.constexpr, Q: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """Write the latents (anchors, width), each the solution of its anchor's own system."""
    anchor = tl.program_id(0)
    numbers, level = tl.arange(0, Z), tl.load(levels + anchor)
    down, across = numbers[:, None], numbers[None, :]
    own = patch * tl.load(grams + level * Z * Z + down * Z + across) + tl.where(down == across, damping, 0.0)
    right = patch * pull_of_patch(
        anchors, frames, target, patch_places, patch_weights, patch_rows, anchor, level, C, Z, L, Q
    )
    stop = tl.load(starts + anchor + 1)
    for first in range(tl.load(starts + anchor), stop, L):
        pair, inside, pixel, knot, part, angles = lay_pairs(
            places, anchors, inverse, pairs, orders, sines, anchor, first, stop, knots, per_scale, N, Z, L, MOST
        )
        share = tl.load(shares + pair, mask=inside, other=0.0)
        root = tl.sqrt(tl.load(weights + pixel, mask=inside, other=0.0) * share)
        angles *= root[:, None]
        for c in tl.static_range(C):
            functions = functions_of(profiles, knot, part, angles, numbers, C, c, Z)
            own += tl.dot(tl.trans(functions), functions, input_precision=PRODUCTS)
            right += tl.sum(functions * (root * tl.load(target + pixel * C + c))[:, None], axis=0)
    # What is left of the matrix stays symmetric, so that a row holds what its column has below.
    for j in range(Z):
        row = tl.sum(tl.where(down == j, own, 0.0), axis=0)
        pivot = tl.maximum(tl.sum(tl.where(numbers == j, row, 0.0), axis=0), 1e-12)
        factor = tl.where(numbers > j, row / pivot, 0.0)
        own -= factor[:, None] * row[None, :]
        right -= factor * tl.sum(tl.where(numbers == j, right, 0.0), axis=0)
    # Back through the upper triangle: a number that is known is taken from all that stand above it.
    for i in range(Z):
        j = Z - 1 - i
        column = tl.sum(tl.where(across == j, own, 0.0), axis=1)
        pivot = tl.maximum(tl.sum(tl.where(numbers == j, column, 0.0), axis=0), 1e-12)
        value = tl.sum(tl.where(numbers == j, right, 0.0), axis=0) / pivot
        right = tl.where(numbers == j, value, right - tl.where(numbers < j, column * value, 0.0))
    tl.store(latents + anchor * Z + numbers, right)


@triton.jit
def measure_pixels(
    places, anchors, inverse, near, shares, target, orders, sines, profiles, latents, errors, count, knots, per_scale,
    N: tl.constexpr, C: tl.constexpr, Z: tl.constexpr, P: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """Write how far the decoded pixels are from the target (count,): squares, summed over channels."""
    pixel = tl.program_id(0) * P + tl.arange(0, P)
    inside = pixel < count
    numbers, channel = tl.arange(0, Z), tl.arange(0, 4)
    order, sine = tl.load(orders + numbers), tl.load(sines + numbers) != 0
    row = tl.load(places + 2 * pixel, mask=inside, other=0)
    column = tl.load(places + 2 * pixel + 1, mask=inside, other=0)
    colours = tl.zeros([P, 4], tl.float32)
    for slot in range(N):
        anchor = tl.load(near + pixel * N + slot, mask=inside, other=0)
        share = tl.load(shares + pixel * N + slot, mask=inside, other=0.0)
        down = (row - tl.load(anchors + 2 * anchor)).to(tl.float32)
        right = (column - tl.load(anchors + 2 * anchor + 1)).to(tl.float32)
        distance, angles = lay_angles(down, right, order, sine, MOST)
        place = tl.minimum(distance * tl.load(inverse + anchor) * per_scale, knots - 1 - 1e-5)
        knot = place.to(tl.int32)
        numbers_of = tl.load(latents + anchor[:, None] * Z + numbers[None, :]) * share[:, None]
        for c in tl.static_range(C):
            functions = functions_of(profiles, knot, place - knot.to(tl.float32), angles, numbers, C, c, Z)
            colours += tl.where(channel[None, :] == c, tl.sum(functions * numbers_of, axis=1)[:, None], 0.0)
    given = tl.load(
        target + pixel[:, None] * C + channel[None, :], mask=inside[:, None] & (channel[None, :] < C), other=0.0
    )
    # What is not a number shall stay so: a comparison with it is false.
    colours = tl.where(colours > 0.5, 0.5, tl.where(colours < -0.5, -0.5, colours))
    gap = colours - given
    tl.store(errors + pixel, tl.sum(gap * gap, axis=1), mask=inside)


def errors_by_triton(batch: Batch, latents: Tensor, profiles: Profiles) -> Tensor:
    """`basis_batch.errors_plainly`, on a GPU or in Triton's interpreter."""
    p, width = batch.shares.shape[0], len(profiles.orders)
    errors = torch.empty_like(batch.weights)
    measure_pixels[(triton.cdiv(p, PIXELS),)](
        batch.places, batch.anchors, batch.inverse, batch.neighbours, batch.shares, batch.target,
        profiles.orders, profiles.sines.to(torch.uint8), profiles.values, latents, errors,
        p, len(profiles.values), profiles.per_scale,
        N=batch.shares.shape[1], C=batch.target.shape[1], Z=width, P=PIXELS, MOST=profiles.most,
        num_warps=WARPS, **FUSED,
    )  # fmt: skip
    return errors


def solve_by_triton(batch: Batch, profiles: Profiles, patch: float, damping: float) -> Tensor:
    """The latents (k, width) of a batch, on a GPU or in Triton's interpreter."""
    k = len(batch.anchors)
    pairs, starts = sort(batch.neighbours, batch.shares, k)
    latents = batch.target.new_empty(k, len(profiles.orders))
    solve_anchors[(k,)](
        batch.places, batch.anchors, batch.inverse, batch.levels, batch.frames, pairs,
        profiles.orders, profiles.sines.to(torch.uint8), profiles.values,
        profiles.places, profiles.weights, profiles.rows, profiles.grams,
        starts, batch.shares, batch.weights, batch.target, latents,
        len(profiles.values), profiles.per_scale, float(patch), float(damping), PRODUCTS=PRODUCTS,
        N=batch.shares.shape[1], C=batch.target.shape[1], Z=latents.shape[1], L=CHUNK, Q=profiles.weights.shape[1],
        MOST=profiles.most,
        num_warps=WARPS, **FUSED,
    )  # fmt: skip
    return latents
