"""Every odd image in a process that may take only so much memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.data
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "odd_images.py"


def test_all_66_odd_images_within_a_limit_of_memory(development_images: Path) -> None:
    """The script refuses to go on where its limit does not hold."""
    command = [sys.executable, str(SCRIPT), str(development_images), "--mib", "400"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "as expected: 66 of 66" in done.stdout
