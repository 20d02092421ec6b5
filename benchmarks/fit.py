"""Fits beside the usual ways to fit, and time against pixels: python benchmarks/fit.py --plot fit.png

Prints what `arcpipe bench fit` prints; with `--plot` also fits one picture each of 32x32 up to 4268x2912 pixels for a
few steps, prints the time a pixel of 500 steps and the peak memory, and draws both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from arcpipe.bench.fit import SIZES, run_bench_fit
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


def draw(results: Sequence[SizeResult], path: Path) -> None:
    """Time a pixel and peak memory against pixels."""
    pixels = [result.pixels for result in results]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots(1, 2)
    axes[0].semilogx(pixels, [result.microseconds_per_pixel for result in results], "o-")
    axes[0].set(xlabel="pixels", ylabel="CPU microseconds a pixel, 500 steps")
    axes[1].semilogx(pixels, [result.peak_bytes / 2**30 for result in results], "o-")
    axes[1].set(xlabel="pixels", ylabel="peak memory of the process, GiB")
    for part in axes:
        part.set_ylim(0, 1.1 * part.get_ylim()[1])
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--images", type=int)
    parser.add_argument("--plot", type=Path, help="where to draw time against pixels")
    options = parser.parse_args()
    print("\n".join(run_bench_fit(options.sizes.split(","), options.images).lines()))
    if options.plot:
        results = [in_fresh_process(measure_size, size) for size in GROWING_SIZES]
        for result in results:
            print(result.line())
        draw(results, options.plot)
        print(f"drawn: {options.plot}", file=sys.stderr)


if __name__ == "__main__":
    main()
