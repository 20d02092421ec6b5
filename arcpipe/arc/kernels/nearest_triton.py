"""The nearest anchors of many points in whole batches of images, exact to the last tie, as a Triton kernel.

Anchors of an image are in Morton order, so that `RUN` in a row lie close together, in a small box. A program has
`POINTS` points in raster order; it begins with the run whose box is nearest and skips every run whose box is farther
than what it has found. Squared distance and row make one integer, so that ties need no second look.
"""

# Kernels: Triton finds the types of their arguments itself; pointers are described where they are passed.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

RUN = 32
POINTS = 128
WARPS = 4
MOST = 5
"""Anchors that are found for a point at most."""
FUSED = {"enable_fp_fusion": True}


@triton.jit
def gap_of(low, high, other_low, other_high):
    """How far apart two intervals are, 0 where they touch."""
    return tl.maximum(tl.maximum(other_low - high, low - other_high), 0)


@triton.jit
def find_nearest(
    points, of_point, count, anchors, boxes, run_starts, run_firsts, run_stops, run_image, found, squares,
    N: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """Write rows `found` (count, N) and squared distances `squares` (count, N) of the nearest anchors, nearest first.

    Args:
        points, of_point: (count, 2) and (count,) whose image a point is, rising.
        boxes: (runs, 4) top, left, bottom, right of each run of anchors; `run_starts` (images + 1,) cuts runs into
            images, and the run of `run_image` (runs,) has the rows from `run_firsts` to `run_stops`.
    """
    at = tl.program_id(0) * P + tl.arange(0, P)
    last = tl.minimum(tl.program_id(0) * P + P, count) - 1
    at = tl.minimum(at, last)  # points beyond the end are the last one again
    row, column, image = tl.load(points + 2 * at), tl.load(points + 2 * at + 1), tl.load(of_point + at)
    top, bottom = tl.min(row, axis=0), tl.max(row, axis=0)
    left, right = tl.min(column, axis=0), tl.max(column, axis=0)
    start, stop = tl.load(run_starts + tl.min(image, axis=0)), tl.load(run_starts + tl.max(image, axis=0) + 1)
    none = (row * 0).to(tl.int64) + 0x7FFFFFFFFFFFFFFF
    a, b, c, d, e = none, none, none, none, none
    nearest, seed = tl.full([], 0x7FFFFFFFFFFFFFFF, tl.int64), start
    for run in range(start, stop):
        down = gap_of(top, bottom, tl.load(boxes + 4 * run), tl.load(boxes + 4 * run + 2)).to(tl.int64)
        aside = gap_of(left, right, tl.load(boxes + 4 * run + 1), tl.load(boxes + 4 * run + 3)).to(tl.int64)
        square = down * down + aside * aside
        seed = tl.where(square < nearest, run, seed)
        nearest = tl.minimum(square, nearest)
    worst = tl.full([], 0x7FFFFFFFFFFFFFFF, tl.int64)
    for turn in range(start - 1, stop):
        run = tl.where(turn < start, seed, turn)
        down = gap_of(top, bottom, tl.load(boxes + 4 * run), tl.load(boxes + 4 * run + 2)).to(tl.int64)
        aside = gap_of(left, right, tl.load(boxes + 4 * run + 1), tl.load(boxes + 4 * run + 3)).to(tl.int64)
        if (down * down + aside * aside <= worst) & ((turn < start) | (run != seed)):
            owner = tl.load(run_image + run)
            for anchor in range(tl.load(run_firsts + run), tl.load(run_stops + run)):
                down_ = (row - tl.load(anchors + 2 * anchor)).to(tl.int64)
                aside_ = (column - tl.load(anchors + 2 * anchor + 1)).to(tl.int64)
                key = ((down_ * down_ + aside_ * aside_) << 32) | anchor
                key = tl.where(image == owner, key, none)
                a, key = tl.minimum(a, key), tl.maximum(a, key)
                b, key = tl.minimum(b, key), tl.maximum(b, key)
                c, key = tl.minimum(c, key), tl.maximum(c, key)
                d, key = tl.minimum(d, key), tl.maximum(d, key)
                e = tl.minimum(e, key)
            if N == 1:
                far = a
            elif N == 2:
                far = b
            elif N == 3:
                far = c
            elif N == 4:
                far = d
            else:
                far = e
            worst = tl.max(far, axis=0) >> 32
    for i in tl.static_range(N):
        if i == 0:
            key = a
        elif i == 1:
            key = b
        elif i == 2:
            key = c
        elif i == 3:
            key = d
        else:
            key = e
        tl.store(found + at * N + i, (key & 0xFFFFFFFF).to(tl.int32))
        tl.store(squares + at * N + i, key >> 32)


def nearest_of(points: Tensor, of_point: Tensor, anchors: Tensor, counts: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n nearest anchors of points, each among those of its image.

    Args:
        points: (p, 2) int32, with `of_point` (p,) int32, the image of each, rising.
        anchors: (k, 2) int32 in Morton order within each image, with `counts` (images,) int64 of them.
        n: At most `MOST`. An image with fewer anchors gives squared distances of 2**31 - 1 for what it lacks.

    Returns:
        (p, n) int32 rows of `anchors`, nearest first, equal distances by lower row; and (p, n) int64 squared distances.
    """
    points, anchors = points.contiguous(), anchors.contiguous()
    device, k = anchors.device, len(anchors)
    per_image = (counts + RUN - 1) // RUN
    run_starts = torch.cat([per_image.new_zeros(1), per_image.cumsum(0)])
    # At most so many; those that are not needed belong to no image and are empty.
    run = torch.arange(k // RUN + len(counts), device=device)
    image = torch.searchsorted(run_starts[1:], run, right=True).clamp_(max=len(counts) - 1)
    ends = counts.cumsum(0)
    first = torch.minimum((ends - counts)[image] + (run - run_starts[image]) * RUN, ends[image])
    stop = torch.minimum(first + RUN, ends[image])
    member = torch.minimum(first[:, None] + torch.arange(RUN, device=device), (stop - 1).clamp(min=0)[:, None])
    places = anchors[member]
    boxes = torch.cat([places.amin(1), places.amax(1)], 1).contiguous()
    found = torch.empty(len(points), n, dtype=torch.int32, device=device)
    squares = torch.empty(len(points), n, dtype=torch.int64, device=device)
    parts = (part.int() for part in (run_starts, first, stop, image))
    find_nearest[(-(-len(points) // POINTS),)](
        points, of_point, len(points), anchors, boxes, *parts, found, squares, N=n, P=POINTS, num_warps=WARPS, **FUSED
    )
    return found, squares
