"""Rounding of latents, positions and scales to what is stored: round first, then neighbours, PSNR and statistics.

Rounding twice changes nothing, bit for bit, so `StoreWriter.commit_part` may round again what the converter rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.errors import ImageError

DTYPES = ("float16", "float32", "int8")
BITS = (2, 8)
"""Fewest and most bits of `int8`."""
LEAST_COST = 1e-6
"""Of the largest: a dimension that costs nothing still has steps."""


@dataclass(frozen=True)
class Rounding:
    """How the latents of a store are rounded: to `dtype`, and for `int8` to how many bits, in which steps.

    `steps` (z): those of each dimension, the same in the whole store (`latent_steps`). None: each cloud has its own.
    """

    dtype: str
    bits: int = 8
    steps: tuple[float, ...] | None = None

    @classmethod
    def of(cls, dtype: str, bits: int, decoder: object) -> Rounding:
        """That of a store with this decoder, or record of one: `ranges` and `costs` decide on the steps of `int8`."""
        record = getattr(decoder, "record", decoder)
        ranges = getattr(record, "ranges", None)
        if dtype != "int8" or ranges is None:
            return cls(dtype, bits)
        steps = latent_steps(np.asarray(ranges), getattr(record, "costs", None), bits)
        return cls(dtype, bits, tuple(steps.tolist()))

    def quantise(
        self, latents: NDArray[Any], offsets: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        """Round latents to the stored numbers.

        Args:
            latents: (m, z) floats.
            offsets: (s + 1,) where the clouds lie in `latents`; None is one cloud.

        Returns:
            The stored latents (m, z). With `steps` whole numbers of them, at most 127 to each side. For `int8` without
            `steps` also the scales (s, z) float32 of the clouds, by which each number is at most 2 ** (bits - 1) - 1,
            `most`; else None. A scale belongs to one cloud and one dimension: its largest magnitude over `most`,
            rounded up to 16 significant bits, so that `most * scale` is exact and rounding again gives the same bytes.
            It is per cloud because a cloud must not depend on what else is in its part.

        Raises:
            ImageError: reason `not-finite`: a latent is NaN or infinite, or becomes so in float16 (beyond 65,504).
        """
        values = np.asarray(latents, np.float32)
        if self.dtype not in DTYPES:
            raise ValueError(f"latents are stored as one of {DTYPES}, not {self.dtype}")
        if self.dtype != "int8":
            with np.errstate(over="ignore"):
                stored = values.astype(self.dtype)
            _require_finite(stored, self.dtype)
            return stored, None
        _require_finite(values, "int8")
        if self.steps is not None:
            return _counted(values, np.array(self.steps, np.float32), 127), None
        most = 2 ** (self.bits - 1) - 1
        bounds = _bounds(values, offsets)
        scale = _scales(values, bounds, most)
        with np.errstate(over="ignore"):
            _require_finite(scale * np.float32(most), "int8")
        return _counted(values, np.repeat(scale, np.diff(bounds), axis=0), most), scale

    def round(self, latents: NDArray[Any], offsets: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Round latents to what a reader of the store will see: the values to compute PSNR and statistics from."""
        stored, scale = self.quantise(latents, offsets)
        return self.dequantise(stored, scale, offsets).astype(np.float32, copy=False)

    def dequantise(
        self,
        stored: NDArray[Any],
        scale: NDArray[np.float32] | None = None,
        offsets: NDArray[np.int64] | None = None,
    ) -> NDArray[Any]:
        """Undo `quantise`: float16 and float32 stay as they are, int8 becomes float32."""
        if self.steps is not None:
            return stored.astype(np.float32) * np.array(self.steps, np.float32)
        if scale is None:
            return stored
        return stored.astype(np.float32) * np.repeat(scale, np.diff(_bounds(stored, offsets)), axis=0)


def latent_steps(ranges: NDArray[Any], costs: NDArray[Any] | None = None, bits: int = 8) -> NDArray[np.float32]:
    """Choose the step of each dimension so that a step costs the same in all of them.

    Args:
        ranges: (z,) the size below which nearly all latents stay (99.95 %), per dimension.
        costs: (z,) the mean squared change of colour that a change of 1 makes, per dimension; None: the same in all.
        bits: 2 to 8. The dimension whose range is worth the most colour has 2 ** (bits - 1) - 1 steps to each side;
            what is beyond its range is not clipped before 127 steps.

    Returns:
        (z,) float32: `step / sqrt(costs)`.

    Raises:
        ValueError: bits outside of 2 to 8, or ranges or costs that are negative or not finite.
    """
    if not BITS[0] <= bits <= BITS[1]:
        raise ValueError(f"latents are rounded to {BITS[0]} to {BITS[1]} bits, not {bits}")
    values = np.asarray(ranges, np.float64)
    weights = np.ones_like(values) if costs is None else np.asarray(costs, np.float64)
    if not all(np.isfinite(numbers).all() and (numbers >= 0).all() for numbers in (values, weights)):
        raise ValueError("ranges and costs of latents must be finite and not negative")
    largest = float(weights.max(initial=0))
    roots = np.sqrt(np.maximum(weights, LEAST_COST * largest)) if largest else np.ones_like(values)
    step = (values * roots).max(initial=0) / (2 ** (bits - 1) - 1)
    return (step / roots).astype(np.float32)


def scale_codes(scales: NDArray[Any]) -> NDArray[np.uint8]:
    """Codes of scales in pixels: eight times their binary logarithm, whole numbers from 0 (1 pixel) to 255."""
    return np.clip(np.rint(8 * np.log2(np.asarray(scales, np.float64))), 0, 255).astype(np.uint8)


def scales_of(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scales in pixels, `2 ** (code / 8)`."""
    return np.exp2(np.arange(256) / 8).astype(np.float32)[codes]


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


def _bounds(values: NDArray[Any], offsets: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Where the clouds lie: `offsets`, or all rows as one cloud."""
    return np.array([0, len(values)], np.int64) if offsets is None else offsets


def _counted(values: NDArray[np.float32], steps: NDArray[np.float32], most: int) -> NDArray[np.int8]:
    """How many steps each value is, at most `most` to each side; 0 where a step is 0."""
    with np.errstate(over="ignore"):
        counts = np.divide(values, steps, out=np.zeros_like(values), where=steps > 0)
    return np.clip(np.rint(counts, out=counts), -most, most).astype(np.int8)


def _scales(values: NDArray[np.float32], offsets: NDArray[np.int64], most: int) -> NDArray[np.float32]:
    scales = np.zeros((len(offsets) - 1, values.shape[1]), np.float32)
    filled = np.flatnonzero(np.diff(offsets) > 0)  # reduceat cannot do empty clouds
    if len(filled):
        scales[filled] = np.maximum.reduceat(np.abs(values), offsets[filled], axis=0)
    mantissa, exponent = np.frexp(scales.astype(np.float64) / most)
    rounded = np.ldexp(np.ceil(mantissa * 2**16) / 2**16, exponent)
    # Below the smallest normal float32 a scale loses its 16 bits: such latents are zero for every purpose.
    return np.where(rounded < np.finfo(np.float32).tiny, 0, rounded).astype(np.float32)
