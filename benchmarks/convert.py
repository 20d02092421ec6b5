"""A whole conversion: python benchmarks/convert.py [SOURCE] [--limit N] [--recipe basis] [--json FILE]

Converts SOURCE (a tar, a folder or a name; `digits` by default) with the command line, as a user would, into a folder
that is deleted afterwards: once with as many workers as cores, once with one worker that is held to one core (and so to
one thread: `taskset -c`, where Linux has it). Both take the decoder of a small conversion that is not measured. Prints

* whole over fitting: wall seconds of the command over the seconds that its workers spent in the fit, by worker;
* workers: wall seconds of one worker on one core over those of all workers;
* bytes a pixel of every array, and the share of each stage of the workers' time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def convert(arguments: list[str], cores: str | None = None) -> float:
    """Run `arcpipe convert`; returns its wall seconds. The time that Python and torch take to start is part of it."""
    command = [sys.executable, "-m", "arcpipe", "convert", *arguments]
    if cores is not None:
        command = ["taskset", "-c", cores, *command]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode not in (0, 5):
        raise SystemExit(done.stderr)
    return time.perf_counter() - started


def part_attributes(store: Path) -> list[dict[str, Any]]:
    """The attributes of every part of a store."""
    files = [file for file in sorted(store.glob("*/*/zarr.json")) if file.parent.parent.name != "decoder"]
    documents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return [document["attributes"] for document in documents if document.get("node_type") == "group"]


def add_up(parts: list[dict[str, Any]]) -> tuple[dict[str, float], dict[str, int], int]:
    """Seconds by stage, bytes by array, and pixels."""
    seconds: dict[str, float] = {}
    n_bytes: dict[str, int] = {}
    for part in parts:
        for stage, spent in part["provenance"]["seconds"].items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
        for name, file in part["files"].items():
            array = name.split("/")[0]
            n_bytes[array] = n_bytes.get(array, 0) + file["bytes"]
    return seconds, n_bytes, sum(part["pixels"] for part in parts)


def measure(source: str, limit: int | None, recipe: str, scratch: Path) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))
    common = [source, "--recipe", recipe, "--max-failed", "1000000", *(["--limit", str(limit)] if limit else [])]
    # A decoder that nobody waits for: the conversions that are measured do nothing but convert.
    decoder = scratch / "decoder.zarr"
    convert([source, "--recipe", recipe, "--limit", "120", "--max-failed", "1000000", "--out", str(decoder)])
    common += ["--decoder", str(decoder)]
    many, one = scratch / "many.zarr", scratch / "one.zarr"
    wall = convert([*common, "--workers", str(len(cores)), "--out", str(many)])
    alone = convert([*common, "--workers", "1", "--out", str(one)], cores=str(cores[0]))
    seconds, n_bytes, n_pixels = add_up(part_attributes(many))
    alone_seconds, _, _ = add_up(part_attributes(one))
    return {
        "source": source,
        "recipe": recipe,
        "workers": len(cores),
        "megapixels": n_pixels / 1e6,
        "wall_s": wall,
        "whole/fit": wall / (seconds["fit"] / len(cores)),
        "one_worker_wall_s": alone,
        "one_worker_whole/fit": alone / alone_seconds["fit"],
        "workers/one": alone / wall,
        "stages": {stage: spent / seconds["total"] for stage, spent in seconds.items() if stage != "total"},
        "bytes_per_pixel": {name: size / n_pixels for name, size in sorted(n_bytes.items(), key=lambda item: -item[1])},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="digits")
    parser.add_argument("--limit", type=int, help="at most so many images of each split")
    parser.add_argument("--recipe", default="basis", choices=["thesis", "basis"])
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="arcpipe-bench-"))
    try:
        found = measure(options.source, options.limit, options.recipe, scratch)
    finally:
        shutil.rmtree(scratch)
    print(f"{found['source']}, {found['recipe']}: {found['megapixels']:.2f} megapixels")
    print(f"{found['workers']} workers {found['wall_s']:.1f} s, whole over fitting {found['whole/fit']:.2f}")
    print(f"1 worker  {found['one_worker_wall_s']:.1f} s, whole over fitting {found['one_worker_whole/fit']:.2f}")
    print(f"{found['workers']} workers over 1: {found['workers/one']:.2f}")
    print("stages: " + ", ".join(f"{name} {share:.1%}" for name, share in found["stages"].items()))
    for name, size in found["bytes_per_pixel"].items():
        print(f"{name:>15} {size:8.4f} bytes a pixel")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
