"""Submanifold convolution on planar voxels: outputs only where there are inputs, empty voxels count as zeros.

In three dimensions and for a planar cloud, the published network's 5x5x5 and 3x3x3 kernels touch only their middle
plane; 5x5 and 3x3 are the same function with 56 % fewer parameters in all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from arcpipe.cloud import spread
from arcpipe.models.cpu import compilable
from arcpipe.models.pooling import segment_mean, widened
from arcpipe.models.serialization import CODE_BITS, COORD_BITS
from arcpipe.models.voxels import Tokens


@dataclass(frozen=True, slots=True)
class Pairs:
    """Which voxel feeds which, for every place of a `kernel` x `kernel` window except its middle.

    `source`, `target` (n,) int64 rows of voxels, the window's places one after another in raster order, `counts` pairs
    each: target + place = source.
    """

    kernel: int
    source: Tensor
    target: Tensor
    counts: list[int]
    spconv: dict[str, Any] = field(default_factory=dict, compare=False)
    """What spconv found for itself, for the next block of the stage."""

    def inner(self) -> Pairs:
        """The pairs of the window that is one voxel smaller on every side."""
        rim = {0, self.kernel - 1}
        places = [divmod(place, self.kernel) for place in range(self.kernel**2) if place != self.kernel**2 // 2]
        keep = [i for i, place in enumerate(places) if rim.isdisjoint(place)]
        sources, targets = torch.split(self.source, self.counts), torch.split(self.target, self.counts)
        return Pairs(
            self.kernel - 2,
            torch.cat([sources[i] for i in keep]),
            torch.cat([targets[i] for i in keep]),
            [self.counts[i] for i in keep],
        )


def neighbour_pairs(keys: Tensor, coords: Tensor, kernel: int) -> Pairs:
    """Find the pairs of an odd `kernel` >= 3 by binary search: in compiled loops on a CPU, else in plain torch.

    Args:
        keys: (v,) int64, strictly rising: cloud and Morton code, so that clouds never touch.
        coords: (v, 2) int64, the same voxels' coordinates.

    Within a place, targets rise.
    """
    if keys.device.type != "cpu":
        return search_pairs(keys, coords, kernel)
    from arcpipe.models.cpu.conv import find_pairs

    return Pairs(kernel, *find_pairs(keys, coords, kernel))


def search_pairs(keys: Tensor, coords: Tensor, kernel: int) -> Pairs:
    """Do what `neighbour_pairs` does in plain torch."""
    reach, middle = kernel // 2, kernel**2 // 2
    shifts = torch.arange(-reach, reach + 1, device=keys.device)[:, None, None]
    moved = coords.T[None] + shifts  # (kernel, 2, v): rows and columns moved by every step of the window
    inside = (moved >= 0) & (moved < 1 << COORD_BITS)
    bits = spread(moved.clamp(0))
    cloud = keys >> CODE_BITS << CODE_BITS
    wanted = (bits[:, None, 0] << 1 | bits[None, :, 1]).flatten(0, 1) | cloud
    found = torch.searchsorted(keys, wanted).clamp_(max=max(len(keys) - 1, 0))
    hit = (keys[found] == wanted) & (inside[:, None, 0] & inside[None, :, 1]).flatten(0, 1)
    hit[middle] = False
    counts = hit.sum(1).tolist()
    del counts[middle]
    return Pairs(kernel, found[hit], hit.nonzero()[:, 1], counts)


class PlanarConv(nn.Module):
    """Submanifold planar convolution of tokens (t, in) to (t, out).

    Where several tokens lie in one voxel, the window's middle sees the token itself and its other places see the mean
    of a neighbouring voxel's tokens: no token is lost and no voxel is counted twice. Where every token has a voxel of
    its own, this is `torch.nn.functional.conv2d` on the zero-filled grid.

    `weight` (kernel, kernel, in, out) starts uniform in +-1/sqrt(kernel**2 * in), torch's default for convolutions.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__()
        self.backend = "auto"
        bound = 1 / math.sqrt(kernel**2 * inputs)
        self.weight = nn.Parameter(torch.empty(kernel, kernel, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound)) if bias else None

    def forward(self, features: Tensor, tokens: Tokens, pairs: Pairs) -> Tensor:
        if self.backend == "spconv":
            return self._spconv(features, tokens, pairs)
        weights = self.weight.flatten(0, 1)
        middle = len(weights) // 2
        out = torch.nn.functional.linear(features, weights[middle].T, self.bias)
        around = torch.cat([weights[:middle], weights[middle + 1 :]])
        if tokens.voxel is None:
            return self._add_products(out, features, around, pairs)
        voxels = segment_mean(features, tokens.voxel, len(tokens.voxel_keys))
        start = out.new_zeros(len(voxels), out.shape[1])
        return out + self._add_products(start, voxels, around, pairs)[tokens.voxel]

    def _spconv(self, features: Tensor, tokens: Tokens, pairs: Pairs) -> Tensor:
        from arcpipe.models.backends.spconv import convolve

        where = (tokens.voxel_keys, tokens.voxel_coords, pairs.spconv)
        if tokens.voxel is None:
            out = convolve(features, self.weight, *where)
            return out if self.bias is None else out + self.bias
        middle = self.weight.shape[0] // 2
        voxels = segment_mean(features, tokens.voxel, len(tokens.voxel_keys))
        around = self.weight.clone()
        around[middle, middle] = 0
        own = torch.nn.functional.linear(features, self.weight[middle, middle].T, self.bias)
        return own + convolve(voxels, around, *where)[tokens.voxel]

    def _add_products(self, out: Tensor, voxels: Tensor, weights: Tensor, pairs: Pairs) -> Tensor:
        """Add every pair's source row times its place's weight to its target row of `out` (v, out).

        Dense windows take 10 times longer at 5 % anchors.
        """
        if self.backend != "torch" and compilable(voxels):
            from arcpipe.models.cpu.conv import PairProducts, fills_registers

            _, inputs, outputs = weights.shape
            if fills_registers(inputs, outputs, voxels.requires_grad):
                return out + PairProducts.apply(voxels, weights, pairs.source, pairs.target, pairs.counts)
        rows = torch.split(voxels.index_select(0, pairs.source), pairs.counts)
        products = torch.cat([row @ weight for row, weight in zip(rows, weights.unbind(0), strict=True)])
        return widened(out).index_add(0, pairs.target, widened(products))
