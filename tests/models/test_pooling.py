"""Segment reductions against their definition, and batch norm of a single row."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from arcpipe.models.pooling import segment_max, segment_mean
from arcpipe.models.share import batch_norm

SEGMENT = torch.tensor([2, 0, 0, 2, 3, 2, 0, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # compiled, and in plain torch
@pytest.mark.parametrize(("ours", "theirs"), [(segment_mean, lambda x: x.mean(0)), (segment_max, lambda x: x.amax(0))])
def test_values_and_gradients(ours, theirs, dtype):
    values = torch.randn(8, 5, dtype=dtype, requires_grad=True)
    found = ours(values, SEGMENT, 4)
    wanted = torch.stack([theirs(values[i == SEGMENT]) for i in range(4)])
    torch.testing.assert_close(found, wanted)
    upstream = torch.randn_like(wanted)
    torch.testing.assert_close(*(torch.autograd.grad(out, values, upstream)[0] for out in (found, wanted)))


def test_the_mean_of_an_empty_segment_is_zero():
    mean = segment_mean(torch.ones(8, 2), SEGMENT + 1, 6)
    assert mean[0].tolist() == mean[5].tolist() == [0, 0]
    assert mean[1:5].eq(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_maxima_give_the_gradient_to_one_row(dtype):
    values = torch.ones(8, 3, dtype=dtype, requires_grad=True)
    segment_max(values, SEGMENT, 4).sum().backward()
    assert values.grad is not None
    assert values.grad.sum(1).tolist() == [3, 3, 0, 0, 3, 0, 0, 3]  # the lowest row of each segment


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("row", [0, 3, 5])
def test_a_nan_is_the_maximum_of_its_segment(dtype, row):
    values = torch.arange(8, dtype=dtype)[:, None].repeat(1, 2)
    values[row, 1] = torch.nan
    found = segment_max(values, SEGMENT, 4)
    assert found[:, 0].tolist() == [6, 7, 5, 4]
    assert found.isnan().nonzero().tolist() == [[2, 1]]


def test_one_row_is_normalised_by_the_running_statistics():
    norm = nn.BatchNorm1d(3)
    batch_norm(norm, torch.randn(50, 3) * 2 + 1)
    before, row = norm.running_mean.clone(), torch.randn(1, 3)
    trained = batch_norm(norm, row)
    assert norm.running_mean.equal(before)
    torch.testing.assert_close(trained, norm.eval()(row))
