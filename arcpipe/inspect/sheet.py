"""One sheet: a title, named columns, and rows of pictures with a caption at the left. Pillow only."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from arcpipe.inspect.pixels import VERMILLION, coloured

MARGIN = 28
GAP = 14
CAPTION_WIDTH = 270
LINE = 24
Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
INK, QUIET, RULE = (30, 30, 30), (110, 110, 110), (215, 215, 215)
BODY, TITLE = 16, 27


@dataclass(frozen=True, slots=True)
class Row:
    """Pictures of one sample. `caption`: the first line is bold; `warning` is printed in vermillion.

    `error` (height, width) becomes a picture too, when all rows of the sheet are known (`panels.finish`).
    """

    panels: tuple[Image.Image, ...]
    caption: tuple[str, ...]
    tag: str = ""
    warning: str = ""
    error: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Sheet:
    """What `draw_sheet` lays out; every row has one panel for each column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    subtitle: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error_limit: float | None = None
    """The absolute error that has the brightest colour in the last column; drawn as a scale beside its name."""


@cache
def font(size: int, bold: bool = False) -> Font:
    """DejaVu Sans as matplotlib ships it (Latin, Greek, Cyrillic), else Pillow's own. Laid out alike on any machine."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    if not path.is_file():
        return ImageFont.load_default(size)
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def printable(text: str) -> str:
    """Text on one line: control characters, and bytes of a name that are no text, become question marks."""
    return "".join("?" if unicodedata.category(letter)[0] == "C" else letter for letter in text)


def wrap(text: str, width: int, size: int = BODY, bold: bool = False, most: int = 3) -> list[str]:
    """Break text into at most `most` lines of `width` pixels, at spaces or slashes if it can; the last may end in …

    Letters that cannot be drawn become question marks (see `printable`).
    """
    shown = printable(" ".join(text.split()))
    lines: list[str] = []
    face, rest = font(size, bold), shown
    while rest:
        stop = len(rest)
        while stop > 1 and face.getlength(rest[:stop]) > width:
            stop -= 1
        if stop < len(rest):
            if len(lines) == most - 1:
                return [*lines, rest[: max(1, stop - 1)].rstrip() + "…"]
            breaks = [i + 1 for i, letter in enumerate(rest[:stop]) if letter in " /·-_"]
            stop = breaks[-1] if breaks else stop
        lines.append(rest[:stop].rstrip())
        rest = rest[stop:].lstrip()
    return lines


def draw_sheet(sheet: Sheet) -> Image.Image:
    """Lay a sheet out on white. Its size follows the pictures: nothing is scaled here, nothing overlaps."""
    widths = [_column_width(sheet, i) for i in range(len(sheet.columns))]
    width = 2 * MARGIN + CAPTION_WIDTH + sum(widths) + GAP * len(widths)
    heading = _heading(sheet, width - 2 * MARGIN)
    heights = [max(len(_caption(row)) * LINE, *(panel.height for panel in row.panels)) for row in sheet.rows]
    notes = [line for note in sheet.notes for line in wrap(note, width - 2 * MARGIN)]
    top = MARGIN + sum(step for _, _, step, _ in heading) + GAP
    height = top + LINE + GAP + sum(heights) + len(sheet.rows) * 2 * GAP + len(notes) * LINE + MARGIN - GAP
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    y = MARGIN
    for text, face, step, ink in heading:
        pen.text((MARGIN, y), text, font=face, fill=ink)
        y += step
    lefts = [MARGIN + CAPTION_WIDTH + sum(widths[:i]) + GAP * (i + 1) for i in range(len(widths))]
    _draw_columns(page, pen, sheet, lefts, widths, top)
    y = top + LINE + GAP
    for row, tall in zip(sheet.rows, heights, strict=True):
        _draw_row(page, pen, row, lefts, y)
        y += tall + 2 * GAP
    for i, note in enumerate(notes):
        pen.text((MARGIN, y - GAP + i * LINE), note, font=font(BODY), fill=QUIET)
    return page


def _column_width(sheet: Sheet, index: int) -> int:
    name = font(BODY, True).getlength(sheet.columns[index])
    scale = 170 if sheet.error_limit is not None and index == len(sheet.columns) - 1 else 0
    return max([int(name) + 8 + scale, *(row.panels[index].width for row in sheet.rows)])


def _heading(sheet: Sheet, width: int) -> list[tuple[str, Font, int, Colour]]:
    """Lines above the columns: text, font, height and colour."""
    lines = [(text, font(TITLE, True), TITLE + 12, INK) for text in wrap(sheet.title, width, TITLE, True)]
    return lines + [(text, font(BODY), LINE, QUIET) for line in sheet.subtitle for text in wrap(line, width)]


def _draw_columns(
    page: Image.Image, pen: ImageDraw.ImageDraw, sheet: Sheet, lefts: list[int], widths: list[int], top: int
) -> None:
    for name, left in zip(sheet.columns, lefts, strict=True):
        pen.text((left, top), name, font=font(BODY, True), fill=INK)
    if sheet.error_limit is not None:
        scale = _error_scale(sheet.error_limit)
        page.paste(scale, (lefts[-1] + widths[-1] - scale.width, top))
    pen.line((MARGIN, top + LINE + 2, page.width - MARGIN, top + LINE + 2), fill=RULE)


def _error_scale(limit: float) -> Image.Image:
    """`0 [black to pale yellow] ≥ limit`, 160 pixels wide at most."""
    bar = Image.fromarray(np.broadcast_to(coloured(np.linspace(0, 1, 90), "magma"), (14, 90, 3)).copy())
    face, end = font(14), f"≥ {limit:g}"
    scale = Image.new("RGB", (16 + bar.width + 8 + int(face.getlength(end)) + 1, 20), "white")
    pen = ImageDraw.Draw(scale)
    pen.text((0, 1), "0", font=face, fill=QUIET)
    scale.paste(bar, (16, 3))
    pen.text((16 + bar.width + 8, 1), end, font=face, fill=QUIET)
    return scale


def _caption(row: Row) -> list[tuple[str, bool, Colour]]:
    """Wrapped lines of a caption: text, bold, colour."""
    room = CAPTION_WIDTH - GAP
    lines = [(row.tag, False, QUIET)] if row.tag else []
    for i, text in enumerate(row.caption):
        lines += [(part, i == 0, INK) for part in wrap(text, room, bold=i == 0)]
    return lines + [(part, False, VERMILLION) for part in wrap(row.warning, room, most=6)]


def _draw_row(page: Image.Image, pen: ImageDraw.ImageDraw, row: Row, lefts: list[int], top: int) -> None:
    for i, (text, bold, ink) in enumerate(_caption(row)):
        pen.text((MARGIN, top + i * LINE - 2), text, font=font(BODY, bold), fill=ink)
    for panel, left in zip(row.panels, lefts, strict=True):
        page.paste(panel, (left, top))
        # A hairline round the picture: white photographs and padded digits keep their frame.
        pen.rectangle((left - 1, top - 1, left + panel.width, top + panel.height), outline=RULE)
