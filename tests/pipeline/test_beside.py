"""Trainings side by side end in the numbers of one after another, and stop in order."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arcpipe.config import TrainConfig
from arcpipe.pipeline import read_pipeline, run_pipeline
from arcpipe.pipeline.beside import train_side_by_side
from arcpipe.pipeline.plan import plan_jobs
from arcpipe.pipeline.results import epochs_trained
from arcpipe.train.launch import Apart
from tests.pipeline.conftest import SHARED

RESULTS = Path("results/try/results.json")


def numbers() -> dict[tuple[str, int, str], Any]:
    entries = json.loads(RESULTS.read_text())["results"]
    return {(e["arm"], e["seed"], e["column"]): (e["accuracy"], e["training"]["train_loss"]) for e in entries}


def test_beside_others_the_numbers_are_the_same_and_one_that_fails_stops_nobody(
    converted: Path, write: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """One has no pictures, one diverges, and two arms of one training share its run."""
    arms = '[[arm]]\nname = "no pictures"\nconvert.source.source = "nowhere"\n'
    arms += '[[arm]]\nname = "diverges"\ntrain.optim.lr = 1e30\ntrain.optim.epochs = 40\n'
    arms += '[[arm]]\nname = "fine"\n[[arm]]\nname = "the same"\n'
    pipeline = read_pipeline(write(arms), converted)
    report = run_pipeline(pipeline, seeds=[0], at_once=3)
    assert [failure.split(":")[:2] for failure in sorted(report.failed)] == [
        ["arm diverges, seed 0", " DivergedError"],
        ["arm no pictures, seed 0", " SourceError"],
    ]
    assert "arm fine, seed 0" in capfd.readouterr().err
    assert (report.measured, report.before) == (2, 0)
    (summary,) = Path("runs").rglob("summary.json")
    beside = numbers()
    RESULTS.unlink()
    for path in summary.parent.rglob("*"):
        if path.is_file():
            path.unlink()
    assert run_pipeline(pipeline, only=["fine", "the same"], seeds=[0]).measured == 2
    assert numbers() == beside


def test_whoever_stops_asking_loses_nothing(
    converted: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ctrl-C does while one evaluates: the others save, and continue to the same end."""
    monkeypatch.setattr("arcpipe.pipeline.beside.LOOK_EVERY_S", 0.1)  # meanwhile the long one trains on
    short = '[[arm]]\nname = "short"\n[[arm]]\nname = "long"\ntrain.optim.epochs = 4000\n'
    pipeline = read_pipeline(write(short, shared=SHARED), converted)
    jobs = plan_jobs(pipeline, seeds=[0])
    run_pipeline(pipeline, only=["short"], seeds=[0])
    long = jobs[1].train.out
    started: list[Path] = []

    def apart(config: TrainConfig) -> Apart:
        started.append(config.out)
        return Apart(config)

    monkeypatch.setattr("arcpipe.pipeline.beside.Apart", apart)
    trainings = train_side_by_side([(job.title, job.train) for job in jobs], 2)
    assert next(trainings)[0] == 0, "it was trained already"
    assert started == [long], "and reports without a process"
    while epochs_trained(long) < 2:
        time.sleep(0.1)
    trainings.close()
    assert (long / "checkpoint").is_dir()
    stopped = epochs_trained(long)
    assert 2 <= stopped < 4000
    time.sleep(1)
    assert epochs_trained(long) == stopped, "its process has ended"
