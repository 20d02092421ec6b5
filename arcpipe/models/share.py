"""Several processes train on one batch together, each on its own clouds, as one process would on all of them.

Two things in a network look at more than one cloud in training: batch normalisation, and random numbers that are drawn
for all clouds at once. `Share` tells a model which clouds are its own, and how to add up over the processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, slots=True)
class Share:
    """Clouds `low:high` of a batch of `total`; the other processes have the others.

    `add` sums a tensor over all processes, in place. It waits for them: all must call it equally often.
    """

    low: int
    high: int
    total: int
    add: Callable[[Tensor], None]

    def own(self, values: Tensor) -> Tensor:
        """What belongs to these clouds, of `values` (..., total) that every process drew alike."""
        return values[..., self.low : self.high]


def shared_batch_norm(norm: nn.BatchNorm1d, values: Tensor, share: Share) -> Tensor:
    """Batch normalisation (t, c) by the statistics of all processes' rows, with the gradients that one would have.

    The running statistics move as in one process. Where all processes together have fewer than two rows, the running
    statistics normalise.
    """
    with torch.no_grad():
        # In float64: sums of squares lose nothing to the mean, and the order of adding shows only behind float32.
        wide = values.double()
        sums = torch.cat([wide.sum(0), wide.square().sum(0), wide.new_full((1,), len(values))])
        share.add(sums)
        count, width = float(sums[-1]), values.shape[1]
        mean = sums[:width] / count
        variance = (sums[width : 2 * width] / count - mean.square()).clamp_(min=0)
    if count < 2:
        return nn.functional.batch_norm(
            values, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
        )
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        momentum = norm.momentum or 0.0
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean.to(values.dtype), momentum)
        norm.running_var.lerp_((variance * (count / (count - 1))).to(values.dtype), momentum)
    scale = (variance + norm.eps).rsqrt().to(values.dtype)
    normalised: Tensor = _Normalise.apply(values, mean.to(values.dtype), scale, count, share)
    return normalised * norm.weight + norm.bias


class _Normalise(torch.autograd.Function):
    """(values - mean) * scale, where mean and scale are those of `count` rows of all processes.

    Every row moves mean and scale of every process, so the backward adds up over the processes too:
    dx = scale * (g - mean(g) - xhat * mean(g * xhat)), means over all rows.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, mean: Tensor, scale: Tensor, count: float, share: Share) -> Tensor:
        normalised = (values - mean) * scale
        ctx.save_for_backward(normalised, scale)
        ctx.count, ctx.share = count, share
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        normalised, scale = ctx.saved_tensors
        sums = torch.stack([upstream.sum(0), (upstream * normalised).sum(0)]).double()
        ctx.share.add(sums)
        first, second = (sums / ctx.count).to(upstream.dtype)
        return scale * (upstream - first - normalised * second), None, None, None, None
