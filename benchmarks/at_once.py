"""How much sooner `arcpipe run --at-once N` is through with the trainings of a file than one after another.

python benchmarks/at_once.py SOURCE                 # for example cifar10-10k.tar, below --data or ARCPIPE_DATA
python benchmarks/at_once.py digits --limit 1000 --at-once 2 --seeds 4 --epochs 3 --rounds 2

Whole commands on one store, in turn: seconds of every one and the ratio of the fastest of each way, as JSON.
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

HERE = Path(__file__).resolve().parents[1]
PIPELINE = """
seeds = {seeds}
[convert]
source = {{ source = "{source}", limit = {limit} }}
fit = {{ steps = 100, pretrain_steps = 100 }}
[train]
optim = {{ epochs = {epochs} }}
"""


def run(folder: Path, *options: str) -> float:
    """Seconds of `arcpipe run` in a folder whose runs are deleted first."""
    for name in ("runs", "results"):
        shutil.rmtree(folder / name, ignore_errors=True)
    command = [sys.executable, "-m", "arcpipe", "run", "try.toml", *options]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    started = time.perf_counter()
    subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--limit", type=int, default=4000, help="images of every split")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--seeds", type=int, default=4, help="trainings")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"one": [], "several": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = {"source": options.source, "limit": options.limit, "epochs": options.epochs}
        text = PIPELINE.format(**values, seeds=list(range(options.seeds)))
        (folder / "try.toml").write_text(text, encoding="utf-8")
        run(folder, "--seeds", "0")  # converts
        for _ in range(options.rounds):
            for way, at_once in (("one", 1), ("several", options.at_once)):
                seconds[way].append(run(folder, "--at-once", str(at_once)))
    best = {way: min(taken) for way, taken in seconds.items()}
    ratio = best["one"] / best["several"]
    print(json.dumps({"at_once": options.at_once, "seconds": seconds, "one/several": ratio}))


if __name__ == "__main__":
    main()
