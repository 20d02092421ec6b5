"""`kill -9` at random moments: the same command finishes the store, and its content is that of an undisturbed one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"


def kill(*options: str, timeout: int) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    assert report["equal_to_undisturbed"] == report["conversions"]
    assert report["litter"] == []
    return report


def test_three_kills() -> None:
    assert kill("--kills", "3", "--pause", "3", "--local", "--limit", "20", timeout=280)["survived"] == 3


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_kills_of_workers_schedulers_and_clients() -> None:
    report = kill("--kills", "100", timeout=7000)
    assert report["survived"] == 100
    print(json.dumps(report))
