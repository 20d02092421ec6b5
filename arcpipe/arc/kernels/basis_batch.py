"""The fit of the kind `basis` for whole batches of images, on any device of torch: what `basis_kernel` solves.

Images of any sizes lie end to end. The n nearest anchors of the pixels make `pairs` (pixel, slot), sorted by anchor,
and an anchor's pairs are cut into chunks of `CHUNK`. A sum over the pixels of an anchor is a sum within each chunk,
then over its chunks, always in the same order: nothing is scattered, so no atomic is needed and a fit has the same
bits in every run on a device. `Passes` is what depends on all pairs; here it is plain torch, which keeps the
functions of the basis of every pair in memory (about 2 kB a pixel). `basis_triton` computes them in every pass
instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcpipe.arc.anchors import draw_anchors
from arcpipe.arc.basis import NEAREST, STEPS, Basis, orders_of, units_of
from arcpipe.arc.factorised import sum_rows
from arcpipe.arc.kernels.basis_loops import NOTHING
from arcpipe.arc.kernels.numba_kernel import spread
from arcpipe.arc.neighbours import nearest_anchors
from arcpipe.arc.problem import FittedCloud
from arcpipe.config import FitSection
from arcpipe.seeds import generator

CHUNK = 32
"""Pairs of an anchor that are summed at once. An anchor has about 4 / 0.05 = 80 pairs."""
GROUP_PIXELS = {"torch": 2**20, "triton": 2**22}
"""Pixels of a batch: about 5 GB of plain torch, 2 GB of Triton. Chosen without a measurement."""
CPU_GROUP_PIXELS = 2**16
LEAST_WIDTH = 16
"""Least numbers of a latent in memory, always a power of 2: what a matrix product in Triton takes."""

Found = tuple[NDArray[np.float32], NDArray[np.int32]]
"""Scales (k,) and neighbours (pixels, n) of an image."""


@dataclass(frozen=True, slots=True)
class Profiles:
    """A basis on a device. `values` (knots, channels, width); `orders` (width,) int32, -1 for padding, with `sines`
    (width,) bool: whether a number belongs to sin(m a) rather than cos(m a)."""

    values: Tensor
    orders: Tensor
    sines: Tensor
    most: int
    per_scale: float
    sharpness: float
    latent_dim: int

    @classmethod
    def of(cls, basis: Basis, device: torch.device) -> Profiles:
        """Spread the profiles of a basis over the numbers of a latent."""
        record = basis.record
        units, z = units_of(record.orders), record.latent_dim
        width = max(LEAST_WIDTH, 1 << (z - 1).bit_length())
        knots, channels, _ = record.profiles.shape
        values = np.zeros((knots, channels, width), np.float32)
        values[:, :, :z] = record.profiles[:, :, units]
        orders, sines = np.full(width, -1, np.int32), np.zeros(width, bool)
        orders[:z] = orders_of(record.orders)
        sines[1:z] = units[1:] == units[:-1]
        return cls(
            values=torch.from_numpy(values).to(device),
            orders=torch.from_numpy(orders).to(device),
            sines=torch.from_numpy(sines).to(device),
            most=int(orders.max()),
            per_scale=1 / record.spacing,
            sharpness=record.sharpness,
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
    """Images end to end with their anchors, on a device: p pixels, k anchors, n neighbours, c chunks.

    `anchors` (k, 2) int32, their `scales` (k,) and `inverse` (k,), 1 / scale; `image` (k,) int64, whose an anchor
    is, and `cuts` (images + 1,) int64. `places` (p, 2) int32, `neighbours` (p, n) int32 rows of `anchors`; `shares`
    (p, n), `weights` (p,) and `target` (p, channels), colour less 0.5. `pairs` (p n,) int32: `pixel * n + slot`
    sorted by anchor, rising within each, those of an anchor from `starts` (k + 1,). A chunk has the pairs from
    `first` to `stop` (c,) of the anchor `owner` (c,), all int32, and the chunks of an anchor begin at `chunks` (k +
    1,) int32. Unused chunks at the end are empty.
    """

    anchors: Tensor
    scales: Tensor
    inverse: Tensor
    image: Tensor
    cuts: Tensor
    places: Tensor
    neighbours: Tensor
    shares: Tensor
    weights: Tensor
    target: Tensor
    pairs: Tensor
    starts: Tensor
    owner: Tensor
    first: Tensor
    stop: Tensor
    chunks: Tensor

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
        image = torch.repeat_interleave(numbers, counts_, output_size=k)
        of_pixel = torch.repeat_interleave(numbers, areas_, output_size=p)
        pixel = torch.arange(p, device=device) - (areas_.cumsum(0) - areas_)[of_pixel]
        width = columns[of_pixel]
        places = torch.stack([pixel // width, pixel % width], 1).int()
        if found is None:
            from arcpipe.arc.kernels.nearest_triton import nearest_of

            near, _ = nearest_of(places, of_pixel.int(), anchors, counts_, n)
            scales = scales_there(anchors, image, counts_, basis)
        else:
            scales = moved([scales for scales, _ in found], (k,), torch.float32, device)
            near = moved([neighbours for _, neighbours in found], (p, n), torch.int32, device)
            near += (counts_.cumsum(0) - counts_)[of_pixel, None].int()
        shares, weights = share_out(places, anchors, 1 / scales, near, basis)
        laid = (places, near, shares, weights, target.sub_(0.5), *cut(near, k))
        return cls(anchors, scales, 1 / scales, image, ends(counts_), *laid)

    def per_image(self, values: Tensor) -> Tensor:
        """Sums (images,) of what every anchor has (k,)."""
        return torch.segment_reduce(values, "sum", offsets=self.cuts, axis=0, unsafe=True)

    def gaps(self, pairs: Tensor, owner: Tensor) -> Tensor:
        """Pixel less anchor (m, 2) of pairs (m,) of anchors `owner` (m,)."""
        return (self.places[pairs // self.neighbours.shape[1]] - self.anchors[owner]).float()


def moved(parts: Sequence[NDArray[Any]], shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Arrays end to end as one tensor on a device, by way of memory that a GPU can read while the CPU goes on."""
    host = torch.empty(*shape, dtype=dtype, pin_memory=device.type == "cuda")
    np.concatenate(parts, out=host.numpy(), casting="same_kind")
    return host.to(device, non_blocking=True)


def scales_there(anchors: Tensor, image: Tensor, counts: Tensor, basis: Basis) -> Tensor:
    """What `basis.anchor_scales` gives, of the anchors of all images, on their device."""
    from arcpipe.arc.kernels.nearest_triton import nearest_of

    _, squares = nearest_of(anchors, image.int(), anchors, counts, NEAREST + 1)
    roots, others = squares[:, 1:].double().sqrt(), (counts - 1).clamp(max=NEAREST)[image]  # the first is the anchor
    total = torch.zeros_like(roots[:, 0])
    for i in range(NEAREST):  # in the order of the compiled loop
        total += torch.where(others > i, roots[:, i], 0)
    share, least, most = (float(value) for value in basis.record.scale_rule)
    scales = (share * (total / others.clamp(min=1))).clamp(least, most)
    return torch.exp2(torch.round(STEPS * torch.log2(scales)) / STEPS).float()


def ends(counts: Tensor) -> Tensor:
    """Offsets (m + 1,) of counts (m,)."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def share_out(places: Tensor, anchors: Tensor, inverse: Tensor, near: Tensor, basis: Basis) -> tuple[Tensor, Tensor]:
    """The shares (p, n) of the near anchors, and the weights (p,) of pixels, which fall far from all anchors."""
    record = basis.record
    squares = (places[:, None] - anchors[near]).square().sum(2) * inverse.square()[near]
    reach = (len(record.profiles) - 1) * record.spacing
    weights = (reach * reach / squares.amin(1)).clamp_(max=1).square_()
    return torch.softmax(squares * -record.sharpness, dim=1), weights


def cut(near: Tensor, k: int) -> tuple[Tensor, ...]:
    """`pairs`, `starts`, `owner`, `first`, `stop` and `chunks` of a batch, from its neighbours (p, n)."""
    keys, pairs = torch.sort(near.flatten(), stable=True)
    numbers = torch.arange(k + 1, device=near.device, dtype=torch.int32)
    starts = torch.searchsorted(keys, numbers)
    pieces = (starts.diff() + CHUNK - 1) // CHUNK
    chunks = ends(pieces)
    # So many chunks suffice for any neighbours: their number need not be asked of the device.
    chunk = torch.arange(near.numel() // CHUNK + k, device=near.device)
    owner = torch.searchsorted(chunks[1:], chunk, right=True).clamp_(max=k - 1)
    first = starts[owner] + (chunk - chunks[owner]) * CHUNK
    first, last = torch.minimum(first, starts[owner + 1]), starts[owner + 1]
    stop = torch.minimum(first + CHUNK, last)
    return pairs.int(), starts.int(), owner.int(), first.int(), stop.int(), chunks.int()


class Passes(Protocol):
    """The sums over all pairs of a batch that a fit needs."""

    def begin(self) -> Tensor:
        """The right-hand side of the problem (k, width)."""
        ...

    def apply(self, direction: Tensor) -> Tensor:
        """The product of the problem's matrix, without the damping, with (k, width)."""
        ...

    def ease(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The preconditioner's product with the residual (k, width), and the product of both for each anchor (k,)."""
        ...


class TorchPasses:
    """`Passes` in plain torch: matrix products over chunks."""

    def __init__(self, batch: Batch, profiles: Profiles, own_share: float, damping: float) -> None:
        self.batch, self.own_share = batch, own_share
        k, n = len(batch.anchors), batch.neighbours.shape[1]
        self.shape = (*batch.neighbours.shape, batch.target.shape[1])
        rank = batch.first.long()[:, None] + torch.arange(CHUNK, device=batch.first.device)
        inside = rank < batch.stop[:, None]
        self.pairs = batch.pairs[rank.clamp_(max=len(batch.pairs) - 1)].long()  # (c, CHUNK)
        owner = batch.owner.long()[:, None].expand_as(rank).flatten()
        made = profiles.at(batch.gaps(self.pairs.flatten(), owner), batch.inverse[owner])
        made *= inside.view(-1, 1, 1)
        self.functions = made.view(len(rank), -1, made.shape[2])  # (c, CHUNK * channels, width)
        # Where the chunks have each pair.
        order, of_pair = torch.arange(len(batch.pairs), device=rank.device), batch.pairs.long()
        anchor = batch.neighbours.flatten().long()[of_pair]
        self.slots = torch.empty_like(of_pair)
        self.slots[of_pair] = batch.chunks.long()[anchor] * CHUNK + order - batch.starts.long()[anchor]
        self.order = torch.arange(len(rank), device=rank.device, dtype=torch.int32)
        share = batch.shares.flatten()[self.pairs]
        factor = batch.weights[self.pairs // n] * share * ((1 - own_share) * share + own_share)
        scaled = self.functions * factor.repeat_interleave(self.shape[2], dim=1)[:, :, None]
        own = torch.bmm(self.functions.transpose(1, 2), scaled).flatten(1)
        width = made.shape[2]
        own = sum_rows(own, self.order, batch.chunks).view(k, width, width)
        unit = torch.eye(width, device=own.device)
        factor = torch.linalg.cholesky_ex(own + damping * unit).L
        self.inverses = torch.linalg.solve_triangular(factor, unit, upper=False).half()

    def begin(self) -> Tensor:
        batch = self.batch
        return self._collect((batch.weights[:, None] * batch.shares)[..., None] * batch.target[:, None])

    def apply(self, direction: Tensor) -> Tensor:
        batch, alone = self.batch, self.own_share
        near = direction[batch.owner.long()][..., None]
        each = torch.bmm(self.functions, near).view(-1, self.shape[2])[self.slots].view(self.shape)
        share = batch.shares[..., None]
        colour = (share * each).sum(1, keepdim=True)
        return self._collect(batch.weights[:, None, None] * share * ((1 - alone) * colour + alone * each))

    def ease(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        inverses = self.inverses.float()
        eased = torch.bmm(inverses.transpose(1, 2), torch.bmm(inverses, residual[..., None])).squeeze(2)
        return eased, (eased.double() * residual.double()).sum(1)

    def _collect(self, pulls: Tensor) -> Tensor:
        """Add what every pair pulls at (p, n, channels) up to rows of the anchors (k, width)."""
        rows = pulls.view(-1, self.shape[2])[self.pairs].view(len(self.pairs), 1, -1)
        return sum_rows(torch.bmm(rows, self.functions).squeeze(1), self.order, self.batch.chunks)


def solve(batch: Batch, passes: Passes, steps: int, damping: float) -> Tensor:
    """The latents (k, width) of a batch: the steps of `basis_loops.solve` for every image, none waiting for another.

    An image whose residual is gone stands still from then on, so that the device need not be asked.
    """
    residual = passes.begin()
    latents = torch.zeros_like(residual)
    direction, products = passes.ease(residual)
    product = first = batch.per_image(products)
    for _ in range(steps):
        applied = passes.apply(direction).add_(direction, alpha=damping)
        slope = batch.per_image((applied.double() * direction.double()).sum(1))
        going = (slope > 0) & (product > NOTHING * first)
        length = torch.where(going, product / slope, 0).float()[batch.image][:, None]
        latents.addcmul_(length, direction)
        residual.addcmul_(length, applied, value=-1)
        eased, products = passes.ease(residual)
        after = batch.per_image(products)
        part = torch.where(going, after / product, 0).float()[batch.image][:, None]
        direction = eased.addcmul_(part, direction)
        product = torch.where(going, after, 0)
    return latents


class BatchKernel:
    """See `arcpipe.arc.kernels.Kernel`: anchors are drawn by the CPU's threads, all else is done on the basis's device
    (plain torch leaves neighbours and scales to the CPU, too).

    Args:
        passes: `triton`, `torch`, or `auto`: Triton on a GPU where it is installed.
    """

    def __init__(self, basis: Basis, passes: str = "auto") -> None:
        self.basis, self.device = basis, basis.device
        if passes == "auto":
            passes = "triton" if self.device.type == "cuda" and has_triton() else "torch"
        self.passes, self.profiles = passes, Profiles.of(basis, self.device)

    def run(
        self, images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int], memory_bytes: int
    ) -> list[FittedCloud]:
        clouds: list[FittedCloud] = []
        last: Iterator[list[FittedCloud]] = iter(())
        for start, stop in self._groups(images):
            now = self._fit(images[start:stop], fit, seeds[start:stop])
            next(now)  # on its way: the CPU lays out a group while the device works on the one before
            for made in last:
                clouds += made
            last = now
        for made in last:
            clouds += made
        return clouds

    def _groups(self, images: Sequence[NDArray[Any]]) -> Iterator[tuple[int, int]]:
        most = GROUP_PIXELS[self.passes] if self.device.type == "cuda" else CPU_GROUP_PIXELS
        start = filled = 0
        for i, image in enumerate(images):
            area = image.shape[0] * image.shape[1]
            if i > start and filled + area > most:
                yield start, i
                start, filled = i, 0
            filled += area
        if len(images):
            yield start, len(images)

    def _fit(
        self, images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int]
    ) -> Iterator[list[FittedCloud]]:
        """Give nothing once the device has all it needs, then the clouds."""
        drawn, found = self.place(images, fit, seeds)
        with torch.no_grad():
            batch = Batch.lay(images, drawn, found, self.basis, self.device)
            passes = make_passes(self.passes, batch, self.profiles, fit.own_share, fit.damping)
            latents = solve(batch, passes, fit.steps, fit.damping)[:, : self.profiles.latent_dim]
            host = Host(latents, *(() if found else (batch.scales, batch.neighbours)))
        yield []
        rows, *there = host.arrays()
        cuts = np.cumsum([len(anchors) for anchors in drawn])
        parts = np.split(rows, cuts[:-1])
        if not found:
            areas = np.cumsum([image.shape[0] * image.shape[1] for image in images])
            near = np.split(there[1], areas[:-1])
            starts = cuts - [len(anchors) for anchors in drawn]
            local = [own - np.int32(start) for own, start in zip(near, starts, strict=True)]
            found = list(zip(np.split(there[0], cuts[:-1]), local, strict=True))
        yield [
            FittedCloud(anchors, own.copy(), near, (0.0, 1.0), np.zeros(0, np.float32), scales=scales.copy())
            for anchors, own, (scales, near) in zip(drawn, parts, found, strict=True)
        ]

    def place(
        self, images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int]
    ) -> tuple[list[NDArray[np.int64]], list[Found] | None]:
        """By the CPU's threads: the anchors of each image, and scales and neighbours where the device leaves them."""

        def work(i: int) -> tuple[NDArray[np.int64], Found | None]:
            anchors = draw_anchors(images[i], fit, generator(seeds[i], "anchors"))
            if there:
                return anchors, None
            size = (images[i].shape[0], images[i].shape[1])
            return anchors, (self.basis.scales_of(anchors), nearest_anchors(anchors, size, fit.neighbours))

        there = self.passes == "triton" and fit.neighbours <= NEAREST
        made = spread(work, range(len(images)), torch.get_num_threads())
        return [anchors for anchors, _ in made], None if there else [found for _, found in made if found]


class Host:
    """Tensors on their way to the CPU, which goes on meanwhile."""

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors, self._ready = tensors, None
        if tensors[0].device.type == "cuda":
            self._tensors = tuple(_to_pinned(tensor) for tensor in tensors)
            self._ready = torch.cuda.Event()
            self._ready.record()

    def arrays(self) -> list[NDArray[Any]]:
        """Wait for them."""
        if self._ready is not None:
            self._ready.synchronize()
        return [tensor.numpy() for tensor in self._tensors]


def _to_pinned(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def make_passes(name: str, batch: Batch, profiles: Profiles, own_share: float, damping: float) -> Passes:
    """The passes of this name, `torch` or `triton`."""
    if name == "torch":
        return TorchPasses(batch, profiles, own_share, damping)
    from arcpipe.arc.kernels.basis_triton import TritonPasses

    return TritonPasses(batch, profiles, own_share, damping)


def has_triton() -> bool:
    """Whether Triton is installed: the CUDA builds of torch bring it."""
    from importlib.util import find_spec

    return find_spec("triton") is not None
