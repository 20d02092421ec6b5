"""All steps of the fit of a small image as one Triton kernel: latents and Adam's averages stay in registers.

A program has one image, and its warps wait for each other between the parts of a step: latents are multiplied for every
slot, pixels add the products of their anchors, and an anchor sums the gradients of its own pixels, always in one order.
So the kernel contains no atomic. What passes from one part of a step to the next lies in memory of the program's own,
some 300 kB, which its multiprocessor keeps near.
"""

# Kernels: Triton finds the types of their arguments itself; pointers are described where they are passed.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.problem import PreparedImage, learning_rates, places, standardised_gaps
from arcpipe.arc.tiles import transpose
from arcpipe.cloud import ends_from
from arcpipe.config import FitSection

WARPS = 8
"""Warps of a program. Chosen without a measurement, as are `PIXELS` and `UNITS`."""
PIXELS = 32
"""Pixels that a program decodes at once."""
UNITS = 16
"""Hidden units that are worked on at once: what a program holds stays in its registers."""
LEAST_WIDTH = 16
"""Of a matrix that tensor cores multiply."""
MOST_ANCHORS = 128
"""An image with more is fitted by the steps of `torch_kernel`."""
PRODUCTS = "tf32"
"""How matrices are multiplied: factors of 11 bits, sums in float32. Pictures are as good (benchmarks/products.py)."""


@triton.jit
def block(values, rows, columns, width):
    """The block (rows, columns) of a matrix that is `width` wide."""
    return tl.load(values + rows[:, None] * width + columns[None, :])


@triton.jit
def project(
    now, latent_part, projected, numbers, z,
    N: tl.constexpr, H: tl.constexpr, Z: tl.constexpr, K: tl.constexpr, U: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """Multiply the latents (anchors, Z) for every slot, into `projected` (N, anchors, H)."""
    for slot in range(N):
        for first in range(0, H, U):
            units = first + tl.arange(0, U)
            part = tl.dot(now, block(latent_part, slot * Z + z, units, H), input_precision=PRODUCTS)
            tl.store(projected + (slot * K + numbers)[:, None] * H + units[None, :], part)


@triton.jit
def decode(
    near, relative, target, relative_part, bias, output_part, output_back, output_bias, projected, carried, begin, end,
    N: tl.constexpr, C: tl.constexpr, R: tl.constexpr, H: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
    U: tl.constexpr, W: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """The mean squared error of the pixels from `begin` to `end`; into `carried` (pixels, H) its gradient by their
    hidden values."""
    r, w, squares, count = tl.arange(0, R), tl.arange(0, W), 0.0, (end - begin) * C
    for first in range(begin, end, P):
        pixel = first + tl.arange(0, P)
        inside = (pixel < end)[:, None]
        gaps = tl.load(relative + pixel[:, None] * R + r[None, :], mask=inside, other=0.0)
        found = tl.zeros([P, W], tl.float32) + tl.load(output_bias + w)[None, :]
        for unit in range(0, H, U):
            units = unit + tl.arange(0, U)
            hidden = tl.dot(gaps, block(relative_part, r, units, H), input_precision=PRODUCTS)
            hidden += tl.load(bias + units)[None, :]
            for slot in range(N):
                anchor = tl.load(near + pixel * N + slot, mask=pixel < end, other=0)
                hidden += block(projected, slot * K + anchor, units, H)
            hidden = tl.maximum(hidden, 0.0)
            tl.store(carried + (pixel - begin)[:, None] * H + units[None, :], hidden, mask=inside)
            found += tl.dot(hidden, block(output_part, units, w, W), input_precision=PRODUCTS)
        there = inside & (w < C)[None, :]
        error = found - tl.load(target + pixel[:, None] * C + w[None, :], mask=there, other=0.0)
        error = tl.where(there, error, 0.0)
        squares += tl.sum(tl.sum(error * error, axis=1), axis=0)
        error *= 2.0 / count
        tl.debug_barrier()
        for unit in range(0, H, U):
            units = unit + tl.arange(0, U)
            at = carried + (pixel - begin)[:, None] * H + units[None, :]
            back = tl.dot(error, block(output_back, w, units, H), input_precision=PRODUCTS)
            tl.store(at, tl.where(tl.load(at, mask=inside, other=0.0) > 0, back, 0.0), mask=inside)
    return squares / count


@triton.jit
def collect(
    carried, users, user_starts, longest, latent_back, batch, numbers, z,
    N: tl.constexpr, H: tl.constexpr, Z: tl.constexpr, K: tl.constexpr, U: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """The gradient (anchors, Z) from those of the hidden values."""
    gradient = tl.zeros([K, Z], tl.float32)
    for slot in range(N):
        row = (batch * N + slot) * K + numbers
        start, stop = tl.load(user_starts + row), tl.load(user_starts + row + 1)
        most = tl.load(longest + batch * N + slot)
        for first in range(0, H, U):
            units = first + tl.arange(0, U)
            sums = tl.zeros([K, U], tl.float32)
            for i in range(most):
                there = start + i < stop
                user = tl.load(users + start + i, mask=there, other=0)
                sums += tl.load(carried + user[:, None] * H + units[None, :], mask=there[:, None], other=0.0)
            gradient += tl.dot(sums, block(latent_back, slot * H + units, z, Z), input_precision=PRODUCTS)
    return gradient


@triton.jit
def take_steps(
    near, relative, target, ends, image_ends, anchor_ends, users, user_starts, longest,
    latent_part, latent_back, relative_part, bias, output_part, output_back, output_bias,
    projected, carried, latents, losses, rates, spreads, room, steps, images, slow, slower, eps,
    N: tl.constexpr, C: tl.constexpr, Z: tl.constexpr, R: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
    P: tl.constexpr, U: tl.constexpr, W: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """Move the latents of one image by all steps of Adam, and write the loss before each."""
    image = tl.program_id(0)
    numbers, z = tl.arange(0, K), tl.arange(0, Z)
    projected += image.to(tl.int64) * (N * K * H)
    carried += image.to(tl.int64) * room * H
    first_anchor, first_batch = tl.load(anchor_ends + image), tl.load(image_ends + image)
    batches = tl.load(image_ends + image + 1) - first_batch
    there = (numbers < tl.load(anchor_ends + image + 1) - first_anchor)[:, None]
    at = (first_anchor + numbers)[:, None] * Z + z[None, :]
    now = tl.load(latents + at, mask=there, other=0.0)
    mean, square = tl.zeros([K, Z], tl.float32), tl.zeros([K, Z], tl.float32)
    for step in range(steps):
        batch = first_batch + step % batches
        project(now, latent_part, projected, numbers, z, N, H, Z, K, U, PRODUCTS)
        tl.debug_barrier()
        loss = decode(
            near, relative, target, relative_part, bias, output_part, output_back, output_bias, projected, carried,
            tl.load(ends + batch), tl.load(ends + batch + 1), N, C, R, H, K, P, U, W, PRODUCTS,
        )  # fmt: skip
        tl.store(losses + step * images + image, loss)
        tl.debug_barrier()
        gradient = collect(
            carried, users, user_starts, longest, latent_back, batch, numbers, z, N, H, Z, K, U, PRODUCTS
        )
        mean += (1 - slow) * (gradient - mean)
        square = square * slower + (1 - slower) * gradient * gradient
        now -= tl.load(rates + step) * mean / (tl.sqrt(square) / tl.load(spreads + step) + eps)
    tl.store(latents + at, now, mask=there)


def suits(images: Sequence[PreparedImage], decoder: Decoder) -> bool:
    """Whether the kernel can fit these images: few anchors each, a network of one hidden layer and few channels."""
    small = len(decoder.hidden) == 1 and decoder.channels <= LEAST_WIDTH
    return small and max(len(image.positions) for image in images) <= MOST_ANCHORS


def fit_by_triton(images: Sequence[PreparedImage], decoder: Decoder, fit: FitSection) -> tuple[Tensor, Tensor]:
    """Fit images on a GPU or in Triton's interpreter: latents of all (m, z), losses (steps, images)."""
    device, n, z = decoder.device, decoder.n_neighbours, decoder.latent_dim

    def send(array: NDArray[Any] | list[int]) -> Tensor:
        kind = np.int32 if np.asarray(array).dtype.kind in "iu" else np.float32
        return torch.from_numpy(np.ascontiguousarray(array, kind)).to(device, non_blocking=True)

    network, anchors = _Network(decoder), [len(image.positions) for image in images]
    batches = [[image.batch(number) for number in range(image.n_batches)] for image in images]
    most, sizes = _power(max(anchors)), [len(pixels) for parts in batches for pixels in parts]
    near, relative, target = map(send, _lay(images, batches))
    latents = F.pad(send(np.concatenate([image.first_latents() for image in images])), (0, network.z - z))
    losses, width = latents.new_empty(fit.steps, len(images)), len(network.bias)
    taken = np.arange(1, fit.steps + 1)
    take_steps[(len(images),)](
        near, relative, target, send(ends_from(sizes)), send(ends_from([len(parts) for parts in batches])),
        send(ends_from(anchors)), *_users(near, send(sizes), most),
        network.latent_part, network.latent_back, network.relative_part, network.bias,
        network.output_back.T.contiguous(), network.output_back, network.output_bias,
        latents.new_empty(len(images), n * most, width), latents.new_empty(len(images), max(sizes), width),
        latents, losses, send(learning_rates(fit) / (1 - fit.betas[0] ** taken)),
        send(np.sqrt(1 - fit.betas[1] ** taken)), max(sizes), fit.steps, len(images), *fit.betas, fit.eps,
        N=n, C=decoder.channels, Z=network.z, R=relative.shape[1], H=width, K=most,
        P=PIXELS, U=UNITS, W=LEAST_WIDTH, PRODUCTS=PRODUCTS, num_warps=WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return latents[:, :z], losses


class _Network:
    """A decoder in the widths of the kernel, filled up with zeros, all float32.

    `latent_part` (n * Z, H), `latent_back` (n * H, Z) its transpose slot by slot, `relative_part` (R, H), `bias` (H,),
    `output_back` (W, H), `output_bias` (W,).
    """

    def __init__(self, decoder: Decoder) -> None:
        hidden, n, z = decoder.hidden[0], decoder.n_neighbours, decoder.latent_dim
        self.z, more = _power(z), -hidden % UNITS
        latent_part, relative_part = decoder.split_first()
        slots = F.pad(latent_part.view(z, n, hidden).permute(1, 0, 2), (0, more, 0, self.z - z))
        self.latent_part = slots.reshape(-1, hidden + more).contiguous()
        self.latent_back = slots.transpose(1, 2).reshape(-1, self.z).contiguous()
        self.relative_part = F.pad(relative_part, (0, more, 0, _power(2 * n) - 2 * n)).contiguous()
        self.bias = F.pad(decoder.biases[0], (0, more)).contiguous()
        channels = LEAST_WIDTH - decoder.channels
        self.output_back = F.pad(decoder.weights[1], (0, more, 0, channels)).contiguous()
        self.output_bias = F.pad(decoder.biases[1], (0, channels)).contiguous()


def _users(near: Tensor, sizes: Tensor, anchors: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels of every mini-batch by slot and anchor, in order; where each list begins; the longest of a slot.

    Args:
        near: (p, n) anchors of the pixels of all mini-batches end to end.
        sizes: (b,) pixels of each.
        anchors: More than any number in `near`.

    Returns:
        (p * n,), counted from the mini-batch's first pixel, (b * n * anchors + 1,) and (b * n,), int32.
    """
    n, ends = near.shape[1], sizes.cumsum(0)
    batch = torch.repeat_interleave(torch.arange(len(sizes), device=near.device), sizes.long())
    lists = (batch[:, None] * n + torch.arange(n, device=near.device)) * anchors + near
    pixel, starts = transpose(lists, len(sizes) * n * anchors)
    longest = starts.diff().view(-1, anchors).amax(1)
    return (pixel - (ends - sizes)[batch[pixel]]).int(), starts, longest


def _lay(
    images: Sequence[PreparedImage], batches: Sequence[Sequence[NDArray[np.int64]]]
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Pixels of all mini-batches end to end: their anchors (p, n), counted from their image's first, places (p, R) as
    seen from these, and colours (p, C)."""
    near, relative, target = [], [], []
    for image, parts in zip(images, batches, strict=True):
        pixels = np.concatenate(parts)
        near.append(image.neighbours[pixels])
        gaps = standardised_gaps(image.positions, near[-1], places(pixels, image.size[1]), image.relative)
        relative.append(np.pad(gaps, ((0, 0), (0, _power(gaps.shape[1]) - gaps.shape[1]))))
        target.append(image.target[pixels])
    return np.concatenate(near), np.concatenate(relative), np.concatenate(target)


def _power(number: int) -> int:
    """The next power of 2, from `LEAST_WIDTH` on."""
    return max(LEAST_WIDTH, 1 << (number - 1).bit_length())
