"""Attention within patches of neighbouring tokens along a curve, with a learned bias of relative grid position.

Source: Point Transformer v3 (arXiv 2312.10035), section 4.2, with two differences. Patches are cut inside each
cloud, never across two. A cloud longer than a patch is cut into equal pieces (51 tokens in patches of at most 25: three
of 17) instead of full patches and a remainder of 1 filled with borrowed tokens: every token sees as many others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arcpipe.models.cpu_attention import ShortPatchAttention
from arcpipe.models.serialization import CODE_BITS, CURVES, Curve, encode
from arcpipe.models.voxels import Tokens


@dataclass(frozen=True, slots=True)
class Patches:
    """Where tokens sit in a padded table of patches along one curve.

    With p patches of at most `length` tokens: `slots` (p, length) int64 token in each slot (0 in an empty one),
    `filled` (p, length) bool, None where no slot is empty, `place` (t,) int64 slot of every token, counted patch by
    patch.
    """

    slots: Tensor
    filled: Tensor | None
    place: Tensor


def cut_patches(tokens: Tokens, size: int, curves: Sequence[Curve] = CURVES) -> dict[Curve, Patches]:
    """Cut every cloud into ceil(k / size) patches along each curve, whose lengths differ by at most one.

    A cloud with at most `size` tokens is one patch; if all are, the curves make no difference and share one table.
    """
    counts = tokens.counts
    pieces = (counts + size - 1) // size
    start, first_patch = counts.cumsum(0) - counts, pieces.cumsum(0) - pieces
    k, n = counts[tokens.cloud], pieces[tokens.cloud]
    rank = torch.arange(len(tokens), device=k.device) - start[tokens.cloud]
    piece = rank * n // k  # the token of rank r belongs to piece floor(r n / k), which starts at rank ceil(piece k / n)
    slot = rank - (piece * k + n - 1) // n
    length, n_patches = int(slot.max()) + 1, int(pieces.sum())
    position = (first_patch[tokens.cloud] + piece) * length + slot
    if int(pieces.max()) == 1:
        one = _fill(torch.arange(len(tokens), device=k.device), position, n_patches, length)
        return dict.fromkeys(curves, one)
    return {curve: _fill(_order(tokens, curve), position, n_patches, length) for curve in set(curves)}


def _order(tokens: Tokens, curve: Curve) -> Tensor:
    if curve == "z":  # tokens are in Morton order already
        return torch.arange(len(tokens), device=tokens.cloud.device)
    return (tokens.cloud << CODE_BITS | encode(tokens.fine, curve)).argsort(stable=True)


def _fill(order: Tensor, position: Tensor, n_patches: int, length: int) -> Patches:
    slots = order.new_zeros(n_patches * length)
    slots[position] = order
    place = torch.empty_like(order)
    place[order] = position
    if len(order) == len(slots):
        return Patches(slots.view(n_patches, length), None, place)
    filled = torch.zeros(len(slots), dtype=torch.bool, device=order.device)
    filled[position] = True
    return Patches(slots.view(n_patches, length), filled.view(n_patches, length), place)


class RelativePosition(nn.Module):
    """Learned attention bias per head: one value for the distance in rows plus one for the distance in columns.

    Distances are voxels, query minus key, clipped to +-`reach` = floor(2 sqrt(4 patch)), the planar form of PTv3's
    bound. `table` (2, 2 reach + 1, heads) starts as a normal of std 0.02, cut at two.
    """

    def __init__(self, patch: int, heads: int) -> None:
        super().__init__()
        self.reach = math.isqrt(16 * patch)
        self.table = nn.Parameter(torch.empty(2, 2 * self.reach + 1, heads))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, coords: Tensor, patches: Patches) -> tuple[Tensor, Tensor]:
        """The bias of tokens with voxel coordinates (t, 2), as values and where they go.

        Returns:
            (heads, r): for each head, the bias of every pair of distances, and -inf in the last column.
            (p, length, length) int64 columns of it, keys before queries; the last one where a key's slot is empty.
        """
        width, heads = self.table.shape[1:]
        row, column = coords[patches.slots].unbind(-1)  # int64: a gather by int32 has a slow backward
        index = self._steps(row) * width + self._steps(column)
        values = (self.table[0, :, None] + self.table[1, None]).flatten(0, 1).T
        values = torch.cat([values, values.new_full((heads, 1), -torch.inf)], 1)
        if patches.filled is not None:
            index.masked_fill_(~patches.filled[:, :, None], width * width)
        return values, index

    def _steps(self, axis: Tensor) -> Tensor:
        return (axis[:, None, :] - axis[:, :, None]).clamp_(-self.reach, self.reach).add_(self.reach)


class PatchAttention(nn.Module):
    """Multi-head self-attention of tokens (t, channels) within their patches."""

    def __init__(self, channels: int, heads: int, patch: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.relative = RelativePosition(patch, heads)

    def forward(self, features: Tensor, coords: Tensor, patches: Patches) -> Tensor:
        n, length = patches.slots.shape
        padded = self.qkv(features).index_select(0, patches.slots.flatten()).view(n, length, 3, self.heads, -1)
        values, index = self.relative(coords, patches)
        attention = attend_on_cpu if features.device.type == "cpu" else attend
        mixed = attention(padded, values, index).reshape(n * length, -1)
        out: Tensor = self.out(mixed.index_select(0, patches.place))
        return out


def attend(qkv: Tensor, values: Tensor, index: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v in every patch and head.

    Args:
        qkv: (p, length, 3, heads, d).
        values, index: the bias, see `RelativePosition`.

    Returns:
        (p, length, heads, d).
    """
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    bias = values.T.index_select(0, index.flatten()).view(*index.shape, -1).permute(0, 3, 2, 1)
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)


def attend_on_cpu(qkv: Tensor, values: Tensor, index: Tensor) -> Tensor:
    """The same as `attend`, in the layout that is fastest for short patches on a CPU."""
    by_head = qkv.permute(2, 3, 0, 4, 1).contiguous()
    mixed: Tensor = ShortPatchAttention.apply(by_head, values.contiguous(), index)
    return mixed.permute(1, 3, 0, 2)
