"""What a fit reaches by when: python benchmarks/quality.py SOURCE --thesis A.zarr --basis B.zarr --out FILE.png

Fits images of a source (of the split `test`, or of the last one: decoders come from training images) by the recipe
`thesis` with fewer and fewer steps, by the same steps one image at a time through autograd (`loop`, as the thesis's
code does), and by the recipe `basis`, which solves. Prints and draws mean dB against seconds an image. `A.zarr` and
`B.zarr`: finished stores of the recipes, for their decoders. Nothing else should run.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from arcpipe.arc.engine import decoder_of
from arcpipe.arc.metrics import psnr
from arcpipe.bench.methods import METHODS
from arcpipe.config import FitSection, SourceSection
from arcpipe.machine import available_cores
from arcpipe.sources import open_source
from arcpipe.store import open_store

STEPS = (10, 25, 50, 100, 200, 500)
REPEATS = 3
"""Of the quick ones, the median counts."""


def measure(method: str, images: list[np.ndarray], decoder: object, fit: FitSection) -> tuple[float, float]:
    """Seconds an image and mean dB."""
    run, taken = METHODS[method], []
    fitted = run(images[:2], decoder, fit)  # compiles
    for _ in range(1 if method == "loop" else REPEATS):
        start = time.perf_counter()
        fitted = run(images, decoder, fit)
        taken.append((time.perf_counter() - start) / len(images))
    return float(np.median(taken)), float(np.mean([psnr(i, m) for i, m in zip(images, fitted.render(), strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--thesis", type=Path, required=True, help="a store of the recipe thesis")
    parser.add_argument("--basis", type=Path, required=True, help="a store of the recipe basis")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("quality.png"))
    options = parser.parse_args()
    torch.set_num_threads(available_cores())
    source = open_source(SourceSection(source=options.source))
    splits = source.inventory().samples
    samples = splits["test"] if "test" in splits else list(splits.values())[-1]
    chosen = [samples[i] for i in np.linspace(0, len(samples) - 1, options.images).astype(int)]
    concat, basis = (decoder_of(open_store(path).decoder) for path in (options.thesis, options.basis))
    images = [source.read(sample, concat.channels) for sample in chosen]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    names = {"loop": "one image at a time, autograd", "thesis": "recipe thesis"}
    for method, name in names.items():
        few = images[:4] if method == "loop" else images
        points = [measure(method, few, concat, FitSection(recipe="thesis", steps=steps)) for steps in STEPS]
        for steps, (seconds, db) in zip(STEPS, points, strict=True):
            print(f"{method:>7} {steps:>4} steps {1e3 * seconds:>9.2f} ms an image {db:>6.2f} dB")
        axes.semilogx(*zip(*points, strict=True), "o-", label=name)
    seconds, db = measure("basis", images, basis, FitSection(recipe="thesis"))
    print(f"{'basis':>7}  one solve {1e3 * seconds:>9.2f} ms an image {db:>6.2f} dB")
    axes.semilogx([seconds], [db], "s", markersize=9, label="recipe basis")
    axes.set(xlabel=f"seconds an image, {torch.get_num_threads()} threads", ylabel="mean PSNR, dB")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(options.out, dpi=150)


if __name__ == "__main__":
    main()
