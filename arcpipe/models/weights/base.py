"""What classifiers of sine networks share: a vector of parameters becomes layers.

A network with layers of neurons d_0, ..., d_M has weights W_i (d_i, d_{i+1}), from inputs to outputs, and biases b_i
(d_{i+1}), i = 0 ... M - 1. The order of the neurons of layers 1 to M - 1 means nothing, and no classifier may see it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from arcpipe.cloud import tensor_sizes
from arcpipe.models.classifier import Classifier
from arcpipe.models.share import Draw


class WeightClassifier(Classifier):
    """A classifier of networks, each a cloud of one point.

    Args:
        widths: Neurons of every layer, from the coordinates to the channels.
        dropout: Share of the numbers that a step leaves out.
        start: (P,), the vector in which all networks began. What it was at a parameter then stands beside that
            parameter, scaled to deviation 1 in every tensor: a neuron is known in every network by where it began.
            (0,): it is not given.
    """

    start: Tensor

    def __init__(self, widths: Sequence[int], dropout: float, start: Tensor | None = None) -> None:
        super().__init__()
        self.widths, self.dropout = tuple(widths), dropout
        parts = () if start is None else start.float().split(tensor_sizes(widths))
        scaled = [part / part.square().mean().sqrt().clamp_min(1e-12) for part in parts]
        self.register_buffer("start", torch.cat([torch.zeros(0), *scaled]))

    @property
    def numbers(self) -> int:
        """How many numbers stand for a parameter."""
        return 2 if len(self.start) else 1

    def with_start(self, weights: list[Tensor], biases: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The same with an axis of `numbers` at the end."""
        if not len(self.start):
            return [w.unsqueeze(-1) for w in weights], [b.unsqueeze(-1) for b in biases]
        first = split(self.start.unsqueeze(0), self.widths)
        made = [
            [torch.stack([x, began.expand_as(x)], dim=-1) for x, began in zip(tensors, starts, strict=True)]
            for tensors, starts in zip((weights, biases), first, strict=True)
        ]
        return made[0], made[1]

    def _encode(self, latents: Tensor, positions: Tensor, offsets: Tensor, draw: Draw, plan: Any) -> Tensor:
        """Of latents (s, P), the parameters W_0, b_0, W_1, ... of every network, W_i (d_{i+1}, d_i) in row order.

        Positions say nothing, and there is nothing to plan. Raises ValueError for clouds of other than one point.
        """
        if len(offsets) != len(latents) + 1:
            raise ValueError(f"{len(latents)} points in {len(offsets) - 1} clouds: a network is a cloud of one point")
        return self.encode(*split(latents, self.widths), draw)

    @abstractmethod
    def encode(self, weights: list[Tensor], biases: list[Tensor], draw: Draw) -> Tensor:
        """What the head is given, (s, channels), of weights (s, d_i, d_{i+1}) and biases (s, d_{i+1})."""


def split(latents: Tensor, widths: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Vectors (s, P) as weights (s, d_i, d_{i+1}) and biases (s, d_{i+1}). Raises ValueError where P is another."""
    sizes = tensor_sizes(widths)
    if latents.shape[1] != sum(sizes):
        raise ValueError(f"{latents.shape[1]} parameters, a network {widths} has {sum(sizes)}")
    parts = latents.split(sizes, dim=1)
    weights = [
        part.unflatten(1, (n_out, n_in)).mT for part, (n_in, n_out) in zip(parts[::2], pairwise(widths), strict=True)
    ]
    return weights, list(parts[1::2])


class Mlp(WeightClassifier):
    """The floor: all parameters as one vector. It does see the order of the neurons."""

    def __init__(self, widths: Sequence[int], n_classes: int, width: int, layers: int, dropout: float) -> None:
        super().__init__(widths, dropout)
        sizes = [sum(tensor_sizes(widths)), *[width] * layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.head = nn.Linear(width, n_classes)

    def encode(self, weights: list[Tensor], biases: list[Tensor], draw: Draw) -> Tensor:
        values = torch.cat([part.flatten(1) for pair in zip(weights, biases, strict=True) for part in pair], dim=1)
        for linear, norm in zip(self.hidden, self.norms, strict=True):
            values = draw.dropout(nn.functional.gelu(norm(linear(values))), self.dropout)
        return values
