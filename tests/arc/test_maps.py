"""Decoding an edited cloud gives the edited picture, and a map says what it misses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from arcpipe.arc import edit
from arcpipe.arc.maps import GREY, TURN, Maps, brightness, contrast, hue, saturation
from arcpipe.cloud import BasisRecord, Cloud

SIZE = (24, 20)
ORDERS = (0, 0, 0, 0, 1, 1, 1, 2, 3)


def make_record(
    seed: int = 0, orders: tuple[int, ...] = ORDERS, channels: int = 3, *, free: bool = True
) -> BasisRecord:
    """A basis of smooth random profiles; with `free`, colours of a profile change with the distance."""
    rng = np.random.default_rng(seed)
    distances = np.arange(33) / 8
    waves = np.cos(np.outer(distances, np.arange(4)))  # (knots, 4)
    drawn = rng.standard_normal((4, channels if free else 1, len(orders))) * (np.ones((1, channels, 1)))
    profiles = np.einsum("kw,wcu->kcu", waves, drawn) * np.exp(-0.1 * distances)[:, None, None]
    profiles -= np.where(np.array(orders) > 0, profiles[0], 0)
    z = sum(1 if order == 0 else 2 for order in orders)
    return BasisRecord(
        profiles=profiles.astype(np.float32),
        orders=np.array(orders, np.float32),
        spacing=0.125,
        sharpness=1.2,
        floor=0.3,
        scale_rule=np.array([0.4, 2, 40], np.float32),
        costs=np.ones(z, np.float32),
        ranges=np.ones(z, np.float32),
        n_neighbours=4,
    )


def make_cloud(record: BasisRecord, k: int = 30, seed: int = 0, size: tuple[int, int] = SIZE) -> Cloud:
    rng = np.random.default_rng(seed)
    return Cloud(
        positions=(rng.random((k, 2)) * size - 0.5).astype(np.float32),
        latents=(0.1 * rng.standard_normal((k, record.latent_dim))).astype(np.float32),
        size=size,
        scales=np.exp2(rng.integers(8, 20, k) / 8).astype(np.float32),
    )


def decode_at(cloud: Cloud, record: BasisRecord, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours (p, channels) at places (p, 2): the formula of `BasisRecord`, by brute force."""
    assert cloud.scales is not None
    gaps = places[:, None] - cloud.positions.astype(np.float64)
    near = np.argsort(np.square(gaps).sum(2), axis=1, kind="stable")[:, : record.n_neighbours]
    gaps = np.take_along_axis(gaps, near[:, :, None], 1) / cloud.scales[near][:, :, None]
    distance, angle = np.linalg.norm(gaps, axis=2), np.arctan2(gaps[..., 0], gaps[..., 1])
    shares = np.exp(-record.sharpness * (np.square(distance) - np.square(distance).min(1, keepdims=True)))
    shares = np.maximum(shares - record.floor, 0)
    shares /= shares.sum(1, keepdims=True)
    knots = np.arange(len(record.profiles)) * record.spacing
    colours, row = np.full((len(places), record.channels), 0.5), 0
    for unit, order in enumerate(record.orders.astype(int)):
        for wave in (np.cos,) if order == 0 else (np.cos, np.sin):
            strength = shares * wave(order * angle) * cloud.latents[near, row]
            for c in range(record.channels):
                colours[:, c] += (strength * np.interp(distance, knots, record.profiles[:, c, unit])).sum(1)
            row += 1
    return colours


def pixels(size: tuple[int, int]) -> NDArray[np.float64]:
    return np.mgrid[: size[0], : size[1]].reshape(2, -1).T.astype(np.float64)


def decode(cloud: Cloud, record: BasisRecord) -> NDArray[np.float64]:
    return decode_at(cloud, record, pixels(cloud.size)).reshape(*cloud.size, -1)


def decibels(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    return -10 * float(np.log10(np.square(found - expected).mean() + 1e-30))


RECORD = make_record()
MAPS = Maps(RECORD)
CLOUD = make_cloud(RECORD)


@pytest.mark.parametrize("degrees", [3.0, 30.0, 90.0, -127.0, 180.0])
def test_a_turned_cloud_decodes_to_the_turned_picture(degrees: float) -> None:
    turned = edit.rotate(CLOUD, degrees, MAPS)
    angle, middle = np.deg2rad(degrees), (np.array(SIZE) - 1) / 2
    back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    expected = decode_at(CLOUD, RECORD, (pixels(SIZE) - middle) @ back.T + middle)
    found = decode_at(turned, RECORD, pixels(SIZE))
    assert decibels(found, expected) > 80
    assert decibels(decode_at(edit.rotate(CLOUD, degrees), RECORD, pixels(SIZE)), expected) < 50


def test_a_quarter_turn_is_that_of_numpy() -> None:
    cloud = make_cloud(RECORD, size=(20, 20))
    found = decode(edit.rotate(cloud, 90, MAPS), RECORD)
    np.testing.assert_allclose(found, np.rot90(decode(cloud, RECORD)), atol=1e-4)


def test_every_point_may_turn_by_its_own_angle() -> None:
    degrees = np.linspace(-180, 180, len(CLOUD))
    each = [MAPS.rotated(CLOUD.latents[i : i + 1], float(degrees[i]))[0] for i in range(len(CLOUD))]
    np.testing.assert_allclose(MAPS.rotated(CLOUD.latents, degrees), each, atol=1e-6)


@pytest.mark.parametrize(
    ("axis", "rows", "columns"), [("rows", True, False), ("columns", False, True), ("both", True, True)]
)
def test_a_flipped_cloud_decodes_to_the_flipped_picture(axis: Any, rows: bool, columns: bool) -> None:
    found = decode(edit.flip(CLOUD, axis, MAPS), RECORD)
    picture = decode(CLOUD, RECORD)[:: -1 if rows else 1, :: -1 if columns else 1]
    np.testing.assert_allclose(found, picture, atol=1e-4)


@pytest.mark.parametrize("factor", [0.7, 1.0, 2.5])
def test_a_zoomed_cloud_decodes_to_the_zoomed_picture(factor: float) -> None:
    middle = (np.array(SIZE) - 1) / 2
    expected = decode_at(CLOUD, RECORD, (pixels(SIZE) - middle) / factor + middle)
    assert decibels(decode_at(edit.zoom(CLOUD, factor), RECORD, pixels(SIZE)), expected) > 80


def test_a_crop_decodes_to_the_window_where_it_kept_the_neighbours() -> None:
    window = decode(CLOUD, RECORD)[4:16, 5:14]
    whole = edit.crop(CLOUD, (4, 5), (12, 9), margin=100)
    np.testing.assert_allclose(decode(whole, RECORD), window, atol=1e-4)
    cut = edit.crop(CLOUD, (4, 5), (12, 9))
    assert len(cut) < len(whole) == len(CLOUD)
    assert cut.size == (12, 9)
    assert (cut.positions >= -0.5).all()
    assert (cut.positions < (11.5, 8.5)).all()
    near = edit.crop(CLOUD, (4, 5), (12, 9), margin=1.0)
    assert len(cut) < len(near) < len(CLOUD)
    nearest = edit.crop(CLOUD, (4, 5), (12, 9), least=len(cut) + 1)
    assert len(nearest) == len(cut) + 1
    assert len(edit.crop(CLOUD, (4, 5), (12, 9), least=99)) == len(CLOUD)


def test_places_and_scales_of_clouds_without_scales_are_left_to_the_thesis() -> None:
    plain = Cloud(CLOUD.positions, CLOUD.latents, SIZE)
    for edited in (
        edit.zoom(plain, 2),
        edit.crop(plain, (2, 2), (9, 9)),
        edit.shear(plain, 0.2),
        edit.stack(plain, plain),
    ):
        assert edited.scales is None
    np.testing.assert_array_equal(edit.zoom(plain, 2).positions, edit.zoom(CLOUD, 2).positions)


def test_anchors_keep_their_scales_through_every_edit() -> None:
    assert CLOUD.scales is not None
    rng = np.random.default_rng(0)
    for edited in (
        edit.push(CLOUD, 1, rng),
        edit.shift(CLOUD, (1, 1)),
        edit.rotate(CLOUD, 9),
        edit.add_noise(CLOUD, 1, rng),
    ):
        np.testing.assert_array_equal(edited.scales, CLOUD.scales)
    masked, mixed = edit.mask(CLOUD, 0.5, rng), edit.mix(CLOUD, edit.zoom(CLOUD, 2), 0.5, rng)
    assert masked.scales is not None
    assert set(masked.scales.tolist()) <= set(CLOUD.scales.tolist())
    assert mixed.scales is not None
    assert len(mixed.scales) == len(mixed)
    zoomed = edit.zoom(CLOUD, 1.5).scales
    assert zoomed is not None
    np.testing.assert_allclose(zoomed, 1.5 * CLOUD.scales, rtol=1e-6)


# Where each profile has one colour and every colour has the same profiles, any change of colours can be shown.
CLOSED = [np.eye(3), [[2.0, 0, 0], [0.5, 1, 0], [0, -0.3, 0.7]]]
EDITS: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {
    "brightness": brightness(1.3, 3),
    "contrast": contrast(0.6, 3),
    "saturation": saturation(0.4),
    "hue": hue(0.1),
}


def closed_record() -> BasisRecord:
    """A basis that has every profile in red, green and blue alike, and a constant."""
    grey = make_record(orders=(0, 0, 1, 2), free=False)
    profiles = np.einsum("kcu,cd->kcdu", grey.profiles[:, :1].repeat(3, 1), np.eye(3)).transpose(0, 1, 3, 2)
    profiles[:, :, 0] = np.eye(3)  # the first unit is a constant
    orders = np.repeat(grey.orders, 3)
    z = int(np.where(orders == 0, 1, 2).sum())
    ones = np.ones(z, np.float32)
    return BasisRecord(
        profiles.reshape(len(profiles), 3, -1).astype(np.float32),
        orders,
        0.125,
        1.2,
        0.3,
        grey.scale_rule,
        ones,
        ones,
        4,
    )


@pytest.mark.parametrize("name", EDITS)
def test_colours_of_a_closed_basis_change_exactly(name: str) -> None:
    record = closed_record()
    cloud, maps, (matrix, offset) = make_cloud(record), Maps(record), EDITS[name]
    expected = (decode(cloud, record) - 0.5) @ matrix.T + 0.5 + offset
    assert decibels(decode(edit.recolour(cloud, matrix, offset, maps), record), expected) > 60
    assert maps.colour(matrix, offset).decibels > 60


@pytest.mark.parametrize("name", EDITS)
def test_colours_of_any_basis_change_better_than_not_at_all(name: str) -> None:
    matrix, offset = EDITS[name]
    before = decode(CLOUD, RECORD)
    expected = (before - 0.5) @ matrix.T + 0.5 + offset
    found = decode(edit.recolour(CLOUD, matrix, offset, MAPS), RECORD)
    assert decibels(found, expected) > decibels(before, expected) + 3
    if name == "contrast":
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_small_shear_is_nearly_the_sheared_picture() -> None:
    matrix, middle = np.array([[1, 0], [0.1, 1]]), (np.array(SIZE) - 1) / 2
    expected = decode_at(CLOUD, RECORD, (pixels(SIZE) - middle) @ np.linalg.inv(matrix).T + middle)
    with_maps, without = (decode_at(edit.shear(CLOUD, 0.1, maps), RECORD, pixels(SIZE)) for maps in (MAPS, None))
    assert decibels(with_maps, expected) > decibels(without, expected)
    assert 0 < MAPS.plane(matrix).missed < MAPS.plane(np.array([[1, 0], [0.3, 1]])).missed < 1


def test_a_turn_as_a_map_of_the_plane_is_the_turn() -> None:
    angle = np.deg2rad(25)
    turn = MAPS.plane([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert turn.missed < 1e-3
    np.testing.assert_allclose(turn(CLOUD.latents), MAPS.rotated(CLOUD.latents, 25), atol=2e-3)


def test_colours_mean_what_torchvision_users_know() -> None:
    def changed(edit: tuple[NDArray[np.float64], NDArray[np.float64]], colour: list[float]) -> NDArray[np.float64]:
        matrix, offset = edit
        return matrix @ (np.array(colour) - 0.5) + 0.5 + offset

    colour = [0.9, 0.2, 0.4]
    np.testing.assert_allclose(changed(brightness(0.5, 3), colour), [0.45, 0.1, 0.2], atol=1e-12)
    np.testing.assert_allclose(changed(contrast(0.5, 3), colour), [0.7, 0.35, 0.45], atol=1e-12)
    luma = 0.299 * 0.9 + 0.587 * 0.2 + 0.114 * 0.4
    np.testing.assert_allclose(changed(saturation(0.0), colour), [luma] * 3, atol=1e-12)
    np.testing.assert_allclose(changed(saturation(1.0), colour), colour, atol=1e-12)
    np.testing.assert_allclose(changed(hue(0.0), colour), colour, atol=1e-12)
    _, green, blue = changed(hue(1 / 6), [1.0, 0.0, 0.0])  # red towards yellow
    assert green > 0.3 > blue
    np.testing.assert_allclose(changed(hue(1 / 3), changed(hue(2 / 3), colour).tolist()), colour, atol=1e-12)


def test_changes_of_colour_are_closed_under_one_after_another() -> None:
    np.testing.assert_allclose(TURN @ TURN, GREY - np.eye(3), atol=1e-12)
    np.testing.assert_allclose(GREY @ TURN, np.zeros((3, 3)), atol=1e-12)
    np.testing.assert_allclose(TURN @ GREY, np.zeros((3, 3)), atol=1e-12)


def test_grey_pictures_have_brightness_and_contrast() -> None:
    record = make_record(channels=1)
    cloud, maps = make_cloud(record), Maps(record)
    found = decode(edit.recolour(cloud, *contrast(0.5, 1), maps), record)
    np.testing.assert_allclose(found - 0.5, 0.5 * (decode(cloud, record) - 0.5), atol=1e-5)
    assert maps.colour(*brightness(1.2, 1)).missed < 0.5


Change = Callable[[Cloud], Cloud]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: edit.rotate(c, 40, MAPS),
        lambda c: edit.flip(c, "rows", MAPS),
        lambda c: edit.shear(c, 0.1, MAPS),
    ],
)
def test_edits_leave_the_cloud_that_they_are_given_alone(change: Change) -> None:
    before = CLOUD.latents.copy()
    change(CLOUD)
    np.testing.assert_array_equal(CLOUD.latents, before)
