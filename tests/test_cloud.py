"""The verbs of a batch: cutting, taking and laying end to end agree with the clouds one by one."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from arcpipe.cloud import PER_CLOUD, PER_POINT, Cloud, CloudBatch


def make(number: int, *, neighbours: bool = True, scales: bool = True) -> Cloud:
    rng = np.random.default_rng(number)
    n, size = 1 + number % 5, (2 + number % 3, 3)
    return Cloud(
        positions=rng.integers(0, 2, (n, 2)).astype(np.uint16),
        latents=rng.standard_normal((n, 4), np.float32),
        size=size,
        relative=(float(number), 1.0),
        neighbours=rng.integers(0, n, (size[0] * size[1], 2)).astype(np.uint16) if neighbours else None,
        label=number % 3,
        psnr=30.0 + number,
        repeat=number % 2,
        sample_id=number,
        path=f"{number}.png",
        scales=np.full(n, 2.0, np.float32) if scales else None,
    )


def assert_same(found: CloudBatch, clouds: list[Cloud]) -> None:
    expected = CloudBatch.join(clouds)
    for field in fields(CloudBatch):
        left, right = getattr(found, field.name), getattr(expected, field.name)
        assert (left is None) == (right is None), field.name
        if left is not None:
            np.testing.assert_array_equal(left, right, err_msg=field.name)


@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize("scales", [False, True])
def test_the_verbs_agree_with_the_clouds_one_by_one(neighbours: bool, scales: bool) -> None:
    clouds = [make(i, neighbours=neighbours, scales=scales) for i in range(9)]
    batch = CloudBatch.join(clouds)
    assert_same(batch.cut(2, 7), clouds[2:7])
    assert_same(batch.take([8, 0, 0, 3]), [clouds[i] for i in (8, 0, 0, 3)])
    assert_same(CloudBatch.concat([batch.cut(0, 4), batch.cut(4, 5), batch.take(range(5, 9))]), clouds)
    assert CloudBatch.concat([batch]) is batch
    assert len(batch.take([])) == len(batch.cut(3, 3)) == 0
    assert np.shares_memory(batch.cut(2, 7).latents, batch.latents)
    for i, cloud in enumerate(batch):
        np.testing.assert_array_equal(cloud.latents, clouds[i].latents)
        assert (cloud.path, cloud.label, cloud.size) == (clouds[i].path, clouds[i].label, clouds[i].size)


def test_what_one_of_two_batches_lacks_is_lost() -> None:
    whole = CloudBatch.join([make(1), make(2)])
    bare = replace(whole.without_neighbours(), scales=None)
    joined = CloudBatch.concat([whole, bare])
    assert (joined.scales, joined.neighbours, joined.pixel_offsets) == (None, None, None)
    assert len(joined) == 4


def test_every_column_is_named_once() -> None:
    others = {"offsets", "paths", "neighbours", "pixel_offsets"}
    assert {field.name for field in fields(CloudBatch)} == {*PER_CLOUD, *PER_POINT, *others}
