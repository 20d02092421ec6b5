"""Point Transformer v3 for the classification of planar clouds: the encoder, a mean over the cloud, one linear layer.

Source: arXiv 2312.10035; ARC thesis, section 4 and appendix B. It differs from the network of the thesis in this:

- Planar kernels (5x5, 3x3) instead of 5x5x5 and 3x3x3, the same function on a plane: 0.45 M parameters, not 1.02 M.
- Grid origin and patches are a cloud's own, not the batch's, so a prediction does not depend on its batch, and moving
  a whole cloud changes nothing (in the thesis, table 8, a shift took accuracy from 79 to 58 %). With
  `grid_origin="image"` voxels begin at the image's corner: still no batch mates, but a shift changes the voxels.
- Patches of a cloud have equal lengths, instead of full ones and a remainder.
- Points that share a voxel stay apart (`PlanarConv`), instead of reaching the convolution as duplicates.
- `bias` and `convs` replace what tells tokens where they lie. For some 50 points this is what matters most: see
  docs/training.md.
- The curves are drawn in training only; in evaluation, blocks take the four in turn.
- The relative position's reach is the planar form of PTv3's.
- Dropped branches (drop path) are drawn per cloud, and the shortcut around the position encoding is kept.

Weights start as torch's layers do, the table of relative positions as a normal of std 0.02, as in PTv3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from arcpipe.models.attention import PatchAttention, Patches, PositionBias, cut_patches
from arcpipe.models.classifier import Classifier
from arcpipe.models.planar_conv import Pairs, PlanarConv, neighbour_pairs
from arcpipe.models.pooling import GridPool, new_batch_norm, segment_mean
from arcpipe.models.serialization import CURVES, Curve
from arcpipe.models.share import Draw, batch_norm
from arcpipe.models.voxels import Tokens, coarsen, voxelise

STEM_KERNEL = 5
BLOCK_KERNEL = 3


class Block(nn.Module):
    """Conditional position encoding (if `convs`), then attention and MLP, each behind a layer norm and beside a
    shortcut."""

    def __init__(
        self, channels: int, heads: int, patch: int, mlp_ratio: float, bias: PositionBias, convs: bool
    ) -> None:
        super().__init__()
        hidden = round(channels * mlp_ratio)
        self.position_conv = PlanarConv(channels, channels, BLOCK_KERNEL) if convs else None
        if convs:
            self.position_out = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = PatchAttention(channels, heads, patch, bias)
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(
        self, features: Tensor, tokens: Tokens, pairs: Pairs | None, patches: Patches, branches: Tensor | None
    ) -> Tensor:
        """Features (t, c) to (t, c). `branches` (2, s): factors of every cloud's attention and MLP, None for ones."""
        if self.position_conv is not None:
            features = features + self.position_out(self.position_conv(features, tokens, pairs))
        attended = self.attention(self.attention_norm(features), tokens.coords, patches)
        features = features + _scaled(attended, branches, 0, tokens)
        return features + _scaled(self.mlp(self.mlp_norm(features)), branches, 1, tokens)


def _scaled(branch: Tensor, factors: Tensor | None, which: int, tokens: Tokens) -> Tensor:
    return branch if factors is None else branch * factors[which][tokens.cloud][:, None]


@dataclass(frozen=True)
class Stage:
    """What a stage knows of its tokens: their pairs (None without convolutions), the patches of each block, and the
    token (t,) in which each token of the stage before ends (None in the first)."""

    tokens: Tokens
    pairs: Pairs | None
    patches: list[Patches]
    block: Tensor | None


@dataclass(frozen=True)
class Plan:
    """The integer side of a batch of clouds, and what was drawn for it.

    `order` (m,): the point of each token of the first stage. `branches`: of each block, see `Block.forward`.
    """

    order: Tensor
    stem: Pairs | None
    stages: list[Stage]
    branches: list[Tensor | None]
    n_clouds: int


class PTv3(Classifier):
    """PTv3 classifier of ragged batches of planar clouds. In evaluation, no prediction depends on its batch.

    Args:
        channels, depths, heads: per stage; between stages, 2 x 2 voxels become one.
        patch: most tokens that attend to each other.
        grid_px: voxel edge of the first stage, pixels.
        mlp_ratio: hidden width of a block's MLP over its width.
        drop_path: chance that a cloud skips a branch in the last block; rises linearly from 0 in the first.
        bias: of attention, by the distance: a table of rows and one of columns, as published, or a small network.
        convs: whether the stem and every block begin with a convolution over voxels, as published; else attention's
            bias alone knows where tokens lie, and the stem is a linear layer.
        grid_origin: where voxels and codes begin: at the cloud's own minimum, or at the image's corner.
    """

    head: nn.Linear

    def __init__(
        self,
        latent_dim: int,
        n_classes: int,
        *,
        channels: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        patch: int,
        grid_px: float,
        mlp_ratio: float,
        drop_path: float,
        bias: PositionBias = "table",
        convs: bool = True,
        grid_origin: Literal["cloud", "image"] = "cloud",
    ) -> None:
        super().__init__()
        self.patch, self.grid_px, self.depths, self.grid_origin = patch, grid_px, tuple(depths), grid_origin
        self.convs = convs
        if convs:
            self.stem = PlanarConv(latent_dim, channels[0], STEM_KERNEL, bias=False)
            self.stem_norm = new_batch_norm(channels[0])
        else:
            self.embed = nn.Linear(latent_dim, channels[0])
        self.pools = nn.ModuleList(GridPool(a, b) for a, b in pairwise(channels))
        self.blocks = nn.ModuleList(
            Block(width, n_heads, patch, mlp_ratio, bias, convs)
            for width, n_heads, depth in zip(channels, heads, depths, strict=True)
            for _ in range(depth)
        )
        self.head = nn.Linear(channels[-1], n_classes)
        self.drop_rates = torch.linspace(0, drop_path, len(self.blocks)).tolist()

    def plan(self, positions: Tensor, offsets: Tensor, draw: Draw) -> Plan:
        """Voxels, pairs, patches, curves and dropped branches; drawn if there is a generator."""
        n_clouds, like = len(offsets) - 1, positions.new_empty(0, dtype=self.head.weight.dtype)
        tokens, order = voxelise(positions, offsets, self.grid_px, self.grid_origin)
        stem = neighbour_pairs(tokens.voxel_keys, tokens.voxel_coords, STEM_KERNEL) if self.convs else None
        branches = draw.branches(self.drop_rates, n_clouds, like)
        stages: list[Stage] = []
        for stage, depth in enumerate(self.depths):
            pairs, block = stem.inner() if stem else None, None
            if stage:
                tokens, block = coarsen(tokens)
                if self.convs:
                    pairs = neighbour_pairs(tokens.voxel_keys, tokens.voxel_coords, BLOCK_KERNEL)
            curves = draw_curves(sum(self.depths[:stage]), depth, draw.generator)
            patches = cut_patches(tokens, self.patch, curves)
            stages.append(Stage(tokens, pairs, [patches[curve] for curve in curves], block))
        return Plan(order, stem, stages, branches, n_clouds)

    def _encode(self, latents: Tensor, positions: Tensor, offsets: Tensor, draw: Draw, plan: Plan | None) -> Tensor:
        """Mean of every cloud's last tokens (s, channels[-1])."""
        if not len(latents):
            return latents.new_zeros(len(offsets) - 1, self.head.in_features)
        plan = plan or self.plan(positions, offsets, draw)
        features = latents.index_select(0, plan.order)
        if self.convs:
            features = self.stem(features, plan.stages[0].tokens, plan.stem)
            features = nn.functional.gelu(batch_norm(self.stem_norm, features, draw.share))
        else:
            features = self.embed(features)
        blocks = iter(zip(self.blocks, plan.branches, strict=True))
        for i, stage in enumerate(plan.stages):
            if stage.block is not None:
                features = self.pools[i - 1](features, stage.block, len(stage.tokens), draw.share)
            for patches in stage.patches:
                block, branches = next(blocks)
                features = block(features, stage.tokens, stage.pairs, patches, branches)
        return segment_mean(features, plan.stages[-1].tokens.cloud, plan.n_clouds)


def draw_curves(first: int, n: int, generator: torch.Generator | None) -> list[Curve]:
    """Curves of the blocks `first`, ..., `first + n - 1`: in turn, or in an order drawn for these blocks."""
    order = list(range(len(CURVES)))
    if generator is not None:
        order = torch.randperm(len(CURVES), generator=generator, device=generator.device).tolist()
    return [CURVES[order[(first + i) % len(CURVES)]] for i in range(n)]
