"""Real poison: in every Python process that has this folder on its path, some images do what a test asks.

`ARCPIPE_TEST_FAULTS` names a JSON file, `{"train/cats/3.png": {"does": "kill"}}`. `does`: `kill` (SIGKILL to this
process), `hang` (forever), `flood` (memory until something ends it), `raise` (an exception nobody foresaw).
`times`: how often, counted over all processes by files beside the JSON; without it, always.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

PLAN = os.environ.get("ARCPIPE_TEST_FAULTS")


def commit_fault(does: str) -> None:
    if does == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif does == "hang":
        time.sleep(1e6)
    elif does == "flood":
        flood = []
        while True:
            flood.append(b"x" * 2**24)
    raise RuntimeError("nobody foresaw this")


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
