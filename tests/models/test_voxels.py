"""Every cloud lies on its own grid; voxels and their 2 x 2 blocks are found exactly."""

from __future__ import annotations

import pytest
import torch

from arcpipe.errors import ConfigError
from arcpipe.models.voxels import coarsen, voxelise


def test_tokens_are_the_points_in_order_of_their_voxels(make_batch):
    _, positions, offsets = make_batch([51, 0, 7])
    tokens, order = voxelise(positions, offsets, 2.0)
    assert order.sort().values.equal(torch.arange(58))
    assert tokens.counts.tolist() == [51, 0, 7]
    for i in (0, 2):
        mine = tokens.cloud == i
        own = positions[order[mine]]
        assert set(order[mine].tolist()) == set(range(int(offsets[i]), int(offsets[i + 1])))
        assert tokens.coords[mine].equal(((own - own.amin(0)) / 2).floor().long())


def test_points_of_one_voxel_share_it(make_batch):
    _, positions, offsets = make_batch([200, 51])
    tokens, _ = voxelise(positions, offsets, 2.0)
    assert tokens.voxel is not None
    cells = torch.cat([tokens.cloud[:, None], tokens.coords], 1)
    assert len(tokens.voxel_keys) == len(cells.unique(dim=0)) < len(cells)
    assert tokens.voxel_coords[tokens.voxel].equal(tokens.coords)
    assert tokens.voxel_keys.diff().gt(0).all()


def test_coarsening_halves_coordinates_and_joins_blocks(make_batch):
    _, positions, offsets = make_batch([200, 0, 51])
    fine, _ = voxelise(positions, offsets, 2.0)
    coarse, block = coarsen(fine)
    assert coarse.coords[block].equal(fine.coords >> 1)
    assert coarse.cloud[block].equal(fine.cloud)
    assert len(coarse) == len(torch.cat([fine.cloud[:, None], fine.coords >> 1], 1).unique(dim=0))
    assert coarse.counts.tolist() == [int((coarse.cloud == i).sum()) for i in range(3)]
    assert coarse.voxel is None
    assert coarse.voxel_keys.diff().gt(0).all()


@pytest.mark.parametrize("shift", [2.0, -31.0, 0.3, 1000.7])
def test_a_shifted_cloud_has_the_same_voxels(make_batch, shift):
    # Whole pixels lie on voxel edges: rounding after a shift by 0.3 must not move them across.
    _, positions, offsets = make_batch([51, 200])
    before, order = voxelise(positions, offsets, 2.0)
    after, same_order = voxelise(positions + shift, offsets, 2.0)
    assert same_order.equal(order)
    assert after.coords.equal(before.coords)


@pytest.mark.parametrize("shift", [0.0, -40.0, 1000.0])
def test_from_the_images_corner_voxels_are_those_of_the_image(make_batch, shift):
    _, positions, offsets = make_batch([51, 200])
    tokens, order = voxelise(positions + shift, offsets, 2.0, "image")
    assert (tokens.coords - 2**15).equal((positions[order] + shift).div(2).floor().long())
    coarse, block = coarsen(tokens)
    assert (coarse.coords[block] - 2**14).equal((positions[order] + shift).div(4).floor().long())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 2.0**20])
def test_a_cloud_that_does_not_fit_is_refused(bad):
    with pytest.raises(ConfigError, match=r"too wide for voxels of 2 pixels[\s\S]*grid_px"):
        voxelise(torch.tensor([[0.0, 0.0], [1.0, bad]]), torch.tensor([0, 2]), 2.0)
