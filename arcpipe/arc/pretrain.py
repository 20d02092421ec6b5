"""The shared decoder, learned once per dataset: some images fitted jointly with it, then frozen (thesis 3.2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from arcpipe.arc.adam import Adam
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.engine import check_image, checked_device, group_images, tile_pixels
from arcpipe.arc.factorised import DecoderGradient
from arcpipe.arc.kernels.torch_kernel import TorchKernel
from arcpipe.arc.problem import Problem, kept_bytes, prepare_image
from arcpipe.config import FitSection


def pretrain_decoder(
    images: Sequence[NDArray[Any]],
    fit: FitSection,
    seeds: Sequence[int],
    seed: int,
    channels: int,
    *,
    device: str = "cpu",
    memory_bytes: int = 2**30,
) -> tuple[Decoder, NDArray[np.float32]]:
    """Fit a decoder jointly with the clouds of some images; the clouds are thrown away.

    Every step adds up the loss over one mini-batch of each image and moves all latents and the decoder,
    `fit.pretrain_steps` times. Work memory is that of one tile; images, neighbours and latents stay, and of the index
    tensors what fits into `memory_bytes`.

    Args:
        images: (height, width, channels) floats in [0, 1], of any sizes.
        fit: The recipe.
        seeds: One for each image: anchors, first latents and mini-batches.
        seed: For the decoder's first weights.
        channels: Of all images.
        device: Where to compute.
        memory_bytes: Index tensors beyond this are rebuilt in each step. It changes no number.

    Returns:
        The decoder, on the CPU, and the mean loss of the images before each step, (steps,) float32.

    Raises:
        ImageError: an image has another number of channels, no pixels, or values that are not finite.
        DeviceError: there is no such device.
    """
    if len(seeds) != len(images):
        raise ValueError(f"{len(images)} images need as many seeds, found {len(seeds)}")
    for image in images:
        check_image(image, channels)
    decoder = Decoder.initial(fit, channels, seed).to(checked_device(device))
    problems = _problems(images, fit, seeds, decoder, memory_bytes)
    losses = _fit_jointly(problems, decoder, fit)
    return decoder.to("cpu"), losses.cpu().numpy()


def _problems(
    images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int], decoder: Decoder, memory_bytes: int
) -> list[Problem]:
    """Group the images as the engine does; the first ones keep their tiles, as many as fit into the memory."""
    step_pixels = tile_pixels(decoder.device)
    problems = []
    for group in group_images(images, fit, step_pixels):
        prepared = [prepare_image(images[i], fit, seeds[i]) for i in group]
        memory_bytes -= kept_bytes(prepared)
        problems.append(Problem(prepared, tile_pixels=step_pixels, device=decoder.device, keep=memory_bytes >= 0))
    return problems


@torch.no_grad()
def _fit_jointly(problems: Sequence[Problem], decoder: Decoder, fit: FitSection) -> torch.Tensor:
    """Move latents and, in place, the decoder; returns the mean loss (steps,)."""
    kernel = TorchKernel(decoder)
    latents = [problem.latents() for problem in problems]
    latent_adams = [Adam([part], fit) for part in latents]
    decoder_adam = Adam([*decoder.weights, *decoder.biases], fit)
    sums = DecoderGradient.zeros(decoder)
    n_images = sum(len(problem.images) for problem in problems)
    losses = torch.zeros(fit.pretrain_steps, device=decoder.device)
    for step in range(fit.pretrain_steps):
        sums.zero_()
        for problem, part, adam in zip(problems, latents, latent_adams, strict=True):
            gradient = torch.zeros_like(part)
            loss = torch.zeros(len(problem.images), device=decoder.device)
            for tile in problem.tiles(step):
                kernel.accumulate(tile, part, gradient, loss, sums)
            adam.update([gradient])
            losses[step] += loss.sum() / n_images
        first = decoder.join_first(sums.latent_part, sums.relative_part)
        decoder_adam.update([first, *sums.weights, *sums.biases])
        kernel.network.refresh()
    return losses
