"""The augmentations of the thesis (section 3.4, figure 3), and those of images: random changes of clouds.

All clouds of a batch change at once, by array operations: a loop over clouds took 15 times as long and was a fifth of
the work of a training step. First places and rows change, then the latents of what is left, once. A cloud's random
numbers come from the seed, the epoch and its own name (see `draws`), so its augmentation is the same in any batch, on
any rank and after resuming. Only ARCMix looks at a second cloud, the next one in the batch, and changes the label.
Order: noise, mask, push, rotate, flip, zoom, crop, displace, brightness, contrast, saturation, hue, ARCMix. What each
does to one cloud is written plainly in `arc.edit`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.maps import Maps
from arcpipe.cloud import CloudBatch, SirenRecord, ends_from
from arcpipe.config import AugmentSection
from arcpipe.stream.draws import Keys, beta, cloud_keys, normal, uniform
from arcpipe.stream.networks import change_networks

__all__ = ["COLOURS", "Columns", "Points", "augment", "cloud_keys"]

COLOURS = ("brightness", "contrast", "saturation", "hue")

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Points:
    """The points of s clouds on their way, clouds end to end.

    `cloud` (m,): which cloud a point is in, rising. `row` (m,): where its latent is. `positions` (m, 2). `origin` (m,)
    and `index` (m,): the cloud it was in at first and its number there, which name its random numbers. `keys`,
    `sizes` (s, 2): of every cloud.
    """

    cloud: Rows
    row: Rows
    positions: Floats
    origin: Rows
    index: Rows
    keys: Keys
    sizes: Floats

    def __len__(self) -> int:
        return len(self.cloud)

    @property
    def counts(self) -> Rows:
        """Points of every cloud (s,)."""
        return np.bincount(self.cloud, minlength=len(self.keys))

    @property
    def own_keys(self) -> Keys:
        """Every point's cloud's key (m,)."""
        return self.keys[self.cloud]

    def keep(self, rows: NDArray[np.bool_] | Rows) -> Points:
        """Some of the points."""
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return replace(self, **{name: getattr(self, name)[rows] for name in OF_POINTS})

    def moved(self, positions: Floats) -> Points:
        return replace(self, positions=positions)


OF_POINTS = ("cloud", "row", "positions", "origin", "index")


Columns = Maps | SirenRecord
"""What the numbers (z,) that describe points are, so that they can change with the picture: latents of a basis, or the
parameters of sine networks, whose changes are those of `networks` (the module). Others stay as they are."""


@dataclass(frozen=True, slots=True)
class Augmented:
    """`latents` (m, z) float32 where any changed, else in the type they came in; `positions` (m, 2) float32;
    `offsets` (s + 1,) and soft labels `labels` (s, classes) of what is left."""

    latents: NDArray[np.floating]
    positions: NDArray[np.float32]
    offsets: NDArray[np.int64]
    labels: NDArray[np.float32]


def augment(
    clouds: CloudBatch,
    labels: NDArray[np.float32],
    keys: Keys,
    section: AugmentSection,
    columns: Columns | None = None,
) -> Augmented:
    """Apply what `section.apply` names to s clouds with labels (s, classes), rows sum to 1, and keys (s,).

    With ARCMix, the last cloud is only a partner and is dropped from the result. Without `columns`, latents are numbers
    that no change of the picture changes.
    """
    if isinstance(columns, SirenRecord):
        values = change_networks(clouds.latents, keys, section, columns)
        return Augmented(values, clouds.positions.astype(np.float32), clouds.offsets, labels)
    cloud = np.repeat(np.arange(len(clouds)), np.diff(clouds.offsets))
    row, positions, sizes = np.arange(len(cloud)), clouds.positions.astype(np.float64), clouds.sizes.astype(np.float64)
    points = Points(cloud, row, positions, cloud, row - clouds.offsets[cloud], keys, sizes)
    for name in section.apply:
        if name in CHANGES:
            points = CHANGES[name](points, section)
    if "arcmix" in section.apply:
        points, labels = _mix_neighbours(points, labels, section)
    latents = clouds.latents[points.row]
    if "noise" in section.apply:
        # Drawn for the points that stayed: the numbers are those of point and dimension, whoever else is there.
        width = latents.shape[1]
        index = points.index[:, None] * width + np.arange(width)
        latents = latents + np.float32(section.noise) * normal(keys[points.origin][:, None], "noise", index)
    latents = _described(latents, points.origin, keys, section, columns)
    counts = np.bincount(points.cloud, minlength=len(labels))
    return Augmented(latents, points.positions.astype(np.float32), ends_from(counts), labels)


def _described(
    latents: NDArray[np.floating], origin: Rows, keys: Keys, section: AugmentSection, maps: Maps | None
) -> NDArray[np.floating]:
    """What describes the points (m, z) after the changes of the clouds (m,) that they were in at first."""
    changes = {"rotate", "flip", *COLOURS}.intersection(section.apply)
    if maps is None or not section.exact or not changes:
        return latents
    own = np.array(latents, np.float32)
    if "rotate" in changes:
        own = maps.turned(own, maps.waves(_angles(keys, section))[origin])
    if "flip" in changes:
        own *= np.where(_flipped(keys, section)[:, :, None], maps.mirror, np.float32(1)).prod(1)[origin]
    if changes.intersection(COLOURS):
        own = maps.recoloured(own, *(values[origin] for values in _colours(keys, section)))
    return own


def _mask(points: Points, section: AugmentSection) -> Points:
    counts = points.counts
    kept = np.maximum(np.rint(counts * (1 - section.mask)).astype(np.int64), np.minimum(counts, 1))
    return points.keep(_drawn(points, kept, uniform(points.own_keys, "mask", points.index)))


def _push(points: Points, section: AugmentSection) -> Points:
    """Move every point by itself, and with `shift` the whole cloud as well."""
    positions = points.positions
    if section.push:
        positions = positions + section.push * _either_way(points.own_keys, "push", points.index)
    if section.shift:
        positions = positions + section.shift * _either_way(points.keys, "shift", 0)[points.cloud]
    return points.moved(positions)


def _rotate(points: Points, section: AugmentSection) -> Points:
    angle = _angles(points.keys, section)
    cosine, sine = np.cos(angle)[points.cloud], np.sin(angle)[points.cloud]
    middle = ((points.sizes - 1) / 2)[points.cloud]
    row, column = (points.positions - middle).T
    return points.moved(np.stack([cosine * row - sine * column, sine * row + cosine * column], axis=1) + middle)


def _angles(keys: Keys, section: AugmentSection) -> Floats:
    """The angle by which each cloud is turned (s,), radians."""
    return np.deg2rad(section.rotate) * _sideways(keys, "rotate")


def _flip(points: Points, section: AugmentSection) -> Points:
    mirrored = (points.sizes - 1)[points.cloud] - points.positions
    return points.moved(np.where(_flipped(points.keys, section)[points.cloud], mirrored, points.positions))


def _flipped(keys: Keys, section: AugmentSection) -> NDArray[np.bool_]:
    """Which clouds are flipped (s, 2): rows, columns."""
    allowed = [section.flip_axes != other for other in ("columns", "rows")]
    return (_both(keys, "flip", 0) < section.flip) & allowed


def _zoom(points: Points, section: AugmentSection) -> Points:
    """A window of each image, anywhere in it, becomes as large as the image; what is outside is dropped."""
    low, high = section.zoom
    factor = 1 / np.sqrt(low + (high - low) * uniform(points.keys, "zoom"))[:, None]
    corner = _both(points.keys, "zoom place", 0) * (points.sizes - points.sizes / factor)  # may lie outside: factor < 1
    places = (points.positions + 0.5 - corner[points.cloud]) * factor[points.cloud] - 0.5
    return _within(points.moved(places))


def _crop(points: Points, section: AugmentSection) -> Points:
    """Take a window of the image's size, off by whole pixels, up to `crop`; what is outside is dropped."""
    steps = np.floor(_both(points.keys, "crop", 0) * (2 * section.crop + 1)) - section.crop
    return _within(points.moved(points.positions - steps[points.cloud]))


def _within(points: Points) -> Points:
    """The points inside their images; a cloud of which none is inside keeps all, since a cloud may not be empty."""
    inside = ((points.positions >= -0.5) & (points.positions < points.sizes[points.cloud] - 0.5)).all(axis=1)
    left = np.bincount(points.cloud[inside], minlength=len(points.keys))
    return points.keep(inside | (left == 0)[points.cloud])


def _displace(points: Points, section: AugmentSection) -> Points:
    """Put clouds anywhere inside their images, by whole pixels; not along an axis on which the points reach farther."""
    ends = ends_from(points.counts)
    filled = np.flatnonzero(np.diff(ends))
    low, high = np.zeros_like(points.sizes), np.zeros_like(points.sizes)
    if len(filled):
        low[filled] = -np.floor(np.minimum.reduceat(points.positions, ends[:-1][filled]))
        high[filled] = (points.sizes - 1)[filled] - np.ceil(np.maximum.reduceat(points.positions, ends[:-1][filled]))
    places = np.floor(_both(points.keys, "displace", 0) * np.maximum(high - low + 1, 1))
    return points.moved(points.positions + np.where(high >= low, low + places, 0)[points.cloud])


CHANGES = {
    "mask": _mask,
    "push": _push,
    "rotate": _rotate,
    "flip": _flip,
    "zoom": _zoom,
    "crop": _crop,
    "displace": _displace,
}


def _colours(keys: Keys, section: AugmentSection) -> tuple[Floats, Floats, Floats, Floats]:
    """What `Maps.recoloured` takes of each cloud (s,): the changes of its colours, one after another.

    What is grey is multiplied by a number and gets a constant; chroma is multiplied by a complex number.
    """
    grey, chroma, constant = np.ones(len(keys)), np.ones(len(keys), np.complex128), np.zeros(len(keys))
    for name in COLOURS[:3]:
        if name in section.apply:
            strength = getattr(section, name)
            factor = np.maximum(1 + strength * _sideways(keys, name), 0)
            chroma = chroma * factor
            if name != "saturation":
                grey, constant = grey * factor, constant * factor
            if name == "brightness":
                constant = constant + 0.5 * (factor - 1)
    if "hue" in section.apply:
        chroma = chroma * np.exp(2j * np.pi * section.hue * _sideways(keys, "hue"))
    return grey, chroma.real, chroma.imag, constant


def _mix_neighbours(
    points: Points, labels: NDArray[np.float32], section: AugmentSection
) -> tuple[Points, NDArray[np.float32]]:
    """Mix every cloud with the one after it; points of the first stand before those of the second."""
    n = max(len(labels) - 1, 0)
    second = points.keep(points.cloud > 0)
    first, second = points.keep(points.cloud < n), replace(second, cloud=second.cloud - 1)
    share = beta(points.keys[:n], "arcmix", section.arcmix_alpha)
    mix = _mix_points if section.arcmix == "points" else _mix_box
    chosen, others, share = mix(first, second, share, n)
    first, second = first.keep(chosen), second.keep(others)
    order = np.argsort(np.concatenate([first.cloud, second.cloud]), kind="stable")
    joined = {name: np.concatenate([getattr(first, name), getattr(second, name)])[order] for name in OF_POINTS}
    soft = share[:, None] * labels[:n] + (1 - share)[:, None] * labels[1:]
    return replace(points, **joined), soft.astype(np.float32)


Choice = tuple[NDArray[np.bool_], NDArray[np.bool_], Floats]


def _mix_points(first: Points, second: Points, share: Floats, n: int) -> Choice:
    """Random subsets: `share` of the first's points, the rest of the second's. One point stays at least."""
    counts = np.bincount(first.cloud, minlength=n)
    of_first = np.rint(share * counts).astype(np.int64)
    of_second = np.rint((1 - share) * np.bincount(second.cloud, minlength=n)).astype(np.int64)
    of_first = np.where(of_first + of_second == 0, np.minimum(counts, 1), of_first)
    chosen = _drawn(first, of_first, uniform(first.own_keys, "arcmix first", first.index))
    return chosen, _drawn(second, of_second, uniform(second.own_keys, "arcmix second", second.index)), share


def _mix_box(first: Points, second: Points, share: Floats, n: int) -> Choice:
    """What the first has in a rectangle is replaced by what the second has there (CutMix, arXiv 1905.04899).

    The rectangle lies in the part that both images have, is placed and cut at the border as in CutMix, and covers up to
    1 - Beta(alpha, alpha) of it. The share becomes that of the first image's area left.
    """
    common = np.minimum(first.sizes[:n], first.sizes[1 : n + 1])
    middle = _both(first.keys[:n], "arcmix box", 0) * common
    half = 0.5 * np.sqrt(1 - share)[:, None] * common
    low, high = np.maximum(middle - half, 0) - 0.5, np.minimum(middle + half, common) - 0.5  # pixel 0 begins at -0.5
    chosen, others = ~_inside(first, low, high), _inside(second, low, high)
    left = np.bincount(first.cloud[chosen], minlength=n) + np.bincount(second.cloud[others], minlength=n)
    whole = left == 0  # all of the first was inside, nothing of the second: the first stays as it is
    share = np.where(whole, 1.0, 1 - (high - low).prod(1) / first.sizes[:n].prod(1))
    return chosen | whole[first.cloud], others, share


def _inside(points: Points, low: Floats, high: Floats) -> NDArray[np.bool_]:
    within = (points.positions >= low[points.cloud]) & (points.positions < high[points.cloud])
    return np.asarray(within.all(axis=1))


def _drawn(points: Points, kept: Rows, lots: Floats) -> NDArray[np.bool_]:
    """The points with the `kept` lowest lots of each cloud."""
    # One integer to sort by, cloud before lot: a seventh of lexsort's time. 44 bits of a lot are enough to tell apart.
    order = np.argsort(points.cloud << 44 | (lots * 2.0**44).astype(np.int64))
    counts = np.bincount(points.cloud, minlength=len(kept))
    place = np.arange(len(points)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(len(points), np.bool_)
    chosen[order] = place < np.repeat(kept, counts)
    return chosen


def _sideways(keys: Keys, use: str) -> Floats:
    """One number in [-1, 1) for each key."""
    return 2 * uniform(keys, use) - 1


def _both(keys: Keys, use: str, index: Rows | int) -> Floats:
    """Two numbers in [0, 1) for each key: of rows and of columns."""
    return np.stack([uniform(keys, f"{use} {axis}", index) for axis in ("rows", "columns")], axis=1)


def _either_way(keys: Keys, use: str, index: Rows | int) -> Floats:
    return 2 * _both(keys, use, index) - 1
