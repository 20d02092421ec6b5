"""The planar convolution on a CPU: its pairs, and the sum over them as a differentiable function."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from arcpipe.models.cpu.conv_loops import add_outer_products, add_products, find_neighbours, list_pairs
from arcpipe.models.cpu.team import flat, pieces, spread
from arcpipe.models.serialization import CODE_BITS, COORD_BITS


def fills_registers(inputs: int, outputs: int, differentiable: bool) -> bool:
    """Whether the channels are whole registers; those of differentiable features are outputs of the way back."""
    return outputs % 16 == 0 and inputs % (16 if differentiable else 4) == 0


def find_pairs(keys: Tensor, coords: Tensor, kernel: int) -> tuple[Tensor, Tensor, list[int]]:
    """Source, target and counts of `neighbour_pairs`."""
    codes, cells = keys.numpy(), coords.numpy()
    clouds = codes >> CODE_BITS
    firsts, lasts = (np.searchsorted(clouds, clouds, side) for side in ("left", "right"))
    near = np.empty((kernel**2 // 2, len(codes)), np.int32)
    ends = pieces(len(codes))
    constants = (kernel, CODE_BITS, COORD_BITS)
    spread(lambda i: find_neighbours(codes, cells, *constants, *ends[i], firsts, lasts, near))
    counts, nothing = np.zeros(2 * len(near), np.int64), np.zeros(0, np.int64)
    list_pairs(near, counts, nothing, nothing)
    source, target = np.empty((2, int(counts.sum())), np.int64)
    list_pairs(near, counts, source, target)
    return torch.from_numpy(source), torch.from_numpy(target), counts.tolist()


class PairProducts(torch.autograd.Function):
    """`out[target] += features[source] @ weight of the pair's place`, from zeros.

    Forward takes `features` (v, in), `weights` (places, in, out), and `Pairs`'s source, target and counts. Places stand
    in the order of a window without its middle, targets rise within a place.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weights: Tensor, source: Tensor, target: Tensor, counts: list[int]
    ) -> Tensor:
        features, weights = features.contiguous(), weights.contiguous()
        ctx.save_for_backward(features, weights, source, target)
        ctx.bounds = np.cumsum([0, *counts])
        return _sums(features, weights, source, target, ctx.bounds)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        features, weights, source, target = ctx.saved_tensors
        upstream = upstream.contiguous()
        grad = None
        if ctx.needs_input_grad[0]:
            # The pairs of the opposite place are the same with their ends exchanged: the way back is a convolution.
            grad = _sums(upstream, weights.flip(0).transpose(1, 2).contiguous(), source, target, ctx.bounds)
        _, inputs, outputs = weights.shape
        weight_grad = torch.zeros_like(weights)
        arrays = (flat(features), flat(upstream), source.numpy(), target.numpy(), ctx.bounds)
        ends, into = [(4 * low, 4 * high) for low, high in pieces(inputs // 4)], flat(weight_grad)
        spread(lambda i: add_outer_products(*arrays, *ends[i], inputs, outputs, into))
        return grad, weight_grad, None, None, None


def _sums(features: Tensor, weights: Tensor, source: Tensor, target: Tensor, bounds: NDArray[np.int64]) -> Tensor:
    _, inputs, outputs = weights.shape
    out = features.new_zeros(len(features), outputs)
    arrays = (flat(features), flat(weights), source.numpy(), target.numpy(), bounds)
    ends, into = pieces(len(features)), flat(out)
    spread(lambda i: add_products(*arrays, *ends[i], inputs, outputs, into))
    return out
