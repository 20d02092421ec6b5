"""An experiment runs through, continues where it was stopped, and goes on where an arm fails."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import arcpipe.train
from arcpipe.errors import ConfigError, PipelineError
from arcpipe.pipeline import read_pipeline, run_pipeline
from arcpipe.pipeline.card import Card
from arcpipe.pipeline.results import Results
from arcpipe.train import run_evaluate
from tests.pipeline.conftest import ARMS, SHARED

RESULTS = Path("results/try")


def run(file: Path, data: Path, **how: Any) -> Any:
    return run_pipeline(read_pipeline(file, data), **how)


def test_every_arm_and_seed_ends_in_one_table(data: Path, write: Callable[..., Path]) -> None:
    reference = 'reference = [{ name = "ScaleGMN", thesis = { intact = 74.5 } }], title'
    file = write(ARMS + "convert.source.grey = true\n", shared=SHARED.replace("title", reference, 1))
    left = run(file, data, dry_run=True).left
    assert [entry.evaluations_left for entry in left] == [2, 2, 2, 2]
    assert not Path("store").exists()
    report = run(file, data)
    report.check()
    assert (report.measured, report.before) == (8, 0)
    assert sorted(path.name for path in RESULTS.iterdir()) == ["results.json", "table.csv", "table.md", "table.png"]

    found = json.loads((RESULTS / "results.json").read_text())
    assert len(found["results"]) == 8
    cards = [Card.from_dict(entry["card"], "here") for entry in found["results"]]
    assert {card.command for card in cards} == {f"arcpipe run {file}"}
    assert all(card.numbers > 0 and card.bytes > 0 for card in cards)
    pushed = [100 * e["accuracy"] for e in found["results"] if (e["arm"], e["column"]) == ("push", "pushed")]
    rows = {row["name"]: row for row in found["rows"]}
    cell = rows["push"]["cells"]["pushed"]
    numbers = {"values": pushed, "mean": statistics.fmean(pushed), "deviation": statistics.stdev(pushed)}
    assert cell == {**numbers, "thesis": 69.06}
    assert rows["none"]["facts"]["images"] == 12
    table = (RESULTS / "table.md").read_text()
    assert f"{cell['mean']:.2f} ± {cell['deviation']:.2f} (2) | 69.06 |" in table
    assert "| *ScaleGMN* |  | 74.50 |" in table
    lines = list(csv.DictReader((RESULTS / "table.csv").read_text().splitlines()))
    assert [(line["arm"], line["column"]) for line in lines][:3] == [
        ("ScaleGMN", "intact"),
        ("none", "intact"),
        ("none", "pushed"),
    ]

    again = run(file, data)
    assert (again.measured, again.before) == (0, 8)
    assert (RESULTS / "table.md").read_text() == table
    assert [entry.evaluations_left for entry in run(file, data, dry_run=True).left] == [0, 0, 0, 0]


def test_what_was_stopped_continues(
    converted: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the third evaluation: two numbers are kept, and nothing is trained twice."""
    file = write(ARMS)
    calls: list[Path] = []

    def evaluate(config: Any) -> Any:
        calls.append(config.run)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run_evaluate(config)

    monkeypatch.setattr(arcpipe.train, "run_evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        run(file, converted, seeds=[0])
    assert len(json.loads((RESULTS / "results.json").read_text())["results"]) == 2
    trained = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("summary.json")}
    report = run(file, converted, seeds=[0])
    assert (report.measured, report.before) == (2, 2)
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    assert len(calls) == 3 + 2


def test_a_failing_arm_does_not_stop_the_others(converted: Path, write: Callable[..., Path]) -> None:
    file = write('[[arm]]\nname = "no training"\nconvert.source.splits = ["test"]\n[[arm]]\nname = "fine"\n')
    report = run(file, converted, seeds=[0])
    assert report.measured == 1
    with pytest.raises(PipelineError, match="1 of the pieces") as caught:
        report.check()
    assert caught.value.exit_code == 1
    assert "arm no training, seed 0: MissingSplitError" in caught.value.details[0]
    row = json.loads((RESULTS / "results.json").read_text())["rows"][0]
    assert row["cells"]["accuracy"]["mean"] is None


def test_only_some_arms_and_seeds_and_the_table_keeps_the_others(converted: Path, write: Callable[..., Path]) -> None:
    file = write(ARMS)
    assert run(file, converted, only=["none"], seeds=[0]).measured == 2
    report = run(file, converted, only=["push"], seeds=[5])
    assert report.measured == 2
    rows = json.loads((RESULTS / "results.json").read_text())["rows"]
    assert [len(row["cells"]["intact"]["values"]) for row in rows] == [1, 1]


def test_other_settings_are_measured_again_and_the_old_runs_stay(converted: Path, write: Callable[..., Path]) -> None:
    only_one = {"only": ["none"], "seeds": [0]}
    run(write(ARMS), converted, **only_one)
    before = set(Path("runs").rglob("summary.json"))
    changed = write(ARMS.replace('"none"\n', '"none"\ntrain.optim.lr = 0.01\n'))
    assert run(changed, converted, **only_one).measured == 2
    assert before < set(Path("runs").rglob("summary.json"))
    assert run(write(ARMS), converted, **only_one).measured == 0, "its numbers are still known"


def test_two_commands_on_one_file_keep_the_numbers_of_both(converted: Path, write: Callable[..., Path]) -> None:
    file = write(ARMS)
    run(file, converted, only=["none"], seeds=[0])
    late = Results(RESULTS)  # of a command that began when only this was known
    run(file, converted, only=["push"], seeds=[0])
    late.entries[0]["accuracy"] = 0.5
    with late.shared():
        assert [entry["arm"] for entry in late.entries] == ["none", "none", "push", "push"]
        assert late.entries[0]["accuracy"] == 0.5


def test_evaluating_on_another_conversion(converted: Path, write: Callable[..., Path]) -> None:
    columns = '[[evaluate]]\nname = "own"\n[[evaluate]]\nname = "padded"\nsplit = "test"\nconvert.source.pad = 20\n'
    report = run(write(columns), converted, seeds=[0])
    report.check()
    entries = json.loads((RESULTS / "results.json").read_text())["results"]
    own, padded = (json.loads((Path(e["store"]) / "zarr.json").read_text())["attributes"] for e in entries)
    assert list(padded["splits"]) == ["test"]
    assert padded["decoder"]["sha256"] == own["decoder"]["sha256"]
    assert padded["config"]["source"]["pad"] == 20


def test_one_repeat_of_several_is_a_column(data: Path, write: Callable[..., Path]) -> None:
    columns = '[[evaluate]]\nname = "all"\n[[evaluate]]\nname = "one"\nrepeats = 1\n'
    run(write(columns, shared=SHARED.replace("steps = 8\n", "steps = 8\nrepeats = 3\n", 1)), data, seeds=[0]).check()
    entries = json.loads((RESULTS / "results.json").read_text())["results"]
    assert [(e["column"], e["clouds"], e["n"]) for e in entries] == [("all", 18, 6), ("one", 6, 6)]


def test_a_plain_file_does_its_three_stages(data: Path, write: Callable[..., Path]) -> None:
    shared = SHARED.replace("seeds = [0, 1]\n", "", 1)
    file = write("[evaluate]\npush = 1\n", shared=shared)
    for asked in ({"only": ["a"]}, {"seeds": [1]}, {"at_once": 2}):  # nothing to choose from: said, not ignored
        with pytest.raises(ConfigError, match=f"is one training: --{next(iter(asked)).replace('_', '-')} would"):
            run(file, data, **asked)
    assert run(file, data, dry_run=True).as_dict()["convert"]["clouds"] == 18
    assert not Path("store").exists()
    report = run(file, data)
    report.check()
    assert list(report.as_dict()) == ["convert", "train", "evaluate"]
    assert report.stages["evaluate"].push == 1
    assert Path("store/try.zarr/zarr.json").is_file()
    assert Path("runs/try/summary.json").is_file()
    assert not Path("results").exists()
    assert any("pushed by up to 1 px" in line for line in report.lines())
