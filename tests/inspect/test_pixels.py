"""Pictures for sheets: sizes, crispness, colours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from arcpipe.inspect.pixels import (
    VERMILLION,
    coloured,
    display_size,
    draw_dots,
    error_picture,
    fit,
    fit_error,
    nice_limit,
    to_picture,
)


@given(st.tuples(st.integers(1, 600), st.integers(1, 600)), st.integers(16, 300))
def test_small_pictures_grow_by_whole_factors_and_large_ones_fit_the_box(size: tuple[int, int], box: int) -> None:
    height, width = display_size(size, box)
    assert max(height, width) <= box
    if max(size) <= box:
        assert height % size[0] == 0
        assert height // size[0] == width // size[1]
        assert 2 * max(height, width) > box  # the largest whole factor
    else:
        assert max(height, width) == box


def test_a_32_pixel_image_is_shown_at_256_pixels_or_more() -> None:
    assert display_size((32, 32), 288) == (288, 288)


def test_enlarged_pixels_are_squares_of_one_colour() -> None:
    image = np.random.default_rng(0).random((5, 7, 3), np.float32)
    shown = np.asarray(fit(to_picture(image), 70))
    assert shown.shape == (50, 70, 3)
    assert np.array_equal(shown, np.asarray(to_picture(image)).repeat(10, axis=0).repeat(10, axis=1))


def test_reduced_pictures_are_area_averages() -> None:
    image = np.random.default_rng(0).random((40, 60, 1), np.float32)
    shown = np.asarray(fit(to_picture(image), 30), np.float64)[:, :, 0] / 255
    mean = image[:, :, 0].reshape(20, 2, 30, 2).mean(axis=(1, 3))
    assert np.abs(shown - mean).max() < 1.5 / 255


def test_values_outside_0_and_1_are_clamped_not_wrapped() -> None:
    picture = to_picture(np.array([[[-0.2], [1.3], [0.5]]]))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 255, 128]


def test_error_is_black_at_zero_and_brightest_at_its_limit() -> None:
    error = fit_error(np.zeros((2, 2, 3)), np.array([[[0.0] * 3, [0.1] * 3], [[0.2] * 3, [0.4] * 3]]), 2)
    shown = np.asarray(error_picture(error, 0.2)).astype(int).sum(axis=-1)
    assert shown[0, 0] < 20
    assert shown[0, 0] < shown[0, 1] < shown[1, 0] == shown[1, 1]


def test_colour_maps_grow_lighter_so_that_they_read_without_hue() -> None:
    for name in ("magma", "viridis"):
        light = coloured(np.linspace(0, 1, 11), name) @ np.array([0.299, 0.587, 0.114])
        assert (np.diff(light) > 0).all()


@pytest.mark.parametrize(("largest", "limit"), [(0, 0.01), (0.011, 0.02), (0.2, 0.2), (0.21, 0.5), (0.7, 1), (1.0, 1)])
def test_scales_end_at_readable_numbers(largest: float, limit: float) -> None:
    assert nice_limit(largest) == pytest.approx(limit)


def test_a_dot_covers_the_middle_of_its_pixel_and_keeps_its_neighbours_clear() -> None:
    paper = Image.new("RGB", (160, 160), "white")
    shown = np.asarray(draw_dots(paper, np.array([[2, 5]]), (8, 8)))
    assert tuple(shown[2 * 20 + 10, 5 * 20 + 10]) == VERMILLION
    assert (shown[:30] == 255).all()
    assert (shown[:, :95] == 255).all()


def test_anchors_outside_the_image_are_left_out() -> None:
    paper = Image.new("RGB", (80, 80), "white")
    outside = np.array([[-3.0, 2.0], [2.0, 8.0], [99.0, 99.0]])
    assert (np.asarray(draw_dots(paper, outside, (8, 8))) == 255).all()


def test_many_anchors_of_a_photograph_become_a_density() -> None:
    positions = np.stack(np.divmod(np.arange(400 * 200), 400), axis=1)  # every pixel of the upper half
    shown = np.asarray(draw_dots(Image.new("RGB", (100, 100), "white"), positions, (400, 400))).astype(int)
    assert (shown[60:] == 255).all()
    assert (shown[:40] - np.array(VERMILLION) < 120).all()
