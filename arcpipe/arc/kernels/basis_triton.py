"""`basis_batch.Passes` as Triton kernels: the functions of the basis are computed in each pass, and never kept.

A program has the pairs of one chunk of one anchor, so a row sums its own pixels and no kernel contains an atomic. The
profiles (some 13 kB) stay in the first cache. `see_chunks` writes what an anchor gives to each of its pixels,
`collect_chunks` carries the errors back, `ease_anchors` inverts every anchor's own part of the problem by elimination
in registers, and `ease_rows` applies it.
"""

# Kernels: Triton finds the types of their arguments itself; pointers are described where they are passed.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from arcpipe.arc.factorised import sum_rows
from arcpipe.arc.kernels.basis_batch import CHUNK, Batch, Profiles

WARPS = {"see": 2, "collect": 4, "ease": 4, "rows": 2}
"""Warps of a program of each kernel. Chosen without a measurement."""
FUSED = {"enable_fp_fusion": True}
"""Products are added in one rounding. Said at each launch: Triton's own answer changes from 3.9 to 3.10."""
PRODUCTS = "tf32x3"
"""How the own parts are multiplied: about float32 by tensor cores."""


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
def see_chunks(
    places, anchors, inverse, pairs, orders, sines, profiles, owner, firsts, stops, latents, each, knots, per_scale,
    N: tl.constexpr, C: tl.constexpr, Z: tl.constexpr, L: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """Write what the anchor of each chunk gives to each of its pairs into `each` (pairs, channels)."""
    chunk = tl.program_id(0)
    anchor, first, stop = tl.load(owner + chunk), tl.load(firsts + chunk), tl.load(stops + chunk)
    if first < stop:
        pair, inside, _, knot, part, angles = lay_pairs(
            places, anchors, inverse, pairs, orders, sines, anchor, first, stop, knots, per_scale, N, Z, L, MOST
        )
        numbers = tl.arange(0, Z)
        latent = tl.load(latents + anchor * Z + numbers)
        for c in tl.static_range(C):
            functions = functions_of(profiles, knot, part, angles, numbers, C, c, Z)
            tl.store(each + pair * C + c, tl.sum(functions * latent[None, :], axis=1), mask=inside)


@triton.jit
def collect_chunks(
    places, anchors, inverse, pairs, orders, sines, profiles, owner, firsts, stops, shares, weights, each, target, rows,
    knots, per_scale, alone, BEGIN: tl.constexpr,
    N: tl.constexpr, C: tl.constexpr, Z: tl.constexpr, L: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """Write the sum over the pairs of each chunk into `rows` (chunks, width).

    `BEGIN`: of the right-hand side, by `target` (pixels, channels); else of the matrix's product, by `each`.
    """
    chunk = tl.program_id(0)
    anchor, first, stop = tl.load(owner + chunk), tl.load(firsts + chunk), tl.load(stops + chunk)
    numbers = tl.arange(0, Z)
    total = tl.zeros([Z], tl.float32)
    if first < stop:
        pair, inside, pixel, knot, part, angles = lay_pairs(
            places, anchors, inverse, pairs, orders, sines, anchor, first, stop, knots, per_scale, N, Z, L, MOST
        )
        share = tl.load(shares + pair, mask=inside, other=0.0) * tl.load(weights + pixel, mask=inside, other=0.0)
        for c in tl.static_range(C):
            if BEGIN:
                pull = share * tl.load(target + pixel * C + c)
            else:
                colour = share * 0
                for s in tl.static_range(N):
                    colour += tl.load(shares + pixel * N + s) * tl.load(each + (pixel * N + s) * C + c)
                pull = share * ((1 - alone) * colour + alone * tl.load(each + pair * C + c))
            functions = functions_of(profiles, knot, part, angles, numbers, C, c, Z)
            total += tl.sum(functions * pull[:, None], axis=0)
    tl.store(rows + chunk * Z + numbers, total)


@triton.jit
def ease_anchors(
    places, anchors, inverse, pairs, orders, sines, profiles, starts, shares, weights, inverses,
    knots, per_scale, alone, damping, PRODUCTS: tl.constexpr,
    N: tl.constexpr, C: tl.constexpr, Z: tl.constexpr, L: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """Write the inverse of the lower Cholesky factor of each anchor's own part into `inverses` (anchors, width, width),
    in half precision.

    Rows are eliminated from the matrix and, alike, from a unit matrix: E A E^T = D makes D^(-1/2) E the inverse factor.
    """
    anchor = tl.program_id(0)
    numbers = tl.arange(0, Z)
    down, across = numbers[:, None], numbers[None, :]
    unit = tl.where(down == across, 1.0, 0.0)
    own, stop = unit * damping, tl.load(starts + anchor + 1)
    for first in range(tl.load(starts + anchor), stop, L):
        pair, inside, pixel, knot, part, angles = lay_pairs(
            places, anchors, inverse, pairs, orders, sines, anchor, first, stop, knots, per_scale, N, Z, L, MOST
        )
        share = tl.load(shares + pair, mask=inside, other=0.0)
        weight = tl.load(weights + pixel, mask=inside, other=0.0)
        angles *= tl.sqrt(weight * share * ((1 - alone) * share + alone))[:, None]
        for c in tl.static_range(C):
            functions = functions_of(profiles, knot, part, angles, numbers, C, c, Z)
            own += tl.dot(tl.trans(functions), functions, input_precision=PRODUCTS)
    made = unit
    for j in range(Z):
        here = down == j
        row, mine = tl.sum(tl.where(here, own, 0.0), axis=0), tl.sum(tl.where(here, made, 0.0), axis=0)
        pivot = tl.maximum(tl.sum(tl.where(numbers == j, row, 0.0), axis=0), 1e-12)
        factor = tl.where(numbers > j, row / pivot, 0.0)[:, None]  # what is left of the matrix stays symmetric
        own -= factor * row[None, :]
        made -= factor * mine[None, :]
    pivots = tl.maximum(tl.sum(tl.where(down == across, own, 0.0), axis=1), 1e-12)
    made = made / tl.sqrt(pivots)[:, None]
    tl.store(inverses + anchor.to(tl.int64) * (Z * Z) + down * Z + across, made.to(tl.float16))


@triton.jit
def ease_rows(inverses, residual, eased, products, Z: tl.constexpr):
    """Apply the preconditioner to the row of an anchor, and write the product of both."""
    anchor = tl.program_id(0)
    numbers = tl.arange(0, Z)
    matrix = tl.load(inverses + anchor.to(tl.int64) * (Z * Z) + numbers[:, None] * Z + numbers[None, :]).to(tl.float32)
    row = tl.load(residual + anchor * Z + numbers)
    half = tl.sum(matrix * row[None, :], axis=1)
    out = tl.sum(matrix * half[:, None], axis=0)
    tl.store(eased + anchor * Z + numbers, out)
    tl.store(products + anchor, tl.sum(out.to(tl.float64) * row.to(tl.float64), axis=0))


class TritonPasses:
    """`Passes` by the kernels of this file, on a GPU or in Triton's interpreter."""

    def __init__(
        self, batch: Batch, profiles: Profiles, own_share: float, damping: float, products: str = PRODUCTS
    ) -> None:
        self.batch, self.own_share = batch, own_share
        k, channels, width = len(batch.anchors), batch.target.shape[1], profiles.values.shape[2]
        self.shape, device = (len(batch.owner), width), batch.anchors.device
        self.order = torch.arange(len(batch.owner), device=device, dtype=torch.int32)
        self.each = torch.empty(len(batch.pairs), channels, device=device)
        self.sizes = {"N": batch.neighbours.shape[1], "C": channels, "Z": width, "L": CHUNK, "MOST": profiles.most}
        self.basis = (len(profiles.values), profiles.per_scale)
        placed = (batch.places, batch.anchors, batch.inverse, batch.pairs)
        self.scene = (*placed, profiles.orders, profiles.sines.to(torch.uint8), profiles.values)
        self.cuts = (batch.owner, batch.first, batch.stop)
        self.inverses = torch.empty(k, width, width, dtype=torch.float16, device=device)
        ease_anchors[(k,)](
            *self.scene, batch.starts, batch.shares, batch.weights, self.inverses, *self.basis, own_share, damping,
            PRODUCTS=products, **self.sizes, num_warps=WARPS["ease"], **FUSED,
        )  # fmt: skip

    def begin(self) -> Tensor:
        return self._collect(begin=True)

    def apply(self, direction: Tensor) -> Tensor:
        see_chunks[(self.shape[0],)](
            *self.scene, *self.cuts, direction, self.each, *self.basis, **self.sizes, num_warps=WARPS["see"], **FUSED
        )
        return self._collect(begin=False)

    def ease(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        eased, products = torch.empty_like(residual), residual.new_empty(len(residual), dtype=torch.float64)
        ease_rows[(len(residual),)](
            self.inverses, residual, eased, products, Z=self.shape[1], num_warps=WARPS["rows"], **FUSED
        )
        return eased, products

    def _collect(self, *, begin: bool) -> Tensor:
        batch, rows = self.batch, self.each.new_empty(self.shape)
        collect_chunks[(self.shape[0],)](
            *self.scene, *self.cuts, batch.shares, batch.weights, self.each, batch.target, rows, *self.basis,
            self.own_share, BEGIN=begin, **self.sizes, num_warps=WARPS["collect"], **FUSED,
        )  # fmt: skip
        return sum_rows(rows, self.order, batch.chunks)
