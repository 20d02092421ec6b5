"""Curves visit every cell once, and neighbours on the Hilbert curve are neighbours on the plane."""

from __future__ import annotations

import pytest
import torch

from arcpipe.models.serialization import CODE_BITS, COORD_BITS, CURVES, encode

SIDE = 32
CELLS = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE))


@pytest.mark.parametrize("curve", CURVES)
def test_a_curve_is_a_bijection_of_a_square(curve):
    assert encode(CELLS, curve).sort().values.equal(torch.arange(SIDE * SIDE))


@pytest.mark.parametrize("curve", CURVES)
def test_a_curve_is_a_bijection_far_from_the_origin(curve):
    codes = encode(CELLS + 2**COORD_BITS - SIDE, curve)
    assert len(codes.unique()) == SIDE * SIDE
    assert int(codes.max()) < 2**CODE_BITS


@pytest.mark.parametrize("curve", ["hilbert", "hilbert-transposed"])
def test_hilbert_steps_to_an_adjacent_cell(curve):
    path = CELLS[encode(CELLS, curve).argsort()]
    assert path.diff(dim=0).abs().sum(1).eq(1).all()


def test_morton_interleaves_bits_row_above_column():
    assert encode(torch.tensor([[0b101, 0b011]]), "z").item() == 0b100111


@pytest.mark.parametrize("family", ["z", "hilbert"])
def test_transposed_means_axes_exchanged(family):
    assert encode(CELLS, f"{family}-transposed").equal(encode(CELLS.flip(1), family))


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("far", [40, 70, 2**COORD_BITS - 1])
def test_a_code_does_not_depend_on_other_cells(curve, far):
    together = encode(torch.cat([CELLS, torch.tensor([[far, 3]])]), curve)
    assert together[:-1].equal(encode(CELLS, curve))


@pytest.mark.parametrize("curve", CURVES)
def test_coarse_cells_are_runs_of_fine_codes(curve):
    # Points of one voxel stay together in the order of its finer cells.
    voxels = (CELLS // 4)[encode(CELLS, curve).argsort()]
    changes = voxels.diff(dim=0).ne(0).any(1).sum()
    assert changes == (SIDE // 4) ** 2 - 1


@pytest.mark.parametrize("curve", CURVES)
def test_no_cells_have_no_codes(curve):
    assert encode(CELLS[:0], curve).shape == (0,)
