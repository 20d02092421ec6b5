"""Point Transformer v3 for the classification of planar clouds: the encoder, a mean over the cloud, one linear layer.

Source: arXiv 2312.10035; ARC thesis, section 4 and appendix B. What differs from the published experiments, and why, is
in `docs/models.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arcpipe.models.attention import PatchAttention, Patches, cut_patches
from arcpipe.models.planar_conv import Pairs, PlanarConv, neighbour_pairs
from arcpipe.models.pooling import GridPool, batch_norm, segment_mean
from arcpipe.models.serialization import CURVES, Curve
from arcpipe.models.voxels import Tokens, coarsen, voxelise

STEM_KERNEL = 5


@dataclass(frozen=True, slots=True)
class Branches:
    """Which clouds keep the two branches of a block: (2, s) factors, 0 or 1 / keep; None keeps all."""

    factors: Tensor | None
    cloud: Tensor

    def __call__(self, which: int, branch: Tensor) -> Tensor:
        return branch if self.factors is None else branch * self.factors[which][self.cloud][:, None]


class Block(nn.Module):
    """Conditional position encoding, then attention and MLP, each behind a layer norm and beside a shortcut."""

    def __init__(self, channels: int, heads: int, patch: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = round(channels * mlp_ratio)
        self.position_conv = PlanarConv(channels, channels, 3)
        self.position_out = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = PatchAttention(channels, heads, patch)
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, features: Tensor, tokens: Tokens, pairs: Pairs, patches: Patches, keep: Branches) -> Tensor:
        features = features + self.position_out(self.position_conv(features, tokens, pairs))
        attended = self.attention(self.attention_norm(features), tokens.coords, patches)
        features = features + keep(0, attended)
        return features + keep(1, self.mlp(self.mlp_norm(features)))


class PTv3(nn.Module):
    """PTv3 classifier of ragged batches of planar clouds. A prediction never depends on the batch it is made in.

    Args:
        latent_dim: width of a latent.
        n_classes: number of logits.
        channels, depths, heads: per stage; between stages, 2 x 2 voxels become one.
        patch: most tokens that attend to each other.
        grid_px: voxel edge of the first stage, pixels.
        mlp_ratio: hidden width of a block's MLP over its width.
        drop_path: chance that a cloud skips a branch in the last block; rises linearly from 0 in the first.
    """

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
    ) -> None:
        super().__init__()
        self.patch, self.grid_px = patch, grid_px
        self.stem = PlanarConv(latent_dim, channels[0], STEM_KERNEL, bias=False)
        self.stem_norm = _batch_norm(channels[0])
        self.pools = nn.ModuleList(GridPool(a, b, _batch_norm(b)) for a, b in zip(channels, channels[1:], strict=False))
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(width, n_heads, patch, mlp_ratio) for _ in range(depth))
            for width, n_heads, depth in zip(channels, heads, depths, strict=True)
        )
        self.head = nn.Linear(channels[-1], n_classes)
        self.drop_rates = torch.linspace(0, drop_path, sum(depths)).tolist()

    def forward(
        self, latents: Tensor, positions: Tensor, offsets: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits (s, classes) of s clouds.

        Args:
            latents: (m, z) float.
            positions: (m, 2) float, (row, column), pixels.
            offsets: (s + 1,) int64; cloud i owns points `offsets[i]:offsets[i + 1]`. An empty cloud gets the logits of a
                zero vector.
            generator: draws the curves and the dropped branches; needed in training, unused in evaluation.

        Raises:
            ValueError: shapes disagree, or no generator in training.
            ConfigError: a cloud is wider than 2**16 voxels.
        """
        n_clouds = len(offsets) - 1
        self._check(latents, positions, offsets, generator)
        if not len(latents):
            return self.head(latents.new_zeros(n_clouds, self.head.in_features))
        tokens, order = voxelise(positions, offsets, self.grid_px)
        features, pairs = latents[order], neighbour_pairs(tokens.voxel_keys, tokens.voxel_coords, STEM_KERNEL)
        features = nn.functional.gelu(batch_norm(self.stem_norm, self.stem(features, tokens, pairs)))
        pairs = pairs.inner()
        factors = self._draw_branches(n_clouds, generator)
        done = 0
        for stage, blocks in enumerate(self.stages):
            if stage:
                tokens, block_of = coarsen(tokens)
                features = self.pools[stage - 1](features, block_of, len(tokens))
                pairs = neighbour_pairs(tokens.voxel_keys, tokens.voxel_coords, 3)
            curves = self._curves(done, len(blocks), generator)
            patches = cut_patches(tokens, self.patch, tuple(dict.fromkeys(curves)))
            for block, curve in zip(blocks, curves, strict=True):
                features = block(features, tokens, pairs, patches[curve], Branches(factors[done], tokens.cloud))
                done += 1
        return self.head(segment_mean(features, tokens.cloud, n_clouds))

    def _curves(self, done: int, n: int, generator: torch.Generator | None) -> list[Curve]:
        """The curve of each of a stage's n blocks: in turn, and in training in an order drawn for the stage."""
        order = list(range(len(CURVES)))
        if self.training and generator is not None:
            order = torch.randperm(len(CURVES), generator=generator, device=generator.device).tolist()
        return [CURVES[order[(done + i) % len(CURVES)]] for i in range(n)]

    def _draw_branches(self, n_clouds: int, generator: torch.Generator | None) -> list[Tensor | None]:
        """Factors (2, s) of every block's branches: in training, a cloud skips a branch at the block's rate."""
        if not self.training or not any(self.drop_rates):
            return [None] * len(self.drop_rates)
        device = self.head.weight.device
        drawn = torch.rand(
            len(self.drop_rates), 2, n_clouds, generator=generator, device=generator.device if generator else device
        ).to(device, self.head.weight.dtype)
        return [
            (chance >= rate).to(chance.dtype) / (1 - rate) if rate else None
            for rate, chance in zip(self.drop_rates, drawn, strict=True)
        ]

    def _check(
        self, latents: Tensor, positions: Tensor, offsets: Tensor, generator: torch.Generator | None
    ) -> None:
        points, last = len(latents), int(offsets[-1])
        if positions.shape != (points, 2) or last != points:
            raise ValueError(
                f"latents {tuple(latents.shape)}, positions {tuple(positions.shape)} and offsets to {last} disagree"
            )
        if self.training and generator is None:
            raise ValueError("in training, PTv3 needs a torch.Generator: it draws curves and dropped branches")


def _batch_norm(channels: int) -> nn.BatchNorm1d:
    # PTv3 has momentum 0.01, for schedules of 100,000 steps; a run here may have a few hundred.
    return nn.BatchNorm1d(channels, eps=1e-3, momentum=0.1)
