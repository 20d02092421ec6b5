"""Augmentations of clouds of the kind `basis`: batches change as single clouds do, latents with the picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from arcpipe.arc import edit
from arcpipe.arc.maps import Maps, brightness, contrast, hue, saturation
from arcpipe.cloud import BasisRecord, Cloud, CloudBatch
from arcpipe.config import AugmentSection, build
from arcpipe.errors import ConfigError
from arcpipe.stream.augment import Augmented, Columns, augment
from arcpipe.stream.draws import uniform
from tests.made_up import augment_cloud

ORDERS = np.array([0, 0, 0, 1, 1, 2, 3], np.float32)
Z = 11


def make_record(channels: int = 3) -> BasisRecord:
    rng = np.random.default_rng(0)
    profiles = rng.standard_normal((17, channels, len(ORDERS))).astype(np.float32)
    profiles[0] *= ORDERS == 0
    ones = np.ones(Z, np.float32)
    return BasisRecord(profiles, ORDERS, 0.25, 1.0, 0.5, np.array([0.4, 2, 40], np.float32), ones, ones, 4)


MAPS = Maps(make_record())


def cloud_of(n: int, size: tuple[int, int] = (20, 30), sample_id: int = 0) -> Cloud:
    rng = np.random.default_rng([n, sample_id])
    return Cloud(
        positions=(rng.random((n, 2)) * size - 0.5).astype(np.float32),
        latents=rng.standard_normal((n, Z)).astype(np.float16),
        size=size,
        sample_id=sample_id,
    )


CLOUDS = [cloud_of(n, (9 + n, 30), n) for n in (7, 3, 0, 40, 13)]
KEYS = np.arange(5, dtype=np.uint64) * np.uint64(7)


def section(*apply: str, **strengths: Any) -> AugmentSection:
    return build(AugmentSection, {"apply": apply, **strengths})


def batch(how: AugmentSection, columns: Columns | None = MAPS) -> Augmented:
    return augment(CloudBatch.join(CLOUDS), np.ones((5, 1), np.float32), KEYS, how, columns)


def sideways(key: int, use: str) -> float:
    return 2 * float(uniform(np.array([key], np.uint64), use)[0]) - 1


def same(made: Augmented, expected: list[Cloud]) -> None:
    assert np.diff(made.offsets).tolist() == [len(cloud) for cloud in expected]
    joined = CloudBatch.join(expected, latent_dim=Z)
    np.testing.assert_allclose(made.positions, joined.positions, atol=1e-4)
    np.testing.assert_allclose(made.latents, joined.latents, atol=2e-4)


def test_turns_and_flips_are_those_of_single_clouds() -> None:
    expected = []
    for cloud, key in zip(CLOUDS, KEYS.tolist(), strict=True):
        turned = edit.rotate(cloud, 40 * sideways(key, "rotate"), MAPS)
        rows, columns = (sideways(key, f"flip {axis}") < 0 for axis in ("rows", "columns"))
        for axis, mirrored in (("rows", rows), ("columns", columns)):
            turned = edit.flip(turned, axis, MAPS) if mirrored else turned
        expected.append(turned)
    same(batch(section("rotate", "flip", rotate=40)), expected)


def test_a_zoom_takes_a_window_of_the_image() -> None:
    expected = []
    for cloud, key in zip(CLOUDS, KEYS.tolist(), strict=True):
        side = np.sqrt(0.3 + 0.6 * (sideways(key, "zoom") + 1) / 2)
        place = np.array([(sideways(key, f"zoom place {axis}") + 1) / 2 for axis in ("rows", "columns")])
        places = (cloud.positions + 0.5 - place * (1 - side) * cloud.size) / side - 0.5
        zoomed = replace(cloud, positions=places.astype(np.float32))
        kept = edit.crop(zoomed, (0, 0), cloud.size)
        expected.append(kept if len(kept) else zoomed)
    made = batch(section("zoom", zoom=(0.3, 0.9)))
    assert len(made.latents) < sum(map(len, CLOUDS))
    same(made, expected)


def test_a_zoom_out_puts_the_picture_somewhere_inside() -> None:
    for key in range(30):
        small = augment_cloud(CLOUDS[3], key, section("zoom", zoom=(2.0, 4.0)), MAPS)
        assert len(small) == len(CLOUDS[3])
        assert (small.positions >= -0.5).all()
        assert (small.positions < np.array(small.size) - 0.5).all()


def test_a_crop_moves_by_whole_pixels_and_drops_what_leaves() -> None:
    seen, cloud = set(), cloud_of(40)
    for key in range(400):
        moved = augment_cloud(cloud, key, section("crop", crop=2), MAPS)
        steps = np.array([np.floor((sideways(key, f"crop {axis}") + 1) / 2 * 5) - 2 for axis in ("rows", "columns")])
        expected = edit.crop(cloud, steps, cloud.size)
        np.testing.assert_allclose(moved.positions, expected.positions, atol=1e-5)
        np.testing.assert_array_equal(moved.latents, expected.latents)
        seen.add(tuple(steps.tolist()))
    assert len(seen) == 25
    np.testing.assert_array_equal(augment_cloud(cloud, 0, section("crop", crop=0), MAPS).positions, cloud.positions)


def test_a_cloud_is_never_cropped_to_nothing() -> None:
    edge = Cloud(np.array([[0, 0], [0, 9]], np.float32), np.zeros((2, Z), np.float32), (10, 10))
    for key in range(50):
        assert len(augment_cloud(edge, key, section("crop", crop=9), MAPS)) >= 1
        assert len(augment_cloud(edge, key, section("zoom", zoom=(0.01, 0.1)), MAPS)) >= 1


CHANGES = {
    "brightness": lambda x: brightness(1 + x, 3),
    "contrast": lambda x: contrast(1 + x, 3),
    "saturation": lambda x: saturation(1 + x),
    "hue": hue,
}


@pytest.mark.parametrize(
    "names",
    [("brightness",), ("contrast",), ("saturation",), ("hue",), ("saturation", "hue"), tuple(CHANGES)],
    ids="-".join,
)
def test_colours_change_one_after_another(names: tuple[str, ...]) -> None:
    expected = []
    for cloud, key in zip(CLOUDS, KEYS.tolist(), strict=True):
        matrix, offset = np.eye(3), np.zeros(3)
        for name in names:
            then, plus = CHANGES[name](0.4 * sideways(key, name))
            matrix, offset = then @ matrix, then @ offset + plus
        expected.append(edit.recolour(cloud, matrix, offset, MAPS))
    same(batch(section(*names, **dict.fromkeys(names, 0.4))), expected)


def test_factors_do_not_fall_below_0() -> None:
    for key in range(30):
        made = augment_cloud(CLOUDS[3], key, section("contrast", contrast=5), MAPS)
        assert (made.latents[:, 0] * CLOUDS[3].latents[:, 0] >= 0).all()


ALL = section("noise", "mask", "push", "rotate", "flip", "zoom", "crop", "displace", *CHANGES, zoom=(0.5, 1.5))


def test_a_batch_changes_as_its_clouds_alone_do_and_the_same_every_time() -> None:
    made, again = batch(ALL), batch(ALL)
    np.testing.assert_array_equal(made.latents, again.latents)
    same(made, [augment_cloud(cloud, int(key), ALL, MAPS) for cloud, key in zip(CLOUDS, KEYS, strict=True)])


def test_mixed_clouds_bring_their_own_changes_with_them() -> None:
    how = section("rotate", "flip", "zoom", "saturation", "arcmix", zoom=(1.0, 2.0))
    clouds = [CLOUDS[0], CLOUDS[3]]
    labels, keys = np.eye(2, dtype=np.float32), KEYS[:2]
    mixed = augment(CloudBatch.join(clouds), labels, keys, how, MAPS)
    alone = [augment_cloud(cloud, int(key), how, MAPS) for cloud, key in zip(clouds, keys, strict=True)]
    rows = np.concatenate([np.column_stack([c.positions, c.latents]) for c in alone])
    for row in np.column_stack([mixed.positions, mixed.latents]):
        assert np.abs(rows - row).max(1).min() < 1e-4


def test_positions_alone_may_move_as_in_the_thesis() -> None:
    made = batch(section("rotate", "flip", exact=False))
    np.testing.assert_array_equal(made.latents, CloudBatch.join(CLOUDS).latents)
    np.testing.assert_array_equal(made.positions, batch(section("rotate", "flip")).positions)


def test_latents_of_another_kind_stay() -> None:
    made = batch(section("rotate", "flip", "crop"), None)
    assert made.latents.dtype == np.float16


def test_grey_pictures_change_in_brightness_and_contrast() -> None:
    maps = Maps(make_record(1))
    made = batch(section("brightness", "contrast"), maps)
    expected = []
    for cloud, key in zip(CLOUDS, KEYS.tolist(), strict=True):
        first, plus = brightness(1 + 0.2 * sideways(key, "brightness"), 1)
        then, _ = contrast(1 + 0.2 * sideways(key, "contrast"), 1)
        expected.append(edit.recolour(cloud, then @ first, then @ plus, maps))
    same(made, expected)


@pytest.mark.parametrize("wrong", [{"zoom": [0.9, 0.5]}, {"zoom": [0, 1]}, {"hue": 0.6}, {"crop": -1}])
def test_strengths_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        section("crop", **wrong)
