"""The fit beside others: python benchmarks/neighbours.py [--json]

Fits the same pictures over and over in a process of its own with all cores, alone, beside one process that spins, and
beside a second one like it. Prints images a second and their ratios. With c cores a fair share beside a spinning
process is c / (c + 1) at least, and two converters together should do what one does: less means that threads fight.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from typing import Any

SECONDS, SIZE, TOGETHER = 12.0, (32, 32), 32
LARGE = (700, 900)


def spin() -> None:
    """One core, until the process is ended."""
    while True:
        pass


def fit_over_and_over(size: tuple[int, int], count: int, seconds: float, start: Barrier, results: Any) -> None:
    """Put images a second into `results`."""
    import os

    from arcpipe.cluster import worker_environment
    from arcpipe.machine import available_cores

    os.environ.update(worker_environment(available_cores()))
    import torch

    from arcpipe.arc.decoder import Decoder
    from arcpipe.arc.engine import fit_clouds
    from arcpipe.bench.photographs import photographs
    from arcpipe.config import FitSection

    torch.set_num_threads(available_cores())
    fit = FitSection(steps=500 if count > 1 else 20)
    decoder, pictures = Decoder.initial(fit, 3, 0), photographs(size, count)
    fit_clouds(pictures, decoder, fit.model_copy(update={"steps": 2}), range(count))
    start.wait()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        fit_clouds(pictures, decoder, fit, range(count))
        done += count
    results.put(done / (time.perf_counter() - begun))


def rate(size: tuple[int, int], count: int, converters: int, spinning: int, seconds: float) -> float:
    """Images a second of all converters together."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(converters), context.Queue()
    busy = [context.Process(target=spin, daemon=True) for _ in range(spinning)]
    fitting = [
        context.Process(target=fit_over_and_over, args=(size, count, seconds, start, results))
        for _ in range(converters)
    ]
    for process in busy + fitting:
        process.start()
    try:
        rates = [results.get(timeout=60 + 20 * seconds) for _ in fitting]
        for process in fitting:
            process.join()
    finally:
        for process in busy + fitting:
            process.terminate()
    return sum(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    table = {}
    for size, count in ((SIZE, TOGETHER), (LARGE, 1)):
        alone, beside, two = (
            rate(size, count, converters, spinning, options.seconds)
            for converters, spinning in ((1, 0), (1, 1), (2, 0))
        )
        table[f"{size[0]}x{size[1]}"] = {
            "alone_images_per_s": alone,
            "beside_spinning/alone": beside / alone,
            "two_converters/alone": two / alone,
        }
    if options.json:
        print(json.dumps(table))
        return
    for name, row in table.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
