"""The fit of one sine network as its equations stand: plain torch, autograd, one image at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from arcpipe.cloud import SirenRecord
from arcpipe.siren.network import coordinates, split_layers


def fit_reference(
    image: NDArray[np.float32],
    record: SirenRecord,
    start: NDArray[np.float32],
    rates: Sequence[float],
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> tuple[NDArray[np.float32], list[float]]:
    """Fit a network to an image (height, width, channels) by full batches.

    Returns:
        The vector (P,) after all steps, and the mean squared error before each of them.
    """
    places = torch.from_numpy(coordinates((image.shape[0], image.shape[1]), record)).T
    target = torch.from_numpy(image.reshape(-1, image.shape[2])) * (record.high - record.low) + record.low
    layers = [
        [torch.tensor(tensor, requires_grad=True) for tensor in layer]
        for layer in split_layers(start, record.widths_tuple)
    ]
    adam = torch.optim.Adam([tensor for layer in layers for tensor in layer], betas=betas, eps=eps)
    losses = []
    for rate in rates:
        adam.param_groups[0]["lr"] = float(rate)
        made = places
        for weights, biases in layers[:-1]:
            made = torch.sin(record.omega * functional.linear(made, weights, biases))
        loss = functional.mse_loss(functional.linear(made, *layers[-1]) + record.offset, target)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return torch.cat([tensor.detach().ravel() for layer in layers for tensor in layer]).numpy(), losses
