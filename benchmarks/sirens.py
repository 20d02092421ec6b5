"""How long a sine network takes to be fitted to a small image: one after another through autograd, many at once in
batched products of torch, and by the compiled fit of `--recipe siren`.

python benchmarks/sirens.py [--size 28] [--steps 1000] [--images 16] [--json FILE]

All ways take every step on all pixels, from the same start; seconds an image, PSNR after the last step and the ratio to
the first way. The slow ways are given fewer images, and the faster of one thread and one for each core, which is seen
in a twentieth of the steps: threads of torch cost more than they bring in products as small as these.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from arcpipe.bench.photographs import photographs
from arcpipe.config import FitSection
from arcpipe.siren import fit_sirens, new_record
from arcpipe.siren.network import coordinates, split_layers
from tests.siren.siren_reference import fit_reference


def batched(images: list[np.ndarray], record, steps: int, rate: float) -> list[float]:  # type: ignore[no-untyped-def]
    """Parameters stacked, one Adam over the stack; returns mean squared errors before the last step."""
    places = torch.from_numpy(coordinates(images[0].shape[:2], record)).T.expand(len(images), -1, -1)
    target = torch.from_numpy(np.stack([image.reshape(-1, image.shape[2]) for image in images]))
    layers = [
        [torch.from_numpy(np.stack([part] * len(images))).requires_grad_() for part in layer]
        for layer in split_layers(record.start, record.widths_tuple)
    ]
    adam = torch.optim.Adam([part for layer in layers for part in layer], lr=rate)
    for _ in range(steps):
        made = places
        for weights, biases in layers[:-1]:
            made = torch.sin(record.omega * torch.baddbmm(biases[:, None], made, weights.mT))
        made = torch.baddbmm(layers[-1][1][:, None], made, layers[-1][0].mT)
        losses = (made - target).square().mean((1, 2))
        adam.zero_grad()
        losses.sum().backward()
        adam.step()
    return losses.tolist()


def timed(way, images, steps: int) -> tuple[float, list[float]]:  # type: ignore[no-untyped-def]
    """Seconds, and the losses before the last step."""
    started = time.perf_counter()
    losses = way(images, steps)
    return time.perf_counter() - started, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    fit = FitSection.model_validate({"recipe": "siren", "steps": options.steps})
    images = [image.mean(2, keepdims=True) for image in photographs((options.size, options.size), options.images)]
    record, rates = new_record(fit, 1, 0), np.full(options.steps, fit.lr)
    fit_sirens(images[:1], record, fit, [0], rates[:2])
    few = max(1, options.images // 8)
    short = max(1, options.steps // 20)

    def one_by_one(some: list[np.ndarray], steps: int) -> list[float]:
        return [fit_reference(image, record, record.start, rates[:steps].tolist())[1][-1] for image in some]

    def together(some: list[np.ndarray], steps: int) -> list[float]:
        return batched(some, record, steps, fit.lr)

    def compiled(some: list[np.ndarray], steps: int) -> list[float]:
        return [one.losses[-1] for one in fit_sirens(some, record, fit, range(len(some)), rates[:steps], threads)]

    ways = {
        "autograd, one at a time": (few, one_by_one),
        "torch, batched products": (2 * few, together),
        "compiled": (options.images, compiled),
    }
    results, first = [], None
    for name, (count, way) in ways.items():
        by_threads = {}
        for n in (1, threads) if way is not compiled else (threads,):
            torch.set_num_threads(n)
            way(images[:count], 2)
            by_threads[n] = timed(way, images[:count], short)[0]
        n = min(by_threads, key=lambda n: by_threads[n])
        torch.set_num_threads(n)
        seconds, losses = timed(way, images[:count], options.steps)
        seconds /= count
        first = first or seconds
        psnr = float(np.mean(-10 * np.log10(losses)))
        results.append({"way": name, "threads": n, "s_per_image": seconds, "psnr": psnr, "ratio": first / seconds})
        print(
            f"{name:>24}, {n} threads: {seconds:.4f} s an image, {psnr:.2f} dB, {first / seconds:.1f} times the first"
        )
    if options.json:
        about = {"size": options.size, "steps": options.steps, "threads": threads, "torch": torch.__version__}
        options.json.write_text(json.dumps({**about, "results": results}, indent=1))


if __name__ == "__main__":
    main()
