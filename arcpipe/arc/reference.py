"""The equations, to be read beside the thesis: short, slow, autograd. The engine is tested against this file.

Everything is computed in the dtype of the decoder. Tests use float64: in float32 the sign of a hidden value near 0 may
flip by rounding, here as in the engine, and two right fits then part by some 1e-4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from arcpipe.arc.anchors import draw_anchors
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.neighbours import nearest_anchors, relative_statistics
from arcpipe.arc.problem import initial_latents, learning_rates, mini_batches
from arcpipe.config import FitSection
from arcpipe.seeds import generator


class ReferenceCloud:
    """One image with its anchors, neighbours, first latents and mini-batches; the same draws as the engine's.

    Args:
        image: (height, width, channels) float in [0, 1].
        seed: Decides all draws.
        dtype: Of latents, image and relative positions.
    """

    def __init__(self, image: NDArray[Any], fit: FitSection, seed: int, dtype: torch.dtype = torch.float32) -> None:
        height, width, channels = image.shape
        anchors = draw_anchors(image, fit, generator(seed, "anchors"))
        neighbours = nearest_anchors(anchors, (height, width), fit.neighbours)
        self.mean, self.std = relative_statistics(anchors, neighbours, (height, width))
        self.positions = torch.from_numpy(anchors)
        self.neighbours = torch.from_numpy(neighbours)
        self.latents = torch.from_numpy(initial_latents(len(anchors), fit, generator(seed, "latents"))).to(dtype)
        self.batches = mini_batches(height * width, fit.pixel_share, generator(seed, "pixels"))
        self.image = torch.tensor(np.asarray(image, np.float32), dtype=dtype).reshape(-1, channels)
        self.width = width

    def loss(self, decoder: Decoder, pixels: Tensor) -> Tensor:
        """Mean squared error over pixels (p,) int64 and channels."""
        return F.mse_loss(decode_reference(decoder, self.encode(pixels)), self.image[pixels])

    def encode(self, pixels: Tensor) -> Tensor:
        """e(x) of eq. 3: the n nearest latents, then their n standardised relative positions; (p, n (z + 2))."""
        nearest = self.neighbours[pixels]
        x = torch.stack([pixels // self.width, pixels % self.width], dim=1)
        relative = (self.positions[nearest] - x[:, None]).to(self.latents.dtype)
        standardised = (relative - self.mean) / self.std
        return torch.cat([self.latents[nearest].flatten(1), standardised.flatten(1)], dim=1)


def decode_reference(decoder: Decoder, v: Tensor) -> Tensor:
    """g(v) of eq. 5: (p, n (z + 2)) to (p, channels)."""
    for weight, bias in zip(decoder.weights[:-1], decoder.biases[:-1], strict=True):
        v = F.relu(F.linear(v, weight, bias))
    return F.linear(v, decoder.weights[-1], decoder.biases[-1])


def fit_cloud_reference(
    image: NDArray[Any], decoder: Decoder, fit: FitSection, seed: int
) -> tuple[ReferenceCloud, NDArray[Any]]:
    """Fit the latents of one image under a frozen decoder.

    Returns:
        The cloud, whose `latents` (k, z) are fitted, and the loss of the mini-batch before each step, (steps,).
    """
    cloud = ReferenceCloud(image, fit, seed, decoder.dtype)
    adam = torch.optim.Adam([cloud.latents.requires_grad_(True)], lr=fit.lr, betas=fit.betas, eps=fit.eps)
    losses = []
    for step, rate in enumerate(learning_rates(fit)):
        adam.param_groups[0]["lr"] = float(rate)
        loss = cloud.loss(decoder, torch.from_numpy(cloud.batches[step % len(cloud.batches)]))
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    cloud.latents.requires_grad_(False)
    return cloud, np.array(losses)
