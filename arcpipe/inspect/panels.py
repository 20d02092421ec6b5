"""The pictures of one sample, as columns of a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from arcpipe.arc.render import render_cloud
from arcpipe.cloud import DecoderRecord
from arcpipe.inspect.pixels import draw_dots, error_picture, faded, fit, fit_error, nice_limit, to_picture
from arcpipe.inspect.samples import View
from arcpipe.inspect.sheet import QUIET, Row, font

ERROR_QUANTILE = 0.98  # of all error pixels on a sheet: the worst sample does not darken the rest


def plain_panels(view: View, box: int, *, with_originals: bool) -> Row:
    """Original, reconstruction, anchors; the error follows in `finish`. Only the middle two without originals."""
    reconstruction = fit(to_picture(view.image), box)
    original = None if view.original is None else fit(to_picture(view.original), box)
    anchors = draw_dots(faded(original or reconstruction), view.cloud.positions, view.cloud.size)
    error = None if view.original is None else fit_error(view.original, view.image, box)
    pictures: tuple[Image.Image, ...] = (reconstruction, anchors)
    if with_originals:
        pictures = (original or absent(reconstruction.size), *pictures)
    return Row(pictures, view.caption, view.place.tag, view.warning, error)


def finish(rows: Sequence[Row], *, with_originals: bool) -> tuple[tuple[Row, ...], float | None]:
    """Rows with a picture of their error, and the error that has the brightest colour: one scale for all of them."""
    errors = [row.error.ravel() for row in rows if row.error is not None]
    limit = nice_limit(float(np.quantile(np.concatenate(errors), ERROR_QUANTILE))) if errors else None
    if not with_originals:
        return tuple(rows), limit

    def drawn(row: Row) -> Image.Image:
        if row.error is None or limit is None:
            return absent(row.panels[0].size)
        return error_picture(row.error, limit)

    return tuple(replace(row, panels=(*row.panels, drawn(row))) for row in rows), limit


def scaled_panels(view: View, decoder: DecoderRecord, scale: int, box: int, *, with_originals: bool) -> Row:
    """Pixels as they are, enlarged by bicubic interpolation, and rendered between the pixels; the same detail of each.

    The first two show the original, or the reconstruction where there is none.
    """
    top, left, tall, wide = window = detail_window(view, max(1, box // scale))
    within = (left * scale, top * scale, (left + wide) * scale, (top + tall) * scale)
    source = to_picture(view.image if view.original is None else view.original)
    large = (source.width * scale, source.height * scale)
    pictures = [source.resize(large, way).crop(within) for way in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)]
    pictures.append(to_picture(render_cloud(view.cloud, decoder, scale=scale, window=window)))
    caption = view.caption
    if (tall, wide) != view.cloud.size:
        caption += (f"detail: rows {top} to {top + tall - 1}, columns {left} to {left + wide - 1}",)
    if with_originals and view.original is None:
        caption += ("pixels: of the reconstruction",)
    return Row(tuple(fit(picture, box) for picture in pictures), caption, view.place.tag, view.warning)


def detail_window(view: View, side: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the part of an image, at most `side` pixels wide, that has the most anchors."""
    height, width = view.cloud.size
    tall, wide = min(side, height), min(side, width)
    rows, columns = np.asarray(view.cloud.positions, np.int64).T
    sums = np.zeros((height + 1, width + 1), np.int64)
    np.add.at(sums, (rows + 1, columns + 1), 1)
    sums = sums.cumsum(axis=0).cumsum(axis=1)
    inside = sums[tall:, wide:] - sums[:-tall, wide:] - sums[tall:, :-wide] + sums[:-tall, :-wide]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(top), int(left), tall, wide


def absent(size: tuple[int, int]) -> Image.Image:
    """A pale field in place of a picture that cannot be shown."""
    field_ = Image.new("RGB", size, (244, 244, 244))
    middle = (size[0] / 2, size[1] / 2)
    ImageDraw.Draw(field_).text(middle, "not available", font=font(14), fill=QUIET, anchor="mm")
    return field_
