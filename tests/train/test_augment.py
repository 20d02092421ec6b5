"""The six augmentations: pure, as random as they say, and independent of the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from arcpipe.cloud import Cloud
from arcpipe.config import AugmentSection
from arcpipe.train.augment import (
    add_noise,
    augment_cloud,
    cloud_generator,
    mix_box,
    mix_neighbours,
    mix_points,
    push,
)

ALL = AugmentSection(apply=("noise", "mask", "push", "rotate", "flip", "arcmix"))


def cloud_of(n: int, size: tuple[int, int] = (20, 30), label: int = 0, sample_id: int = 0) -> Cloud:
    generator = np.random.default_rng([n, label])
    positions = (generator.random((n, 2)) * size).astype(np.float32)
    latents = generator.standard_normal((n, 3)).astype(np.float32)
    return Cloud(positions, latents, size, label=label, sample_id=sample_id)


def augmented(cloud: Cloud, name: str, strength: float, seed: int = 0) -> Cloud:
    """One augmentation alone, of a given strength."""
    return augment_cloud(cloud, rng(seed), AugmentSection.model_validate({"apply": (name,), name: strength}))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("apply", [(name,) for name in ALL.apply[:-1]] + [ALL.apply])
def test_a_cloud_is_never_changed_in_place(apply: tuple[str, ...]) -> None:
    cloud = cloud_of(50)
    before = (cloud.positions.copy(), cloud.latents.copy())
    changed = augment_cloud(cloud, rng(), AugmentSection.model_validate({"apply": apply}))
    np.testing.assert_array_equal(cloud.positions, before[0])
    np.testing.assert_array_equal(cloud.latents, before[1])
    same = changed.positions.shape == before[0].shape and np.array_equal(changed.positions, before[0])
    assert not (same and np.array_equal(changed.latents, before[1]))


def test_what_is_not_asked_for_is_not_done() -> None:
    cloud = cloud_of(50)
    changed = augment_cloud(cloud, rng(), AugmentSection())
    np.testing.assert_array_equal(changed.positions, cloud.positions)
    np.testing.assert_array_equal(changed.latents, cloud.latents)


def test_noise_has_its_standard_deviation_and_moves_no_point() -> None:
    cloud = cloud_of(20_000)
    noisy = add_noise(cloud, rng(), 0.01)
    difference = noisy.latents - cloud.latents
    assert difference.std() == pytest.approx(0.01, rel=0.02)
    assert abs(difference.mean()) < 2e-4
    np.testing.assert_array_equal(noisy.positions, cloud.positions)


def test_noise_is_not_lost_in_float16() -> None:
    # a latent of 8 in float16 has steps of 0.008: sigma 0.001 would round away
    cloud = Cloud(np.zeros((9, 2), np.float32), np.full((9, 3), 8, np.float16), (4, 4))
    assert (add_noise(cloud, rng(), 0.001).latents != 8).all()


def test_mask_keeps_its_share_of_points_with_their_latents() -> None:
    cloud = cloud_of(100)
    masked = augmented(cloud, "mask", 0.3)
    assert len(masked) == 70
    rows = [int(np.flatnonzero((cloud.positions == p).all(1))[0]) for p in masked.positions]
    np.testing.assert_array_equal(masked.latents, cloud.latents[rows])
    assert rows == sorted(rows)


def test_mask_chooses_uniformly() -> None:
    kept = np.zeros(20)
    for seed in range(2000):
        kept[np.isin(np.arange(20), augmented(_numbered(20), "mask", 0.5, seed).positions[:, 0])] += 1
    assert np.abs(kept / 2000 - 0.5).max() < 0.06  # 5 standard deviations


@pytest.mark.parametrize("n", [0, 1, 2])
def test_mask_leaves_a_point_where_there_was_one(n: int) -> None:
    assert len(augmented(cloud_of(n), "mask", 0.9)) == min(n, 1)


def test_push_moves_every_point_by_itself_within_its_reach() -> None:
    cloud = cloud_of(5000)
    moves = push(cloud, rng(), 2.0).positions - cloud.positions
    assert np.abs(moves).max() <= 2.00001
    assert moves.std() == pytest.approx(2 / np.sqrt(3), rel=0.03)  # uniform on (-2, 2)
    assert abs(np.corrcoef(moves.T)[0, 1]) < 0.05


def test_shift_moves_the_whole_cloud_at_once() -> None:
    cloud = cloud_of(50)
    moves = push(cloud, rng(), 0.0, shift=5.0).positions - cloud.positions
    np.testing.assert_allclose(moves, np.broadcast_to(moves[0], moves.shape), atol=1e-5)
    assert 0 < np.abs(moves).max() <= 5
    assert moves[0, 0] != moves[0, 1]


def test_rotate_keeps_distances_and_turns_about_the_middle() -> None:
    cloud = cloud_of(40, size=(9, 21))
    middle = np.array([4, 10])
    turned = augmented(cloud, "rotate", 180.0)
    radius = np.linalg.norm(cloud.positions - middle, axis=1)
    np.testing.assert_allclose(np.linalg.norm(turned.positions - middle, axis=1), radius, atol=1e-4)
    gaps = np.linalg.norm(turned.positions[1:] - turned.positions[:-1], axis=1)
    np.testing.assert_allclose(gaps, np.linalg.norm(np.diff(cloud.positions, axis=0), axis=1), atol=1e-4)
    # orientation is kept: a rotation, not a mirror
    before, after = cloud.positions[1:3] - cloud.positions[0], turned.positions[1:3] - turned.positions[0]
    assert np.linalg.det(after) == pytest.approx(np.linalg.det(before), rel=1e-3)


def test_rotation_angles_are_uniform_within_their_bound() -> None:
    cloud = Cloud(np.array([[0.0, 10.0]], np.float32), np.zeros((1, 3), np.float32), (21, 21))
    angles = []
    for seed in range(500):
        row, column = augmented(cloud, "rotate", 30.0, seed).positions[0] - 10
        angles.append(np.rad2deg(np.arctan2(column, -row)))
    assert np.abs(angles).max() <= 30.001
    assert np.std(angles) == pytest.approx(30 / np.sqrt(3), rel=0.1)


def test_flip_mirrors_each_axis_by_itself() -> None:
    cloud = cloud_of(10, size=(20, 30))
    seen = set()
    for seed in range(100):
        flipped = augmented(cloud, "flip", 0.5, seed).positions
        axes = []
        for axis, side in enumerate(cloud.size):
            same = np.allclose(flipped[:, axis], cloud.positions[:, axis])
            assert same or np.allclose(flipped[:, axis], side - 1 - cloud.positions[:, axis], atol=1e-5)
            axes.append(same)
        seen.add(tuple(axes))
    assert len(seen) == 4
    np.testing.assert_array_equal(augmented(cloud, "flip", 0.0).positions, cloud.positions)


def test_arcmix_keeps_a_share_of_each_cloud_and_of_each_label() -> None:
    first, second = cloud_of(100, label=0), cloud_of(60, label=1)
    for seed in range(50):
        mixed, share = mix_points(first, second, rng(seed), 1.0)
        from_first = np.isin(mixed.latents[:, 0], first.latents[:, 0]).sum()
        assert from_first == round(share * 100)
        assert len(mixed) - from_first == round((1 - share) * 60)
        assert len(np.unique(mixed.latents, axis=0)) == len(mixed)  # no point twice


def test_arcmix_shares_are_beta_distributed() -> None:
    shares = [mix_points(cloud_of(4), cloud_of(4, label=1), rng(seed), 0.5)[1] for seed in range(2000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / 8, rel=0.1)  # of Beta(0.5, 0.5)


def test_arcmix_of_single_points_leaves_a_point() -> None:
    for seed in range(50):
        assert len(mix_points(cloud_of(1), cloud_of(1, label=1), rng(seed), 1.0)[0]) >= 1


def test_a_box_takes_the_second_clouds_points_and_labels_follow_its_area() -> None:
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40), indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
    first = Cloud(grid, np.zeros((1600, 1), np.float32), (40, 40), label=0)
    second = replace(first, latents=np.ones((1600, 1), np.float32), label=1)
    for seed in range(30):
        mixed, share = mix_box(first, second, rng(seed), 1.0)
        assert len(mixed) == 1600  # every place once: the box of one, the rest of the other
        assert len(np.unique(mixed.positions, axis=0)) == 1600
        assert 1 - mixed.latents.mean() == pytest.approx(share, abs=0.06)  # the box's border falls between the pixels
        box = mixed.positions[mixed.latents[:, 0] == 1]
        if len(box):
            assert np.prod(box.max(0) - box.min(0) + 1) == len(box)


def test_a_box_of_a_smaller_picture_stays_inside_it() -> None:
    first, second = cloud_of(400, size=(100, 100)), cloud_of(400, size=(10, 50), label=1)
    for seed in range(20):
        mixed, share = mix_box(first, second, rng(seed), 1.0)
        assert 0.95 - 1e-9 <= share <= 1
        assert len(mixed) >= 350


@pytest.mark.parametrize("how", ["points", "box"])
def test_mixed_labels_sum_to_one(how: str) -> None:
    clouds = [cloud_of(30 + i, label=i % 3) for i in range(9)]
    labels = np.eye(3, dtype=np.float32)[[c.label for c in clouds]]
    section = AugmentSection.model_validate({"apply": ("arcmix",), "arcmix": how})
    mixed, soft = mix_neighbours(clouds, labels, [rng(i) for i in range(9)], section)
    assert len(mixed) == len(soft) == 8
    np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
    assert ((soft > 0).sum(1) <= 2).all()
    assert soft.max(1).min() < 0.999


def test_a_generator_belongs_to_seed_epoch_and_cloud() -> None:
    cloud = cloud_of(10, sample_id=7)
    draws = {
        (seed, epoch, c.sample_id, c.repeat): cloud_generator(seed, epoch, c).random()
        for seed in (0, 1)
        for epoch in (0, 1)
        for c in (cloud, replace(cloud, sample_id=8), replace(cloud, repeat=1))
    }
    assert len(set(draws.values())) == 12
    assert cloud_generator(0, 0, replace(cloud, label=5)).random() == draws[0, 0, 7, 0]


def _numbered(n: int) -> Cloud:
    numbers = np.arange(n, dtype=np.float32)
    return Cloud(np.stack([numbers, numbers], 1), np.zeros((n, 1), np.float32), (n, n))
