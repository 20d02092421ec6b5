"""The joint stage on a CPU, compiled: the latents of many images and their decoder, moved together (thesis 3.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from arcpipe.arc.adam import Adam
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.kernels import fused, layout, plan
from arcpipe.arc.kernels.squares import cut_image
from arcpipe.arc.problem import learning_rates, prepare_image
from arcpipe.config import FitSection
from arcpipe.threads import compute_threads, team

CHUNKS = 8
"""Into so many groups the images are dealt, whatever the number of threads, so that sums are always taken in one
order."""


def fit_jointly(
    decoder: Decoder,
    images: Sequence[NDArray[Any]],
    fit: FitSection,
    seeds: Sequence[int],
    stepped: Callable[[int], None],
) -> NDArray[np.float32]:
    """Move all latents and, in place, the decoder; see `TorchKernel.run_jointly`."""
    adam = Adam([*decoder.weights, *decoder.biases], fit)
    network, tile = layout.lay_network(decoder), plan.tile_pixels(decoder, fit)
    chunks = [Chunk(images[i::CHUNKS], seeds[i::CHUNKS], fit, network, tile) for i in range(min(CHUNKS, len(images)))]
    threads = min(compute_threads(), len(chunks))
    # Work memory belongs to a thread, not to a chunk: it stays in that core's cache.
    teams = [(chunks[i::threads], layout.lay_work(network, [c.scene for c in chunks])) for i in range(threads)]
    losses = np.zeros(fit.steps, np.float32)
    with team(threads) as helpers:
        for step in range(fit.steps):
            helpers.each(lambda team: step_chunks(step, *team, network, fit), teams)  # noqa: B023
            losses[step] = sum(float(chunk.losses.sum(dtype=np.float64)) for chunk in chunks) / len(images)
            parts = zip(*(chunk.learned for chunk in chunks), strict=True)
            total = layout.Learned(*(np.sum(part, axis=0) for part in parts))
            adam.update([torch.from_numpy(part) for part in layout.decoder_gradients(total, network, decoder)])
            network = layout.lay_network(decoder)
            stepped(step + 1)
    return losses


class Chunk:
    """Some images that one thread works on: their latents, and Adam's memory of them."""

    def __init__(
        self, images: Sequence[NDArray[Any]], seeds: Sequence[int], fit: FitSection, network: layout.Network, tile: int
    ) -> None:
        prepared = [prepare_image(image, fit, seed) for image, seed in zip(images, seeds, strict=True)]
        self.scene = layout.join_scene(prepared, [cut_image(image, tile) for image in prepared])
        self.latents = layout.lay_latents(prepared, network)
        size = self.latents.size - network.zp
        self.gradient = layout.zeros(self.latents.size + len(self.scene.cut.ghosts) * network.zp)
        self.first, self.second = layout.zeros(size), layout.zeros(size)
        self.losses = np.zeros(len(images), np.float32)
        self.learned = layout.no_gradients(network)

    def step(self, step: int, network: layout.Network, work: layout.Work, fit: FitSection) -> None:
        """Move the latents; leaves the images' losses and the decoder's gradients in `losses` and `learned`."""
        for part in self.learned:
            part.fill(0)
        fused.accumulate(step, network, self.scene, work, self.latents, self.gradient, self.losses, True, self.learned)
        rate = learning_rates(fit)[step]
        moments, whole = (self.first, self.second), (0, len(self.first))
        fused.move(self.latents, self.gradient, *moments, *whole, step + 1, rate, *fit.betas, fit.eps)


def step_chunks(
    step: int, chunks: Sequence[Chunk], work: layout.Work, network: layout.Network, fit: FitSection
) -> None:
    for chunk in chunks:
        chunk.step(step, network, work, fit)
