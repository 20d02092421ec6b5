"""Edits move, drop and mix anchors as they say, and leave the cloud that they are given alone."""

from __future__ import annotations

import numpy as np
import pytest

from arcpipe.arc import edit
from arcpipe.cloud import Cloud


def make_cloud(k: int = 40, seed: int = 0, size: tuple[int, int] = (9, 15)) -> Cloud:
    rng = np.random.default_rng(seed)
    return Cloud(
        positions=rng.integers(0, size, (k, 2)).astype(np.uint16),
        latents=rng.random((k, 3), np.float32),
        size=size,
        relative=(0.5, 2.0),
        neighbours=np.zeros((size[0] * size[1], 4), np.uint16),
        label=seed,
        psnr=30.0,
    )


def drawn(cloud: Cloud, size: tuple[int, int]) -> np.ndarray:
    picture = np.zeros(size, int)
    np.add.at(picture, tuple(np.rint(cloud.positions).astype(int).T), 1)
    return picture


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_rotation_turns_anchors_as_the_picture_turns(degrees: int) -> None:
    cloud = make_cloud(size=(9, 9))
    expected = np.rot90(drawn(cloud, (9, 9)), degrees // 90)
    np.testing.assert_array_equal(drawn(edit.rotate(cloud, degrees), (9, 9)), expected)


def test_flips_mirror_anchors_as_the_picture_is_mirrored() -> None:
    cloud = make_cloud()
    picture = drawn(cloud, (9, 15))
    np.testing.assert_array_equal(drawn(edit.flip(cloud, "rows"), (9, 15)), picture[::-1])
    np.testing.assert_array_equal(drawn(edit.flip(cloud, "columns"), (9, 15)), picture[:, ::-1])
    np.testing.assert_array_equal(drawn(edit.flip(cloud, "both"), (9, 15)), picture[::-1, ::-1])
    with pytest.raises(ValueError, match="rows, columns or both"):
        edit.flip(cloud, "x")  # type: ignore[arg-type]


def test_push_moves_each_anchor_within_reach_and_shift_moves_all_alike() -> None:
    cloud = make_cloud(2000)
    moves = edit.push(cloud, 2.0, np.random.default_rng(1)).positions - cloud.positions
    assert np.abs(moves).max() <= 2 + 1e-5
    assert moves.std(axis=0) == pytest.approx([4 / 12**0.5] * 2, rel=0.05)
    np.testing.assert_allclose(edit.shift(cloud, (-3, 0.5)).positions - cloud.positions, [[-3, 0.5]] * 2000)


@pytest.mark.parametrize(
    ("share", "least", "expected"), [(0.3, 1, 28), (1.0, 1, 1), (1.0, 4, 4), (0.0, 1, 40), (1.0, 99, 40)]
)
def test_masking_drops_a_share_and_keeps_the_order(share: float, least: int, expected: int) -> None:
    cloud = make_cloud()
    masked = edit.mask(cloud, share, np.random.default_rng(1), least=least)
    rows = [int(np.flatnonzero((cloud.latents == latent).all(1))[0]) for latent in masked.latents]
    assert len(masked) == expected
    assert rows == sorted(set(rows))
    np.testing.assert_array_equal(masked.positions, cloud.positions[rows])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_mixing_takes_a_share_of_the_first_and_the_others_of_the_second(share: float) -> None:
    first, second = make_cloud(40, 0), make_cloud(20, 1)
    mixed = edit.mix(first, second, share, np.random.default_rng(1))
    n_first = round(40 * share)
    assert len(mixed) == n_first + round(20 * (1 - share))
    assert np.isin(mixed.latents[:n_first], first.latents).all()
    assert np.isin(mixed.latents[n_first:], second.latents).all()
    assert mixed.label == first.label


def test_mixing_tiny_clouds_leaves_an_anchor() -> None:
    assert len(edit.mix(make_cloud(1, 0), make_cloud(1, 1), 0.5, np.random.default_rng(1))) == 1


def test_a_box_of_one_cloud_replaces_that_of_the_other() -> None:
    first, second = make_cloud(40, 0), make_cloud(40, 1)
    mixed = edit.mix_box(first, second, (2, 3), (6, 9))
    inside = ((mixed.positions >= (2, 3)) & (mixed.positions < (6, 9))).all(1)
    assert inside.any()
    assert np.isin(mixed.latents[inside], second.latents).all()
    assert np.isin(mixed.latents[~inside], first.latents).all()
    assert len(edit.stack(first, second)) == 80


def test_an_edit_forgets_what_no_longer_holds_and_changes_nothing_else() -> None:
    cloud = make_cloud()
    before = cloud.positions.copy()
    rng = np.random.default_rng(1)
    for edited in (
        edit.push(cloud, 1.0, rng),
        edit.shift(cloud, (1, 1)),
        edit.rotate(cloud, 30),
        edit.flip(cloud, "rows"),
        edit.mask(cloud, 0.5, rng),
        edit.mix(cloud, cloud, 0.5, rng),
    ):
        assert edited.neighbours is None
        assert np.isnan(edited.psnr)
        assert (edited.size, edited.relative, edited.label) == (cloud.size, cloud.relative, cloud.label)
    np.testing.assert_array_equal(cloud.positions, before)
    assert cloud.neighbours is not None


def test_displacing_moves_the_cloud_as_a_whole_to_every_place_in_the_image() -> None:
    corner = Cloud(np.array([[1, 2], [3, 2]], np.float32), np.zeros((2, 3), np.float32), (6, 5))
    places = {tuple(edit.displace(corner, np.random.default_rng(i)).positions[0].tolist()) for i in range(400)}
    assert places == {(float(row), float(column)) for row in range(4) for column in range(5)}
    moved = edit.displace(corner, np.random.default_rng(0))
    np.testing.assert_array_equal(moved.positions[1] - moved.positions[0], [2, 0])


@pytest.mark.parametrize("reach", [[[-4, 0], [9, 1]], [[0, 0], [5, 4]], [[-0.5, 0.2], [5.5, 4.0]]])
def test_a_cloud_as_large_as_its_image_stays(reach: list[list[float]]) -> None:
    cloud = Cloud(np.array(reach, np.float32), np.zeros((2, 3), np.float32), (6, 5))
    moved = edit.displace(cloud, np.random.default_rng(0)).positions
    np.testing.assert_allclose(moved[:, 0], np.array(reach)[:, 0], rtol=1e-6)


def test_noise_makes_latents_float32_and_leaves_the_cloud_as_it_was() -> None:
    cloud = Cloud(np.zeros((500, 2), np.float32), np.ones((500, 8), np.float16), (6, 5))
    noisy = edit.add_noise(cloud, 0.1, np.random.default_rng(0))
    assert noisy.latents.dtype == np.float32
    assert abs(float((noisy.latents - 1).std()) - 0.1) < 0.01
    assert (cloud.latents == 1).all()
