"""The same network as in three dimensions: what planar kernels and pairs are measured against.

The published PTv3 gives every point a third coordinate, here always 0, and convolves with 3 x 3 x 3 and 5 x 5 x 5
weights. Without a package for sparse convolutions one gathers the rows at all 27 or 125 places, zeros where nothing is,
and multiplies once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from arcpipe.models.planar_conv import Pairs, PlanarConv
from arcpipe.models.pooling import segment_mean
from arcpipe.models.voxels import Tokens


class SpatialConv(nn.Module):
    """`planar` with weights for all three dimensions: the same function of clouds in a plane."""

    def __init__(self, planar: PlanarConv) -> None:
        super().__init__()
        kernel, _, inputs, outputs = planar.weight.shape
        weight = torch.zeros(kernel, kernel, kernel, inputs, outputs)
        weight[kernel // 2] = planar.weight.detach()
        self.weight, self.bias = nn.Parameter(weight), planar.bias

    def forward(self, features: Tensor, tokens: Tokens, pairs: Pairs) -> Tensor:
        kernel, middle = self.weight.shape[0], self.weight.shape[0] // 2
        voxels = features
        if tokens.voxel is not None:
            voxels = segment_mean(features, tokens.voxel, len(tokens.voxel_keys))
        n_places = kernel**2
        rows = torch.full((len(voxels), kernel, n_places), len(voxels))  # the row of zeros
        places = torch.tensor([place for place in range(n_places) if place != n_places // 2])
        rows[pairs.target, middle, places.repeat_interleave(torch.tensor(pairs.counts))] = pairs.source
        if tokens.voxel is None:
            rows[:, middle, n_places // 2] = torch.arange(len(voxels))
        gathered = torch.cat([voxels, voxels.new_zeros(1, voxels.shape[1])]).index_select(0, rows.flatten())
        out = gathered.view(len(voxels), -1) @ self.weight.view(-1, self.weight.shape[-1])
        if tokens.voxel is not None:  # a token sees itself in the middle, as in the planar form
            out = out[tokens.voxel] + features @ self.weight[middle, middle, middle]
        return out if self.bias is None else out + self.bias


def make_spatial(model: nn.Module) -> nn.Module:
    """Replace every planar convolution of a PTv3, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PlanarConv):
                setattr(parent, name, SpatialConv(child))
    return model
