"""Resize, crop, pad and displace; the size known from the header is the size that is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from arcpipe.config import FitSection, SourceSection
from arcpipe.errors import ImageError
from arcpipe.sources.shape import shape_image, shaped_size, view_of

SIDES = st.integers(1, 24)


def section(**values: Any) -> SourceSection:
    return SourceSection(source="x", **values)


def picture(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    if mode == "F":
        return Image.fromarray(rng.random((height, width), dtype=np.float32))
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    height=SIDES,
    width=SIDES,
    resize=st.sampled_from(["size", "shorter", None]),
    side=SIDES,
    crop=st.none() | SIDES,
    pad=st.none() | SIDES,
    displace=st.booleans(),
    mode=st.sampled_from(["L", "RGB", "F"]),
    channels=st.sampled_from([1, 3]),
)
def test_the_promised_size_is_the_shape_or_both_fail_alike(
    height: int,
    width: int,
    resize: str | None,
    side: int,
    crop: int | None,
    pad: int | None,
    displace: bool,
    mode: str,
    channels: int,
) -> None:
    settings_ = section(
        **({resize: side} if resize else {}), center_crop=crop, pad=pad, displace=displace and bool(pad)
    )
    image = picture(height, width, mode)
    try:
        promised = shaped_size((height, width), settings_, "x")
    except ImageError as error:
        with pytest.raises(ImageError, match=error.what.split(":")[0]):
            shape_image(image, settings_, channels, "x")
        return
    pixels = shape_image(image, settings_, channels, "x")
    assert pixels.shape == (*promised, channels)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_without_settings_pixels_are_bytes_over_255() -> None:
    image = picture(3, 4)
    np.testing.assert_array_equal(shape_image(image, section(), 3, "x"), np.asarray(image, np.float32) / 255)


def test_greyscale_is_repeated_and_colour_becomes_luma() -> None:
    grey = shape_image(picture(3, 4, "L"), section(), 3, "x")
    np.testing.assert_array_equal(grey, np.repeat(grey[:, :, :1], 3, axis=2))
    colour = picture(3, 4)
    luma = np.asarray(colour, np.float64) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(shape_image(colour, section(), 1, "x")[:, :, 0] * 255, luma, atol=1)


@pytest.mark.parametrize(
    ("size", "expected"), [((100, 150), (10, 15)), ((150, 100), (15, 10)), ((3, 5), (10, 17)), ((1, 40), (10, 400))]
)
def test_shorter_keeps_the_proportion(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert shaped_size(size, section(shorter=10), "x") == expected


def test_shrinking_averages_without_aliasing() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = shape_image(Image.fromarray(stripes), section(size=8), 3, "x")
    np.testing.assert_allclose(small[:, 1:-1], 0.5, atol=0.02)


def test_overshoot_of_floats_is_clipped() -> None:
    edge = np.zeros((8, 8), np.float32)
    edge[:, 4:] = 1
    large = shape_image(Image.fromarray(edge), section(size=32), 1, "x")
    assert large.min() == 0
    assert large.max() == 1


def test_crop_takes_the_middle() -> None:
    image = picture(9, 6)
    np.testing.assert_array_equal(
        shape_image(image, section(center_crop=4), 3, "x"), shape_image(image, section(), 3, "x")[2:6, 1:5]
    )


def test_pad_puts_the_picture_in_the_middle_of_zeros() -> None:
    image = picture(4, 2)
    padded = shape_image(image, section(pad=10), 3, "x")
    np.testing.assert_array_equal(padded[3:7, 4:6], shape_image(image, section(), 3, "x"))
    padded[3:7, 4:6] = 0
    assert not padded.any()


def test_displace_moves_the_whole_picture_by_name_and_seed() -> None:
    image = Image.fromarray(np.full((3, 3, 3), 255, np.uint8))
    settings_ = section(pad=8, displace=True)

    def corner(name: str, seed: int = 0) -> tuple[int, int]:
        padded = shape_image(image, settings_, 1, name, seed)
        assert padded.sum() == 9  # nothing is cut
        return tuple(np.argwhere(padded[:, :, 0])[0].tolist())

    assert corner("train/1.png") == corner("train/1.png")
    places = [corner(f"train/{number}.png") for number in range(400)]
    assert set(places) == {(top, left) for top in range(6) for left in range(6)}  # every place, the edges too
    assert [corner(f"train/{number}.png", seed=1) for number in range(20)] != places[:20]


@pytest.mark.parametrize(
    ("values", "size", "reason", "words"),
    [
        ({"center_crop": 8}, (7, 20), "too-small", "--shorter 8 --center-crop 8"),
        ({"pad": 8}, (9, 2), "too-large", "--pad 9"),
        ({"max_pixels": 100}, (10, 11), "too-large", "--max-pixels 110"),
        ({"shorter": 30000}, (10, 10), "too-large", "resized to 30000 x 30000"),
        ({"shorter": 4096, "center_crop": 8}, (1, 4096), "too-large", "resized"),
    ],
)
def test_what_does_not_fit_fails_with_the_option_that_helps(
    values: dict[str, int], size: tuple[int, int], reason: str, words: str
) -> None:
    with pytest.raises(ImageError) as caught:
        shaped_size(size, section(**values), "train/x.png")
    assert caught.value.reason == reason
    assert words in str(caught.value)
    assert "train/x.png" in str(caught.value)


def test_the_suggested_option_makes_the_image_fit() -> None:
    assert shaped_size((10, 11), section(max_pixels=110), "x") == (10, 11)
    assert shaped_size((7, 20), section(shorter=8, center_crop=8), "x") == (8, 8)
    assert shaped_size((6000, 8000), section(shorter=1024), "x") == (1024, 1365)


@pytest.mark.parametrize("size", [(32, 40), (1, 7), (3, 1)])
def test_a_view_is_cut_out_near_the_image_and_may_be_mirrored(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random((*size, 3), np.float32)
    assert view_of(pixels, 0, FitSection(), "train/a") is pixels
    views = [view_of(pixels, number, FitSection(), "train/a") for number in range(1, 40)]
    assert {view.shape for view in views} == {pixels.shape}
    assert np.array_equal(views[0], view_of(pixels, 1, FitSection(), "train/a"))
    assert not np.array_equal(views[0], view_of(pixels, 1, FitSection(), "train/b", 1)) or min(size) == 1
    straight = [view_of(pixels, number, FitSection(view_flip=False), "train/a") for number in range(1, 40)]
    margin = [round(side / 8) for side in size]
    wide = np.pad(pixels, ((margin[0], margin[0]), (margin[1], margin[1]), (0, 0)), "symmetric")
    height, width = size
    for view, plain in zip(views, straight, strict=True):
        places = [
            (row, column)
            for row in range(2 * margin[0] + 1)
            for column in range(2 * margin[1] + 1)
            if np.array_equal(wide[row : row + height, column : column + width], plain)
        ]
        assert places
        assert np.array_equal(view, plain) or np.array_equal(view, plain[:, ::-1])
    if width > 1:
        assert 5 < sum(np.array_equal(*pair) for pair in zip(views, straight, strict=True)) < 35
