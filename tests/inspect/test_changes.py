"""A change of the picture and the same change of the cloud: how they are compared, and what the sheets show."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.maps import Maps
from arcpipe.arc.render import render_cloud, render_places
from arcpipe.cloud import BasisRecord, Cloud, DecoderRecord
from arcpipe.config import FitSection
from arcpipe.errors import ConfigError
from arcpipe.inspect.changes import PICTURES, changes, compare, cropped, flipped, recoloured, rotated, zoomed
from arcpipe.inspect.edits import draw_edit
from arcpipe.inspect.samples import CloudPlace, View

SIZE = (21, 26)
NETWORK = Decoder.initial(FitSection(latent_dim=5, hidden=(16,)), 3, seed=0).to_record()


def make_basis(channels: int = 3) -> BasisRecord:
    rng = np.random.default_rng(0)
    orders = np.array([0, 0, 0, 1, 2], np.float32)
    smooth = np.cos(np.outer(np.arange(33) / 8, [0.0, 1.0]))
    profiles = np.einsum("kw,wcu->kcu", smooth, rng.standard_normal((2, channels, 5)))
    profiles -= np.where(orders > 0, profiles[0], 0)
    ones = np.ones(7, np.float32)
    rule = np.array([0.4, 2, 40], np.float32)
    return BasisRecord(profiles.astype(np.float32), orders, 0.125, 1.0, 0.5, rule, ones, ones, 4)


def make_cloud(z: int, k: int = 40, *, scales: bool = True) -> Cloud:
    rng = np.random.default_rng(1)
    return Cloud(
        positions=(rng.random((k, 2)) * np.array(SIZE) - 0.5).astype(
            np.float32
        ),  # of whole pixels some are equally far
        latents=(0.1 * rng.standard_normal((k, z))).astype(np.float16),
        size=SIZE,
        relative=(0.0, 3.0),
        scales=np.exp2(rng.integers(8, 16, k) / 8).astype(np.float32) if scales else None,
    )


BASIS = make_basis()
MAPS = Maps(BASIS)
OF_BASIS, OF_NETWORK = make_cloud(7), make_cloud(5, scales=False)


@pytest.mark.parametrize(("cloud", "record"), [(OF_BASIS, BASIS), (OF_NETWORK, NETWORK)], ids=["basis", "concat"])
def test_places_on_pixels_are_the_pixels(cloud: Cloud, record: DecoderRecord) -> None:
    places = np.mgrid[: SIZE[0], : SIZE[1]].reshape(2, -1).T.astype(np.float64)
    picture = np.clip(render_places(cloud, record, places), 0, 1).reshape(*SIZE, 3)
    np.testing.assert_allclose(picture, render_cloud(cloud, record), atol=1e-5)


@pytest.mark.parametrize("name", PICTURES)
def test_a_cloud_of_the_kind_basis_follows_the_picture(name: str) -> None:
    exact = name in ("rotate", "flip", "zoom", "contrast")
    for change in changes(name, BASIS):
        made = compare(OF_BASIS, BASIS, change, MAPS)
        if exact:
            assert made.followed_db > 60
        if made.alone_db is not None:
            assert made.followed_db > made.alone_db
        assert made.expected.shape == made.followed.shape
        assert (made.resampled_db is None) == (change.colours is not None)


@pytest.mark.parametrize("name", ["rotate", "flip", "zoom", "crop", "shear"])
def test_a_cloud_of_a_network_moves_its_positions_alone(name: str) -> None:
    for change in changes(name, NETWORK):
        made = compare(OF_NETWORK, NETWORK, change, None)
        assert made.alone is None
        assert made.cloud.latents.dtype == np.float16


def test_flips_and_quarter_turns_of_pictures_are_those_of_numpy() -> None:
    square = dataclasses.replace(OF_BASIS, size=(26, 26))
    picture = render_cloud(square, BASIS)
    expected = {
        flipped("rows"): picture[::-1],
        flipped("columns"): picture[:, ::-1],
        rotated(90): np.rot90(picture),
    }
    for change, wanted in expected.items():
        made = compare(square, BASIS, change, MAPS)
        np.testing.assert_allclose(made.expected, wanted, atol=1e-4)
        assert made.resampled_db is not None
        assert made.resampled_db > 80


def test_a_crop_is_the_middle_and_a_margin_makes_it_whole() -> None:
    picture = render_cloud(OF_BASIS, BASIS)
    cut, whole = (compare(OF_BASIS, BASIS, cropped(0.5, margin), MAPS) for margin in (0.0, 99.0))
    np.testing.assert_allclose(cut.expected, picture[5:15, 6:19], atol=1e-5)
    assert len(cut.cloud) < len(whole.cloud)
    assert cut.followed_db < whole.followed_db == 120


def test_colours_are_those_of_the_matrix_and_unchanged_latents_show_the_old_ones() -> None:
    change = recoloured("brightness", 0.5, 3)
    made = compare(OF_BASIS, BASIS, change, MAPS)
    before = render_cloud(OF_BASIS, BASIS)
    shown = before < 1  # a picture is cut at white
    np.testing.assert_allclose(made.expected[shown], 0.5 * before[shown], atol=0.02)
    assert made.alone is not None
    np.testing.assert_allclose(made.alone, render_cloud(OF_BASIS, BASIS), atol=1e-4)
    with pytest.raises(ValueError, match="cannot be changed"):
        compare(OF_NETWORK, NETWORK, change, None)


def test_scales_alone_make_a_zoom() -> None:
    made = compare(OF_BASIS, BASIS, zoomed(1.5), MAPS)
    assert made.alone_db is not None
    assert made.alone_db < 40


def view_of(cloud: Cloud, record: DecoderRecord) -> View:
    return View(
        CloudPlace("test", "0000", 0), "test/a.png", "a", cloud, render_cloud(cloud, record), None, 30.0, "", ()
    )


@pytest.mark.parametrize("edit", PICTURES)
def test_every_change_has_a_sheet(edit: str) -> None:
    sheet = draw_edit(BASIS, [view_of(OF_BASIS, BASIS)], edit, 0, 64)
    assert len(sheet.rows) == 3
    assert {len(row.panels) for row in sheet.rows} == {len(sheet.columns)} == {4 if edit == "crop" else 5}
    assert all(any("cloud" in line and "dB" in line for line in row.caption) for row in sheet.rows)


def test_a_sheet_of_several_samples_has_the_next_level_for_each() -> None:
    views = [view_of(OF_NETWORK, NETWORK)] * 4
    sheet = draw_edit(NETWORK, views, "rotate", 0, 64)
    assert [row.caption[2][:13] for row in sheet.rows] == [
        "turned by 30°",
        "turned by 90°",
        "turned by 150",
        "turned by 30°",
    ]
    assert len(sheet.columns) == 4
    assert "do not change" in sheet.subtitle[0]


def test_colours_of_networks_and_hues_of_grey_pictures_are_refused() -> None:
    with pytest.raises(ConfigError, match="--edit hue needs clouds of the kind basis"):
        draw_edit(NETWORK, [view_of(OF_NETWORK, NETWORK)], "hue", 0, 64)
    grey = make_basis(1)
    with pytest.raises(ConfigError, match="--edit saturation needs pictures of three channels"):
        draw_edit(grey, [view_of(OF_BASIS, grey)], "saturation", 0, 64)
    assert len(draw_edit(grey, [view_of(OF_BASIS, grey)], "brightness", 0, 64).rows) == 3
