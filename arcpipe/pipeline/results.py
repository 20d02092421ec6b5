"""`results/NAME/results.json`: every number of an experiment with the settings it stands for.

Written whole or not at all, with what other commands on the same file measured meanwhile. It is also the memory of
`arcpipe run`: a number whose settings are those of the file is not measured again. `what_is_left` says which are not.
"""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arcpipe.errors import ConfigError
from arcpipe.files import locked, write_atomically
from arcpipe.pipeline.file import Pipeline, numbers_of
from arcpipe.pipeline.plan import Evaluation, Job, same_settings
from arcpipe.storage import Storage

FORMAT = "arcpipe-results"
VERSION = 1


@dataclass(frozen=True)
class Cell:
    """A column of a row, %. `deviation`: of a sample (n - 1), None for one seed. `thesis`: its number, if any."""

    values: tuple[float, ...]
    thesis: float | None

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Row:
    """An arm, or (`reference`) a method of which only the thesis has numbers."""

    name: str
    cells: Mapping[str, Cell]
    reference: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    """`images`, `clouds` (of the training split), `epochs`, `minutes` (of one training), `psnr` (dB), `parameters`."""


class Results:
    """The entries of a results folder: one for each arm, seed and column that is measured."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries = read_entries(folder / "results.json")

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Nobody else writes the folder in the block, which begins with what others measured meanwhile taken in."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder.with_name(f".{self.folder.name}.lock"), wait=True):
            known = [entry["settings"] for entry in self.entries]
            others = read_entries(self.folder / "results.json")
            self.entries += [entry for entry in others if entry["settings"] not in known]
            yield

    def find(self, evaluation: Evaluation) -> dict[str, Any] | None:
        """The entry that stands for exactly these settings; arms may be renamed."""
        return next((entry for entry in self.entries if same_settings(entry["settings"], evaluation.settings)), None)

    def rows(self, pipeline: Pipeline, jobs: Sequence[Job]) -> list[Row]:
        """The table as the file has it: references first, then all arms; what is not measured yet is empty.

        `jobs`: all arms with every seed that counts.
        """
        rows = []
        for reference in pipeline.table.reference:
            where = f"{pipeline.path}, reference {reference.name},"
            known = numbers_of(reference.thesis, pipeline.columns(), where)
            rows.append(Row(reference.name, {name: Cell((), number) for name, number in known.items()}, reference=True))
        for arm in pipeline.arms:
            own = [evaluation for job in jobs if job.arm.name == arm.name for evaluation in job.evaluations]
            found = [(evaluation.column.name, self.find(evaluation)) for evaluation in own]
            entries = [(name, entry) for name, entry in found if entry is not None]
            cells = {
                column.name: Cell(
                    tuple(100 * entry["accuracy"] for name, entry in entries if name == column.name),
                    arm.thesis.get(column.name),
                )
                for column in arm.columns
            }
            rows.append(Row(arm.name, cells, facts=_facts([entry for _, entry in entries])))
        return rows

    def write(self, pipeline: Pipeline, rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
        document = {
            "format": FORMAT,
            "version": VERSION,
            "name": pipeline.name,
            "file": str(pipeline.path),
            "about": pipeline.about,
            "title": pipeline.table.title,
            "thesis": pipeline.table.thesis,
            "columns": pipeline.columns(),
            **facts,
            "rows": [_row_json(row) for row in rows],
            "results": self.entries,
        }
        write_atomically(self.folder / "results.json", json.dumps(document, indent=1).encode())


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The entries of a results.json, none where there is no file. Raises `ConfigError` where it is something else."""
    if not path.is_file():
        return []
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT or document["version"] != VERSION:
            raise ValueError(f"format {document['format']}, version {document['version']}")
        return list(document["results"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is no results file of this version.", details=[str(error)], fix=[f"mv {path} {path}.old"]
        ) from None


def _facts(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the trainings of an arm have in common; minutes are the mean of one training."""
    trainings = list({entry["run"]: entry["training"] for entry in entries}.values())
    if not trainings:
        return {}
    first = {name: trainings[0][name] for name in ("images", "clouds", "psnr", "epochs", "parameters")}
    return {**first, "minutes": statistics.fmean(training["seconds"] for training in trainings) / 60}


def _row_json(row: Row) -> dict[str, Any]:
    cells = {
        name: {"values": cell.values, "mean": cell.mean, "deviation": cell.deviation, "thesis": cell.thesis}
        for name, cell in row.cells.items()
    }
    return {"name": row.name, "reference": row.reference, "cells": cells, "facts": row.facts}


def read_rows(document: Mapping[str, Any]) -> list[Row]:
    """The rows of a results.json."""
    return [
        Row(
            row["name"],
            {name: Cell(tuple(cell["values"]), cell["thesis"]) for name, cell in row["cells"].items()},
            row["reference"],
            row["facts"],
        )
        for row in document["rows"]
    ]


@dataclass(frozen=True)
class Left:
    """One arm with one seed, for a dry run. `stores`: path -> `there`, `begun` or `missing`; `run_state` likewise."""

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
    if is_trained(path):
        return "trained"
    epochs = epochs_trained(path)
    return f"{epochs} epochs trained" if epochs else "begun" if path.is_dir() else "missing"


def is_trained(run: Path) -> bool:
    """Whether a run has come to its end: what trains it again only reports."""
    return (run / "summary.json").is_file()


def epochs_trained(run: Path) -> int:
    """Epochs that a run has behind it, going on or ended."""
    lines = run / "metrics.jsonl"
    return lines.read_text(encoding="utf-8").count('"kind": "epoch"') if lines.is_file() else 0
