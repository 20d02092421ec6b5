"""Patches cover every token once and never two clouds; attention is plain attention with a bias of grid distance."""

from __future__ import annotations

import math

import pytest
import torch

from arcpipe.models import attention
from arcpipe.models.attention import PatchAttention, attend, attend_on_cpu, cut_patches
from arcpipe.models.cpu_attention import ShortPatchAttention
from arcpipe.models.serialization import CURVES, encode
from arcpipe.models.voxels import voxelise


def lay(make_batch, sizes):
    _, positions, offsets = make_batch(sizes, side=64)
    return voxelise(positions, offsets, 2.0)[0]


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("sizes", [[51], [107], [51, 51], [1, 30, 0, 25, 26, 107], [5, 9, 3]])
def test_patches_hold_every_token_once_in_curve_order_within_clouds(make_batch, curve, sizes):
    tokens = lay(make_batch, sizes)
    patches = cut_patches(tokens, 25)[curve]
    filled = torch.ones_like(patches.slots, dtype=torch.bool) if patches.filled is None else patches.filled
    held = patches.slots[filled]
    assert held.sort().values.equal(torch.arange(sum(sizes)))
    assert patches.slots.flatten()[patches.place].equal(torch.arange(sum(sizes)))
    lengths = filled.sum(1)
    assert patches.slots.shape[1] == lengths.max() <= 25
    clouds = [set(tokens.cloud[row[mask]].tolist()) for row, mask in zip(patches.slots, filled, strict=True)]
    assert all(len(cloud) == 1 for cloud in clouds)
    for i, size in enumerate(sizes):
        mine = [int(n) for n, cloud in zip(lengths, clouds, strict=True) if cloud == {i}]
        assert len(mine) == math.ceil(size / 25)
        assert max(mine, default=0) - min(mine, default=0) <= 1
    if max(sizes) > 25:
        codes = encode(tokens.fine, curve)[held]
        together = tokens.cloud[held].diff() == 0
        assert codes.diff()[together].ge(0).all()


def test_51_tokens_make_three_patches_of_17(make_batch):
    patches = cut_patches(lay(make_batch, [51] * 4), 25)["z"]
    assert patches.slots.shape == (12, 17)
    assert patches.filled is None


def plain_attention(layer, features, coords):
    """Softmax attention of one patch with loops over heads, from the layer's weights."""
    q, k, v = layer.qkv(features).view(len(features), 3, layer.heads, -1).unbind(1)
    reach, table = layer.relative.reach, layer.relative.table
    steps = (coords[:, None] - coords[None]).clamp(-reach, reach) + reach
    mixed = []
    for head in range(layer.heads):
        bias = table[0, steps[..., 0], head] + table[1, steps[..., 1], head]
        scores = q[:, head] @ k[:, head].T / math.sqrt(q.shape[-1]) + bias
        mixed.append(scores.softmax(1) @ v[:, head])
    return layer.out(torch.cat(mixed, 1))


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("path", [attend, attend_on_cpu])
def test_attention_equals_plain_attention_patch_by_patch(make_batch, monkeypatch, curve, path):
    # Both the general path, which other devices take, and the one for CPUs.
    monkeypatch.setattr(attention, "attend_on_cpu", path)
    tokens = lay(make_batch, [1, 30, 51])  # patches of 1, 15 and 17: there are empty slots
    torch.manual_seed(0)
    layer = PatchAttention(8, 2, 25).double()
    torch.nn.init.normal_(layer.relative.table)
    features = torch.randn(82, 8, dtype=torch.float64, requires_grad=True)
    patches = cut_patches(tokens, 25)[curve]
    assert patches.filled is not None
    found, wanted = layer(features, tokens.coords, patches), torch.empty(82, 8, dtype=torch.float64)
    for slots, filled in zip(patches.slots, patches.filled, strict=True):
        rows = slots[filled]
        wanted[rows] = plain_attention(layer, features[rows], tokens.coords[rows])
    torch.testing.assert_close(found, wanted)
    inputs, upstream = (features, *layer.parameters()), torch.randn_like(wanted)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(wanted, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_cpu_attention_passes_gradcheck():
    drawn = torch.Generator().manual_seed(0)
    qkv = torch.randn(3, 2, 3, 2, 5, dtype=torch.float64, generator=drawn, requires_grad=True)
    table = torch.randn(2, 7, dtype=torch.float64, generator=drawn, requires_grad=True)
    index = torch.randint(7, (3, 5, 5), generator=drawn)
    assert torch.autograd.gradcheck(ShortPatchAttention.apply, (qkv, table, index))


def test_far_distances_share_the_outermost_bias():
    layer = PatchAttention(4, 1, 4)  # reach 8
    tokens, _ = voxelise(torch.tensor([[0.0, 0.0], [8.0, 0.0], [500.0, 0.0]]), torch.tensor([0, 3]), 1.0)
    values, index = layer.relative(tokens.coords, cut_patches(tokens, 4)["z"])
    bias = values[0, index[0]]
    assert bias[2, 0] == bias[1, 0] != bias[0, 1]
