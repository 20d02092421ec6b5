"""Every odd image in a process that may take only so much memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.data
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "odd_images.py"


def read_within(folder: Path, mib: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(folder), "--mib", str(mib)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


def test_all_66_odd_images_within_a_limit_of_memory(development_images: Path) -> None:
    done = read_within(development_images, 400)
    assert (done.returncode, done.stderr) == (0, "")
    assert "as expected: 66 of 66" in done.stdout


def test_the_limit_of_memory_is_one(development_images: Path) -> None:
    done = read_within(development_images, 1)  # what Python has kept free may hold more
    assert done.returncode == 1
    assert "MemoryError" in done.stderr
