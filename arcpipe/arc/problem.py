"""What a kernel is given: images turned into flat tensors, cut into mini-batches and those into tiles.

A *mini-batch* holds the pixels supervised in one step: one of the equal parts of one seeded permutation of an image's
pixels, cycled in the same order. A *tile* is what is worked on together: the mini-batches of several small images end
to end, or a compact piece of the mini-batch of a large one. Tiles depend on the image and the settings alone, never on
the memory that is allowed, so that no number does either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.anchors import draw_anchors, morton_order
from arcpipe.arc.memory import fit_bytes
from arcpipe.arc.neighbours import nearest_anchors, relative_statistics
from arcpipe.config import FitSection
from arcpipe.seeds import generator

TOGETHER_PIXELS = 2**20
"""Larger images are fitted one after the other by all threads: one at a time is in memory. Smaller ones are too where
there are fewer of them than threads."""


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


def learning_rates(fit: FitSection) -> NDArray[np.float64]:
    """The rate of each step, (steps,): `fit.lr`, or what `fit.schedule` makes of it."""
    if fit.schedule == "constant":
        return np.full(fit.steps, fit.lr)
    return fit.lr * (1 + np.cos(np.pi * np.arange(fit.steps) / fit.steps)) / 2


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


def share_out(
    shapes: Sequence[tuple[int, ...]], fit: FitSection, threads: int, memory_bytes: int
) -> tuple[list[tuple[list[int], int]], list[int]]:
    """Say which images are fitted by one thread each, in groups with the number of threads at work, and which by all.

    Threads that would need more than `memory_bytes` together stay out; one is always at work.
    """
    large = [i for i, shape in enumerate(shapes) if shape[0] * shape[1] > TOGETHER_PIXELS]
    small = [i for i, shape in enumerate(shapes) if shape[0] * shape[1] <= TOGETHER_PIXELS]
    full = len(small) - len(small) % threads
    small, left = small[:full], small[full:]  # the last few would leave threads idle
    quick = [i for i in left if shapes[i][0] * shapes[i][1] < 2**14]  # gone before others could help
    together = [i for i in left if i not in quick] + large
    alone = []
    for rows in (small, quick):
        most = max((fit_bytes(shapes[i], fit) for i in rows), default=1)
        alone.append((rows, max(1, min(threads, memory_bytes // most))))
    return [(rows, workers) for rows, workers in alone if rows], together


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
