"""How much memory a fit needs, and a process that converts: the model by which images are grouped, or refused before
they are read, and which plans tell in advance.

Bytes are added up array by array, with what is alive at the same time, for `n` neighbours, `z` numbers in a latent and
k latents. A test measures that the peak of a process stays below.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from arcpipe.arc.anchors import count_anchors
from arcpipe.config import FitSection

LOADED_BYTES = 448 * 2**20
"""What a worker has in memory before its first image: Python, torch, Numba and the compiled kernel, Dask, Zarr."""
GROUP_PIXELS = 2**22
"""At most so many pixels are read, fitted and let go together: more would change no speed."""
PIECE = 192
"""While a basis is learned, a piece of each image is kept that has so many pixels a side."""


def cloud_bytes(shape: Sequence[int], fit: FitSection) -> int:
    """Count the bytes that a fitted image leaves in memory: its positions, latents and neighbours."""
    n_pixels = shape[0] * shape[1]
    return count_anchors(n_pixels, fit) * (16 + 4 * fit.latent_dim) + 4 * fit.neighbours * n_pixels


def fit_bytes(shape: Sequence[int], fit: FitSection) -> int:
    """Count the most bytes that one fit takes at any time, with its cloud and without the image (4 bytes a value)."""
    n_pixels, n = shape[0] * shape[1], fit.neighbours
    k = count_anchors(n_pixels, fit)
    if fit.decoder_kind == "siren":  # coordinates, colours and weights of the pixels, twice while they are laid out
        return n_pixels * (28 + 8 * shape[2]) + 24 * fit.latent_dim + 2**22
    if fit.decoder_kind == "basis":
        # Of the pixels: target, weight, number of shares, and four arrays of n: neighbours in two orders, shares and
        # users.
        # Of the anchors: the places, scales and users' ends, and latents, padded to a register of 16, twice.
        width = -(-fit.latent_dim // 16) * 16
        return n_pixels * (4 * shape[2] + 12 + 16 * n) + k * (96 + 8 * width) + 2**23
    # Tiles: number, rows and users of each pixel; latent and users of each row. A row is a latent, a slot and a
    # mini-batch that meet, at most one for each pixel and slot; their padding is the third part on top.
    rows = min(n * n_pixels, 1.33 * n * k / fit.pixel_share)
    tiles = n_pixels * (4 + 2 * max(4, n) + 2 * n) + 8 * rows
    laid = 17 * k + tiles + 4 * (4 * fit.latent_dim) * k * 1.15  # latents, gradient (with ghosts) and Adam's memory
    cutting = n_pixels * (4 * n + 1) + 17 * k + tiles + 4 * n * n_pixels / 4
    ending = laid + 4 * n * n_pixels - 2 * (4 * fit.latent_dim) * k
    return int(max(laid, cutting, ending)) + 2**22


def joint_bytes(shapes: Sequence[Sequence[int]], fit: FitSection) -> int:
    """Count the most bytes that the joint stage takes: all of its images stay in memory, laid out, until it ends."""
    if fit.decoder_kind == "basis":
        return sum(4 * min(shape[0], PIECE) * min(shape[1], PIECE) * shape[2] for shape in shapes) + 2**26
    images = sum(4 * shape[0] * shape[1] * shape[2] for shape in shapes)
    laid = sum(fit_bytes(shape, fit) - 2**22 for shape in shapes)
    return 2 * images + laid + 2**24


def needed_bytes(size: tuple[int, int], channels: int, fit: FitSection) -> int:
    """Count the bytes that a worker takes in all which converts one image of this size."""
    shape = (*size, channels)
    image, cloud = 4 * channels * size[0] * size[1], cloud_bytes(shape, fit)
    reading = image + 2 * channels * size[0] * size[1] + 4 * size[0] * size[1]
    copies, clouds = copies_of_image(fit), fit.clouds_an_image
    fitting = copies * image + (clouds - 1) * cloud + fit_bytes(shape, fit)
    finishing = (copies + 1) * image + (clouds + 1) * cloud
    return LOADED_BYTES + max(reading, fitting, finishing, writing_bytes(clouds * cloud))


def copies_of_image(fit: FitSection) -> int:
    """How often the pixels of an image are held while it is fitted: a view is a copy of its own."""
    return 2 if fit.views > 1 else 1


def writing_bytes(clouds_bytes: int) -> int:
    """Count the bytes that writing a part takes: its clouds, joined, and their neighbours as they are stored."""
    return 2 * clouds_bytes


def group_bytes(shape: Sequence[int], fit: FitSection) -> int:
    """Count the bytes that an image takes in its group, from being read until its clouds are finished."""
    n_values = shape[0] * shape[1] * shape[2]
    return copies_of_image(fit) * 4 * n_values + fit.clouds_an_image * cloud_bytes(shape, fit)


@dataclass(frozen=True, slots=True)
class Need:
    """The bytes that an image takes, with all of its repeats or views, and the number of `pixels` that are fitted.

    `group`: from being read until its clouds are finished. `fit`: on top of that while it is fitted. `clouds`: from
    then on. `alone`: what a worker takes in all that has no other image.
    """

    pixels: int
    group: int
    fit: int
    clouds: int
    alone: int

    def beside(self, kept_bytes: int) -> int:
        """Count the bytes that a worker takes with this image which keeps `kept_bytes` of clouds already."""
        return max(kept_bytes + self.alone, LOADED_BYTES + writing_bytes(kept_bytes + self.clouds))


class Needs:
    """Knows the needs of images. They are worked out once for each size, since data sets of small images have few."""

    def __init__(self, channels: int, fit: FitSection) -> None:
        self._channels, self._fit = channels, fit
        self._known: dict[tuple[int, ...], Need] = {}

    def of(self, size: tuple[int, ...] | None) -> Need:
        """Return the need of an image of this height and width. An image that will not be read (None) needs nothing."""
        if size is None:
            return Need(0, 0, 0, 0, 0)
        need = self._known.get(size)
        if need is None:
            height, width = size
            shape, clouds = (height, width, self._channels), self._fit.clouds_an_image
            need = self._known[size] = Need(
                pixels=height * width * clouds,
                group=group_bytes(shape, self._fit),
                fit=fit_bytes(shape, self._fit),
                clouds=clouds * cloud_bytes(shape, self._fit),
                alone=needed_bytes((height, width), self._channels, self._fit),
            )
        return need

    def groups(self, sizes: Sequence[tuple[int, ...] | None], memory: int, threads: int) -> Iterator[slice]:
        """Cut images into groups, in order, that fit into a worker's memory together (or one image).

        Sizes are those of the headers, so that an image that is too large for the group is not read beside it. While a
        group is fitted, each thread may be at work on an image like the most demanding one. What was made before is
        kept until all images are done.
        """
        room, kept, start = memory - LOADED_BYTES, 0, 0
        n_pixels = n_bytes = most = clouds = 0
        for i, size in enumerate(sizes):
            need = self.of(size)
            full = kept + n_bytes + need.group + threads * max(most, need.fit) > room
            if i > start and (full or n_pixels + need.pixels > GROUP_PIXELS):
                yield slice(start, i)
                kept, start = kept + clouds, i
                n_pixels = n_bytes = most = clouds = 0
            # The clouds count twice: as what a group takes, and as what is kept from then on.
            n_pixels, n_bytes, most = n_pixels + need.pixels, n_bytes + need.group + need.clouds, max(most, need.fit)
            clouds += need.clouds
        if start < len(sizes):
            yield slice(start, len(sizes))

    def peak(self, sizes: Sequence[tuple[int, ...] | None], memory: int, threads: int) -> int:
        """The most memory that converting these images takes; those that do not fit are not converted.

        For one image it is what `alone` says.
        """
        most, kept = LOADED_BYTES, 0
        for rows in self.groups(sizes, memory, threads):
            before, needs = kept, []
            for need in map(self.of, sizes[rows]):
                if need.beside(kept) <= memory:
                    needs.append(need)
                    kept += need.clouds
            fits = sorted((need.fit for need in needs), reverse=True)[:threads]
            group = before + LOADED_BYTES + sum(need.group for need in needs) + sum(fits)
            most = max(most, needs[0].beside(before) if len(needs) == 1 else group, LOADED_BYTES + writing_bytes(kept))
        return most
