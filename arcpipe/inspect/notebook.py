"""`ap.show(...)`: how a cloud, some clouds, a store and a run draw themselves, in a notebook or anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from arcpipe.arc.render import render_cloud
from arcpipe.cloud import Cloud, CloudBatch, DecoderRecord
from arcpipe.inspect.draw import best_to_worst
from arcpipe.inspect.pixels import draw_dots, faded, fit, in_rows, to_picture
from arcpipe.store import Store

BOX = 256
"""Pixels that one picture gets."""
MOST = 64
COLUMNS = 4


class Drawn(Protocol):
    """What has drawn itself already: a `TrainedRun`."""

    @property
    def figures(self) -> list[Path]: ...


def show(
    what: Cloud | CloudBatch | Sequence[Cloud] | Store | Drawn, decoder: DecoderRecord | None = None
) -> Image.Image:
    """Draw a cloud, some clouds, a store or a run: an image of Pillow, which a notebook shows.

    A cloud becomes its picture beside its anchors; several become their pictures, at most 64. A store becomes its best,
    median and worst cloud beside their originals; a run its curves and its confusion matrix.

    >>> import arcpipe as ap
    >>> ap.show(ap.open_store("store/digits.zarr")["train/17"]).size
    (520, 256)

    Args:
        what: What to draw. Notebooks call this by themselves for the value of a cell.
        decoder: Of clouds that do not bring theirs along.

    Raises:
        ValueError: the decoder of a cloud is unknown, or there is nothing to draw.
    """
    if isinstance(what, Store):
        return best_to_worst(what)
    if isinstance(what, Cloud):
        picture = fit(to_picture(render_cloud(what, decoder)), BOX)
        return in_rows([picture, draw_dots(faded(picture), what.positions, what.size)], 2)
    if isinstance(what, (CloudBatch, Sequence)):
        shown = [what[i] for i in range(min(len(what), MOST))]
        return in_rows([fit(to_picture(render_cloud(cloud, decoder)), BOX // 2) for cloud in shown], COLUMNS)
    return in_rows([Image.open(file).convert("RGB") for file in what.figures], 1)
