"""Fits of sine networks to images, an image for each thread, compiled (`loops`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import SirenRecord
from arcpipe.config import FitSection
from arcpipe.seeds import generator
from arcpipe.siren import loops
from arcpipe.siren.network import coordinates, first_values, layer_sizes
from arcpipe.threads import each
from arcpipe.vectors import LANES, ROWS

SCRATCH_BYTES = 3 * 2**19
"""What one fit may keep of its activations: most of a core's own cache, where the work is 2 times as fast."""


@dataclass(frozen=True, slots=True)
class FittedSiren:
    """`values` (P,) float32; `losses` (steps,) float32: mean squared error of every mini-batch before its step."""

    values: NDArray[np.float32]
    losses: NDArray[np.float32]


def fit_sirens(
    images: Sequence[NDArray[np.float32]],
    record: SirenRecord,
    fit: FitSection,
    seeds: Sequence[int],
    rates: NDArray[np.float64],
    threads: int = 1,
) -> list[FittedSiren]:
    """Fit a network to each image.

    Args:
        images: (height, width, channels) floats in [0, 1], of any sizes.
        record: The networks' shape, and their first values if they share them.
        fit: `betas`, `eps`, `pixel_share`, `stop_db` and `variant` are read.
        seeds: One for each image: it draws mini-batches and, where no start is shared, the first values.
        rates: (steps,) of Adam.
        threads: Images that are fitted at the same time.

    Returns:
        Networks in the order of the images; each is the same bit for bit whatever is fitted beside it.
    """
    return each(lambda i: _fit(images[i], record, fit, seeds[i], rates), range(len(images)), threads)


def _fit(
    image: NDArray[np.float32], record: SirenRecord, fit: FitSection, seed: int, rates: NDArray[np.float64]
) -> FittedSiren:
    widths, where = padded_widths(record.widths_tuple)
    start = record.start if len(record.start) else first_values(fit.variant, record.widths_tuple, record.omega, seed)
    n_values = -(-int(((widths[:-1] + 1) * widths[1:]).sum()) // LANES) * LANES
    values, gradient, first, second = np.zeros((4, n_values), np.float32)
    values[where] = start
    places, target, valid, counts = _mini_batches(image, record, fit, seed)
    length = valid.shape[1]
    tile = tile_pixels(widths, length)
    scratch = np.zeros(loops.scratch_length(widths, tile), np.float32)
    losses = np.zeros(len(rates), np.float32)
    span = record.high - record.low
    stop = span**2 * 10 ** (-fit.stop_db / 10) if fit.stop_db else 0.0
    taken = loops.fit(
        values, widths, record.channels, places.ravel(), target.ravel(), valid.ravel(), counts, length, tile, scratch,
        gradient, first, second, rates, np.float32(record.omega), np.float32(record.offset), fit.betas[0],
        fit.betas[1], fit.eps, stop, losses,
    )  # fmt: skip
    return FittedSiren(values[where].copy(), losses[: min(taken + 1, len(losses))])


def _mini_batches(
    image: NDArray[np.float32], record: SirenRecord, fit: FitSection, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Coordinates (b, 2, length), colours (b, channels, length), 1 for a pixel (b, length), and their counts (b,).

    The batches are the equal parts of one seeded permutation of the pixels; the remainder joins the last.
    """
    n_pixels, channels = image.shape[0] * image.shape[1], image.shape[2]
    count = min(max(1, round(1 / fit.pixel_share)), n_pixels)
    order = np.arange(n_pixels) if count == 1 else generator(seed, "pixels").permutation(n_pixels)
    parts = np.split(order, (n_pixels // count) * np.arange(1, count))
    length = -(-len(parts[-1]) // loops.STEP) * loops.STEP
    places = np.zeros((count, 2, length), np.float32)
    target = np.zeros((count, channels, length), np.float32)
    valid = np.zeros((count, length), np.float32)
    everywhere = coordinates((image.shape[0], image.shape[1]), record)
    colours = image.reshape(n_pixels, channels).T * np.float32(record.high - record.low) + np.float32(record.low)
    for i, part in enumerate(parts):
        places[i, :, : len(part)] = everywhere[:, part]
        target[i, :, : len(part)] = colours[:, part]
        valid[i, : len(part)] = 1
    return places, target, valid, np.array([len(part) for part in parts], np.int64)


def padded_widths(widths: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Widths in whole blocks, and where each number of a vector (P,) lies among the padded ones."""
    padded = np.array([2, *(-(-width // ROWS) * ROWS for width in widths[1:])], np.int64)
    where = []
    for (_, n_in, n_out), (at, wide, tall) in zip(layer_sizes(widths), layer_sizes(padded.tolist()), strict=True):
        where.append((at + np.arange(n_out)[:, None] * wide + np.arange(n_in)).ravel())
        where.append(at + wide * tall + np.arange(n_out))
    return padded, np.concatenate(where)


def tile_pixels(widths: NDArray[np.int64], length: int) -> int:
    """Pixels that are worked on together; decided by the network and the image alone, so that no number depends on
    anything else."""
    a_step = 4 * loops.scratch_length(widths, loops.STEP)
    return int(min(length, max(1, SCRATCH_BYTES // a_step) * loops.STEP))
