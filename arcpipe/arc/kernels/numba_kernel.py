"""The fit on a CPU, compiled: small images one for each thread, large ones by all threads together.

An image that is worked on by one thread from first to last fits into that core's cache as long as it is small, and its
steps are one call that needs neither torch nor the GIL. The bands of a large image are worked on by whoever is free,
and their sums are taken in one order. So an image has the same bits whatever is fitted beside it and on any threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.kernels import fused, layout, plan
from arcpipe.arc.kernels.squares import cut_image, restore_neighbours
from arcpipe.arc.problem import FittedCloud, learning_rates, prepare_image, share_out
from arcpipe.config import FitSection
from arcpipe.threads import Helpers, compute_threads, team
from arcpipe.threads import each as spread


class NumbaKernel:
    """Fits clouds under a network that `layout.fits`, by as many threads as torch is set to."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def run(
        self, images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int], memory_bytes: int
    ) -> list[FittedCloud]:
        network, threads = layout.lay_network(self.decoder), compute_threads()
        tile = plan.tile_pixels(self.decoder, fit)
        alone, together = share_out([image.shape for image in images], fit, threads, memory_bytes)
        clouds: dict[int, FittedCloud] = {}
        for rows, workers in alone:
            made = spread(lambda i: fit_image(images[i], network, fit, seeds[i], tile), rows, workers)
            clouds.update(zip(rows, made, strict=True))
        for i in together:
            with team(threads) as helpers:
                clouds[i] = fit_image(images[i], network, fit, seeds[i], tile, helpers)
        return [clouds[i] for i in range(len(images))]


def fit_image(
    image: NDArray[Any], network: layout.Network, fit: FitSection, seed: int, tile: int, helpers: Helpers | None = None
) -> FittedCloud:
    """Fit the latents of one image under a frozen decoder. Memory is let go as soon as it has served."""
    prepared = prepare_image(image, fit, seed)
    cut = cut_image(prepared, tile)
    scene = layout.join_scene([prepared], [cut])
    positions, relative, n = prepared.positions, prepared.relative, prepared.neighbours.shape[1]
    latents = layout.lay_latents([prepared], network)
    del prepared
    losses = take_steps(network, scene, latents, fit, helpers)
    rows = latents.reshape(-1, network.zp)[:-1, : network.z]
    neighbours = restore_neighbours(cut, len(positions), n, scene.slots)
    return FittedCloud(positions, rows if rows.flags.c_contiguous else rows.copy(), neighbours, relative, losses)


def take_steps(
    network: layout.Network,
    scene: layout.Scene,
    latents: NDArray[np.float32],
    fit: FitSection,
    helpers: Helpers | None,
) -> NDArray[np.float32]:
    """Move the latents of one image `fit.steps` times; returns the losses."""
    size = latents.size - network.zp  # without the row of zeros
    gradient = layout.zeros(latents.size + len(scene.cut.ghosts) * network.zp)
    first, second = layout.zeros(size), layout.zeros(size)
    losses, learned, rates = np.zeros((fit.steps, 1), np.float32), layout.no_gradients(network), learning_rates(fit)
    n_bands = int(scene.image_bands[1])
    if helpers is None or helpers.count < 2 or n_bands < 2:
        fused.fit_latents(
            fit.steps, network, scene, layout.lay_work(network, [scene]), latents, gradient, first, second, losses,
            learned, rates, *fit.betas, fit.eps,
        )  # fmt: skip
        return losses[:, 0]
    works: SimpleQueue[layout.Work] = SimpleQueue()
    for _ in range(min(helpers.count, n_bands)):
        works.put(layout.lay_work(network, [scene]))
    cuts = np.linspace(0, size // network.zp, 4 * helpers.count + 1).astype(int) * network.zp

    def band_squares(step: int, band: int) -> float:
        work = works.get()
        try:
            made: float = fused.walk_band(step, 0, band, network, scene, work, latents, gradient, False, learned)
            return made
        finally:
            works.put(work)

    def move(step: int, i: int) -> None:
        fused.move(
            latents, gradient, first, second, cuts[i], cuts[i + 1],
            step + 1, rates[step], *fit.betas, fit.eps,
        )  # fmt: skip

    for step in range(fit.steps):
        squares = helpers.each(lambda band: band_squares(step, band), range(n_bands))  # noqa: B023
        fused.lay_ghosts(gradient, scene, network.zp)
        losses[step] = fused.mean_square(sum(squares), step, 0, network, scene)
        helpers.each(lambda i: move(step, i), range(len(cuts) - 1))  # noqa: B023
    return losses[:, 0]
