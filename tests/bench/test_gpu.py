"""`benchmarks/gpu.py`: its page, its refusal without a card, and a rehearsal of every section on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_page_has_a_row_for_every_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {
        "sections": {
            "machine": {"device": "A card", "peak_tflops": {"tf32": 12.345}, "bandwidth_gb_s": 3350.2},
            "fits": [{"size": "32x32", "what": "basis, triton", "images_s": 12345.678}],
            "convert": [
                {"size": "32x32", "recipe": "basis", "workers": 4, "images": 9, "seconds": 2.0}
                | {"utilisation": [0, 80, 90], "stages_s": {"read": 0.25}}
            ],
        },
        "skipped": {"training": "ModuleNotFoundError: No module named 'zarr'"},
    }
    (tmp_path / "gpu.json").write_text(json.dumps(document))
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--page", str(tmp_path / "gpu.json"), "--plot", str(plot := tmp_path / "gpu.png")]
    )
    assert gpu.main() == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    lines = capsys.readouterr().out.splitlines()
    assert "A card" in lines[0]
    assert "tf32 12.3" in lines[0]
    assert "| 32x32 | basis, triton | 1.235e+04 |  |  |  |" in lines
    assert "| 32x32 | basis | 4 | 9 | 2 |  |  | read 0.25 |" in lines
    assert "* skipped: training: ModuleNotFoundError: No module named 'zarr'" in lines


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_card_it_says_how_to_rehearse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu.json")])
    assert gpu.main() == 2
    assert "--device cpu --quick" in capsys.readouterr().err
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.slow
def test_every_section_can_be_rehearsed_on_the_cpu(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "gpu.py"), "--device", "cpu", "--quick"]
    command += ["--out", str(tmp_path / "gpu.json")]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert not document["skipped"]
    parity = document["sections"]["parity"]
    assert {row["kernel"] for row in parity} == {"basis, torch", "thesis, torch"}
    for row in parity:
        assert row["same_positions"]
        assert abs(row["difference_db"]) < 0.005
    assert all(row["largest_loss_gap"] < 0.05 for row in document["sections"]["training"])
    assert [row["workers"] for row in document["sections"]["convert"]] == [1, 2, 1]
    assert document["sections"]["profile"]["thesis, torch"]
