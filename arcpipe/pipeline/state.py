"""What a dry run says: which stores, runs and numbers of a file are there. Reads a few small files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arcpipe.pipeline.plan import Job
from arcpipe.pipeline.results import Results
from arcpipe.storage import Storage


@dataclass(frozen=True)
class Left:
    """One arm with one seed. `stores`: path -> `there`, `begun` or `missing`; `run_state` likewise."""

    arm: str
    seed: int
    stores: Mapping[str, str]
    run: str
    run_state: str
    evaluations: int
    evaluations_left: int

    def lines(self) -> list[str]:
        state = "done" if not self.evaluations_left else f"{self.evaluations_left} of {self.evaluations} numbers left"
        stores = [f"{path} ({state})" for path, state in self.stores.items()]
        return [f"arm {self.arm}, seed {self.seed}: {state}", f"  {self.run} ({self.run_state}) on {', '.join(stores)}"]


def what_is_left(job: Job, results: Results) -> Left:
    """Look at the folders of a job."""
    others = [evaluation.convert for evaluation in job.evaluations if evaluation.convert is not None]
    stores = [job.convert.out, *(convert.out for convert in others)]
    return Left(
        arm=job.arm.name,
        seed=job.seed,
        stores={str(path): _store_state(path) for path in stores},
        run=str(job.train.out),
        run_state=_run_state(job.train.out),
        evaluations=len(job.evaluations),
        evaluations_left=sum(results.find(evaluation) is None for evaluation in job.evaluations),
    )


def _store_state(store: Storage) -> str:
    try:
        attributes = json.loads(store.read("zarr.json"))["attributes"]
    except (OSError, ValueError, KeyError):
        return "missing"
    return "there" if attributes.get("complete") else "begun"


def _run_state(path: Path) -> str:
    if (path / "summary.json").is_file():
        return "trained"
    epochs = epochs_trained(path)
    return f"{epochs} epochs trained" if epochs else "begun" if path.is_dir() else "missing"


def epochs_trained(run: Path) -> int:
    """Epochs that a run has behind it, going on or ended."""
    lines = run / "metrics.jsonl"
    return lines.read_text(encoding="utf-8").count('"kind": "epoch"') if lines.is_file() else 0
