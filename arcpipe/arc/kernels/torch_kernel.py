"""The fit in plain torch: any device, no autograd in the loop, the same bits in every run on a CPU.

On a GPU a step is some 30 kernels of microseconds each: those of a round of mini-batches are recorded, and replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcpipe.arc.adam import Adam
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.factorised import DecoderGradient, Factorised, sum_rows
from arcpipe.arc.kernels.batch_kernel import has_triton
from arcpipe.arc.problem import FittedCloud, PreparedImage, group_images, learning_rates, prepare_image
from arcpipe.arc.tiles import Tile, Tiled, kept_bytes
from arcpipe.config import FitSection
from arcpipe.threads import each as spread

CPU_TILE_PIXELS = 4096
"""Pixels that a step works on together: 16 images of 32x32. On one thread 1024 to 4096 were equally fast (0.065 to 0.08
CPU seconds an image of 500 steps; 0.09 at 512 and 8192), on two threads 4096 was the fastest (Zen 4, 1 MiB of L2 a
core)."""
GPU_TILE_PIXELS = 2**18
"""Larger, so that a GPU has enough to do: about 0.5 GB of work memory. Chosen without a measurement."""


class TorchKernel:
    """Fits clouds under a network on any device, or together with it.

    Args:
        solver: `triton` (small images by one launch for all steps), `torch`, or `auto`: Triton on a GPU where it is
            installed.
    """

    def __init__(self, decoder: Decoder, solver: str = "auto") -> None:
        self.decoder = decoder
        if solver == "auto":
            solver = "triton" if decoder.device.type == "cuda" and has_triton() else "torch"
        self.solver = solver
        self.network = Factorised(decoder)
        self.group_pixels = CPU_TILE_PIXELS if decoder.device.type == "cpu" else GPU_TILE_PIXELS

    def run(
        self, images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int], memory_bytes: int
    ) -> list[FittedCloud]:
        clouds: dict[int, FittedCloud] = {}
        going: list[tuple[list[int], list[PreparedImage], Tensor, Tensor]] = []

        def collect() -> None:
            for group, members, latents, losses in going:
                clouds.update(zip(group, split_clouds(members, latents, losses), strict=True))
            going.clear()

        for group in group_images([image.shape[:2] for image in images], fit, self.group_pixels):
            # By all threads where these have nothing else to do.
            threads = torch.get_num_threads() if self.decoder.device.type == "cuda" else 1
            members = spread(lambda i: prepare_image(images[i], fit, seeds[i]), group, threads)
            collect()  # a GPU was at work on the group before while this one was prepared
            going.append((group, members, *self._fit(members, fit, memory_bytes)))
            if self.decoder.device.type == "cpu":
                collect()
        collect()
        return [clouds[i] for i in range(len(images))]

    def _fit(self, images: Sequence[PreparedImage], fit: FitSection, memory_bytes: int) -> tuple[Tensor, Tensor]:
        """The latents (m, z) of all images and the losses (steps, images) before each step."""
        if self.solver == "triton":
            from arcpipe.arc.kernels.steps_triton import fit_by_triton, suits

            if suits(images, self.decoder):
                return fit_by_triton(images, self.decoder, fit)
        problem = self._problem(images, keep=kept_bytes(images) <= memory_bytes)
        latents = problem.latents()
        with short_factors():
            return latents, self.fit(problem, latents, fit)

    def _problem(self, images: Sequence[PreparedImage], *, keep: bool) -> Tiled:
        return Tiled(images, tile_pixels=self.group_pixels, device=self.decoder.device, keep=keep)

    @torch.no_grad()
    def fit(self, problem: Tiled, latents: Tensor, fit: FitSection) -> Tensor:
        """Take `fit.steps` steps; changes latents (m, z) in place and returns the losses (steps, images)."""
        if latents.device.type == "cuda" and problem.keeps:
            return Steps(self, problem, latents, fit).replay()
        adam = Adam([latents], fit)
        gradient = torch.zeros_like(latents)
        losses = torch.zeros(fit.steps, len(problem.images), device=latents.device)
        for step in range(fit.steps):
            gradient.zero_()
            for tile in problem.tiles(step):
                self.accumulate(tile, latents, gradient, losses[step])
            adam.update([gradient])
        return losses

    @torch.no_grad()
    def run_jointly(
        self,
        images: Sequence[NDArray[Any]],
        fit: FitSection,
        seeds: Sequence[int],
        memory_bytes: int,
        stepped: Callable[[int], None],
    ) -> NDArray[np.float32]:
        """Move the latents of all images and, in place, the decoder, `fit.steps` times.

        Args:
            stepped: Told the number of steps taken after each of them.

        Returns:
            (steps,) the mean loss of the images before each step.
        """
        decoder = self.decoder
        prepared = [prepare_image(image, fit, seed) for image, seed in zip(images, seeds, strict=True)]
        problems = []
        for group in group_images([image.size for image in prepared], fit, self.group_pixels):
            members = [prepared[i] for i in group]
            memory_bytes -= kept_bytes(members)  # the first groups keep their tiles, as many as fit into the memory
            problems.append(self._problem(members, keep=memory_bytes >= 0))
        latents = [problem.latents() for problem in problems]
        adam = Adam([*latents, *decoder.weights, *decoder.biases], fit)
        losses = torch.zeros(fit.steps, device=decoder.device)
        for step in range(fit.steps):
            sums, gradients = DecoderGradient.zeros(decoder), [torch.zeros_like(part) for part in latents]
            for problem, part, gradient in zip(problems, latents, gradients, strict=True):
                loss = torch.zeros(len(problem.images), device=decoder.device)
                for tile in problem.tiles(step):
                    self.accumulate(tile, part, gradient, loss, sums)
                losses[step] += loss.sum() / len(images)
            first = decoder.join_first(sums.latent_part, sums.relative_part)
            adam.update([*gradients, first, *sums.weights, *sums.biases])
            self.network.refresh()
            stepped(step + 1)
        return losses.cpu().numpy()

    @torch.no_grad()
    def accumulate(
        self, tile: Tile, latents: Tensor, gradient: Tensor, loss: Tensor, into: DecoderGradient | None = None
    ) -> None:
        """Add a tile's share of each image's loss to `loss` (images,), its gradients to `gradient` (m, z) and
        `into`."""
        near = latents if tile.rows is None else latents.index_select(0, tile.rows)
        layers = self.network.forward(near, tile.index, tile.index_offsets, tile.relative)
        error = layers[-1].sub_(tile.target)
        weighted = error * tile.weight
        per_pixel = (error * weighted).sum(1, keepdim=True)
        loss += sum_rows(per_pixel, tile.order, tile.image_offsets).squeeze(1)
        near_gradient = self.network.backward(weighted.mul_(2), layers, near, tile, into)
        if tile.rows is None:
            gradient += near_gradient
        else:
            gradient.index_add_(0, tile.rows, near_gradient)


@contextmanager
def short_factors() -> Iterator[None]:
    """Let a GPU multiply by its tensor cores: factors of 11 bits (TF32), sums in float32 (benchmarks/products.py)."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class Steps:
    """The steps of a fit whose numbers all lie on the device, the number of the step too: a step can be recorded.

    Args:
        problem: Keeps its tiles.
        latents: (m, z), changed in place.
    """

    def __init__(self, kernel: TorchKernel, problem: Tiled, latents: Tensor, fit: FitSection) -> None:
        self.kernel, self.latents = kernel, latents
        self.tiles = [problem.tiles(batch) for batch in range(problem.n_batches)]
        self.rates = torch.from_numpy(learning_rates(fit)).float().to(latents.device)
        self.losses = torch.zeros(fit.steps, len(problem.images), device=latents.device)
        self.loss = torch.zeros_like(self.losses[0])
        self.taken = torch.zeros(1, dtype=torch.int64, device=latents.device)
        self.rate = torch.zeros((), device=latents.device)
        self.gradient = latents.grad = torch.zeros_like(latents)
        on_gpu = latents.device.type == "cuda"
        self.adam = torch.optim.Adam(
            [latents], lr=self.rate, betas=fit.betas, eps=fit.eps, fused=True, capturable=on_gpu
        )
        self.adam.step()  # makes its memory: with a rate and a gradient of 0 nothing moves
        self.adam.state[latents]["step"].zero_()

    def take(self, batch: int) -> None:
        """Take a step on a mini-batch."""
        self.gradient.zero_()
        self.loss.zero_()
        for tile in self.tiles[batch]:
            self.kernel.accumulate(tile, self.latents, self.gradient, self.loss)
        self.losses.index_copy_(0, self.taken, self.loss[None])
        self.rate.copy_(self.rates.index_select(0, self.taken)[0])
        self.adam.step()
        self.taken += 1

    def replay(self) -> Tensor:
        """Take all steps, from a recording of one for each mini-batch and the rest one by one; returns the losses."""
        for tiles in self.tiles:  # the kernel's memory grows to what the largest tile needs, and stays
            for tile in tiles:
                self.kernel.accumulate(tile, self.latents, self.gradient, self.loss)
        rounds, rest = divmod(len(self.losses), len(self.tiles))
        if rounds:
            round_ = torch.cuda.CUDAGraph()
            with torch.cuda.graph(round_):
                for batch in range(len(self.tiles)):
                    self.take(batch)
            for _ in range(rounds):
                round_.replay()
        for batch in range(rest):
            self.take(batch)
        self.latents.grad = None
        return self.losses


def split_clouds(images: Sequence[PreparedImage], latents: Tensor, losses: Tensor) -> list[FittedCloud]:
    """Cut fitted latents (m, z) and losses (steps, images) into one cloud for each image."""
    all_latents, all_losses = latents.cpu().numpy(), losses.cpu().numpy()
    parts = np.split(all_latents, np.cumsum([len(image.positions) for image in images])[:-1])
    return [
        FittedCloud(image.positions, rows.copy(), image.neighbours, image.relative, all_losses[:, i].copy())
        for i, (image, rows) in enumerate(zip(images, parts, strict=True))
    ]
