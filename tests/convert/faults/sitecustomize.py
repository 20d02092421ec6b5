"""Real poison: in every Python process that has this folder on its path, some images do what a test asks.

`ARCPIPE_TEST_FAULTS` names a JSON file, `{"train/cats/3.png": {"does": "kill"}}`. `does`: `kill` (SIGKILL to this
process), `hang` (forever), `flood` (memory until something ends it), `flood and die` (as a library that aborts where it
gets no more), `raise` (an exception nobody foresaw), `wait` (0.3 seconds, and then it is read). What a flood got
before it was refused is in a file `.taken`. `times`: how often, counted over all processes by files beside the JSON;
without it, always.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

PLAN = os.environ.get("ARCPIPE_TEST_FAULTS")


def commit_fault(does: str) -> None:
    if does == "wait":
        return time.sleep(0.3)
    if does == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif does == "hang":
        time.sleep(1e6)
    elif does.startswith("flood"):
        flood_memory(does)
    raise RuntimeError("nobody foresaw this")


def flood_memory(does: str) -> None:
    flood: list[bytes] = []
    try:
        while True:
            flood.append(b"x" * 2**24)
    except MemoryError:
        taken = len(flood) * 2**24
        flood.clear()
        Path(str(PLAN)).with_name(f"{os.getpid()}.{time.monotonic_ns()}.taken").write_text(str(taken))
        if does == "flood":
            raise
        print("MemoryError: as torch and C++ say it", file=sys.stderr, flush=True)
        os.abort()


def is_due(fault: dict[str, Any], key: str, plan: Path) -> bool:
    for i in range(fault.get("times", 0)):
        try:
            plan.with_name(f"{key.replace('/', '-')}.{i}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return True
    return "times" not in fault


def install(plan: Path) -> None:
    from arcpipe.sources.files import ImageFiles

    faults = json.loads(plan.read_text())
    read = ImageFiles.read

    def reads(self: ImageFiles, sample: Any, channels: int) -> Any:
        fault = faults.get(sample.key)
        if fault is not None and is_due(fault, sample.key, plan):
            commit_fault(fault["does"])
        return read(self, sample, channels)

    ImageFiles.read = reads  # type: ignore[method-assign]


if PLAN:
    install(Path(PLAN))
