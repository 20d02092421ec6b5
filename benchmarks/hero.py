"""Draw the README's picture from the demo's store: python benchmarks/hero.py [store/digits.zarr] [docs/hero.png]"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from arcpipe.inspect.pixels import display_size, draw_dots, faded, fit, in_rows, save_picture, to_picture
from arcpipe.inspect.samples import CloudPlace, View, view_sample
from arcpipe.inspect.sheet import INK, QUIET, font
from arcpipe.sources import open_originals
from arcpipe.store import Store, open_store

SAMPLES = ("train/2", "train/3", "train/8", "train/5", "train/1", "train/4")
ARROW = 74
TILE = 160  # pixels that one image gets; small images are enlarged by a whole factor


def draw_hero(store: Store, samples: Sequence[str], out: Path) -> None:
    """Write one wide picture: images, their anchors, their clouds, and what the decoder makes of the clouds.

    `samples`: names as `Store.find` takes them; each of the four stages has them in two rows. The colours of a cloud
    are the first three principal components of the latents of all the clouds shown. Where an original cannot be read,
    its reconstruction takes its place.
    """
    originals = open_originals(store.config, store.channels)
    views = [view_sample(store, originals, CloudPlace(*store.find(name))) for name in samples]
    hues = _latent_colours([view.cloud.latents for view in views])
    stages: list[list[Image.Image]] = [[], [], [], []]
    for view, hue in zip(views, hues, strict=True):
        for stage, picture in zip(stages, _stages_of(view, hue), strict=True):
            stage.append(picture)
    grids = [in_rows(pictures, -(-len(pictures) // 2)) for pictures in stages]
    save_picture(_join(grids, _headings(store, views)), out)


def _stages_of(view: View, hue: NDArray[np.uint8]) -> tuple[Image.Image, ...]:
    """Image, anchors on it, cloud, reconstruction."""
    size = view.cloud.size
    image = fit(to_picture(view.image if view.original is None else view.original), TILE)
    height, width = display_size(size, TILE)
    paper = Image.new("RGB", (width, height), (248, 248, 248))
    anchors = draw_dots(faded(image), view.cloud.positions, size)
    cloud = draw_dots(paper, view.cloud.positions, size, hue)
    return image, anchors, cloud, fit(to_picture(view.image), TILE)


def _latent_colours(latents: Sequence[NDArray[Any]]) -> list[NDArray[np.uint8]]:
    """Colours (k, 3) of every cloud: principal components, each stretched by rank so that all shades are used."""
    every = np.concatenate([np.asarray(array, np.float64) for array in latents])
    centred = every - every.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:3]
    shades = (centred @ axes.T).argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    shades = np.pad(shades, ((0, 0), (0, 3 - shades.shape[1])))  # fewer than three latent dimensions
    levels = np.rint(30 + 200 * shades / max(1, len(every) - 1)).astype(np.uint8)
    return np.split(levels, np.cumsum([len(array) for array in latents])[:-1])


def _headings(store: Store, views: Sequence[View]) -> list[tuple[str, str]]:
    """Two lines over each stage, of facts that hold for all the clouds shown."""
    sizes = {view.cloud.size for view in views}
    size = "{} × {} pixels".format(*views[0].cloud.size) if len(sizes) == 1 else "of any size"
    counts = [len(view.cloud) for view in views]
    count = f"{counts[0]:,}" if len(set(counts)) == 1 else f"{min(counts):,} to {max(counts):,}"
    mean = float(np.mean([view.cloud.psnr for view in views]))
    dtype = store.dtype
    return [
        ("images", size),
        ("anchors", f"{count} an image, where it changes most"),
        ("clouds", f"{store.latent_dim} numbers an anchor, {dtype}"),
        ("reconstructions", f"one shared decoder, {mean:.1f} dB"),
    ]


def _join(grids: Sequence[Image.Image], headings: Sequence[tuple[str, str]]) -> Image.Image:
    """Stages from left to right with an arrow between them; a stage is at least as wide as its heading.

    The letters are large: a front page shows the picture at less than half its size.
    """
    title, text = font(36, True), font(24)
    spans = [
        max(grid.width, int(title.getlength(a)) + 1, int(text.getlength(b)) + 1)
        for grid, (a, b) in zip(grids, headings, strict=True)
    ]
    head, margin = 96, 24
    width = 2 * margin + sum(spans) + ARROW * (len(grids) - 1)
    page = Image.new("RGB", (width, 2 * margin + head + grids[0].height), "white")
    pen = ImageDraw.Draw(page)
    left = margin
    for i, (grid, span, (name, facts)) in enumerate(zip(grids, spans, headings, strict=True)):
        pen.text((left, margin), name, font=title, fill=INK)
        pen.text((left, margin + 48), facts, font=text, fill=QUIET)
        page.paste(grid, (left, margin + head))
        left += span
        if i + 1 < len(grids):
            middle = margin + head + grid.height // 2
            pen.line((left + 18, middle, left + ARROW - 26, middle), fill=QUIET, width=4)
            tip = left + ARROW - 16
            pen.polygon(((tip, middle), (tip - 14, middle - 9), (tip - 14, middle + 9)), fill=QUIET)
        left += ARROW
    return page


if __name__ == "__main__":
    store = open_store(Path(sys.argv[1] if len(sys.argv) > 1 else "store/digits.zarr"))
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "docs/hero.png")
    draw_hero(store, SAMPLES, out)
    print(out)
