"""Fits beside the usual ways to fit, and time against pixels: python benchmarks/fit.py --plot fit.png

Prints what `arcpipe bench fit` prints; with `--plot` also fits one picture each of 32x32 up to 4268x2912 pixels for a
few steps, prints the time a pixel of 500 steps and the peak memory, and draws both.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from growth import GROWING_SIZES, SizeResult, run_growth
from matplotlib import pyplot as plt

from arcpipe.bench.fit import SIZES, run_bench_fit


def draw(results: list[SizeResult], path: Path) -> None:
    """Time a pixel and peak memory against pixels."""
    pixels = [result.pixels for result in results]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    axes[0].semilogx(pixels, [result.microseconds_per_pixel for result in results], "o-")
    axes[0].set(xlabel="pixels", ylabel="CPU microseconds a pixel, 500 steps")
    axes[1].semilogx(pixels, [result.peak_bytes / 2**30 for result in results], "o-")
    axes[1].set(xlabel="pixels", ylabel="peak memory of the process, GiB")
    for part in axes:
        part.set_ylim(0, 1.1 * part.get_ylim()[1])
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--images", type=int)
    parser.add_argument("--plot", type=Path, help="where to draw time against pixels")
    options = parser.parse_args()
    print("\n".join(run_bench_fit(options.sizes.split(","), options.images).lines()))
    if options.plot:
        results = run_growth(GROWING_SIZES)
        for result in results:
            print(result.line())
        draw(results, options.plot)
        print(f"drawn: {options.plot}", file=sys.stderr)


if __name__ == "__main__":
    main()
