"""The moving average of a model's weights, which is what a run reports where `optim.ema` is set."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average:
    """A second model whose weights follow those of the first.

    After step t, every floating-point tensor of the state (also the statistics of batch normalisation) becomes
    `d * average + (1 - d) * model`, with d = min(decay, (1 + t) / (10 + t)): short at first, so that nothing of the
    weights that training began with remains. Other tensors are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        self._numbers = [pair for pair in pairs if pair[0].is_floating_point()]
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the model, of which `step` steps were made before."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        averages, tensors = (list(side) for side in zip(*self._numbers, strict=True))
        torch._foreach_lerp_(averages, tensors, share)
        for average, tensor in self._others:
            average.copy_(tensor)


def _tensors(model: nn.Module) -> list[Tensor]:
    return list(model.state_dict(keep_vars=True).values())
