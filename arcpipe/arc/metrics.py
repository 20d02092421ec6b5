"""How good a reconstruction is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BAND = 2**20
"""Values compared at once: bounds the work memory to some 30 MB, whatever the image."""
PSNR_CAP_DB = 100.0
"""An exact match would be infinite, which JSON cannot hold. 8-bit images that differ in one value are below it."""


def psnr(image: NDArray[Any], reconstruction: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio, `10 log10(1 / MSE)`, over all pixels and channels.

    Args:
        image: (height, width, channels) float in [0, 1].
        reconstruction: the same shape; clamped to [0, 1] here.

    Returns:
        dB, at most `PSNR_CAP_DB`; NaN where the reconstruction has NaN.

    Raises:
        ValueError: the shapes differ.
    """
    if image.shape != reconstruction.shape:
        raise ValueError(f"image is {image.shape}, reconstruction is {reconstruction.shape}")
    made, given, total = reconstruction.reshape(-1), image.reshape(-1), 0.0
    for start in range(0, made.size, BAND):
        band = slice(start, start + BAND)
        total += np.square(np.clip(made[band].astype(np.float64), 0, 1) - given[band]).sum()
    return decibels(total / max(1, made.size))


def decibels(mse: float) -> float:
    """The PSNR of a mean squared error, dB, at most `PSNR_CAP_DB`; NaN of NaN."""
    return float(-10 * np.log10(np.maximum(mse, 10 ** (-PSNR_CAP_DB / 10))))
