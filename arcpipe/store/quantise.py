"""Rounding of latents and positions to what is stored: round first, then compute neighbours, PSNR and statistics.

Rounding twice changes nothing, bit for bit, so `StoreWriter.commit_part` may round again what the converter rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.errors import ImageError

DTYPES = ("float16", "float32", "int8")


def quantise_latents(
    latents: NDArray[Any], dtype: str, offsets: NDArray[np.int64] | None = None
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Round latents to the stored type.

    Args:
        latents: (m, z) floats.
        dtype: `float16`, `float32` or `int8`.
        offsets: (s + 1,) where the clouds lie in `latents`; None is one cloud.

    Returns:
        The stored latents (m, z), and for `int8` the scales (s, z) float32, else None. A scale belongs to one cloud
        and one dimension: its largest magnitude over 127, rounded up to 16 significant bits, so that `127 * scale`
        is exact and rounding again gives the same bytes. It is per cloud because a cloud must not depend on what
        else is in its part.

    Raises:
        ImageError: reason `not-finite`: a latent is NaN or infinite, or becomes so in float16 (beyond 65,504).
    """
    if dtype not in DTYPES:
        raise ValueError(f"latents are stored as one of {DTYPES}, not {dtype}")
    values = np.asarray(latents, np.float32)
    if dtype == "int8":
        _require_finite(values, dtype)
        bounds = np.array([0, len(values)], np.int64) if offsets is None else offsets
        scale = _scales(values, bounds)
        with np.errstate(over="ignore"):
            _require_finite(scale * np.float32(127), dtype)
        steps = np.repeat(scale, np.diff(bounds), axis=0)
        quotient = np.divide(values, steps, out=np.zeros_like(values), where=steps > 0)
        return np.clip(np.rint(quotient), -127, 127).astype(np.int8), scale
    with np.errstate(over="ignore"):
        stored = values.astype(dtype)
    _require_finite(stored, dtype)
    return stored, None


def dequantise(
    stored: NDArray[Any], scale: NDArray[np.float32] | None = None, offsets: NDArray[np.int64] | None = None
) -> NDArray[Any]:
    """Undo `quantise_latents`: float16 and float32 stay as they are, int8 becomes float32 `stored * scale`."""
    if scale is None:
        return stored
    bounds = np.array([0, len(stored)], np.int64) if offsets is None else offsets
    return stored.astype(np.float32) * np.repeat(scale, np.diff(bounds), axis=0)


def round_latents(latents: NDArray[Any], dtype: str, offsets: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """What a reader of the store will see, as float32: the values to compute PSNR and statistics from."""
    stored, scale = quantise_latents(latents, dtype, offsets)
    return dequantise(stored, scale, offsets).astype(np.float32, copy=False)


def position_dtype(size: tuple[int, int]) -> np.dtype[Any]:
    """The stored type of positions of an image (height, width): uint16, or uint32 from 65,537 pixels a side."""
    return np.dtype(np.uint16 if max(size) <= 2**16 else np.uint32)


def _require_finite(values: NDArray[Any], dtype: str) -> None:
    if not np.isfinite(values).all():
        raise ImageError(
            f"a latent is not a finite {dtype}.",
            reason="not-finite",
            fix=["--dtype float32"] if dtype == "float16" else [],
        )


def _scales(values: NDArray[np.float32], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
    scales = np.zeros((len(offsets) - 1, values.shape[1]), np.float32)
    filled = np.flatnonzero(np.diff(offsets) > 0)  # reduceat cannot do empty clouds
    if len(filled):
        scales[filled] = np.maximum.reduceat(np.abs(values), offsets[filled], axis=0)
    mantissa, exponent = np.frexp(scales.astype(np.float64) / 127)
    rounded = np.ldexp(np.ceil(mantissa * 2**16) / 2**16, exponent)
    # Below the smallest normal float32 a scale loses its 16 bits: such latents are zero for every purpose.
    return np.where(rounded < np.finfo(np.float32).tiny, 0, rounded).astype(np.float32)
