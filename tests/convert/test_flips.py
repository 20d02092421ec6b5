"""Whatever is damaged in a store that was converted, `verify` names it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "flips.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_kind_of_file_is_damaged_in_every_way_and_named() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--bits", "1"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    tally = json.loads(done.stdout.splitlines()[-1])
    assert tally.pop("kinds") == 36, "14 arrays of a part and 2 of a decoder, with metadata; 4 groups"
    assert all(damage["found"] == damage["tried"] > 5 for damage in tally.values())
    print(done.stdout)
