"""The fit on a CPU: one image after the other, all its steps in one compiled call that needs neither torch nor the GIL.

An image that is worked on by one thread from first to last fits into that core's cache as long as it is small, and has
the same bits whatever is fitted beside it; several threads take several images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from arcpipe.arc.adam import Adam, learning_rates
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.kernels import fused
from arcpipe.arc.kernels.layout import (
    MOST_CHANNELS,
    Learned,
    Network,
    Scene,
    Work,
    decoder_gradients,
    lay_network,
    lay_scene,
    lay_work,
    no_gradients,
    zeros,
)
from arcpipe.arc.problem import PreparedImage, Solution
from arcpipe.config import FitSection

TILE_PIXELS = 512
"""Supervised pixels of a tile: 1.2 MB of work memory. From 256 to 4096 equally fast within 4 % (Zen 4, 1 MiB of L2)."""
CHUNKS = 8
"""Into so many groups the images are dealt for pretraining, whatever the number of threads, so that sums are always
taken in one order."""

T = TypeVar("T")
R = TypeVar("R")


class NumbaKernel:
    """See `arcpipe.arc.kernels.Kernel`. Uses as many threads as torch is set to."""

    group_pixels = 2**18

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    @staticmethod
    def supports(decoder: Decoder) -> bool:
        """One hidden layer, few channels, on a CPU."""
        return (
            decoder.device.type == "cpu"
            and decoder.dtype == torch.float32
            and len(decoder.hidden) == 1
            and decoder.channels <= MOST_CHANNELS
        )

    def run(self, images: Sequence[PreparedImage], fit: FitSection, memory_bytes: int) -> list[Solution]:
        network = lay_network(self.decoder)
        return spread(lambda image: fit_image(image, network, fit), images)

    def run_jointly(self, images: Sequence[PreparedImage], fit: FitSection, memory_bytes: int) -> NDArray[np.float32]:
        decoder = self.decoder
        adam = Adam([*decoder.weights, *decoder.biases], fit)
        network = lay_network(decoder)
        chunks = [Chunk(images[i::CHUNKS], network) for i in range(min(CHUNKS, len(images)))]
        threads = min(torch.get_num_threads(), len(chunks))
        # Work memory belongs to a thread, not to a chunk: it stays in that core's cache.
        teams = [(chunks[i::threads], lay_work(network, [c.scene for c in chunks])) for i in range(threads)]
        losses = np.zeros(fit.steps, np.float32)
        for step in range(fit.steps):
            spread(lambda team: step_chunks(step, *team, network, fit), teams)  # noqa: B023
            losses[step] = sum(float(chunk.losses.sum(dtype=np.float64)) for chunk in chunks) / len(images)
            total = Learned(
                *(np.sum(parts, axis=0) for parts in zip(*(chunk.learned for chunk in chunks), strict=True))
            )
            adam.update([torch.from_numpy(part) for part in decoder_gradients(total, network)])
            network = lay_network(decoder)
        return losses


class Chunk:
    """Some images that are pretrained on by one thread: their latents, and Adam's memory of them."""

    def __init__(self, images: Sequence[PreparedImage], network: Network) -> None:
        self.scene = lay_scene(images, TILE_PIXELS)
        self.latents = lay_latents(images, network)
        self.gradient, self.first, self.second = (zeros(self.latents.size) for _ in range(3))
        self.losses = np.zeros(len(images), np.float32)
        self.learned = no_gradients(network)

    def step(self, step: int, network: Network, work: Work, fit: FitSection) -> None:
        """Move the latents; leaves the images' losses and the decoder's gradients in `losses` and `learned`."""
        for part in self.learned:
            part.fill(0)
        fused.accumulate(step, network, self.scene, work, self.latents, self.gradient, self.losses, True, self.learned)
        size, rate = self.latents.size - network.zp, learning_rates(fit)[step]
        fused.move(self.latents, self.gradient, self.first, self.second, size, step + 1, rate, *fit.betas, fit.eps)


def step_chunks(step: int, chunks: Sequence[Chunk], work: Work, network: Network, fit: FitSection) -> None:
    for chunk in chunks:
        chunk.step(step, network, work, fit)


def fit_image(image: PreparedImage, network: Network, fit: FitSection) -> Solution:
    """Fit the latents of one image under a frozen decoder."""
    scene: Scene = lay_scene([image], TILE_PIXELS)
    work: Work = lay_work(network, [scene])
    latents = lay_latents([image], network)
    gradient, first, second = (zeros(latents.size) for _ in range(3))
    losses = np.zeros((fit.steps, 1), np.float32)
    fused.fit_latents(
        fit.steps, network, scene, work, latents, gradient, first, second, losses, no_gradients(network),
        learning_rates(fit), *fit.betas, fit.eps,
    )  # fmt: skip
    rows = latents.reshape(-1, network.zp)[:-1, : network.z]
    return Solution(latents=rows.copy(), losses=losses[:, 0])


def lay_latents(images: Sequence[PreparedImage], network: Network) -> NDArray[np.float32]:
    """The first latents of all images, rows padded, and a row of zeros: (latents + 1, zp), flat."""
    first = np.concatenate([image.latents for image in images])
    latents = zeros((len(first) + 1) * network.zp)
    latents.reshape(-1, network.zp)[:-1, : network.z] = first
    return latents


def spread(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Do the items in as many threads as torch is set to."""
    threads = min(torch.get_num_threads(), len(items))
    if threads < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))
