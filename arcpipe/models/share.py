"""Several processes train on one batch together, each on its own clouds, as one process would on all of them.

Two things in a network look at more than one cloud in training: batch normalisation (`batch_norm`), and random numbers
that are drawn for all clouds at once (`Draw`). `Share` tells a model which clouds are its own, and how to add up over
the processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


@dataclass(frozen=True, slots=True)
class Draw:
    """What is random in one training step: the same numbers however many processes share the batch.

    Without a generator, which is in evaluation, nothing is dropped.
    """

    generator: torch.Generator | None = None
    share: Share | None = None

    def dropout(self, values: Tensor, p: float) -> Tensor:
        """Set a share `p` of the values (s, ...) to zero and enlarge the others."""
        if self.generator is None or p == 0:
            return values
        total, own = self._whole(len(values))
        drawn = torch.rand((total, *values.shape[1:]), generator=self.generator)[own]
        return values * (drawn >= p).to(values) / (1 - p)

    def branches(self, rates: Sequence[float], n_clouds: int, like: Tensor) -> list[Tensor | None]:
        """For every block, factors (2, s) that drop a cloud's branch at the block's rate and keep the expectation.

        They have the type and device of `like`. None, for ones, without a generator and where the rate is 0.
        """
        if self.generator is None:
            return [None] * len(rates)
        total, own = self._whole(n_clouds)
        chance = torch.rand(len(rates), 2, total, generator=self.generator, device=self.generator.device)
        chance = chance[..., own].to(like.device)
        return [(chance[i] >= rate).to(like.dtype) / (1 - rate) if rate else None for i, rate in enumerate(rates)]

    def _whole(self, n: int) -> tuple[int, slice]:
        """How many clouds all processes draw for, and which of them are these n."""
        return (n, slice(None)) if self.share is None else (self.share.total, slice(self.share.low, self.share.high))


def batch_norm(norm: nn.BatchNorm1d, values: Tensor, share: Share | None = None) -> Tensor:
    """Apply `norm` to (t, c); in training, a batch of one row is normalised by the running statistics.

    One row has no variance, and torch refuses it; a batch that holds one tiny cloud is no reason to stop a run.
    With a `share`, rows, statistics and gradients are those of all processes that train on the batch.
    """
    if norm.training and share is not None:
        shared = _shared_batch_norm(norm, values, share)
        if shared is not None:
            return shared
    elif not norm.training or len(values) > 1:
        return norm(values)
    return nn.functional.batch_norm(
        values, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
    )


def _shared_batch_norm(norm: nn.BatchNorm1d, values: Tensor, share: Share) -> Tensor | None:
    """Normalise by the rows of all processes; the running statistics move as in one. None for fewer than two rows."""
    with torch.no_grad():
        # In float64: sums of squares lose nothing to the mean, and the order of adding shows only behind float32.
        wide = values.double()
        sums = torch.cat([wide.sum(0), wide.square().sum(0), wide.new_full((1,), len(values))])
        share.add(sums)
        count, width = float(sums[-1]), values.shape[1]
        mean = sums[:width] / count
        variance = (sums[width : 2 * width] / count - mean.square()).clamp_(min=0)
    if count < 2:
        return None
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
