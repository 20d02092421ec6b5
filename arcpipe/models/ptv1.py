"""Point Transformer for the classification of planar clouds: vector attention over the nearest points.

Source: arXiv 2012.09164, sections 3.2 to 3.5. A point attends to its k nearest with a weight for every channel,
which a small network computes from the difference of features and of positions. Between stages a quarter of the points
is kept, chosen as far apart as possible. It sees positions only as differences inside a cloud, on 1/64 of a pixel, so
moving a whole cloud changes nothing; neighbours and chosen points are a cloud's own, so neither do batch mates.

Where it differs: two coordinates; attention normalised over the k neighbours that exist (a cloud may have fewer); one
linear layer after the mean over the cloud; drop path, as in our PTv3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from arcpipe.models.classifier import Classifier
from arcpipe.models.cpu.nearest import farthest, nearest
from arcpipe.models.pooling import new_batch_norm, segment_mean
from arcpipe.models.share import Draw, Share, batch_norm
from arcpipe.models.voxels import FINE_BITS, voxelise

KEEP_ONE_IN = 4


@dataclass(frozen=True, slots=True)
class Near:
    """The neighbours of t points: `rows` (t, k) int64, the point itself first and in place of those that do not exist;
    `present` (t, k) bool, None where all exist; `gaps` (t, k, 2) float, point minus neighbour."""

    rows: Tensor
    present: Tensor | None
    gaps: Tensor


def find_near(
    coords: Tensor, offsets: Tensor, queries: Tensor, query_offsets: Tensor, k: int, unit: float, dtype: torch.dtype
) -> Near:
    """The k nearest of every query, see `cpu.nearest.nearest`; gaps in so many `unit`s of `coords`."""
    rows = nearest(coords, offsets, queries, query_offsets, k)
    present = rows >= 0
    rows = torch.where(present, rows, rows[:, :1])
    gaps = (queries[:, None] - coords[rows]).to(dtype) / unit
    return Near(rows, None if bool(present.all()) else present, gaps)


class VectorAttention(nn.Module):
    """sum over j of softmax_j(g(q_i - k_j + d_ij)) * (v_j + d_ij), d_ij = h(p_i - p_j) (equation 3); (t, c) to (t, c).

    g and h are two linear layers with a ReLU between them; the softmax is each channel's own.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.place = nn.Sequential(nn.Linear(2, channels), nn.ReLU(), nn.Linear(channels, channels))
        self.weigh = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))

    def forward(self, features: Tensor, near: Near) -> Tensor:
        place = self.place(near.gaps)
        key_value = self.key_value(features).index_select(0, near.rows.flatten()).view(*near.rows.shape, -1)
        key, value = key_value.chunk(2, 2)
        scores = self.weigh(self.query(features)[:, None] - key + place)
        if near.present is not None:
            scores = scores.masked_fill(~near.present[:, :, None], -torch.inf)
        return (scores.softmax(1) * (value + place)).sum(1)


class Block(nn.Module):
    """Linear, attention, linear beside a shortcut (figure 4a); batch norm and ReLU after the first two."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(channels, channels, bias=False), nn.Linear(channels, channels)
        self.into_norm, self.mixed_norm = new_batch_norm(channels), new_batch_norm(channels)
        self.attention = VectorAttention(channels)

    def forward(self, features: Tensor, near: Near, factors: Tensor | None, share: Share | None) -> Tensor:
        """Features (t, c) to (t, c); `factors` (t, 1) of the branch, None for ones."""
        branch = batch_norm(self.into_norm, self.into(features), share).relu()
        branch = self.out(batch_norm(self.mixed_norm, self.attention(branch, near), share).relu())
        return features + (branch if factors is None else branch * factors)


class TransitionDown(nn.Module):
    """Linear, batch norm, ReLU, then the maximum over the neighbours of every kept point: (t, in) to (n, out)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(inputs, outputs, bias=False), new_batch_norm(outputs)

    def forward(self, features: Tensor, near: Near, share: Share | None) -> Tensor:
        features = batch_norm(self.norm, self.linear(features), share).relu()
        return features.index_select(0, near.rows.flatten()).view(*near.rows.shape, -1).amax(1)


class PTv1(Classifier):
    """Point Transformer classifier of ragged batches of planar clouds. In evaluation, no prediction depends on others.

    Args:
        channels, depths: per stage; a stage has a quarter of the points of the one before.
        neighbours: points that a point attends to, itself included.
        grid_px: unit of distances in the first stage, pixels; twice as long in each further one.
        drop_path: chance that a cloud skips a branch in the last block; rises linearly from 0 in the first.
    """

    head: nn.Linear

    def __init__(
        self,
        latent_dim: int,
        n_classes: int,
        *,
        channels: Sequence[int],
        depths: Sequence[int],
        neighbours: int,
        grid_px: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.neighbours, self.grid_px, self.depths = neighbours, grid_px, tuple(depths)
        self.stem, self.stem_norm = nn.Linear(latent_dim, channels[0], bias=False), new_batch_norm(channels[0])
        self.downs = nn.ModuleList(TransitionDown(a, b) for a, b in pairwise(channels))
        self.blocks = nn.ModuleList(
            Block(width) for width, depth in zip(channels, depths, strict=True) for _ in range(depth)
        )
        self.head = nn.Linear(channels[-1], n_classes)
        self.drop_rates = torch.linspace(0, drop_path, len(self.blocks)).tolist()

    def _encode(self, latents: Tensor, positions: Tensor, offsets: Tensor, draw: Draw, plan: Any) -> Tensor:
        n_clouds, share = len(offsets) - 1, draw.share
        if not len(latents):
            return latents.new_zeros(n_clouds, self.head.in_features)
        tokens, order = voxelise(positions, offsets, 1.0)  # for its whole numbers and an order that is the cloud's own
        coords, cloud = tokens.fine, tokens.cloud
        features = batch_norm(self.stem_norm, self.stem(latents.index_select(0, order)), share).relu()
        branches = draw.branches(self.drop_rates, n_clouds, self.head.weight)
        for stage, depth in enumerate(self.depths):
            unit = self.grid_px * 2 ** (FINE_BITS + stage)
            if stage:
                chosen, kept = farthest(coords, offsets, KEEP_ONE_IN)
                near = find_near(coords, offsets, coords[chosen], kept, self.neighbours, unit, features.dtype)
                features = self.downs[stage - 1](features, near, share)
                coords, cloud, offsets = coords[chosen], cloud[chosen], kept
            near = find_near(coords, offsets, coords, offsets, self.neighbours, unit, features.dtype)
            for i in range(sum(self.depths[:stage]), sum(self.depths[:stage]) + depth):
                factors = None if (drawn := branches[i]) is None else drawn[0][cloud][:, None]
                features = self.blocks[i](features, near, factors, share)
        return segment_mean(features, cloud, n_clouds)
