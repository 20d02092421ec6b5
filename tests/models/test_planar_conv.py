"""The planar convolution is conv2d on the zero-filled grid, read at the occupied voxels."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import conv2d

from arcpipe.models.planar_conv import PlanarConv, neighbour_pairs, search_pairs
from arcpipe.models.voxels import voxelise


def grids(share, *, clouds=3, side=9, seed=0):
    """Masks (clouds, side, side) with so large a share of voxels; the corner is always there, so origins agree."""
    masks = torch.rand(clouds, side, side, generator=torch.Generator().manual_seed(seed)) < share
    masks[:, 0, 0] = True
    return masks


def tokens_of(masks):
    where = masks.nonzero()
    offsets = torch.tensor([0, *masks.sum((1, 2)).tolist()]).cumsum(0)
    tokens, order = voxelise(where[:, 1:].float(), offsets, 1.0)
    return tokens, where[order]


def planar(kernel):
    torch.manual_seed(1)
    return PlanarConv(4, 6, kernel).double()


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_values_and_gradients_equal_conv2d(kernel, share):
    masks, conv = grids(share), planar(kernel)
    tokens, (cloud, row, column) = (pair := tokens_of(masks))[0], pair[1].T
    features = torch.randn(len(tokens), 4, dtype=torch.float64, requires_grad=True)
    dense = torch.zeros(*masks.shape, 4, dtype=torch.float64).index_put((cloud, row, column), features)
    wanted = conv2d(dense.permute(0, 3, 1, 2), conv.weight.permute(3, 2, 0, 1), conv.bias, padding=kernel // 2)
    wanted = wanted.permute(0, 2, 3, 1)[cloud, row, column]
    found = conv(features, tokens, neighbour_pairs(tokens.voxel_keys, tokens.voxel_coords, kernel))
    torch.testing.assert_close(found, wanted)
    upstream, inputs = torch.randn_like(wanted), (features, conv.weight, conv.bias)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(wanted, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("kernel", "inputs", "outputs"), [(3, 16, 16), (3, 64, 64), (5, 32, 16), (3, 48, 80), (5, 12, 16)]
)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_compiled_products_equal_those_of_plain_torch(kernel, inputs, outputs, share):
    tokens, _ = tokens_of(grids(share, clouds=5))
    torch.manual_seed(0)
    conv, upstream = PlanarConv(inputs, outputs, kernel), torch.randn(len(tokens), outputs)
    features = torch.randn(len(tokens), inputs, requires_grad=inputs % 16 == 0)
    precise, inputs64 = copy.deepcopy(conv).double(), features.detach().double().requires_grad_(features.requires_grad)
    pairs = neighbour_pairs(tokens.voxel_keys, tokens.voxel_coords, kernel)
    found, wanted = conv(features, tokens, pairs), precise(inputs64, tokens, pairs)
    assert share == 0 or "PairProducts" in str(found.grad_fn.next_functions)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
    found.backward(upstream)
    wanted.backward(upstream.double())
    torch.testing.assert_close(conv.weight.grad.double(), precise.weight.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(conv.bias.grad.double(), precise.bias.grad, atol=1e-4, rtol=1e-4)
    if features.requires_grad:
        torch.testing.assert_close(features.grad.double(), inputs64.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("sizes", [[51, 0, 107, 1], [700], []])
def test_pairs_found_by_loops_and_by_torch_are_the_same(make_batch, kernel, sizes):
    _, positions, offsets = make_batch(sizes)
    tokens, _ = voxelise(positions, offsets, 2.0)
    found = neighbour_pairs(tokens.voxel_keys, tokens.voxel_coords, kernel)
    wanted = search_pairs(tokens.voxel_keys, tokens.voxel_coords, kernel)
    assert found.counts == wanted.counts
    assert found.source.equal(wanted.source)
    assert found.target.equal(wanted.target)


def test_inner_pairs_are_those_of_the_smaller_kernel():
    tokens, _ = tokens_of(grids(0.4))
    inner = neighbour_pairs(tokens.voxel_keys, tokens.voxel_coords, 5).inner()
    direct = neighbour_pairs(tokens.voxel_keys, tokens.voxel_coords, 3)
    assert inner.kernel == 3
    assert inner.counts == direct.counts
    assert inner.source.equal(direct.source)
    assert inner.target.equal(direct.target)


def test_points_in_one_voxel_see_themselves_and_the_mean_of_neighbouring_voxels():
    positions = torch.tensor([[0.0, 0.0], [0.25, 0.25], [0.0, 1.0], [0.5, 1.25]])
    tokens, _ = voxelise(positions, torch.tensor([0, 4]), 1.0)
    conv, features = planar(3), torch.randn(4, 4, dtype=torch.float64)
    found = conv(features, tokens, neighbour_pairs(tokens.voxel_keys, tokens.voxel_coords, 3))
    left, right = features[:2].mean(0), features[2:].mean(0)
    middle = features @ conv.weight[1, 1] + conv.bias
    torch.testing.assert_close(found[:2], middle[:2] + right @ conv.weight[1, 2])
    torch.testing.assert_close(found[2:], middle[2:] + left @ conv.weight[1, 0])


def test_shared_voxels_pass_gradcheck(make_batch):
    _, positions, offsets = make_batch([12, 5], side=5)
    tokens, _ = voxelise(positions, offsets, 2.0)
    assert tokens.voxel is not None
    conv = planar(3)
    pairs = neighbour_pairs(tokens.voxel_keys, tokens.voxel_coords, 3)
    features = torch.randn(17, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, _: conv(x, tokens, pairs), (features, conv.weight))
