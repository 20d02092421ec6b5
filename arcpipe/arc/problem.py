"""What a kernel is given: images turned into flat tensors, cut into mini-batches and those into tiles.

A *mini-batch* holds the pixels supervised in one step: one of the equal parts of one seeded permutation of an image's
pixels, cycled in the same order. A *tile* is what is worked on together: the mini-batches of several small images end
to end, or a compact piece of the mini-batch of a large one. Tiles depend on the image and the settings alone, never on
the memory that is allowed, so that no number does either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcpipe.arc.anchors import draw_anchors, morton_order
from arcpipe.arc.neighbours import nearest_anchors, relative_statistics
from arcpipe.arc.tiles import Pixels, Tile, build_tile
from arcpipe.cloud import ends_from
from arcpipe.config import FitSection
from arcpipe.seeds import generator


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """One image with everything that is fixed before the first step.

    `target` (pixels, channels) float32; `positions` (k, 2) int64; `neighbours` (pixels, n) int32; `relative`: mean and
    std of `anchor - pixel`; `batch_of` (pixels,) unsigned: the mini-batch of each pixel, of `n_batches`. The first
    latents are drawn when they are asked for, so that a large image need not keep them.
    """

    size: tuple[int, int]
    target: NDArray[np.float32]
    positions: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    relative: tuple[float, float]
    batch_of: NDArray[Any]
    n_batches: int
    fit: FitSection
    seed: int

    def first_latents(self) -> NDArray[np.float32]:
        """(k, z) latents before the first step, the same ones every time."""
        return initial_latents(len(self.positions), self.fit, generator(self.seed, "latents"))

    def batch(self, number: int) -> NDArray[np.int64]:
        """Pixels of a mini-batch in Morton order: their sum is the same but for rounding in any order, and pixels near
        each other read the same latents."""
        pixels = np.flatnonzero(self.batch_of == number)
        return pixels[morton_order(places(pixels, self.size[1]))]


@dataclass(frozen=True, slots=True)
class FittedCloud:
    """A fitted image: `positions` (k, 2) int64, `latents` (k, z) float32, `neighbours` (pixels, n) int32 rows of them
    in raster order, `relative` mean and std of `anchor - pixel` in pixels, `losses` (steps,) float32 of each
    mini-batch before its step, `scales` (k,) float32 pixels of the kind `basis`."""

    positions: NDArray[np.int64]
    latents: NDArray[np.float32]
    neighbours: NDArray[np.int32]
    relative: tuple[float, float]
    losses: NDArray[np.float32]
    scales: NDArray[np.float32] | None = None


def count_batches(n_pixels: int, pixel_share: float) -> int:
    """Into how many mini-batches an image is cut: as many shares as make a whole, never more than pixels."""
    return min(max(1, round(1 / pixel_share)), n_pixels)


def mini_batches(n_pixels: int, pixel_share: float, rng: np.random.Generator) -> tuple[NDArray[np.int64], ...]:
    """Cut one permutation of the pixels into equal mini-batches; the remainder joins the last."""
    count = count_batches(n_pixels, pixel_share)
    return tuple(np.split(rng.permutation(n_pixels), (n_pixels // count) * np.arange(1, count)))


def initial_latents(n_anchors: int, fit: FitSection, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw (n_anchors, latent_dim) latents from U(-init, init)."""
    return rng.uniform(-fit.init, fit.init, (n_anchors, fit.latent_dim)).astype(np.float32)


def prepare_image(image: NDArray[Any], fit: FitSection, seed: int) -> PreparedImage:
    """Draw anchors, first latents and mini-batches, each from its own seed, and find all neighbours."""
    height, width, channels = image.shape
    positions = draw_anchors(image, fit, generator(seed, "anchors"))
    neighbours = nearest_anchors(positions, (height, width), fit.neighbours)
    batches = mini_batches(height * width, fit.pixel_share, generator(seed, "pixels"))
    n_batches = len(batches)
    batch_of = np.empty(height * width, np.uint8 if n_batches <= 2**8 else np.int32)
    for number, pixels in enumerate(batches):
        batch_of[pixels] = number
    del batches, pixels
    return PreparedImage(
        size=(height, width),
        target=np.require(image, np.float32, ["C", "W"]).reshape(-1, channels),
        positions=positions,
        neighbours=neighbours,
        relative=relative_statistics(positions, neighbours, (height, width)),
        batch_of=batch_of,
        n_batches=n_batches,
        fit=fit,
        seed=seed,
    )


def group_images(sizes: Sequence[tuple[int, int]], fit: FitSection, step_pixels: int) -> Iterator[list[int]]:
    """Put images of these sizes together, in order, until one step of all of them has `step_pixels`; larger ones stay
    alone.

    Only images cut into the same number of mini-batches share a group (all but those of a few pixels are).
    """
    waiting: dict[int, list[int]] = {}
    filled: dict[int, int] = {}
    for i, (height, width) in enumerate(sizes):
        n_pixels = height * width
        batches = count_batches(n_pixels, fit.pixel_share)
        largest = n_pixels - (batches - 1) * (n_pixels // batches)
        if batches in waiting and filled[batches] + largest > step_pixels:
            yield waiting.pop(batches)
        if batches not in waiting:
            waiting[batches], filled[batches] = [], 0
        waiting[batches].append(i)
        filled[batches] += largest
    yield from waiting.values()


def cut_groups(rows: Sequence[int], pixels: Sequence[int], most: int) -> list[list[int]]:
    """Cut rows, of so many pixels each, into groups that follow each other: of one row, or of at most `most` pixels."""
    groups: list[list[int]] = []
    held = most
    for row, count in zip(rows, pixels, strict=True):
        if held + count > most:
            groups.append([])
            held = 0
        groups[-1].append(row)
        held += count
    return groups


def places(pixels: NDArray[Any], width: int) -> NDArray[np.int64]:
    """(p, 2) row and column of pixel numbers (p,) of an image `width` pixels wide."""
    return np.stack(np.divmod(pixels, width), axis=1).astype(np.int64)


def standardised_gaps(
    positions: NDArray[Any], neighbours: NDArray[Any], points: NDArray[Any], relative: tuple[float, float]
) -> NDArray[np.float32]:
    """Relative positions `anchor - point` as the decoder is given them.

    Args:
        positions: (k, 2) anchors, pixels.
        neighbours: (p, n) rows of `positions`.
        points: (p, 2) places, pixels.
        relative: mean and std.

    Returns:
        (p, 2 n) float32: row and column of the nearest, row and column of the next, and so on.
    """
    gaps = (positions[neighbours] - points[:, None]).astype(np.float32)
    gaps -= np.float32(relative[0])
    gaps /= np.float32(relative[1])
    return gaps.reshape(len(points), -1)


class Tiled:
    """Several small images, or one large one, as tiles.

    Args:
        images: All cut into the same number of mini-batches.
        tile_pixels: The mini-batch of a single image is cut into tiles of at most so many pixels.
        device: Where the tensors live.
        keep: Keep the tiles (`kept_bytes`); otherwise build them again in each step, at about half the speed.
    """

    def __init__(
        self,
        images: Sequence[PreparedImage],
        *,
        tile_pixels: int,
        device: str | torch.device = "cpu",
        keep: bool = True,
    ) -> None:
        self.images = tuple(images)
        self.device = torch.device(device)
        self.latent_offsets = ends_from([len(image.positions) for image in images])
        self.n_batches = images[0].n_batches
        self._tile_pixels = tile_pixels
        self.keeps = keep
        self._kept: dict[int, tuple[Tile, ...]] = {}

    def latents(self) -> Tensor:
        """The first latents of all images end to end, on the device."""
        return torch.from_numpy(np.concatenate([image.first_latents() for image in self.images])).to(self.device)

    def tiles(self, step: int) -> tuple[Tile, ...]:
        """The mini-batch of a step, counted from 0."""
        batch = step % self.n_batches
        tiles = self._kept.get(batch) or self._build(batch)
        if self.keeps:
            self._kept[batch] = tiles
        return tiles

    def _build(self, batch: int) -> tuple[Tile, ...]:
        batches = [image.batch(batch) for image in self.images]
        n_pixels = len(batches[0])
        if len(self.images) > 1 or n_pixels <= self._tile_pixels:
            return (build_tile(self._pixels(batches, slice(None)), int(self.latent_offsets[-1]), self.device),)
        n_tiles = -(-n_pixels // self._tile_pixels)
        cuts = [n_pixels * i // n_tiles for i in range(n_tiles + 1)]
        pieces = [slice(*ends) for ends in pairwise(cuts)]
        return tuple(build_tile(self._pixels(batches, piece), None, self.device) for piece in pieces)

    def _pixels(self, batches: Sequence[NDArray[np.int64]], piece: slice) -> Pixels:
        """Lay a piece of every image's mini-batch end to end."""
        near, relative, target, weight = [], [], [], []
        for image, batch, first_row in zip(self.images, batches, self.latent_offsets[:-1], strict=True):
            pixels = batch[piece]
            local = image.neighbours[pixels]
            near.append(local + np.int32(first_row))
            relative.append(standardised_gaps(image.positions, local, places(pixels, image.size[1]), image.relative))
            target.append(image.target[pixels])
            share = 1 / (len(batch) * image.target.shape[1])
            weight.append(np.full((len(pixels), 1), share, np.float32))
        return Pixels(
            near=np.concatenate(near),
            relative=np.concatenate(relative),
            target=np.concatenate(target),
            weight=np.concatenate(weight),
            counts=tuple(len(part) for part in near),
        )


def kept_bytes(images: Sequence[PreparedImage]) -> int:
    """Memory of the kept tiles: index and its transpose, relative positions, targets, weight and number of each
    pixel."""
    return sum(4 * (4 * image.neighbours.size + image.target.size + 3 * len(image.target)) for image in images)
