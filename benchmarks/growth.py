"""How time and memory of a fit grow with the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arcpipe.bench.machine import cpu_seconds, in_fresh_process, peak_memory
from arcpipe.config import FitSection
from arcpipe.progress import byte_size

GROWING_SIZES = ((32, 32), (224, 224), (375, 500), (1200, 1600), (2912, 4268))
WORK = 2**24
"""Pixels times steps that are measured at least: more than a second of work."""


@dataclass(frozen=True)
class SizeResult:
    """One size: CPU microseconds a pixel of 500 steps with all that goes before them, the share of what goes before,
    and the peak of the whole process."""

    size: tuple[int, int]
    microseconds_per_pixel: float
    preparation_share: float
    peak_bytes: int

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    def line(self) -> str:
        return (
            f"{self.size[0]}x{self.size[1]}: {self.microseconds_per_pixel:.1f} us a pixel and 500 steps, "
            f"{self.preparation_share:.1%} of it before the first step; peak {byte_size(self.peak_bytes)}"
        )


def run_growth(sizes: Sequence[tuple[int, int]] = GROWING_SIZES) -> list[SizeResult]:
    """Measure each size in a process of its own."""
    return [in_fresh_process(measure_size, size) for size in sizes]


def measure_size(size: tuple[int, int]) -> SizeResult:
    """Fit one picture twice, for few steps and for more: the difference is the steps, the rest goes before them."""
    import torch

    from arcpipe.arc.decoder import Decoder
    from arcpipe.arc.engine import fit_clouds
    from arcpipe.bench.photographs import photographs

    torch.set_num_threads(1)
    fit = FitSection()
    decoder = Decoder.initial(fit, 3, 0)
    (picture,) = photographs(size, 1)
    n_pixels = size[0] * size[1]
    few, more = 4, 4 + max(4, min(fit.steps, WORK // n_pixels))
    fit_clouds([picture[:16, :16]], decoder, fit.model_copy(update={"steps": 1}), [0])
    short, long = (
        cpu_seconds(lambda: fit_clouds([picture], decoder, fit.model_copy(update={"steps": steps}), [0]))  # noqa: B023
        for steps in (few, more)
    )
    step = (long - short) / (more - few)
    before = max(0.0, short - few * step)
    whole = before + fit.steps * step
    return SizeResult(size, 1e6 * whole / n_pixels, before / whole, peak_memory())
