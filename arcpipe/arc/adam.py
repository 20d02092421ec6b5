"""Adam (Kingma and Ba 2015), in place and without autograd; the same formula as `torch.optim.Adam`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from arcpipe.arc.problem import learning_rates
from arcpipe.config import FitSection


class Adam:
    """Moves tensors against their gradients, in place.

    Args:
        parameters: float32 tensors; they are changed by `update`.
        fit: `steps`, `lr`, `schedule`, `betas` and `eps` are read.
    """

    def __init__(self, parameters: Sequence[Tensor], fit: FitSection) -> None:
        self.parameters = tuple(parameters)
        self.rates, self.betas, self.eps = learning_rates(fit), fit.betas, fit.eps
        self.step = 0
        self._first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._second = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._scratch = [torch.empty_like(parameter) for parameter in self.parameters]

    def update(self, gradients: Sequence[Tensor]) -> None:
        """Take one step; `gradients` have the shapes of the parameters."""
        rate = float(self.rates[self.step])
        self.step += 1
        slow, slower = self.betas
        rate /= 1 - slow**self.step
        spread = math.sqrt(1 - slower**self.step)
        for parameter, gradient, first, second, scratch in zip(
            self.parameters, gradients, self._first, self._second, self._scratch, strict=True
        ):
            first.lerp_(gradient, 1 - slow)
            second.mul_(slower).addcmul_(gradient, gradient, value=1 - slower)
            torch.sqrt(second, out=scratch).div_(spread).add_(self.eps)
            parameter.addcdiv_(first, scratch, value=-rate)
