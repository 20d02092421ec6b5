"""Attention within patches of neighbouring tokens along a curve, with a learned bias of relative grid position.

Source: Point Transformer v3 (arXiv 2312.10035), section 4.2, with two differences. Patches are cut inside each
cloud, never across two. A cloud longer than a patch is cut into equal pieces (51 tokens in patches of at most 25: three
of 17) instead of full patches and a remainder of 1 filled with borrowed tokens: every token sees as many others.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from arcpipe.models.cpu import compilable
from arcpipe.models.serialization import CODE_BITS, CURVES, Curve, encode
from arcpipe.models.voxels import Tokens

PositionBias = Literal["table", "network"]
BIAS_HIDDEN = 32
"""Hidden width of a `RelativeNetwork`."""


@dataclass(frozen=True)
class Patches:
    """The patches along one curve: `order` (t,) int64 tokens, patch after patch, which begin at `starts` (p + 1,)."""

    order: Tensor
    starts: Tensor

    @cached_property
    def padded(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Patches as a table with a row for each and as many slots as the longest has tokens.

        Returns:
            `slots` (p, longest) int64: the token in each slot, token 0 in an empty one.
            `filled` (p, longest) bool; None where no slot is empty.
            `place` (t,) int64: the slot of every token, counted patch by patch.
        """
        lengths, n_tokens = self.starts.diff(), len(self.order)
        longest = int(lengths.max()) if len(lengths) else 0
        slot = torch.arange(longest, device=lengths.device)
        filled = slot < lengths[:, None]
        rank = torch.where(filled, self.starts[:-1, None] + slot, 0)
        slots = torch.where(filled, self.order[rank], 0)
        place = torch.empty_like(self.order)
        place[self.order] = filled.flatten().nonzero().squeeze(1)
        return slots, None if slots.numel() == n_tokens else filled, place


def cut_patches(tokens: Tokens, size: int, curves: Sequence[Curve] = CURVES) -> dict[Curve, Patches]:
    """Cut every cloud into ceil(k / size) patches along each curve, whose lengths differ by at most one.

    A cloud with at most `size` tokens is one patch; if all are, the curves make no difference and share one order.
    """
    counts = tokens.counts
    pieces = (counts + size - 1) // size
    cloud = torch.repeat_interleave(pieces)
    piece = torch.arange(len(cloud), device=counts.device) - (pieces.cumsum(0) - pieces)[cloud]
    # The token of rank r belongs to piece floor(r n / k), which starts at rank ceil(piece k / n).
    k, n = counts[cloud], pieces[cloud]
    starts = (counts.cumsum(0) - counts)[cloud] + (piece * k + n - 1) // n
    starts = torch.cat([starts, counts.sum()[None]])
    if len(cloud) == 0 or int(pieces.max()) == 1:
        return dict.fromkeys(curves, Patches(_order(tokens, "z"), starts))
    return {curve: Patches(_order(tokens, curve), starts) for curve in set(curves)}


def _order(tokens: Tokens, curve: Curve) -> Tensor:
    if curve == "z":  # tokens are in Morton order already
        return torch.arange(len(tokens), device=tokens.cloud.device)
    return (tokens.cloud << CODE_BITS | encode(tokens.fine, curve)).argsort(stable=True)


class RelativePosition(nn.Module):
    """Learned attention bias per head of the distance between two tokens, in rows and in columns.

    Distances are voxels, query minus key, clipped to +-`reach` = floor(2 sqrt(4 patch)), the planar form of PTv3's
    bound.
    """

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.reach = math.isqrt(16 * patch)

    @abstractmethod
    def biases(self, reach: int) -> Tensor:
        """The bias of all distances up to `reach`, (2 reach + 1, 2 reach + 1, heads): rows, columns, 0 in the
        middle."""

    def forward(self, coords: Tensor, patches: Patches) -> Tensor:
        """Bias (p, heads, query, key) of tokens with voxel coordinates (t, 2); -inf where a key's slot is empty."""
        biases = self.biases(self.reach)
        width, heads = biases.shape[1:]
        slots, filled, _ = patches.padded
        row, column = coords[slots].unbind(-1)  # int64: a gather by int32 has a slow backward
        index = self._steps(row) * width + self._steps(column)
        values = torch.cat([biases.flatten(0, 1), biases.new_full((1, heads), -torch.inf)])
        if filled is not None:
            index.masked_fill_(~filled[:, :, None], width * width)
        return values.index_select(0, index.flatten()).view(*index.shape, heads).permute(0, 3, 2, 1)

    def _steps(self, axis: Tensor) -> Tensor:
        return (axis[:, None, :] - axis[:, :, None]).clamp_(-self.reach, self.reach).add_(self.reach)


class RelativeTable(RelativePosition):
    """As in PTv3: one value for the distance in rows plus one for that in columns.

    `table` (2, 2 reach + 1, heads) starts as a normal of std 0.02, cut at two.
    """

    def __init__(self, patch: int, heads: int) -> None:
        super().__init__(patch)
        self.table = nn.Parameter(torch.empty(2, 2 * self.reach + 1, heads))
        nn.init.trunc_normal_(self.table, std=0.02)

    def biases(self, reach: int) -> Tensor:
        rows, columns = self.table[:, self.reach - reach : self.reach + reach + 1]
        return rows[:, None] + columns


class RelativeNetwork(RelativePosition):
    """A network of the distance: smooth, so that what is learned at one distance holds nearby, and not a sum of rows
    and columns, so that it can be round.

    Source: the continuous position bias of Swin Transformer V2 (arXiv 2111.09883), section 3.3, with the length of the
    distance as a third input.
    """

    def __init__(self, patch: int, heads: int) -> None:
        super().__init__(patch)
        self.first, self.last = nn.Linear(3, BIAS_HIDDEN), nn.Linear(BIAS_HIDDEN, heads)

    def biases(self, reach: int) -> Tensor:
        weight = self.first.weight
        steps = torch.arange(-reach, reach + 1, device=weight.device, dtype=weight.dtype)
        row, column = torch.meshgrid(steps, steps, indexing="ij")
        places = torch.stack([row, column, torch.hypot(row, column)], 2)
        return self.last(nn.functional.gelu(self.first(places.sign() * places.abs().add(1).log2())))


class PatchAttention(nn.Module):
    """Multi-head self-attention of tokens (t, channels) within their patches: softmax(q k^T / sqrt(d) + bias) v."""

    def __init__(self, channels: int, heads: int, patch: int, bias: PositionBias = "table") -> None:
        super().__init__()
        self.heads, self.backend = heads, "auto"
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.relative = (RelativeTable if bias == "table" else RelativeNetwork)(patch, heads)

    def forward(self, features: Tensor, coords: Tensor, patches: Patches) -> Tensor:
        if self.backend != "torch" and compilable(features) and self._fills_registers:
            return self._compiled(features, coords, patches)
        slots, _, place = patches.padded
        n, length = slots.shape
        padded = self.qkv(features).index_select(0, slots.flatten()).view(n, length, 3, self.heads, -1)
        q, k, v = padded.permute(2, 0, 3, 1, 4)  # (p, heads, length, d)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.relative(coords, patches))
        return self.out(mixed.transpose(1, 2).reshape(n * length, -1).index_select(0, place))

    @property
    def _fills_registers(self) -> bool:
        """Whether registers are filled: by eight heads, or by several channels of 1, 2 or 4 heads."""
        return self.heads % 8 == 0 or (self.heads in (1, 2, 4) and self.out.in_features % 8 == 0)

    def _compiled(self, features: Tensor, coords: Tensor, patches: Patches) -> Tensor:
        """The same, with a token's channels heads last, in groups of at most eight heads: the rows of the weights are
        exchanged, not those of tokens."""
        from arcpipe.models.cpu.attention import CompiledAttention

        n, channels = features.shape
        inner = min(self.heads, 8)
        split = (self.heads // inner, inner, channels // self.heads)
        weight = self.qkv.weight.view(3, *split, channels).transpose(2, 3).reshape(3 * channels, channels)
        bias = self.qkv.bias.view(3, *split).transpose(2, 3).reshape(3 * channels)
        qkv = nn.functional.linear(features, weight, bias).view(n, 3, split[0], split[2], inner)
        reach = min(self.relative.reach, int((coords.amax(0) - coords.amin(0)).max())) if n else 0
        mixed: Tensor = CompiledAttention.apply(qkv, self.relative.biases(reach), coords, patches.order, patches.starts)
        weight = self.out.weight.view(channels, *split).transpose(2, 3).reshape(channels, channels)
        return nn.functional.linear(mixed.view(n, channels), weight, self.out.bias)
