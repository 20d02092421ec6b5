"""Edited clouds, decoded again (thesis figures 5 and 6): latents stay what they are, their places change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from arcpipe import seeds
from arcpipe.cloud import Cloud, DecoderRecord
from arcpipe.inspect.pixels import BLUE, VERMILLION, coloured, display_size, draw_dots, faded, fit, to_picture
from arcpipe.inspect.render import render_cloud
from arcpipe.inspect.samples import View
from arcpipe.inspect.sheet import Row, Sheet

DISC = 0.38  # radius of the disc that one cloud leaves to another, share of the shorter side


@dataclass(frozen=True, slots=True)
class Moved:
    """New places (k', 2) for some rows (k',) of a cloud, and what was done, in words."""

    positions: NDArray[Any]
    rows: NDArray[np.int64]
    words: str


Edit = Callable[[Cloud, int, int, np.random.Generator], Moved]
"""Cloud, level of the edit (0 to 2), fewest anchors that can be decoded, generator -> where the anchors are now."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """Anchors of two clouds in the frame of the first. `second`: which rows come from the second cloud."""

    cloud: Cloud
    second: NDArray[np.bool_]
    words: str


def draw_edit(decoder: DecoderRecord, views: Sequence[View], edit: str, seed: int, box: int) -> Sheet:
    """Lay out the sheet of an edit: `push`, `rotate`, `flip`, `mask`, or `mix` (needs two views or more).

    One sample is shown at three levels of the edit; of several, each at the next level. Neighbours are found anew after
    the edit, `relative` stays as it was when the cloud was fitted. What is random derives from `seed` and the names.
    """
    if edit == "mix":
        firsts, seconds = list(views[::2]), list(views[1::2])
        seconds += views[:1] if len(seconds) < len(firsts) else []
        rows = [
            _mix_row(decoder, first, second, mixed, box)
            for first, second in zip(firsts, seconds, strict=True)
            for mixed in (mix_disc(first.cloud, second.cloud), mix_stack(first.cloud, second.cloud))
        ]
        columns = ("first (its anchors vermillion)", "second (blue)", "anchors, mixed", "decoded together")
        return Sheet("clouds, mixed", columns, tuple(rows), ("Two clouds in one image, under the shared decoder.",))
    levels = list(zip(views, range(len(views)), strict=True)) if len(views) > 1 else [(views[0], i) for i in range(3)]
    rows = [_edit_row(decoder, view, edit, level % 3, seed, box) for view, level in levels]
    columns = ("reconstruction", "its anchors", f"anchors, {DONE[edit]}", "decoded again")
    about = "Only the places of the latents change; the colour of an anchor tells where it was before."
    return Sheet(f"clouds, {DONE[edit]}", columns, tuple(rows), (about,))


def _edit_row(decoder: DecoderRecord, view: View, edit: str, level: int, seed: int, box: int) -> Row:
    cloud, rng = view.cloud, seeds.generator(seed, "inspect", edit, view.name, level)
    moved = EDITS[edit](cloud, level, decoder.n_neighbours, rng)
    edited = replace(cloud, positions=moved.positions, latents=cloud.latents[moved.rows], neighbours=None)
    before, after = (fit(to_picture(image), box) for image in (view.image, render_cloud(edited, decoder)))
    hues = _place_colours(cloud)
    panels = (
        before,
        draw_dots(faded(before, 0.3), cloud.positions, cloud.size, hues),
        draw_dots(faded(after, 0.3), moved.positions, cloud.size, hues[moved.rows]),
        after,
    )
    return Row(panels, (view.name, f"class {view.class_name}", moved.words), warning=view.warning)


def _mix_row(decoder: DecoderRecord, first: View, second: View, mixed: Mixed, box: int) -> Row:
    size = first.cloud.size
    image = fit(to_picture(render_cloud(mixed.cloud, decoder)), box)
    hues = np.where(mixed.second[:, None], BLUE, VERMILLION).astype(np.uint8)
    paper = Image.new("RGB", display_size(size, box)[::-1], (248, 248, 248))
    pictures = [fit(to_picture(view.image), box) for view in (first, second)]
    panels = (*pictures, draw_dots(paper, mixed.cloud.positions, size, hues), image)
    names = (first.name, f"class {first.class_name}", f"and {second.name}", f"class {second.class_name}")
    return Row(panels, (*names, mixed.words), warning=first.warning or second.warning)


def _place_colours(cloud: Cloud) -> NDArray[np.uint8]:
    """Colours (k, 3) that change from the top left of the image to its bottom right."""
    share = np.asarray(cloud.positions, np.float64) / np.maximum(np.array(cloud.size) - 1, 1)
    return coloured(share.mean(axis=1), "viridis")


def _push(cloud: Cloud, level: int, fewest: int, rng: np.random.Generator) -> Moved:
    """Every anchor moves by itself: up to 1, 2, 4 pixels in small images, farther in those above 64 pixels."""
    reach = round(2**level * max(1.0, max(cloud.size) / 64), 1)
    moves = rng.uniform(-reach, reach, cloud.positions.shape)
    return Moved(
        cloud.positions + moves, np.arange(len(cloud)), f"each anchor moved by up to {reach:g} px on each axis"
    )


def _rotate(cloud: Cloud, level: int, fewest: int, rng: np.random.Generator) -> Moved:
    degrees = (30, 90, 150)[level]
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    middle = (np.array(cloud.size) - 1) / 2
    turned = (cloud.positions - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle
    return Moved(turned, np.arange(len(cloud)), f"turned by {degrees}° about the middle")


def _flip(cloud: Cloud, level: int, fewest: int, rng: np.random.Generator) -> Moved:
    axes = ((False, True), (True, False), (True, True))[level]
    flipped = np.where(axes, np.array(cloud.size) - 1.0 - cloud.positions, cloud.positions)
    words = ("left and right exchanged", "top and bottom exchanged", "both axes flipped")[level]
    return Moved(flipped, np.arange(len(cloud)), words)


def _mask(cloud: Cloud, level: int, fewest: int, rng: np.random.Generator) -> Moved:
    share = (0.3, 0.6, 0.9)[level]
    kept = min(len(cloud), max(fewest, round(len(cloud) * (1 - share))))
    rows = np.sort(rng.permutation(len(cloud))[:kept])
    return Moved(cloud.positions[rows], rows, f"{kept:,} of {len(cloud):,} anchors kept")


EDITS: dict[str, Edit] = {"push": _push, "rotate": _rotate, "flip": _flip, "mask": _mask}
DONE = {"push": "pushed", "rotate": "rotated", "flip": "flipped", "mask": "masked"}


def mix_disc(first: Cloud, second: Cloud) -> Mixed:
    """Anchors of the second cloud inside a disc in the middle, of the first outside (thesis figure 6, top)."""
    middle = (np.array(first.size) - 1) / 2
    radius = DISC * min(first.size)
    moved = _centred(second, first.size)
    outside = np.linalg.norm(first.positions - middle, axis=1) > radius
    inside = np.linalg.norm(moved - middle, axis=1) <= radius
    words = f"the second in a disc: {inside.sum():,} of its anchors, {outside.sum():,} of the first"
    return _joined(first, second, moved, outside, inside, words)


def mix_stack(first: Cloud, second: Cloud) -> Mixed:
    """All anchors of both clouds (thesis figure 6, bottom)."""
    keep_first, keep_second = np.ones(len(first), bool), np.ones(len(second), bool)
    words = f"stacked: all {len(first) + len(second):,} anchors"
    return _joined(first, second, _centred(second, first.size), keep_first, keep_second, words)


def _centred(cloud: Cloud, size: tuple[int, int]) -> NDArray[np.float64]:
    """Positions of a cloud in the frame of an image of another size, middle on middle."""
    return cloud.positions + (np.array(size) - np.array(cloud.size)) / 2


def _joined(
    first: Cloud,
    second: Cloud,
    moved: NDArray[np.float64],
    keep_first: NDArray[np.bool_],
    keep_second: NDArray[np.bool_],
    words: str,
) -> Mixed:
    """One cloud in the frame of the first. Its `relative` is the mean of both, weighted by the anchors they give."""
    counts = np.array([keep_first.sum(), keep_second.sum()], np.float64)
    mean, std = (counts / max(1.0, counts.sum())) @ np.array([first.relative, second.relative])
    cloud = Cloud(
        positions=np.concatenate([first.positions[keep_first], moved[keep_second]]).astype(np.float64),
        latents=np.concatenate([first.latents[keep_first], second.latents[keep_second]]),
        size=first.size,
        relative=(float(mean), float(std)),
    )
    return Mixed(cloud, np.arange(len(cloud)) >= keep_first.sum(), words)
