"""Augmentations: pure, as random as they say, and independent of the batch. Those of a basis: test_basis_augment."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from arcpipe.arc import edit
from arcpipe.cloud import Cloud, CloudBatch
from arcpipe.config import AugmentSection
from arcpipe.stream.augment import augment
from arcpipe.stream.draws import beta, cloud_keys, normal, uniform
from tests.made_up import augment_cloud

ALL = AugmentSection(apply=("noise", "mask", "push", "rotate", "flip", "displace", "arcmix"))


def cloud_of(n: int, size: tuple[int, int] = (20, 30), label: int = 0, sample_id: int = 0) -> Cloud:
    generator = np.random.default_rng([n, label])
    positions = (generator.random((n, 2)) * size).astype(np.float32)
    latents = generator.standard_normal((n, 3)).astype(np.float32)
    return Cloud(positions, latents, size, label=label, sample_id=sample_id)


def augmented(cloud: Cloud, name: str, strength: float, seed: int = 0) -> Cloud:
    """One augmentation alone, of a given strength."""
    return augment_cloud(cloud, seed, AugmentSection.model_validate({"apply": (name,), name: strength}))


def mixed(first: Cloud, second: Cloud, seed: int, **settings: object) -> tuple[Cloud, float]:
    """ARCMix of two clouds of labels 0 and 1: the mixed cloud and the share of the first in its label."""
    section = AugmentSection.model_validate({"apply": ("arcmix",), **settings})
    keys = np.array([seed, 10**6 + seed], np.uint64)
    made = augment(CloudBatch.join([first, second]), np.eye(2, dtype=np.float32), keys, section)
    assert made.labels.shape == (1, 2)
    return replace(first, positions=made.positions, latents=made.latents), float(made.labels[0, 0])


@pytest.mark.parametrize("apply", [(name,) for name in ALL.apply[:-1]] + [ALL.apply])
def test_a_cloud_is_never_changed_in_place(apply: tuple[str, ...]) -> None:
    cloud = cloud_of(50)
    before = (cloud.positions.copy(), cloud.latents.copy())
    changed = augment_cloud(cloud, 2, AugmentSection.model_validate({"apply": apply}))
    np.testing.assert_array_equal(cloud.positions, before[0])
    np.testing.assert_array_equal(cloud.latents, before[1])
    same = changed.positions.shape == before[0].shape and np.array_equal(changed.positions, before[0])
    assert not (same and np.array_equal(changed.latents, before[1]))


def test_what_is_not_asked_for_is_not_done() -> None:
    cloud = cloud_of(50)
    changed = augment_cloud(cloud, 0, AugmentSection(apply=()))
    np.testing.assert_array_equal(changed.positions, cloud.positions)
    np.testing.assert_array_equal(changed.latents, cloud.latents)


def test_noise_has_its_standard_deviation_and_moves_no_point() -> None:
    cloud = cloud_of(20_000)
    noisy = augmented(cloud, "noise", 0.01)
    difference = noisy.latents - cloud.latents
    assert difference.std() == pytest.approx(0.01, rel=0.02)
    assert abs(difference.mean()) < 2e-4
    np.testing.assert_array_equal(noisy.positions, cloud.positions)


def test_noise_is_not_lost_in_float16() -> None:
    # a latent of 8 in float16 has steps of 0.008: sigma 0.001 would round away
    cloud = Cloud(np.zeros((9, 2), np.float32), np.full((9, 3), 8, np.float16), (4, 4))
    assert (augmented(cloud, "noise", 0.001).latents != 8).all()


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
    moves = augmented(cloud, "push", 2.0).positions - cloud.positions
    assert np.abs(moves).max() <= 2.00001
    assert moves.std() == pytest.approx(2 / np.sqrt(3), rel=0.03)  # uniform on (-2, 2)
    assert abs(np.corrcoef(moves.T)[0, 1]) < 0.05


def test_shift_moves_the_whole_cloud_at_once() -> None:
    cloud = cloud_of(50)
    section = AugmentSection(apply=("push",), push=0.0, shift=5.0)
    moves = augment_cloud(cloud, 0, section).positions - cloud.positions
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


def test_flips_may_be_kept_to_one_axis() -> None:
    cloud = cloud_of(10)
    section = AugmentSection(apply=("flip",), flip=1, flip_axes="columns")
    expected = edit.flip(cloud, "columns").positions
    np.testing.assert_allclose(augment_cloud(cloud, 0, section).positions, expected, atol=1e-5)


def test_arcmix_keeps_a_share_of_each_cloud_and_of_each_label() -> None:
    first, second = cloud_of(100, label=0), cloud_of(60, label=1)
    for seed in range(50):
        cloud, share = mixed(first, second, seed)
        from_first = np.isin(cloud.latents[:, 0], first.latents[:, 0])
        assert from_first.sum() == pytest.approx(share * 100, abs=0.501)
        assert len(cloud) - from_first.sum() == pytest.approx((1 - share) * 60, abs=0.501)
        assert len(np.unique(cloud.latents, axis=0)) == len(cloud)  # no point twice
        assert (np.diff(from_first.astype(int)) <= 0).all()  # the first's points, then the second's


def test_arcmix_shares_are_beta_distributed() -> None:
    shares = [mixed(cloud_of(4), cloud_of(4, label=1), seed, arcmix_alpha=0.5)[1] for seed in range(2000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / 8, rel=0.1)  # of Beta(0.5, 0.5)


@pytest.mark.parametrize("how", ["points", "box"])
def test_arcmix_of_single_points_leaves_a_point(how: str) -> None:
    for seed in range(50):
        assert len(mixed(cloud_of(1), cloud_of(1, label=1), seed, arcmix=how)[0]) >= 1


def test_a_box_takes_the_second_clouds_points_and_labels_follow_its_area() -> None:
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40), indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
    first = Cloud(grid, np.zeros((1600, 1), np.float32), (40, 40), label=0)
    second = replace(first, latents=np.ones((1600, 1), np.float32), label=1)
    for seed in range(30):
        cloud, share = mixed(first, second, seed, arcmix="box")
        assert len(cloud) == 1600  # every place once: the box of one, the rest of the other
        assert len(np.unique(cloud.positions, axis=0)) == 1600
        assert 1 - cloud.latents.mean() == pytest.approx(share, abs=0.06)  # the box's border falls between the pixels
        box = cloud.positions[cloud.latents[:, 0] == 1]
        if len(box):
            assert np.prod(box.max(0) - box.min(0) + 1) == len(box)


def test_a_box_of_a_smaller_picture_stays_inside_it() -> None:
    first, second = cloud_of(400, size=(100, 100)), cloud_of(400, size=(10, 50), label=1)
    for seed in range(20):
        cloud, share = mixed(first, second, seed, arcmix="box")
        assert 0.95 - 1e-6 <= share <= 1
        assert len(cloud) >= 350


@pytest.mark.parametrize("how", ["points", "box"])
def test_mixed_labels_sum_to_one(how: str) -> None:
    clouds = [cloud_of(30 + i, label=i % 3) for i in range(9)]
    labels = np.eye(3, dtype=np.float32)[[c.label for c in clouds]]
    section = AugmentSection.model_validate({"apply": ("arcmix",), "arcmix": how})
    made = augment(CloudBatch.join(clouds), labels, np.arange(9, dtype=np.uint64), section)
    assert len(made.offsets) - 1 == len(made.labels) == 8
    np.testing.assert_allclose(made.labels.sum(1), 1, atol=1e-6)
    assert ((made.labels > 0).sum(1) <= 2).all()
    assert made.labels.max(1).min() < 0.999


def test_displacing_puts_the_cloud_everywhere_inside_its_image_by_whole_pixels() -> None:
    corner = Cloud(np.array([[1, 2], [3, 2]], np.float32), np.zeros((2, 3), np.float32), (6, 5))
    section = AugmentSection(apply=("displace",))
    moved = [augment_cloud(corner, seed, section).positions for seed in range(400)]
    assert {tuple(place[0].tolist()) for place in moved} == {(float(r), float(c)) for r in range(4) for c in range(5)}
    assert all((place[1] - place[0]).tolist() == [2, 0] for place in moved)
    large = Cloud(np.array([[-4, 0], [9, 1]], np.float32), np.zeros((2, 3), np.float32), (6, 5))
    assert augment_cloud(large, 0, section).positions[:, 0].tolist() == [-4, 9]


def test_a_batch_changes_as_its_clouds_alone_do() -> None:
    clouds = [cloud_of(n, size=(9 + n, 30), sample_id=n) for n in (7, 1, 0, 40, 13)]
    section = AugmentSection(apply=ALL.apply[:-1])
    keys = np.arange(5, dtype=np.uint64) * np.uint64(7)
    made = augment(CloudBatch.join(clouds), np.ones((5, 1), np.float32), keys, section)
    for i, cloud in enumerate(clouds):
        rows = slice(int(made.offsets[i]), int(made.offsets[i + 1]))
        alone = augment_cloud(cloud, 7 * i, section)
        np.testing.assert_array_equal(made.positions[rows], alone.positions)
        np.testing.assert_array_equal(made.latents[rows], alone.latents)


def test_moves_are_those_of_the_plain_edits() -> None:
    cloud = cloud_of(50, size=(9, 31))
    keys = np.array([3], np.uint64)
    angle = 30 * (2 * float(uniform(keys, "rotate")[0]) - 1)
    turned = augmented(cloud, "rotate", 30.0, 3).positions
    np.testing.assert_allclose(turned, edit.rotate(cloud, angle).positions, atol=1e-4)
    rows, columns = (float(uniform(keys, f"flip {axis}")[0]) < 0.5 for axis in ("rows", "columns"))
    flipped = augmented(cloud, "flip", 0.5, 3).positions
    expected = edit.flip(cloud, "rows") if rows else cloud
    expected = edit.flip(expected, "columns") if columns else expected
    np.testing.assert_allclose(flipped, expected.positions, atol=1e-4)


def test_keys_belong_to_seed_epoch_and_cloud() -> None:
    ids, repeats = np.array([7, 8, 7]), np.array([0, 0, 1])
    keys = np.concatenate([cloud_keys(seed, epoch, ids, repeats) for seed in (0, 1) for epoch in (0, 1)])
    assert len(np.unique(keys)) == 12
    np.testing.assert_array_equal(cloud_keys(0, 0, ids[1:2], repeats[1:2]), keys[1:2])


def test_draws_are_uniform_and_independent_between_clouds_uses_and_indices() -> None:
    keys = cloud_keys(0, 0, np.arange(300), np.zeros(300, np.int64))
    table = uniform(keys[:, None], "push", np.arange(300))
    assert table.min() >= 0
    assert table.max() < 1
    counts = np.histogram(table, 20, (0, 1))[0]
    assert np.abs(counts - 4500).max() < 5 * np.sqrt(4500)
    other = uniform(keys[:, None], "mask", np.arange(300))
    for first, second in ((table, other), (table[1:], table[:-1]), (table[:, 1:], table[:, :-1])):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.017  # 5 standard deviations
    bell = normal(keys[:, None], "noise", np.arange(300))
    assert (bell.mean(), bell.std()) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.02))
    assert np.mean(bell**4) == pytest.approx(3, abs=0.2)
    assert beta(keys, "arcmix", 2.0).var() == pytest.approx(0.05, rel=0.3)


def test_a_large_cloud_is_copied_no_more_often_than_needed() -> None:
    """Latents are gathered once, and only those that stay."""
    clouds = CloudBatch.join(
        [Cloud(np.zeros((50_000, 2), np.float32), np.zeros((50_000, 64), np.float16), (4000, 4000))]
    )
    labels, keys = np.ones((1, 1), np.float32), np.zeros(1, np.uint64)
    for apply, copies in ((("push", "rotate", "flip", "displace"), 1.0), (("mask",), 0.7)):
        section = AugmentSection.model_validate({"apply": apply})
        tracemalloc.start()
        augment(clouds, labels, keys, section)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= copies * clouds.latents.nbytes + 30 * 8 * 50_000, (apply, peak / clouds.latents.nbytes)


def _numbered(n: int) -> Cloud:
    numbers = np.arange(n, dtype=np.float32)
    return Cloud(np.stack([numbers, numbers], 1), np.zeros((n, 1), np.float32), (n, n))
