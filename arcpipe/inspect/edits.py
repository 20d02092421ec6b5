"""Edited clouds, decoded again (thesis figures 5 and 6), beside their pictures edited where pictures can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from arcpipe import seeds
from arcpipe.arc import edit as arc_edit
from arcpipe.arc.maps import Maps
from arcpipe.arc.render import render_cloud
from arcpipe.cloud import BasisRecord, Cloud, DecoderRecord
from arcpipe.errors import ConfigError
from arcpipe.inspect.changes import COLOURS, PICTURES, Compared, changes, compare
from arcpipe.inspect.pixels import BLUE, VERMILLION, coloured, display_size, draw_dots, faded, fit, to_picture
from arcpipe.inspect.samples import View
from arcpipe.inspect.sheet import Row, Sheet

DISC = 0.38  # radius of the disc that one cloud leaves to another, share of the shorter side
DONE = {"push": "pushed", "rotate": "rotated", "flip": "flipped", "mask": "masked", "mix": "mixed"}
DONE |= {"noise": "with noise", "zoom": "zoomed", "crop": "cropped", "shear": "sheared", "hue": "with other hues"}
DONE |= {name: f"with another {name}" for name in ("brightness", "contrast", "saturation")}


@dataclass(frozen=True, slots=True)
class Mixed:
    """Anchors of two clouds in the frame of the first; those from row `n_first` on come from the second."""

    cloud: Cloud
    n_first: int
    words: str


def draw_edit(decoder: DecoderRecord, views: Sequence[View], edit: str, seed: int, box: int) -> Sheet:
    """Lay out the sheet of an edit: push, mask, noise, mix (of two views or more), or one of `changes.PICTURES`.

    One sample is shown at three levels of the edit; of several, each at the next level. Neighbours are found anew after
    the edit. What is random derives from `seed` and the names of the samples.

    Raises:
        ConfigError: a change of colours of clouds that have none apart from their network, or of grey pictures.
    """
    title = f"clouds, {DONE[edit]}"
    if edit == "mix":
        columns = ("first (its anchors vermillion)", "second (blue)", "anchors, mixed", "decoded together")
        rows = tuple(row for pair in _pairs(views) for row in _mix_rows(decoder, *pair, seed, box))
        return Sheet(title, columns, rows, ("Two clouds in one image, under the shared decoder.",))
    levels = list(zip(views, range(len(views)), strict=True)) if len(views) > 1 else [(views[0], i) for i in range(3)]
    if edit in PICTURES:
        return _draw_changes(decoder, levels, edit, box)
    rows = tuple(_edit_row(decoder, view, edit, level % 3, seed, box) for view, level in levels)
    columns = ("reconstruction", "its anchors", f"anchors, {DONE[edit]}", "decoded again")
    about = "The colour of an anchor tells where it was before. "
    about += "Places stay, latents change." if edit == "noise" else "Latents stay as they are: they do not turn."
    return Sheet(title, columns, rows, (about,))


def _draw_changes(decoder: DecoderRecord, levels: Sequence[tuple[View, int]], edit: str, box: int) -> Sheet:
    """A changed cloud beside the changed picture, with decibels between them."""
    if edit in COLOURS and not isinstance(decoder, BasisRecord):
        raise ConfigError(
            f"--edit {edit} needs clouds of the kind basis: what others make of a latent is known to a network only.",
            details=[f"found the kind {decoder.kind}"],
            fix=["--edit rotate", "arcpipe convert ... --recipe basis"],
        )
    if edit in ("saturation", "hue") and decoder.channels != 3:
        raise ConfigError(f"--edit {edit} needs pictures of three channels.", fix=["--edit brightness"])
    maps = Maps(decoder) if isinstance(decoder, BasisRecord) else None
    rows, columns = [], ["reconstruction", f"reconstruction, {DONE[edit]}", "its anchors", f"cloud, {DONE[edit]}"]
    for view, level in levels:
        change = changes(edit, decoder)[level % 3]
        made = compare(view.cloud, decoder, change, maps)
        rows.append(_change_row(view, made, change.words, box))
    columns += ["positions alone"] if len(rows[0].panels) > len(columns) else []
    about = "Latents do not change: each small patch is what it was." if maps is None else "Latents change as well."
    return Sheet(f"clouds, {DONE[edit]}", tuple(columns), tuple(rows), (f"{about} Decibels: from the second picture.",))


def _change_row(view: View, made: Compared, words: str, box: int) -> Row:
    pictures = [fit(to_picture(picture), box) for picture in (view.image, made.expected, made.followed)]
    hues = _place_colours(view.cloud if len(made.cloud) == len(view.cloud) else made.cloud)
    anchors = draw_dots(faded(pictures[2]), made.cloud.positions, made.cloud.size, hues)
    panels, told = [*pictures[:2], anchors, pictures[2]], [f"cloud {made.followed_db:.1f} dB"]
    if made.alone is not None:
        panels += [fit(to_picture(made.alone), box)]
        told += [f"positions alone {made.alone_db:.1f} dB"]
    told += [] if made.resampled_db is None else [f"pixels by cubic splines {made.resampled_db:.1f} dB"]
    return Row(tuple(panels), (view.name, f"class {view.class_name}", words, *told), warning=view.warning)


def _edit_row(decoder: DecoderRecord, view: View, edit: str, level: int, seed: int, box: int) -> Row:
    cloud, rng = view.cloud, seeds.generator(seed, "inspect", edit, view.name, level)
    made, words = edited(cloud, edit, level, decoder.n_neighbours, rng)
    before, after = (fit(to_picture(image), box) for image in (view.image, render_cloud(made, decoder)))
    # Either all anchors are there, in the same rows, or those left have not moved.
    hues = _place_colours(cloud if len(made) == len(cloud) else made)
    panels = (
        before,
        draw_dots(faded(before), cloud.positions, cloud.size, _place_colours(cloud)),
        draw_dots(faded(after), made.positions, cloud.size, hues),
        after,
    )
    return Row(panels, (view.name, f"class {view.class_name}", words), warning=view.warning)


def _place_colours(cloud: Cloud) -> NDArray[np.uint8]:
    """Colours (k, 3) that change from the top left of the image to its bottom right."""
    share = np.asarray(cloud.positions, np.float64) / np.maximum(np.array(cloud.size) - 1, 1)
    return coloured(share.mean(axis=1), "viridis")


def edited(cloud: Cloud, edit: str, level: int, fewest: int, rng: np.random.Generator) -> tuple[Cloud, str]:
    """A cloud after push, mask or noise, and what was done.

    `level`: of the edit, 0 to 2. `fewest`: anchors that can be decoded.
    """
    if edit == "push":
        # Up to 1, 2 or 4 pixels in small images, farther in those above 64 pixels, where that would not be seen.
        reach = round(2**level * max(1.0, max(cloud.size) / 64), 1)
        return arc_edit.push(cloud, reach, rng), f"each anchor moved by up to {reach:g} px on each axis"
    if edit == "mask":
        left = arc_edit.mask(cloud, (0.3, 0.6, 0.9)[level], rng, least=fewest)
        return left, f"{len(left):,} of {len(cloud):,} anchors kept"
    # The strength of the training's augmentation can hardly be seen; so also 0.3 and 1 of the latents' own size.
    size = float(np.sqrt(np.square(np.asarray(cloud.latents, np.float32)).mean()))
    sigma = (0.001, 0.3 * size, size)[level]
    words = "as in training" if level == 0 else f"{(0.3, 1)[level - 1]:g} of their root mean square"
    return arc_edit.add_noise(cloud, sigma, rng), f"Gaussian noise of {sigma:.3g} on the latents, {words}"


def _pairs(views: Sequence[View]) -> list[tuple[View, View]]:
    """First with second, third with fourth; one that is left over is mixed with the first."""
    firsts, seconds = views[::2], views[1::2]
    return list(zip(firsts, [*seconds, *views[: len(firsts) - len(seconds)]], strict=True))


def _mix_rows(decoder: DecoderRecord, first: View, second: View, seed: int, box: int) -> list[Row]:
    """The second in a disc of the first, all anchors of both (thesis figure 6), and the two forms of ARCMix."""
    # Images of other sizes: middle on middle.
    gap = (np.array(first.cloud.size) - np.array(second.cloud.size)) / 2
    moved = arc_edit.shift(second.cloud, gap)
    rng = seeds.generator(seed, "inspect", "mix", first.name, second.name)
    mixes = (
        mix_disc(first.cloud, moved),
        mix_stack(first.cloud, moved),
        mix_points(first.cloud, moved, rng),
        mix_box(first.cloud, moved),
    )
    return [_mix_row(decoder, first, second, mixed, box) for mixed in mixes]


def mix_disc(first: Cloud, second: Cloud) -> Mixed:
    """Anchors of the second cloud within a disc in the middle of the first one's image, those of the first around."""
    middle, radius = (np.array(first.size) - 1) / 2, DISC * min(first.size)
    outside = arc_edit.keep(first, np.linalg.norm(first.positions - middle, axis=1) > radius)
    inside = arc_edit.keep(second, np.linalg.norm(second.positions - middle, axis=1) <= radius)
    words = f"the second in a disc: {len(inside):,} of its anchors, {len(outside):,} of the first"
    return Mixed(arc_edit.stack(outside, inside), len(outside), words)


def mix_stack(first: Cloud, second: Cloud) -> Mixed:
    """All anchors of both clouds."""
    return Mixed(arc_edit.stack(first, second), len(first), f"stacked: all {len(first) + len(second):,} anchors")


def mix_points(first: Cloud, second: Cloud, rng: np.random.Generator) -> Mixed:
    """ARCMix by random subsets: half of the anchors of both."""
    mixed = arc_edit.mix(first, second, 0.5, rng)
    return Mixed(mixed, round(0.5 * len(first)), f"ARCMix, points: half of the anchors of both, {len(mixed):,}")


def mix_box(first: Cloud, second: Cloud) -> Mixed:
    """ARCMix by a spatial cut: what the second has in the right half replaces what the first has there."""
    low, high = (-np.inf, (first.size[1] - 1) / 2), (np.inf, np.inf)
    mixed = arc_edit.mix_box(first, second, low, high)
    n_first = int((first.positions[:, 1] < low[1]).sum())
    return Mixed(
        mixed, n_first, f"ARCMix, box: {len(mixed) - n_first:,} anchors of the second, {n_first:,} of the first"
    )


def _mix_row(decoder: DecoderRecord, first: View, second: View, mixed: Mixed, box: int) -> Row:
    size = first.cloud.size
    image = fit(to_picture(render_cloud(mixed.cloud, decoder)), box)
    hues = np.where(np.arange(len(mixed.cloud))[:, None] < mixed.n_first, VERMILLION, BLUE).astype(np.uint8)
    paper = Image.new("RGB", display_size(size, box)[::-1], (248, 248, 248))
    pictures = [fit(to_picture(view.image), box) for view in (first, second)]
    panels = (*pictures, draw_dots(paper, mixed.cloud.positions, size, hues), image)
    names = (first.name, f"class {first.class_name}", f"and {second.name}", f"class {second.class_name}")
    return Row(panels, (*names, mixed.words), warning=first.warning or second.warning)
