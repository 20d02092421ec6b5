"""Patches cover every token once and never two clouds; attention is plain attention with a bias of grid distance."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from arcpipe.models.attention import PatchAttention, cut_patches
from arcpipe.models.cpu.attention import CompiledAttention
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
    slots, filled, place = patches.padded
    filled = torch.ones_like(slots, dtype=torch.bool) if filled is None else filled
    held = slots[filled]
    assert held.sort().values.equal(torch.arange(sum(sizes)))
    assert slots.flatten()[place].equal(torch.arange(sum(sizes)))
    lengths = filled.sum(1)
    assert slots.shape[1] == lengths.max() <= 25
    clouds = [set(tokens.cloud[row[mask]].tolist()) for row, mask in zip(slots, filled, strict=True)]
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
    slots, filled, _ = patches.padded
    assert slots.shape == (12, 17)
    assert filled is None


def plain_attention(layer, features, coords):
    """Softmax attention of one patch with loops over heads, from the layer's weights."""
    q, k, v = layer.qkv(features).view(len(features), 3, layer.heads, -1).unbind(1)
    reach = layer.relative.reach
    biases = layer.relative.biases(reach)
    steps = (coords[:, None] - coords[None]).clamp(-reach, reach) + reach
    mixed = []
    for head in range(layer.heads):
        bias = biases[steps[..., 0], steps[..., 1], head]
        scores = q[:, head] @ k[:, head].T / math.sqrt(q.shape[-1]) + bias
        mixed.append(scores.softmax(1) @ v[:, head])
    return layer.out(torch.cat(mixed, 1))


def patch_by_patch(layer, features, coords, patches):
    """The same layer by plain attention, one patch after the other."""
    wanted = torch.empty_like(features)
    for rows in torch.tensor_split(patches.order, patches.starts[1:-1]):
        wanted[rows] = plain_attention(layer, features[rows], coords[rows])
    return wanted


def strengthen(layer):
    """Make biases matter, which start near 0."""
    for weight in layer.relative.parameters():
        torch.nn.init.normal_(weight)


@pytest.mark.parametrize("bias", ["table", "network"])
@pytest.mark.parametrize("curve", CURVES)
def test_attention_equals_plain_attention_patch_by_patch(make_batch, curve, bias):
    tokens = lay(make_batch, [1, 30, 51])  # patches of 1, 15 and 17: there are empty slots
    torch.manual_seed(0)
    layer = PatchAttention(8, 2, 25, bias).double()
    strengthen(layer)
    features = torch.randn(82, 8, dtype=torch.float64, requires_grad=True)
    patches = cut_patches(tokens, 25)[curve]
    assert patches.padded[1] is not None
    found, wanted = layer(features, tokens.coords, patches), patch_by_patch(layer, features, tokens.coords, patches)
    torch.testing.assert_close(found, wanted)
    inputs, upstream = (features, *layer.parameters()), torch.randn_like(wanted)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(wanted, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("channels", "heads"), [(64, 8), (64, 16), (64, 32), (32, 2), (8, 1), (24, 4), (48, 24), (8, 8)]
)
@pytest.mark.parametrize(
    ("sizes", "bias"), [([51, 1, 0, 30, 107], "table"), ([51, 30], "network"), ([3], "table"), ([9, 5], "table")]
)
def test_compiled_attention_equals_plain_attention(make_batch, channels, heads, sizes, bias):
    tokens = lay(make_batch, sizes)
    torch.manual_seed(0)
    layer = PatchAttention(channels, heads, 25, bias)
    assert layer._fills_registers
    strengthen(layer)
    features = torch.randn(sum(sizes), channels, requires_grad=True)
    patches = cut_patches(tokens, 25)["hilbert"]
    found, upstream = layer(features, tokens.coords, patches), torch.randn_like(features)
    gradients = torch.autograd.grad(found, (features, *layer.parameters()), upstream)
    precise = copy.deepcopy(layer).double()
    inputs = features.detach().double().requires_grad_()
    wanted = patch_by_patch(precise, inputs, tokens.coords, patches)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
    theirs = torch.autograd.grad(wanted, (inputs, *precise.parameters()), upstream.double())
    for ours, precise_one in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(ours.double(), precise_one, atol=1e-4, rtol=1e-4)


def test_scores_of_any_size_are_weighed_and_a_nan_spreads(make_batch):
    # The exponential is ours: its argument is cut off far below, and must not turn a NaN into a number.
    tokens = lay(make_batch, [30])
    torch.manual_seed(0)
    layer, features = PatchAttention(16, 8, 25), 1000 * torch.randn(30, 16)
    patches = cut_patches(tokens, 25)["z"]
    wanted = patch_by_patch(copy.deepcopy(layer).double(), features.double(), tokens.coords, patches)
    torch.testing.assert_close(layer(features, tokens.coords, patches).double(), wanted, atol=1e-3, rtol=1e-3)
    features[3, 2] = torch.nan
    assert layer(features, tokens.coords, patches).isnan().any(1).sum() == 15  # the patch of token 3, and no other


def test_threads_change_no_bit_of_the_compiled_attention(make_batch):
    tokens = lay(make_batch, [51, 107, 30] * 5)
    torch.manual_seed(0)
    patches, threads, found = cut_patches(tokens, 25)["z"], torch.get_num_threads(), []
    values, table = torch.randn(len(tokens), 3, 1, 2, 8, requires_grad=True), torch.randn(41, 41, 8, requires_grad=True)
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            out = CompiledAttention.apply(values, table, tokens.coords, patches.order, patches.starts)
            found.append((out, *torch.autograd.grad(out.square().sum(), (values, table))))
    finally:
        torch.set_num_threads(threads)
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


def test_far_distances_share_the_outermost_bias():
    layer = PatchAttention(4, 1, 4)  # reach 8
    tokens, _ = voxelise(torch.tensor([[0.0, 0.0], [8.0, 0.0], [500.0, 0.0]]), torch.tensor([0, 3]), 1.0)
    bias = layer.relative(tokens.coords, cut_patches(tokens, 4)["z"])[0, 0]
    assert bias[0, 2] == bias[0, 1] != bias[1, 0]
