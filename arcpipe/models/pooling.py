"""Reductions over segments: the maximum inside a voxel between stages, the mean over a cloud at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from arcpipe.models.cpu import compilable
from arcpipe.models.share import Share, batch_norm


def segment_mean(values: Tensor, segment: Tensor, n: int) -> Tensor:
    """Mean of the rows of `values` (t, c) in each of n segments -> (n, c); an empty segment gives zeros.

    `segment` (t,) int64 in [0, n), any order. Sums of 16-bit values are of 32 bits, and so are their means.
    """
    values = widened(values)
    # Not `bincount`: it asks a GPU for the largest number first.
    counts = torch.zeros(n, device=values.device).index_add_(0, segment, torch.ones(len(segment), device=values.device))
    total = values.new_zeros(n, values.shape[1]).index_add(0, segment, values)
    return total / counts.clamp_(min=1)[:, None].to(values.dtype)


def widened(values: Tensor) -> Tensor:
    """Values of at least 32 bits, in which many of them can be added up."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def segment_max(values: Tensor, segment: Tensor, n: int, backend: str = "auto") -> Tensor:
    """Maximum of the rows of `values` (t, c) in each of n non-empty segments -> (n, c).

    The gradient goes to the lowest row that attains the maximum. The winners are found outside of autograd and then
    gathered: `scatter_reduce`'s own backward took over 10 times longer, and every gradient has one place to go, so the
    result does not depend on the order of additions.
    """
    if backend == "torch-scatter":
        from arcpipe.models.backends import torch_scatter

        return torch_scatter.segment_max(values, segment, n)
    if backend != "torch" and compilable(values):
        from arcpipe.models.cpu.pooling import SegmentMax

        return SegmentMax.apply(values, segment, n)
    index = segment[:, None].expand_as(values)
    with torch.no_grad():
        top = values.new_full((n, values.shape[1]), -torch.inf).scatter_reduce(0, index, values, "amax")
        rows = torch.arange(len(values), device=values.device)[:, None]
        rows = torch.where((values == top[segment]) | values.isnan(), rows, len(values) - 1)
        winner = rows.new_full((n, values.shape[1]), len(values) - 1).scatter_reduce(0, index, rows, "amin")
    return values.gather(0, winner)


def new_batch_norm(channels: int) -> nn.BatchNorm1d:
    """Batch norm as in PTv3, but for its momentum of 0.01: that is for schedules of 100,000 steps, not of 1,000."""
    return nn.BatchNorm1d(channels, eps=1e-3, momentum=0.1)


class GridPool(nn.Module):
    """Between stages: linear, maximum over each block of 2 x 2 voxels, batch norm, GELU. (t, in) -> (blocks, out)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.backend = "auto"
        self.linear, self.norm = nn.Linear(inputs, outputs), new_batch_norm(outputs)

    def forward(self, features: Tensor, block: Tensor, n_blocks: int, share: Share | None = None) -> Tensor:
        pooled = segment_max(self.linear(features), block, n_blocks, self.backend)
        return nn.functional.gelu(batch_norm(self.norm, pooled, share))
