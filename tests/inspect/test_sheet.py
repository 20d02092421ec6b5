"""Layout of sheets: sizes add up, nothing overlaps, long texts stay in their place."""

from __future__ import annotations

import unicodedata

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from arcpipe.inspect.sheet import BODY, CAPTION_WIDTH, GAP, MARGIN, Row, Sheet, draw_sheet, font, wrap


def panel(width: int, height: int, colour: str) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def test_a_sheet_is_as_wide_as_its_columns_and_shows_every_panel_unscaled() -> None:
    colours = [["#ff0000", "#00ff00"], ["#0000ff", "#ff00ff"]]
    rows = tuple(Row(tuple(panel(200, 150, c) for c in row), ("name", "class 3")) for row in colours)
    shown = np.asarray(draw_sheet(Sheet("title", ("one", "two"), rows, ("facts",), ("a note",))))
    assert shown.shape[1] == 2 * MARGIN + CAPTION_WIDTH + 2 * 200 + 2 * GAP
    for row in colours:
        for colour in row:
            ink = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
            assert (shown == ink).all(axis=-1).sum() == 200 * 150


def test_long_captions_make_their_row_taller_and_never_reach_the_pictures() -> None:
    name = "train/" + "averylongname" * 20
    sheet = Sheet("t", ("one",), (Row((panel(60, 10, "#00ff00"),), (name, "b", "c", "d"), warning="w " * 90),) * 2)
    shown = np.asarray(draw_sheet(sheet))
    gutter = shown[110:, MARGIN + CAPTION_WIDTH : MARGIN + CAPTION_WIDTH + GAP - 1]
    assert (gutter == 255).all()
    green = np.flatnonzero((shown == (0, 255, 0)).all(axis=-1).any(axis=1))
    assert len(green) == 20  # two panels of ten rows, and the second starts below the caption of the first
    assert np.diff(green).max() > 150


@given(st.text(max_size=200), st.integers(60, 400))
def test_wrapped_text_fits_its_width_and_loses_nothing_before_the_ellipsis(text: str, width: int) -> None:
    lines = wrap(text, width, most=4)
    assert len(lines) <= 4
    assert all(font(BODY).getlength(line) <= width + BODY for line in lines)
    joined = "".join("".join(lines).split()).removesuffix("…")
    drawable = "".join("?" if unicodedata.category(c)[0] == "C" else c for c in "".join(text.split()))
    assert drawable.startswith(joined)


def test_the_error_scale_says_its_limit_beside_the_last_column() -> None:
    row = Row((panel(250, 50, "black"),), ("name",))
    with_scale = np.asarray(draw_sheet(Sheet("t", ("error",), (row,), error_limit=0.2)))
    without = np.asarray(draw_sheet(Sheet("t", ("error",), (row,))))
    assert with_scale.shape == without.shape
    differs = (with_scale != without).any(axis=-1)
    assert differs.sum() > 500
    assert np.flatnonzero(differs.any(axis=1)).max() < 120  # in the head of the sheet, not on the pictures
