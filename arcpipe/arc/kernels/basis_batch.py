"""The fit of the kind `basis` for whole batches of images, on any device of torch: what `basis_kernel` solves.

Images of any sizes lie end to end. A pixel and a near anchor that has a share of it are a *pair*; pairs are sorted by
anchor. Every anchor's system of z x z numbers is a sum over its pairs, always in the same order: nothing is scattered,
so no atomic is needed and a fit has the same bits in every run on a device. `solve_plainly` sums and solves in plain
torch; `basis_triton` does both in one kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from arcpipe.arc.basis import NEAREST, STEPS, Basis
from arcpipe.arc.factorised import sum_rows
from arcpipe.arc.maps import units_of

CHUNK = 32
"""Pairs of an anchor that are summed at once. An anchor has about 30 pairs."""
CHUNKS = 2**13
"""Chunks whose functions plain torch keeps at a time: 100 MB."""
PATCHES = 2**11
"""Anchors whose patches plain torch keeps at a time: 100 MB."""
DECODED = 2**14
"""Pixels that plain torch decodes at a time: 100 MB."""
LEAST_WIDTH = 16
"""Least numbers of a latent in memory, always a power of 2: what a matrix product in Triton takes."""

Found = tuple[NDArray[np.float32], NDArray[np.int32]]
"""Scales (k,) and neighbours (pixels, n) of an image."""


@dataclass(frozen=True, slots=True)
class Profiles:
    """A basis on a device. `values` (knots, channels, width); `orders` (width,) int32, -1 for padding, with `sines`
    (width,) bool: whether a number belongs to sin(m a) rather than cos(m a).

    `basis_loops.Patches`, all levels padded to q places of weight 0: `places` (levels, q, 2) int32, `weights`
    (levels, q), `rows` (levels, q, channels, width), `grams` (levels, width, width).
    """

    values: Tensor
    orders: Tensor
    sines: Tensor
    places: Tensor
    weights: Tensor
    rows: Tensor
    grams: Tensor
    most: int
    per_scale: float
    latent_dim: int

    @classmethod
    def of(cls, basis: Basis, device: torch.device) -> Profiles:
        """Pad the rows of a basis's table to a power of 2."""
        record, table, z = basis.record, basis.table, basis.latent_dim
        width = max(LEAST_WIDTH, 1 << (z - 1).bit_length())
        more, patches = (0, width - table.width), table.patches
        units, sines = units_of(record.orders), np.zeros(width, bool)
        sines[1:z] = units[1:] == units[:-1]
        levels = len(patches.starts) - 1
        most = -(-int(np.diff(patches.starts).max()) // CHUNK) * CHUNK
        places, weights = np.zeros((levels, most, 2), np.int32), np.zeros((levels, most), np.float32)
        rows = np.zeros((levels, most, table.channels, width), np.float32)
        whole = patches.rows.reshape(-1, table.channels, table.width)
        for level, (first, last) in enumerate(pairwise(patches.starts)):
            places[level, : last - first] = patches.places[first:last]
            weights[level, : last - first] = patches.weights[first:last]
            rows[level, : last - first, :, : table.width] = whole[first:last]
        upper = np.triu(patches.grams.reshape(levels, table.width, table.width))
        grams = np.pad(upper + np.triu(upper, 1).transpose(0, 2, 1), ((0, 0), more, more))
        profiles = table.profiles.reshape(table.knots, table.channels, table.width)
        return cls(
            values=torch.from_numpy(np.pad(profiles, ((0, 0), (0, 0), more))).to(device),
            orders=torch.from_numpy(np.pad(table.orders.astype(np.int32), more, constant_values=-1)).to(device),
            sines=torch.from_numpy(sines).to(device),
            places=torch.from_numpy(places).to(device),
            weights=torch.from_numpy(weights).to(device),
            rows=torch.from_numpy(rows).to(device),
            grams=torch.from_numpy(grams).to(device),
            most=int(table.orders.max()),
            per_scale=table.per_scale,
            latent_dim=z,
        )

    def at(self, gaps: Tensor, inverse: Tensor) -> Tensor:
        """The functions of the basis (m, channels, width) at places (m, 2) as seen from anchors of scale 1 / inverse
        (m,)."""
        distance = gaps.square().sum(1).sqrt()
        down, right = (gaps / distance.clamp(min=1)[:, None]).unbind(1)  # whole pixels: below 1 there is 0 alone
        real, imaginary, angle = torch.ones_like(down), torch.zeros_like(down), gaps.new_zeros(len(gaps), 1)
        for order in range(self.most + 1):
            wave = torch.where(self.sines, imaginary[:, None], real[:, None])
            angle = torch.where(self.orders == order, wave, angle)
            real, imaginary = real * right - imaginary * down, real * down + imaginary * right
        knot = (distance * inverse * self.per_scale).clamp(max=len(self.values) - 1 - 1e-5)
        below = knot.long()
        part = (knot - below)[:, None, None]
        return torch.lerp(self.values[below], self.values[below + 1], part) * angle[:, None]


@dataclass(frozen=True, slots=True)
class Batch:
    """Images end to end with their anchors, on a device: p pixels, k anchors, n neighbours.

    `anchors` (k, 2) int32, their `scales` (k,), `inverse` (k,), 1 / scale, and `levels` (k,) int32 of these;
    `frames` (k, 3) int32: the first pixel, height and width of an anchor's image. `places` (p, 2) int32, `neighbours`
    (p, n) int32 rows of `anchors`; `shares` (p, n), `weights` (p,) and `target` (p, channels), colour less 0.5.
    """

    anchors: Tensor
    scales: Tensor
    inverse: Tensor
    levels: Tensor
    frames: Tensor
    places: Tensor
    neighbours: Tensor
    shares: Tensor
    weights: Tensor
    target: Tensor

    @classmethod
    def lay(
        cls,
        images: Sequence[NDArray[Any]],
        drawn: Sequence[NDArray[np.int64]],
        found: Sequence[Found] | None,
        basis: Basis,
        device: torch.device,
    ) -> Batch:
        """Move images and anchors to the device and lay out the rest there; no number comes back.

        Args:
            drawn: Anchors (k, 2) of each image.
            found: Their scales and the pixels' neighbours; None to find them on the device.
        """
        n, channels = basis.n_neighbours, images[0].shape[2]
        areas, counts = [image.shape[0] * image.shape[1] for image in images], [len(anchors) for anchors in drawn]
        p, k = sum(areas), sum(counts)
        target = moved([image.reshape(-1, channels) for image in images], (p, channels), torch.float32, device)
        anchors = moved(drawn, (k, 2), torch.int32, device)
        facts = np.array([areas, counts, [image.shape[1] for image in images]]).T
        areas_, counts_, columns = moved([facts], facts.shape, torch.int64, device).unbind(1)
        numbers = torch.arange(len(images), device=device)
        of_pixel = torch.repeat_interleave(numbers, areas_, output_size=p)
        pixel = torch.arange(p, device=device) - (areas_.cumsum(0) - areas_)[of_pixel]
        width = columns[of_pixel]
        places = torch.stack([pixel // width, pixel % width], 1).int()
        image = torch.repeat_interleave(numbers, counts_, output_size=k)
        frames = torch.stack([areas_.cumsum(0) - areas_, areas_ // columns, columns], 1)[image].int()
        if found is None:
            from arcpipe.arc.kernels.nearest_triton import nearest_of

            near, _ = nearest_of(places, of_pixel.int(), anchors, counts_, n)
            scales = scales_there(anchors, image, counts_, basis)
        else:
            scales = moved([scales for scales, _ in found], (k,), torch.float32, device)
            near = moved([neighbours for _, neighbours in found], (p, n), torch.int32, device)
            near += (counts_.cumsum(0) - counts_)[of_pixel, None].int()
        shares, weights = share_out(places, anchors, 1 / scales, near, basis)
        first = round(STEPS * math.log2(float(basis.record.scale_rule[1])))
        levels = torch.round(STEPS * torch.log2(scales)).int() - first
        return cls(anchors, scales, 1 / scales, levels, frames, places, near, shares, weights, target.sub_(0.5))


def moved(parts: Sequence[NDArray[Any]], shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Arrays end to end as one tensor on a device, by way of memory that a GPU can read while the CPU goes on."""
    host = torch.empty(*shape, dtype=dtype, pin_memory=device.type == "cuda")
    np.concatenate(parts, out=host.numpy(), casting="same_kind")
    return host.to(device, non_blocking=True)


def scales_there(anchors: Tensor, image: Tensor, counts: Tensor, basis: Basis) -> Tensor:
    """What `Basis.scales_of` gives, of the anchors of all images, on their device."""
    from arcpipe.arc.kernels.nearest_triton import nearest_of

    _, squares = nearest_of(anchors, image.int(), anchors, counts, NEAREST + 1)
    roots, others = squares[:, 1:].double().sqrt(), (counts - 1).clamp(max=NEAREST)[image]  # the first is the anchor
    total = torch.zeros_like(roots[:, 0])
    for i in range(NEAREST):  # in the order of the compiled loop
        total += torch.where(others > i, roots[:, i], 0)
    share, least, most = (float(value) for value in basis.record.scale_rule)
    scales = (share * (total / others.clamp(min=1))).clamp(least, most)
    return torch.exp2(torch.round(STEPS * torch.log2(scales)) / STEPS).float()


def share_out(places: Tensor, anchors: Tensor, inverse: Tensor, near: Tensor, basis: Basis) -> tuple[Tensor, Tensor]:
    """The shares (p, n) of the near anchors, and the weights (p,) of pixels, which fall far from all anchors."""
    record = basis.record
    squares = (places[:, None] - anchors[near]).square().sum(2) * inverse.square()[near]
    reach = (len(record.profiles) - 1) * record.spacing
    weights = (reach * reach / squares.amin(1)).clamp_(max=1).square_()
    least = squares.amin(1, keepdim=True)
    shares = torch.exp((least - squares) * record.sharpness).sub_(record.floor).clamp_(min=0)
    return shares.div_(shares.sum(1, keepdim=True)), weights


def sort(near: Tensor, shares: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The pairs (p n,) int32, `pixel * n + slot` sorted by anchor and rising within each, and `starts` (k + 1,) int32,
    where those of an anchor begin, from neighbours and shares (p, n) of k anchors. What lies behind the last start has
    no share."""
    keys, pairs = torch.sort(torch.where(shares > 0, near, k).flatten(), stable=True)
    starts = torch.searchsorted(keys, torch.arange(k + 1, device=near.device, dtype=torch.int32))
    return pairs.int(), starts.int()


def cut(starts: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut the pairs of anchors, which begin at `starts` (k + 1,), into chunks of `CHUNK`.

    Args:
        most: Pairs at most; their number need not be asked of the device. Unused chunks at the end are empty.

    Returns:
        The anchor of each of c chunks (c,), where its pairs begin and end (c,), and where the chunks of an anchor
        begin (k + 1,).
    """
    starts = starts.long()
    k = len(starts) - 1
    chunks = F.pad(((starts.diff() + CHUNK - 1) // CHUNK).cumsum(0), (1, 0))
    chunk = torch.arange(most // CHUNK + k, device=starts.device)
    owner = torch.searchsorted(chunks[1:], chunk, right=True).clamp_(max=k - 1)
    last = starts[owner + 1]
    first = torch.minimum(starts[owner] + (chunk - chunks[owner]) * CHUNK, last)
    return owner, first, torch.minimum(first + CHUNK, last), chunks


def pull_of_patches(batch: Batch, profiles: Profiles) -> Tensor:
    """The weighted products (k, width) of the colours of every anchor's patch with the functions there."""
    levels, parts = batch.levels.long(), []
    for start in range(0, len(levels), PATCHES):
        some = slice(start, start + PATCHES)
        mine, frames = levels[some], batch.frames[some, None]
        row, column = (batch.anchors[some, None] + profiles.places[mine]).unbind(2)
        row = torch.minimum(row.clamp(min=0), frames[..., 1] - 1)
        column = torch.minimum(column.clamp(min=0), frames[..., 2] - 1)
        pixel = (frames[..., 0] + row * frames[..., 2] + column).long()
        colours = batch.target[pixel] * profiles.weights[mine][..., None]
        parts.append(torch.bmm(colours.flatten(1)[:, None], profiles.rows[mine].flatten(1, 2)).squeeze(1))
    return torch.cat(parts)


def solve_plainly(batch: Batch, profiles: Profiles, patch: float, damping: float) -> Tensor:
    """The latents (k, width) of a batch by plain torch: products of chunks, then Cholesky factors."""
    pairs, starts = sort(batch.neighbours, batch.shares, len(batch.anchors))
    owner, first, stop, chunks = cut(starts, len(pairs))
    n, channels = batch.shares.shape[1], batch.target.shape[1]
    k, width = len(batch.anchors), len(profiles.orders)
    sums = batch.target.new_empty(len(owner), width * (width + 1))
    for start in range(0, len(owner), CHUNKS):
        some = slice(start, start + CHUNKS)
        rank = first[some, None] + torch.arange(CHUNK, device=first.device)
        pair = pairs[rank.clamp(max=len(pairs) - 1)].long()  # (some, CHUNK)
        pixel, mine = pair // n, owner[some, None].expand_as(rank)
        gaps = (batch.places[pixel] - batch.anchors[mine]).float()
        functions = profiles.at(gaps.flatten(0, 1), batch.inverse[mine].flatten()).view(-1, CHUNK * channels, width)
        share = torch.where(rank < stop[some, None], batch.shares.flatten()[pair], 0)
        root = (batch.weights[pixel] * share).sqrt_().repeat_interleave(channels, dim=1)[..., None]
        rows = torch.cat([functions, batch.target[pixel].view(-1, CHUNK * channels, 1)], 2) * root
        sums[some] = torch.bmm(rows[..., :width].transpose(1, 2), rows).flatten(1)
    order = torch.arange(len(owner), device=owner.device)
    systems = sum_rows(sums, order, chunks).view(k, width, width + 1)
    own, right = systems[..., :width] + damping * torch.eye(width, device=sums.device), systems[..., width:]
    if patch > 0:
        own += patch * profiles.grams[batch.levels.long()]
        right = right + patch * pull_of_patches(batch, profiles)[..., None]
    return torch.cholesky_solve(right, torch.linalg.cholesky_ex(own).L).squeeze(2)


def errors_plainly(batch: Batch, latents: Tensor, profiles: Profiles) -> Tensor:
    """How far decoded pixels are from the target (p,): squares, summed over channels, of colours within [0, 1].

    Args:
        latents: (k, width), of the anchors of the batch.
    """
    errors = torch.empty_like(batch.weights)
    for start in range(0, len(errors), DECODED):
        some = slice(start, start + DECODED)
        colours = torch.zeros_like(batch.target[some])
        for slot in range(batch.shares.shape[1]):
            mine, share = batch.neighbours[some, slot].long(), batch.shares[some, slot]
            functions = profiles.at((batch.places[some] - batch.anchors[mine]).float(), batch.inverse[mine])
            colours += torch.bmm(functions, latents[mine][..., None]).squeeze(2) * share[:, None]
        errors[some] = (colours.clamp_(-0.5, 0.5) - batch.target[some]).square().sum(1)
    return errors
