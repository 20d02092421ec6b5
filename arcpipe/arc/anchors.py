"""Where the latents of an image sit: drawn in proportion to the image-gradient norm (thesis 3.2.1, appendix A)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import morton_codes
from arcpipe.config import FitSection


def gradient_norm(image: NDArray[Any]) -> NDArray[np.float32]:
    """Measure how strongly an image changes at every pixel.

    Args:
        image: (height, width, channels) float.

    Returns:
        (height, width) float32: Sobel responses along both axes, squared, summed over channels and axes, square root.
        The border is replicated, so a flat image gives exactly 0 everywhere.
    """
    from arcpipe.arc.kernels.drawing import measure_gradient

    norm = np.empty(image.shape[:2], np.float32)
    # One kind of array, or Numba would compile once more for each: a copy where it is another, or may not be written.
    measure_gradient(np.require(image, np.float32 if image.dtype == np.float32 else np.float64, ["C", "W"]), norm)
    return norm


def count_anchors(n_pixels: int, fit: FitSection) -> int:
    """How many anchors are asked for: a share of the pixels below 1, a count from 1 on; never fewer than neighbours."""
    # 0.29 * 100 is 28.999999999999996 in binary: the nudge keeps floor() at what the decimal share says.
    wanted = math.floor(fit.latents * n_pixels + 1e-9) if fit.latents < 1 else math.floor(fit.latents)
    return max(fit.neighbours, min(wanted, n_pixels))


def draw_anchors(image: NDArray[Any], fit: FitSection, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the anchors of one image.

    Pixels are drawn without replacement with probability proportional to their gradient norm. Where fewer pixels than
    asked for have a gradient, their number is what is drawn; where they are fewer than `fit.neighbours`, the
    rest comes uniformly from the other pixels. An image with fewer pixels than `fit.neighbours` gives every pixel once,
    in raster order, and then again from the first, until there are `fit.neighbours`.

    Args:
        image: (height, width, channels) float.
        fit: `latents` and `neighbours` are read.
        rng: Consumed by the same amount for all images of one size.

    Returns:
        (k, 2) int64, row and column in pixels, in Morton order.
    """
    from arcpipe.arc.kernels.drawing import codes_of, places_of

    height, width = image.shape[:2]
    n_pixels = height * width
    weights = gradient_norm(image).ravel()
    race = rng.exponential(size=n_pixels)
    if n_pixels <= fit.neighbours:
        chosen = np.resize(np.arange(n_pixels), fit.neighbours)
    else:
        chosen = _winners(weights, race, count_anchors(n_pixels, fit), fit.neighbours)
    codes = codes_of(chosen, width)
    codes.sort()
    return places_of(codes)


def _winners(weights: NDArray[np.float32], race: NDArray[np.float64], wanted: int, least: int) -> NDArray[np.int64]:
    """Draw `wanted` pixels one after the other in proportion to `weights`, shrunk to those that have a weight.

    The smallest of independent exponential times divided by their weights are distributed exactly like
    draws without replacement (Efraimidis and Spirakis 2006), without a loop. The same times serve the uniform rest.
    `race` is overwritten.
    """
    weighted = int(np.count_nonzero(weights > 0))
    if weighted >= least:
        with np.errstate(divide="ignore", invalid="ignore"):  # without a weight a time is infinite
            race /= weights
        return _smallest(race, min(wanted, weighted))
    rest = np.flatnonzero(weights <= 0)
    return np.concatenate([np.flatnonzero(weights > 0), rest[_smallest(race[rest], least - weighted)]])


def _smallest(times: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Places of the `count` smallest, rising; of equal ones the first."""
    last = np.partition(times, count - 1)[count - 1]
    chosen = np.flatnonzero(times <= last)
    if len(chosen) > count:
        ties = np.flatnonzero(times[chosen] == last)
        chosen = np.delete(chosen, ties[count - len(chosen) :])
    return chosen


def morton_order(positions: NDArray[Any]) -> NDArray[np.int64]:
    """Sort places along a Z-shaped curve, so that neighbours in the array are mostly neighbours in the image.

    Args:
        positions: (k, 2) integers from 0 to 2**32 - 1, row and column.

    Returns:
        (k,) int64 permutation: by the bits of row and column interleaved, the row's above; equal places keep their
        order.
    """
    return np.argsort(morton_codes(positions), kind="stable")
