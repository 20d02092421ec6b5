"""Whether the model waits for the loader, and how well epochs are mixed: python benchmarks/stream.py [--store S]

Prints what `arcpipe bench stream` prints, then how the shuffle's settings mix a store whose parts are sorted by class,
the worst case, beside a full shuffle.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from arcpipe.bench.stream import run_bench_stream
from arcpipe.stream.order import Manifest, epoch_order, shuffle_quality

PARTS, CLOUDS, CLASSES, EPOCHS = 64, 1000, 10, 5


def mixing() -> list[str]:
    """A table: block, window, pool; displacement and length of runs of one label, beside a full shuffle."""
    labels = np.sort(np.arange(CLOUDS) % CLASSES)
    manifest = Manifest(
        parts=tuple(f"{i:04d}" for i in range(PARTS)),
        points=tuple(np.full(CLOUDS, 51) for _ in range(PARTS)),
        labels=tuple(labels for _ in range(PARTS)),
    )
    lines = [f"{'block':>6} {'window':>7} {'pool':>6} {'displacement':>13} {'run length':>11}"]
    for block, window, pool in ((32, 8, 4096), (32, 8, 1024), (32, 1, 4096), (256, 8, 4096), (1000, 1, 1000)):
        epochs = [epoch_order(manifest, 0, i, block=block, window=window, pool=pool) for i in range(EPOCHS)]
        found = [shuffle_quality(order, manifest) for order in epochs]
        means = [np.mean([each[name] for each in found]) for name in ("displacement", "run_length")]
        lines.append(f"{block:>6} {window:>7} {pool:>6} {means[0]:>13.3f} {means[1]:>11.3f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--clouds", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("\n".join(run_bench_stream(options.store, clouds=options.clouds, rounds=options.rounds).lines()))
    print("\n".join(mixing()))


if __name__ == "__main__":
    main()
