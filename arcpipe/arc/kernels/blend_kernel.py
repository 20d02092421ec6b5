"""The kind `blend` on a CPU, compiled: one hidden layer, an image at a time on each thread.

A latent is multiplied by the first layer once in a step; a pixel then adds its relative positions to the products of
its neighbours, blends and scatters, in registers. A fit does not depend on the images beside it, nor on the number of
threads; in the last bits it depends on the width of the machine's vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from arcpipe.arc.adam import Adam, learning_rates, ridge_decay
from arcpipe.arc.decoder import Decoder, shares
from arcpipe.arc.kernels.numba_kernel import team
from arcpipe.arc.kernels.torch_kernel import TorchKernel
from arcpipe.arc.memory import BLEND_PIXELS
from arcpipe.arc.problem import FittedCloud, PreparedImage, places, prepare_image, standardised_gaps
from arcpipe.compiled import compiled
from arcpipe.config import FitSection

MOST_CHANNELS = 3
CHUNKS = 8
"""Into so many groups the images of the joint stage are dealt, whatever the number of threads, so that sums are always
taken in one order."""
summing = partial(compiled, fastmath={"reassoc", "contract"})
"""`compiled` where a sum may be taken in any order and with fused products: it becomes vectors. NaN stays NaN."""

Array = NDArray[np.float32]


@dataclass(slots=True)
class Layers:
    """A decoder's arrays as the loops want them: `output` (3, h) and its `offset` (3,), with zeros for no channels."""

    latent: Array
    latent_back: Array
    relative: Array
    bias: Array
    output: Array
    offset: Array

    @classmethod
    def of(cls, decoder: Decoder) -> Layers:
        latent, relative = (part.numpy() for part in decoder.split_first())
        output, offset = np.zeros((MOST_CHANNELS, decoder.hidden[0]), np.float32), np.zeros(MOST_CHANNELS, np.float32)
        output[: decoder.channels] = decoder.weights[1].numpy()
        offset[: decoder.channels] = decoder.biases[1].numpy()
        back = np.ascontiguousarray(latent.T)
        return cls(latent, back, relative, decoder.biases[0].numpy(), output, offset)

    def arrays(self) -> tuple[Array, ...]:
        return self.latent, self.latent_back, self.relative, self.bias, self.output, self.offset


class Fitting:
    """An image in work: its latents, Adam's memory of them, and what is fixed of every pixel."""

    def __init__(self, image: PreparedImage) -> None:
        n_pixels = len(image.target)
        points = places(np.arange(n_pixels), image.size[1])
        self.image, self.latents = image, image.first_latents()
        self.gaps = standardised_gaps(image.positions, image.neighbours, points, image.relative)
        self.share = shares(torch.from_numpy(self.gaps)).numpy()
        self.target = np.zeros((n_pixels, MOST_CHANNELS), np.float32)
        self.target[:, : image.target.shape[1]] = image.target
        self.first, self.second = np.zeros_like(self.latents), np.zeros_like(self.latents)
        self.batches = tuple(np.flatnonzero(image.batch_of == number) for number in range(image.n_batches))

    def step(self, step: int, layers: Layers, fit: FitSection, rate: float, learned: Sequence[Array] | None) -> float:
        """Move the latents; returns the loss before. Adds the decoder's gradients to `learned`, where it is given."""
        batch, channels = self.batches[step % len(self.batches)], self.image.target.shape[1]
        width = layers.latent.shape[1]
        product, back = np.empty((2, len(self.latents), width), np.float32)
        np.dot(self.latents, layers.latent, out=product)
        weight = np.float32(1 / (len(batch) * channels))
        sums = _NOTHING if learned is None else tuple(learned)[1:]
        loss = walk(
            layers.relative, layers.bias, layers.output, layers.offset, product, back, self.image.neighbours,
            self.gaps, self.share, self.target, batch, weight, np.float32(fit.alone), learned is not None, *sums
        )  # fmt: skip
        if learned is not None:
            learned[0] += self.latents.T @ back
            learned[2] += back.sum(0)
        slopes = back @ layers.latent_back + np.float32(ridge_decay(fit, len(self.latents))) * self.latents
        move(self.latents, slopes, self.first, self.second, step + 1, rate, *fit.betas, fit.eps)
        return float(loss)


_NOTHING = (
    np.zeros((2, 1), np.float32),
    np.zeros(1, np.float32),
    np.zeros((3, 1), np.float32),
    np.zeros(3, np.float32),
)


class BlendKernel:
    """See `arcpipe.arc.kernels.Kernel`. Uses as many threads as torch is set to."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    @staticmethod
    def supports(decoder: Decoder) -> bool:
        """The kind `blend`, one hidden layer, few channels, on a CPU."""
        return (
            decoder.kind == "blend"
            and decoder.device.type == "cpu"
            and decoder.dtype == torch.float32
            and len(decoder.hidden) == 1
            and decoder.channels <= MOST_CHANNELS
        )

    def run(
        self, images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int], memory_bytes: int
    ) -> list[FittedCloud]:
        layers, threads = Layers.of(self.decoder), max(1, min(torch.get_num_threads(), len(images)))

        def one(i: int) -> FittedCloud:
            return fit_image(images[i], layers, fit, seeds[i])

        small = [i for i, image in enumerate(images) if image.shape[0] * image.shape[1] <= BLEND_PIXELS]
        with team(threads) as helpers, threadpool_limits(1, user_api="blas"):
            clouds = dict(zip(small, helpers.each(one, small), strict=True))
        large = [i for i in range(len(images)) if i not in clouds]
        others = TorchKernel(self.decoder).run([images[i] for i in large], fit, [seeds[i] for i in large], memory_bytes)
        clouds.update(zip(large, others, strict=True))
        return [clouds[i] for i in range(len(images))]

    def run_jointly(
        self,
        images: Sequence[NDArray[Any]],
        fit: FitSection,
        seeds: Sequence[int],
        memory_bytes: int,
        stepped: Callable[[int], None],
    ) -> NDArray[np.float32]:
        decoder, rates = self.decoder, learning_rates(fit)
        if max(image.shape[0] * image.shape[1] for image in images) > BLEND_PIXELS:
            return TorchKernel(decoder).run_jointly(images, fit, seeds, memory_bytes, stepped)
        fittings = [Fitting(prepare_image(image, fit, seed)) for image, seed in zip(images, seeds, strict=True)]
        chunks = [fittings[i::CHUNKS] for i in range(min(CHUNKS, len(fittings)))]
        adam = Adam([*decoder.weights, *decoder.biases], fit)
        losses = np.zeros(fit.steps, np.float32)
        with team(min(torch.get_num_threads(), len(chunks))) as helpers, threadpool_limits(1, user_api="blas"):
            for step in range(fit.steps):
                layers = Layers.of(decoder)

                def work(chunk: list[Fitting], step: int = step, layers: Layers = layers) -> tuple[float, list[Array]]:
                    learned = [np.zeros_like(part) for part in (layers.latent, *layers.arrays()[2:])]
                    return sum(part.step(step, layers, fit, float(rates[step]), learned) for part in chunk), learned

                found = helpers.each(work, chunks)
                losses[step] = sum(loss for loss, _ in found) / len(images)
                latent, relative, bias, output, offset = (
                    torch.from_numpy(np.sum(parts, axis=0)) for parts in zip(*(sums for _, sums in found), strict=True)
                )
                channels = decoder.channels
                adam.update([decoder.join_first(latent, relative), output[:channels], bias, offset[:channels]])
                stepped(step + 1)
        return losses


def fit_image(image: NDArray[Any], layers: Layers, fit: FitSection, seed: int) -> FittedCloud:
    """Fit the latents of one image under a frozen decoder."""
    work = Fitting(prepare_image(image, fit, seed))
    losses = np.array(
        [work.step(step, layers, fit, float(rate), None) for step, rate in enumerate(learning_rates(fit))], np.float32
    )
    made = work.image
    return FittedCloud(made.positions, work.latents, made.neighbours, made.relative, losses)


@summing
def see(product, row, down, right, to, relative, output):  # type: ignore[no-untyped-def]
    """Hidden values of one latent as a pixel sees it, into `to`; returns what they add to three channels."""
    first = second = third = np.float32(0)
    for j in range(len(to)):
        value = product[row, j] + down * relative[0, j] + right * relative[1, j]
        value = value if value > np.float32(0) else np.float32(0)
        to[j] = value
        first += output[0, j] * value
        second += output[1, j] * value
        third += output[2, j] * value
    return first, second, third


@summing
def give(back, row, hidden, output, first, second, third):  # type: ignore[no-untyped-def]
    """Add a pixel's slopes by the hidden values of one latent to its row of `back`."""
    for j in range(len(hidden)):
        slope = first * output[0, j] + second * output[1, j] + third * output[2, j]
        back[row, j] += slope if hidden[j] > np.float32(0) else np.float32(0)


@summing
def walk(  # type: ignore[no-untyped-def]
    relative, bias, output, offset, product, back, near, gaps, share, target, batch, weight, alone, learn,
    d_relative, d_bias, d_output, d_offset,
):  # fmt: skip
    """Go over the pixels of a mini-batch: the loss, and its slopes by the products of layer 1 into `back`.

    `d_bias` is left to the caller, who has it as the sum of `back`.
    """
    n, width = near.shape[1], product.shape[1]
    for row in range(len(product)):
        for j in range(width):
            product[row, j] += bias[j]
            back[row, j] = np.float32(0)
    hidden = np.empty((n, width), np.float32)
    each = np.empty((n, 3), np.float32)
    slopes = np.zeros((1, width), np.float32)
    together = np.empty(3, np.float32)
    loss = 0.0
    for pixel in batch:
        together[:] = np.float32(0)
        own = np.float32(0)
        for i in range(n):
            values = see(
                product, near[pixel, i], gaps[pixel, 2 * i], gaps[pixel, 2 * i + 1], hidden[i], relative, output
            )
            for c in range(3):
                each[i, c] = values[c] + offset[c] - target[pixel, c]
                together[c] += share[pixel, i] * each[i, c]
                own += share[pixel, i] * each[i, c] * each[i, c]
        all_of_them = together[0] * together[0] + together[1] * together[1] + together[2] * together[2]
        loss += weight * ((np.float32(1) - alone) * all_of_them + alone * own)
        for i in range(n):
            scale = np.float32(2) * weight * share[pixel, i]
            for c in range(3):
                each[i, c] = scale * ((np.float32(1) - alone) * together[c] + alone * each[i, c])
            give(back, near[pixel, i], hidden[i], output, each[i, 0], each[i, 1], each[i, 2])
            if learn:
                slopes[:] = np.float32(0)
                give(slopes, 0, hidden[i], output, each[i, 0], each[i, 1], each[i, 2])
                for axis in range(2):
                    for j in range(width):
                        d_relative[axis, j] += gaps[pixel, 2 * i + axis] * slopes[0, j]
                for c in range(3):
                    d_offset[c] += each[i, c]
                    for j in range(width):
                        d_output[c, j] += each[i, c] * hidden[i, j]
    return loss


@summing
def move(latents, gradient, first, second, step, rate, slow, slower, eps):  # type: ignore[no-untyped-def]
    """One step of Adam (counted from 1); the formula of `arcpipe.arc.adam`."""
    pace, spread = np.float32(rate / (1 - slow**step)), np.float32(np.sqrt(1 - slower**step))
    fresh, keep, share, small = np.float32(1 - slower), np.float32(slower), np.float32(1 - slow), np.float32(eps)
    for row in range(latents.shape[0]):
        for j in range(latents.shape[1]):
            now = gradient[row, j]
            first[row, j] += share * (now - first[row, j])
            second[row, j] = keep * second[row, j] + fresh * now * now
            latents[row, j] -= pace * first[row, j] / (np.sqrt(second[row, j]) / spread + small)
