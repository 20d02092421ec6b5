"""How much slower or faster a whole `arcpipe convert` is than in another tree: the same images, in turn.

git worktree add ../before e923f7b
python benchmarks/overhead.py ../before SOURCE --limit 1000 --rounds 3

Prints, as JSON, the seconds of every run, the fastest of each tree and their ratio. Both trees convert with one
decoder, so that pretraining does not enter.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def convert(tree: Path, source: str, out: Path, *options: str) -> float:
    """Seconds of one conversion by the code of a tree."""
    command = [sys.executable, "-m", "arcpipe", "convert", source, "--out", str(out), *options]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(tree)})
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="another tree of arcpipe")
    parser.add_argument("source")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    before = options.before.resolve()
    seconds: dict[str, list[float]] = {"before": [], "now": []}
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first.zarr"
        common = ["--limit", str(options.limit)]
        for tree in (before, HERE):  # compiles the kernels of both
            convert(tree, options.source, Path(folder) / f"warm-{tree.name}.zarr", "--limit", "20")
        convert(HERE, options.source, first, "--limit", "200", "--recipe", "thesis", "--steps", "50")
        common += ["--decoder", str(first)]
        for i in range(options.rounds):
            for name, tree in (("before", before), ("now", HERE)):
                seconds[name].append(convert(tree, options.source, Path(folder) / f"{name}-{i}.zarr", *common))
    best = {name: min(runs) for name, runs in seconds.items()}
    print(json.dumps({"seconds": seconds, "best": best, "now_over_before": best["now"] / best["before"]}))


if __name__ == "__main__":
    main()
