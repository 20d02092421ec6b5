"""From numbers to 8-bit pictures: crisp enlargement, area-averaged reduction, colour maps and dots for anchors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from arcpipe.files import write_drawn

VERMILLION = (213, 94, 0)  # these two and the colour maps below survive the common forms of colour blindness
BLUE = (0, 114, 178)
GAP = 8  # pixels between pictures that are laid out in rows
FINE = 4  # dots are drawn this much larger and averaged: smooth edges
DENSE_PX = 2.0  # anchors nearer to each other than this on the sheet are shown as a density, not as dots


def to_picture(image: NDArray[Any]) -> Image.Image:
    """Round an image (H, W, 1 or 3) in [0, 1] to 8-bit RGB."""
    levels = np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(levels, (*levels.shape[:2], 3)).copy())


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    write_drawn(path, partial(image.save, format="PNG"))


def display_size(size: tuple[int, int], box: int) -> tuple[int, int]:
    """Height and width on the sheet: the largest whole multiple that fits `box` pixels, or smaller than life."""
    height, width = size
    longest = max(height, width)
    if longest <= box:
        return height * (box // longest), width * (box // longest)
    return max(1, round(height * box / longest)), max(1, round(width * box / longest))


def fit(picture: Image.Image, box: int) -> Image.Image:
    """Show a picture in `box` pixels: pixels become squares when enlarged, areas are averaged when reduced."""
    height, width = display_size((picture.height, picture.width), box)
    enlarged = width >= picture.width
    return picture.resize((width, height), Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX)


def fit_error(image: NDArray[Any], reconstruction: NDArray[Any], box: int) -> NDArray[np.float32]:
    """Absolute error (mean over channels) at the size of the sheet; averaged before it is coloured."""
    error = np.abs(image - reconstruction).mean(axis=-1, dtype=np.float32)
    return np.asarray(fit(Image.fromarray(error), box))


def error_picture(shown: NDArray[np.float32], limit: float) -> Image.Image:
    """Colour an error from `fit_error`: 0 is black, `limit` and more pale yellow."""
    return Image.fromarray(coloured(shown / limit, "magma"))


def coloured(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Colours (..., 3) of values in [0, 1] in one of matplotlib's perceptually uniform colour maps."""
    levels = np.rint(np.clip(values, 0.0, 1.0) * 255).astype(np.uint8)
    return _table(name)[levels]


@cache
def _table(name: str) -> NDArray[np.uint8]:
    from matplotlib import colormaps  # half a second to import

    return np.rint(colormaps[name](np.arange(256))[:, :3] * 255).astype(np.uint8)


def nice_limit(largest: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten, at least 0.01: a scale that can be read."""
    largest = max(largest, 0.01)
    power = 10.0 ** np.floor(np.log10(largest))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= largest * (1 - 1e-9)))


def faded(picture: Image.Image) -> Image.Image:
    """A pale grey version for the background of dots, so that they stand out on any picture."""
    grey = picture.convert("L").convert("RGB")
    return Image.blend(Image.new("RGB", picture.size, "white"), grey, 0.4)


def draw_dots(
    background: Image.Image,
    positions: NDArray[Any],
    size: tuple[int, int],
    colours: NDArray[np.uint8] | tuple[int, int, int] = VERMILLION,
) -> Image.Image:
    """Draw anchors on a picture that shows an image of `size` pixels; anchors outside it are left out.

    Args:
        background: shows the image, at any enlargement.
        positions: (k, 2), row and column in image pixels, pixel (0, 0) centred on 0.
        size: height and width of the image, pixels.
        colours: one colour, or (k, 3).
    """
    zoom = background.height / size[0], background.width / size[1]
    places = (np.asarray(positions, np.float64) + 0.5) * zoom
    table = np.broadcast_to(np.asarray(colours, np.uint8), (len(places), 3))
    inside = ((places >= 0) & (places < (background.height, background.width))).all(axis=1)
    spacing = float(np.sqrt(background.height * background.width / max(1, inside.sum())))
    draw = _draw_density if spacing < DENSE_PX else _draw_circles
    return draw(background, places[inside], table[inside], spacing)


def _draw_circles(
    background: Image.Image, places: NDArray[Any], colours: NDArray[np.uint8], spacing: float
) -> Image.Image:
    """Dots with a white edge. Their size follows the mean distance between anchors: they touch but do not hide."""
    radius = float(np.clip(spacing * 0.2, 0.5, 6.0)) * FINE
    edge = radius + 1.5 * FINE if radius > 2 * FINE else 0.0  # no room for an edge between many small dots
    layer = background.resize((background.width * FINE, background.height * FINE), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(layer)
    for (row, column), colour in zip(places * FINE, colours.tolist(), strict=True):
        for reach, ink in ((edge, (255, 255, 255)), (radius, tuple(colour))):
            if not reach:
                continue
            pen.ellipse((column - reach, row - reach, column + reach, row + reach), fill=ink)
    return layer.resize(background.size, Image.Resampling.BOX)


def _draw_density(
    background: Image.Image, places: NDArray[Any], colours: NDArray[np.uint8], spacing: float
) -> Image.Image:
    """Every sheet pixel takes the mean colour of its anchors, the more anchors the stronger."""
    paper = np.asarray(background, np.float64)
    pixel = places.astype(np.int64) @ (background.width, 1)
    count = np.bincount(pixel, minlength=background.width * background.height).reshape(paper.shape[:2])
    sums = [np.bincount(pixel, colours[:, c], count.size).reshape(count.shape) for c in range(3)]
    mean = np.stack(sums, axis=-1) / np.maximum(count, 1)[..., None]
    # Two thirds ink at the mean density keeps edges (dense) and flat areas (sparse) apart.
    ink = 1 - np.exp(-1.1 * count * min(1.0, spacing**2))[..., None]
    return Image.fromarray(np.rint(paper * (1 - ink) + mean * ink).astype(np.uint8))


def in_rows(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures side by side on white, some in each row, in columns as wide as the widest of them.

    Raises:
        ValueError: there are none.
    """
    if not pictures:
        raise ValueError("there is nothing to draw")
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    wide = max(picture.width for picture in pictures) + GAP
    tall = [max(picture.height for picture in row) + GAP for row in rows]
    page = Image.new("RGB", (len(rows[0]) * wide - GAP, sum(tall) - GAP), "white")
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            page.paste(picture, (j * wide, sum(tall[:i])))
    return page
