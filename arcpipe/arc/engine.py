"""Images to clouds and clouds to images, by the factorised form of METHOD section 2; checked against `reference`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.factorised import Factorised
from arcpipe.arc.kernels import choose_kernel
from arcpipe.arc.neighbours import nearest_at
from arcpipe.arc.problem import Problem, bytes_per_pixel, count_batches, prepare_image, standardised_gaps
from arcpipe.arc.tiles import Pixels, build_tile
from arcpipe.config import FitSection
from arcpipe.errors import DeviceError, ImageError

TILE_PIXELS = {"cpu": 4096, "cuda": 2**18}
"""Pixels that one step works on together."""
BLOCK = 64
"""Side of the squares in which an image is decoded, pixels."""


@dataclass(frozen=True, slots=True)
class FittedCloud:
    """A fitted image: `positions` (k, 2) int64, `latents` (k, z) float32, `neighbours` (pixels, n) int32 rows of them in
    raster order, `relative` mean and std of `anchor - pixel` in pixels, `losses` (steps,) float32 of each mini-batch."""

    positions: NDArray[np.int64]
    latents: NDArray[np.float32]
    neighbours: NDArray[np.int32]
    relative: tuple[float, float]
    losses: NDArray[np.float32]


def fit_clouds(
    images: Sequence[NDArray[Any]],
    decoder: Decoder,
    fit: FitSection,
    seeds: Sequence[int],
    *,
    kernel: str = "auto",
    device: str = "cpu",
    memory_bytes: int = 2**30,
) -> list[FittedCloud]:
    """Fit one cloud to each image under a frozen decoder.

    Args:
        images: (height, width, channels) floats in [0, 1], of any sizes.
        decoder: Made for `fit.neighbours`, `fit.latent_dim` and the images' channels.
        fit: The recipe.
        seeds: One for each image; it alone decides anchors, first latents and mini-batches.
        kernel: `auto` or a name in `arcpipe.arc.kernels.KERNELS`.
        device: Where to compute.
        memory_bytes: Index tensors beyond this are rebuilt in each step instead of kept (about half the speed). It changes no
            number. A single image takes what its pixels and latents take, however small this is.

    Returns:
        Clouds in the order of the images. On a CPU a cloud is the same, bit for bit, whatever images are fitted beside it.

    Raises:
        ImageError: an image has another number of channels, no pixels, or values that are not finite.
        DeviceError: there is no such device.
    """
    for image in images:
        check_image(image, decoder.channels)
    decoder = decoder.to(checked_device(device))
    solver = choose_kernel(kernel, decoder)
    clouds: dict[int, FittedCloud] = {}
    for group in group_images([image.shape[0] * image.shape[1] for image in images], fit, TILE_PIXELS[decoder.device.type]):
        prepared = [prepare_image(images[i], fit, seeds[i]) for i in group]
        problem = make_problem(prepared, decoder, memory_bytes)
        latents = problem.latents()
        losses = solver.run(problem, latents, fit)
        clouds.update(zip(group, split_clouds(problem, latents, losses), strict=True))
    return [clouds[i] for i in range(len(images))]
