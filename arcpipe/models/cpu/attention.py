"""Attention within patches on a CPU, as a differentiable function: compiled, in several threads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from arcpipe.models.cpu.attention_loops import attend, attend_backward
from arcpipe.models.cpu.lanes import LANES
from arcpipe.models.cpu.team import PIECES, flat, spread


class CompiledAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d) + bias) v in every patch and head.

    Forward takes `qkv` (t, 3, groups, d, heads of a group), in groups of eight heads, or in one of 1, 2 or 4; `table`
    (width, width, heads), the bias of every distance in rows and columns, query minus key and middle for 0 (longer ones
    have the bias at the edge), `coords` (t, 2), and patches as `order` (t,) and `starts` (p + 1,), see `Patches`; gives
    (t, groups, d, heads of a group).
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, table: Tensor, coords: Tensor, order: Tensor, starts: Tensor) -> Tensor:
        n_tokens, _, groups, depth, inner = qkv.shape
        heads = groups * inner
        out = qkv.new_empty(n_tokens, groups, depth, inner)
        top, share = qkv.new_empty(2, n_tokens, groups * LANES).unbind(0)
        repeated = table.detach().repeat(1, 1, LANES // inner) if inner < LANES else table.detach().contiguous()
        ctx.save_for_backward(qkv, repeated, coords, order, starts, out, top, share)
        shares = torch.arange(PIECES + 1) * int(starts[-1]) // PIECES  # a piece has about as many tokens as another
        ctx.bounds = torch.searchsorted(starts, shares).tolist()
        longest = int(starts.diff().max()) if len(starts) > 1 else 0
        ctx.constants = longest, heads, (0,) * (depth * inner // LANES)
        arrays = [flat(qkv), coords.numpy(), flat(repeated), len(repeated), order.numpy(), starts.numpy()]
        results = [flat(out), flat(top), flat(share)]
        spread(lambda i: attend(*arrays, *ctx.bounds[i : i + 2], *ctx.constants, *results))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        qkv, repeated, coords, order, starts, out, top, share = ctx.saved_tensors
        grad = torch.zeros_like(qkv)
        tables = repeated.new_zeros(PIECES, *repeated.shape)
        arrays = [flat(qkv), coords.numpy(), flat(repeated), len(repeated), order.numpy(), starts.numpy()]
        results = [flat(out), flat(top), flat(share), flat(upstream.contiguous()), flat(grad)]
        pieces = tables.flatten(1).numpy()
        spread(lambda i: attend_backward(*arrays, *ctx.bounds[i : i + 2], *ctx.constants, *[*results, pieces[i]]))
        heads = ctx.constants[1]
        return grad, tables.sum(0)[..., :heads], None, None, None  # the other lanes say the same
