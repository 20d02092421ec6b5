"""The maximum inside segments on a CPU, as a differentiable function: one pass over the rows."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from arcpipe.compiled import compiled


@compiled
def find_maxima(values, segment, top, winner):
    """Maxima `top` (n, c) of the rows of `values` (t, c) and the lowest rows that attain them; a NaN is the largest."""
    winner[:] = -1
    for row in range(len(values)):
        s = segment[row]
        for c in range(values.shape[1]):
            value, best = values[row, c], top[s, c]
            if winner[s, c] < 0 or not (value <= best or best != best):
                top[s, c] = value
                winner[s, c] = row


class SegmentMax(torch.autograd.Function):
    """`segment_max` of values (t, c) float32 in n segments, none of them empty."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, segment: Tensor, n: int) -> Tensor:
        top = values.new_empty(n, values.shape[1])
        winner = torch.empty(n, values.shape[1], dtype=torch.int64)
        find_maxima(values.detach().contiguous().numpy(), segment.numpy(), top.numpy(), winner.numpy())
        ctx.save_for_backward(winner)
        ctx.shape = values.shape
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (winner,) = ctx.saved_tensors
        return upstream.new_zeros(ctx.shape).scatter_(0, winner, upstream), None, None
