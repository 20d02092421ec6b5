"""Runs the workers, and counts: inputs, read, refused, bugs. A worker that dies is a bug, and the next one goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BATCH_WALL_S = 600.0
MAX_BUGS = 20


@dataclass
class Tally:
    """What became of the inputs of one target."""

    target: str
    inputs: int = 0
    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    bugs: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    slowest_s: float = 0.0

    def row(self) -> str:
        refused = sum(self.refused.values())
        return (
            f"{self.target:16} {self.inputs:7} {self.read:7} {refused:8} {len(self.bugs):5} "
            f"{self.peak_bytes / 2**20:9.0f} {self.slowest_s:10.2f}"
        )


HEADER = f"{'reader':16} {'inputs':>7} {'read':>7} {'refused':>8} {'bugs':>5} {'peak MiB':>9} {'slowest s':>10}"


def fuzz(target: str, count: int, seed: int) -> Tally:
    """Give `count` damaged inputs to a target. Stops after `MAX_BUGS`."""
    tally = Tally(target)
    start = 0
    while start < count and len(tally.bugs) < MAX_BUGS:
        for line in _run(target, seed, start, count, tally):
            start = _note(tally, line)
    return tally


def fuzz_each(counts: Mapping[str, int], seed: int) -> dict[str, Tally]:
    """Give a few damaged inputs to each of several targets, all in one process that forks. A death ends a target."""
    words = [f"{name}={count}" for name, count in counts.items()]
    out, error, code = _ended(["--each", str(seed), *words], BATCH_WALL_S)
    tallies: dict[str, Tally] = {}
    lines: list[dict[str, object]] = []
    for line in out:
        lines.append(line)
        if "target" in line:
            tally = tallies[str(line["target"])] = Tally(str(line["target"]))
            for one in lines[1:-1]:  # the first says that it is ready
                _note(tally, one)
            if line["code"] != 0:
                tally.bugs.append(f"exit {line['code']} after {tally.inputs} inputs\n{error[-3000:]}")
            lines = []
    if code != 0:
        raise RuntimeError(f"the process of all targets ended with {code}:\n{error}")
    return tallies


def _run(target: str, seed: int, start: int, stop: int, tally: Tally) -> Iterator[dict[str, object]]:
    words = [target, str(seed), str(start), str(stop)]
    lines, error, code = _ended(words, BATCH_WALL_S + 0.5 * (stop - start))
    if not lines:
        raise RuntimeError(f"{' '.join(words)} did not begin:\n{error}")
    yield from lines[1:]
    reached = lines[-1].get("i", start - 1) + 1
    if reached < stop:  # the process died, or hung where no signal is handled
        yield {"i": reached, "is": "bug", "detail": f"exit {code}\n{error[-3000:]}", "cpu_s": 0.0, "peak": 0}


def _ended(words: Sequence[str], timeout: float) -> tuple[list[dict[str, object]], str, int | str]:
    """Run a worker to its end: the lines that it wrote, what it said on stderr, and its exit code."""
    command = [sys.executable, "-m", "tests.fuzz.worker", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
        out, error, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as expired:
        out, error, code = (expired.stdout or b"").decode(), (expired.stderr or b"").decode(), "no end"
    return [json.loads(line) for line in out.splitlines() if line.endswith("}")], error, code


def _note(tally: Tally, line: dict[str, object]) -> int:
    tally.inputs += 1
    outcome, detail = line["is"], str(line["detail"])
    if outcome == "read":
        tally.read += 1
    elif outcome == "refused":
        tally.refused[detail] += 1
    else:
        tally.bugs.append(f"{tally.target} input {line['i']}: {detail}")
    tally.peak_bytes = max(tally.peak_bytes, int(str(line["peak"])))
    tally.slowest_s = max(tally.slowest_s, float(str(line["cpu_s"])))
    return int(str(line["i"])) + 1
