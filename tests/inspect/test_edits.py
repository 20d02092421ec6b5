"""Edits of clouds as they are shown: which anchors are there, and where."""

from __future__ import annotations

import numpy as np
import pytest

from arcpipe.cloud import Cloud
from arcpipe.inspect.edits import DISC, edited, mix_box, mix_disc, mix_points, mix_stack


def cloud_of(seed: int, size: tuple[int, int] = (40, 30), k: int = 60) -> Cloud:
    rng = np.random.default_rng(seed)
    flat = rng.choice(size[0] * size[1], k, replace=False)
    positions = np.stack(np.divmod(flat, size[1]), axis=1).astype(np.uint16)
    return Cloud(positions, np.full((k, 3), seed, np.float16), size, relative=(0.0, 2.0 + seed))


def test_a_disc_takes_the_inside_from_the_second_and_the_outside_from_the_first() -> None:
    first, second = cloud_of(0), cloud_of(1)
    mixed = mix_disc(first, second)
    far = np.linalg.norm(mixed.cloud.positions - (19.5, 14.5), axis=1) > DISC * 30
    assert far[: mixed.n_first].all()
    assert not far[mixed.n_first :].any()
    assert (mixed.cloud.latents[:, 0] == np.where(far, 0, 1)).all()
    assert 0 < mixed.n_first < len(mixed.cloud)
    assert mixed.cloud.size == first.size


def test_a_stack_keeps_every_anchor_of_both() -> None:
    mixed = mix_stack(cloud_of(0), cloud_of(1, k=20))
    assert (len(mixed.cloud), mixed.n_first) == (80, 60)


def test_arcmix_is_shown_as_it_trains_by_points_and_by_a_box() -> None:
    first, second = cloud_of(0), cloud_of(1)
    half = mix_points(first, second, np.random.default_rng(0))
    assert (half.n_first, len(half.cloud)) == (30, 60)
    cut = mix_box(first, second)
    right = cut.cloud.positions[:, 1] >= 14.5
    for mixed in (half, cut):
        assert (mixed.cloud.latents[:, 0] == np.repeat([0, 1], [mixed.n_first, len(mixed.cloud) - mixed.n_first])).all()
    assert right.tolist() == [False] * cut.n_first + [True] * (len(cut.cloud) - cut.n_first)


@pytest.mark.parametrize("edit", ["push", "mask", "noise"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_edits_leave_latents_alone_and_keep_enough_anchors_to_decode(edit: str, level: int) -> None:
    cloud = cloud_of(2, k=6)
    made, words = edited(cloud, edit, level, 4, np.random.default_rng(0))
    assert len(made) >= 4
    assert (len(made) < len(cloud)) == (edit == "mask")
    assert (made.latents == 2).all() == (edit != "noise")
    assert made.neighbours is None
    assert (edit in ("mask", "noise")) == np.isin(made.positions, cloud.positions).all()
    assert words
