"""Training: learns, stops anywhere, continues as if nothing had happened, and refuses what cannot work."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from arcpipe.config import EvaluateConfig, TrainConfig
from arcpipe.errors import (
    CheckpointError,
    ConfigError,
    DivergedError,
    MissingSplitError,
    SourceError,
    StoreBusyError,
    StoreMismatchError,
    UnfinishedStoreError,
)
from arcpipe.train import loop, run_evaluate, run_train
from arcpipe.train.checkpoint import load_tensors
from arcpipe.train.interrupt import Interrupts
from arcpipe.train.report import TrainReport
from arcpipe.train.run import open_run
from arcpipe.train.step import learning_rate

MODEL = {"channels": (8, 8), "depths": (1, 1), "heads": (2, 2), "patch": 8, "drop_path": 0.2}
AUGMENT = {"apply": ("noise", "mask", "push", "rotate", "flip", "arcmix")}


def make_config(store: Path, out: Path, epochs: int = 3, **sections: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "store": store,
        "out": out,
        "threads": 1,
        "device": "cpu",
        "model": MODEL,
        "augment": AUGMENT,
        "optim": {"epochs": epochs, "batch_size": 16, "lr": 0.01, "ema": 0.9},
        "stream": {"block": 4, "pool": 12},
    }
    for name, section in sections.items():
        values[name] = {**values[name], **section} if isinstance(section, dict) else section
    return TrainConfig.model_validate(values)


def train(config: TrainConfig, **settings: bool) -> TrainReport:
    return run_train(config, quiet=True, **settings)


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = json.loads((run / "checkpoint" / "state.json").read_text())
    return load_tensors(run / "checkpoint" / state["tensors"])


def assert_same_weights(first: Path, second: Path) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.fixture(scope="module")
def whole(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed: 3 epochs of 4 steps."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(make_config(store_path, out))
    return out


def test_a_small_model_learns_and_the_folder_is_complete(store_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = train(make_config(store_path, out, epochs=12, augment={"apply": ("noise",)}, optim={"ema": 0.0}))
    assert report.measures is not None
    assert report.measures.accuracy > 0.9
    assert report.measures.n == 30
    assert (report.epochs, report.steps, report.clouds, report.split) == (12, 48, 60, "test")
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        "checkpoint",
        "config.json",
        "confusion.png",
        "curves.png",
        "decoder.safetensors",
        "metrics.jsonl",
        "summary.json",
    ]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == list(range(1, 13))
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    assert lines[-1]["test_accuracy"] == report.measures.accuracy
    saved = json.loads((out / "summary.json").read_text())
    assert saved == json.loads(json.dumps(report.as_dict()))  # what --json prints is plain JSON
    assert any("accuracy" in line for line in report.lines())


def test_the_same_settings_give_the_same_weights(store_path: Path, tmp_path: Path, whole: Path) -> None:
    torch.rand(3)  # the global random state has no say
    train(make_config(store_path, tmp_path / "again", stream={"readers": 1, "cache_mb": 0}))
    assert_same_weights(whole, tmp_path / "again")
    train(make_config(store_path, tmp_path / "seed", seed=1))
    assert not torch.equal(weights(whole)["model.head.weight"], weights(tmp_path / "seed")["model.head.weight"])


@pytest.mark.parametrize("step", [1, 4, 6, 12])
def test_interrupted_and_continued_equals_uninterrupted(
    store_path: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    # weights, optimiser and log are those of a run that nobody disturbed, bit for bit
    config = make_config(store_path, tmp_path / "run")
    interrupt_at(step, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.undo()
    state = json.loads((tmp_path / "run" / "checkpoint" / "state.json").read_text())
    assert state["step"] == step
    report = train(config)
    assert report.resumed_at_step == step
    assert_same_weights(whole, tmp_path / "run")
    assert logged(tmp_path / "run") == logged(whole)


def test_an_interrupt_after_the_last_step_is_not_swallowed(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what follows the training (arcpipe run) must not go on
    monkeypatch.setattr(loop, "draw_confusion", lambda *_: signal.raise_signal(signal.SIGINT))
    config = make_config(store_path, tmp_path / "run", epochs=1)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert train(config).before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As under nohup, or behind `&` in a script: the run goes on, and is not noted as interrupted."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
            assert interrupts.pending is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_killed_in_the_middle_and_continued_equals_uninterrupted(
    store_path: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # no handler runs: the last periodic checkpoint is 2 steps old, what was logged since is done again
    config = make_config(store_path, tmp_path / "run")
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 1)
    saves = count_saves(monkeypatch, stop_after=5)
    with pytest.raises(PowerCut):
        train(config)
    assert saves[-1] == 5
    monkeypatch.setattr(loop, "save_checkpoint", saves.original)
    train(config)
    assert_same_weights(whole, tmp_path / "run")
    steps = [line["step"] for line in open_run(tmp_path / "run").metrics() if line["kind"] == "step"]
    assert steps == list(range(1, 13))


def test_a_killed_process_leaves_a_run_that_continues(store_path: Path, tmp_path: Path, whole: Path) -> None:
    config = make_config(store_path, tmp_path / "run")
    child = subprocess.run([sys.executable, "-c", KILLED_AT_STEP_7, config.model_dump_json()], check=False)
    assert child.returncode == -signal.SIGKILL
    report = train(config)
    assert report.resumed_at_step == 6
    assert_same_weights(whole, tmp_path / "run")


KILLED_AT_STEP_7 = """
import os, signal, sys
from arcpipe.config import EvaluateConfig, TrainConfig
from arcpipe.train import loop
loop.CHECKPOINT_EVERY_S = 0.0
plain = loop.train_step
def step(model, optimiser, batch, *rest):
    result = plain(model, optimiser, batch, *rest)
    if batch.index == 2 and optimiser.state_dict()["state"][0]["step"] == 7:
        assert "torch._dynamo" not in sys.modules, "it takes as long to import as the rest of torch"
        os.kill(os.getpid(), signal.SIGKILL)
    return result
loop.train_step = step
loop.run_train(TrainConfig.model_validate_json(sys.argv[1]), quiet=True)
"""


def test_a_finished_run_only_reports(store_path: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != ".lock"}
    report = train(make_config(store_path, whole))
    assert report.before
    assert "finished" in report.lines()[0]
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != ".lock"} == before
    assert TrainReport.from_dict(json.loads(json.dumps(report.as_dict()))) == report


def test_other_settings_in_the_same_folder_are_refused_by_name(store_path: Path, whole: Path) -> None:
    with pytest.raises(StoreMismatchError) as caught:
        train(make_config(store_path, whole, optim={"lr": 0.02}))
    assert caught.value.exit_code == 3
    assert "optim.lr: was 0.01, now 0.02" in str(caught.value)
    assert "--overwrite" in str(caught.value)


def test_settings_that_change_no_number_are_not_refused(store_path: Path, whole: Path) -> None:
    assert train(make_config(store_path, whole, threads=2, stream={"readers": 5, "prefetch": 1, "cache_mb": 0})).before


def test_another_store_in_the_same_folder_is_refused(new_store: Callable[..., Path], whole: Path) -> None:
    with pytest.raises(StoreMismatchError, match=r"store\.fingerprint"):
        train(make_config(new_store(seed=5), whole))


def test_overwrite_starts_again(store_path: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    train(make_config(store_path, out, optim={"lr": 0.02}, epochs=1))
    report = train(make_config(store_path, out), overwrite=True)
    assert not report.before
    assert_same_weights(whole, out)


def test_resume_insists_on_a_run_and_nothing_is_deleted_by_mistake(store_path: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run to continue"):
        train(make_config(store_path, tmp_path / "none"), resume=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("ten years of work")
    for settings in ({}, {"overwrite": True}):
        with pytest.raises(CheckpointError, match="not a run folder"):
            train(make_config(store_path, tmp_path / "mine"), **settings)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "ten years of work"
    with pytest.raises(ConfigError, match="cannot be combined"):
        train(make_config(store_path, tmp_path / "mine"), resume=True, overwrite=True)


def test_two_trainings_in_one_folder_are_told(store_path: Path, tmp_path: Path) -> None:
    config = make_config(store_path, tmp_path / "run", epochs=1)
    train(config)
    (tmp_path / "run" / "summary.json").unlink()
    with open_run(tmp_path / "run").held(), pytest.raises(StoreBusyError, match="another training"):
        train(config)
    train(config)  # and the lock is gone with its holder


def test_one_class_is_refused(new_store: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="one class only, class-1"):
        train(make_config(new_store(only_label=1), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_unfinished_store_is_refused_unless_allowed(new_store: Callable[..., Path], tmp_path: Path) -> None:
    store = new_store(finish=False)
    with pytest.raises(UnfinishedStoreError):
        train(make_config(store, tmp_path / "run"))
    report = train(make_config(store, tmp_path / "run", epochs=1, stream={"allow_unfinished": True}))
    assert report.clouds == 40


def test_a_training_split_that_is_empty_yet_is_refused(new_store: Callable[..., Path], tmp_path: Path) -> None:
    store = new_store(splits={"test": 20, "train": 10}, part_samples=20, finish=False)
    with pytest.raises(SourceError, match=r"train of .* holds no clouds") as caught:
        train(make_config(store, tmp_path / "run", stream={"allow_unfinished": True}))
    assert "it continues" in str(caught.value)


def test_missing_splits_are_named_with_what_to_choose(new_store: Callable[..., Path], tmp_path: Path) -> None:
    store = new_store(splits={"val": 20, "extra": 20})
    with pytest.raises(MissingSplitError) as caught:
        train(make_config(store, tmp_path / "run"))
    assert "--train-split val" in str(caught.value)
    with pytest.raises(MissingSplitError, match="--test-split val"):
        train(make_config(store, tmp_path / "run", stream={"train_split": "extra", "test_split": "test"}))
    report = train(make_config(store, tmp_path / "run", epochs=1, stream={"train_split": "extra"}))
    assert report.split == "val"


def test_without_a_split_to_report_training_still_ends_well(new_store: Callable[..., Path], tmp_path: Path) -> None:
    report = train(make_config(new_store(splits={"train": 20}), tmp_path / "run", epochs=1))
    assert report.measures is None
    assert not (tmp_path / "run" / "confusion.png").exists()
    assert report.lines()


def test_with_an_average_of_the_weights_it_is_what_a_run_reports(store_path: Path, tmp_path: Path, whole: Path) -> None:
    train(make_config(store_path, tmp_path / "plain", optim={"ema": 0.0}))
    found, plain = weights(whole), weights(tmp_path / "plain")
    for name in plain:  # the average follows and has no say in what is learned
        assert torch.equal(found[name], plain[name])
    model = open_run(whole).model()
    open_run(whole).load_weights(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, found[f"average.{name}"])
    assert not torch.equal(found["average.head.weight"], found["model.head.weight"])
    report = run_evaluate(EvaluateConfig(run=whole, store=store_path, split="test"))
    logged_loss = [line["test_loss"] for line in open_run(whole).metrics() if line["kind"] == "epoch"]
    assert report.measures.loss == pytest.approx(logged_loss[-1], rel=1e-6)


def test_weights_are_chosen_by_the_validation_split_never_by_the_reported_one(
    new_store: Callable[..., Path], tmp_path: Path, whole: Path
) -> None:
    assert not (whole / "best.safetensors").exists()  # train and test only: the last weights, no choice
    out = tmp_path / "run"
    store = new_store(splits={"train": 40, "val": 20, "test": 20})
    report = train(make_config(store, out, epochs=4))
    accuracies = [line["val_accuracy"] for line in open_run(out).metrics() if line["kind"] == "epoch"]
    assert report.best["epoch"] == accuracies.index(max(accuracies)) + 1
    assert (out / "best.safetensors").is_file()
    assert report.measures is not None
    tests = [line["test_accuracy"] for line in open_run(out).metrics() if line["kind"] == "epoch"]
    assert report.measures.accuracy == tests[-1]
    assert report.best["test_accuracy"] == tests[report.best["epoch"] - 1]
    chosen = run_evaluate(EvaluateConfig(run=out, store=store, split="test", weights="best"))
    assert chosen.measures.accuracy == report.best["test_accuracy"]
    with pytest.raises(CheckpointError, match="no weights that a validation split chose"):
        open_run(whole).load_weights(open_run(whole).model(), "best")


def test_a_loss_that_is_no_number_stops_with_a_way_out(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DivergedError) as caught:
        train(make_config(store_path, tmp_path / "run", optim={"lr": 1e30}, epochs=5))
    assert "--lr" in str(caught.value)


def test_the_learning_rate_rises_and_falls_as_asked() -> None:
    optim = make_config(Path("s"), Path("o"), optim={"schedule": "cosine", "warmup": 0.2, "lr": 2.0}).optim
    shares = (0, 0.1, 0.2, 0.6, 1)
    assert [learning_rate(optim, share) for share in shares] == pytest.approx([0, 1, 2, 1, 0])
    assert [learning_rate(optim, share, 0.05) for share in (0, 0.18, 0.2)] == pytest.approx([0.5, 2, 2])
    constant = optim.model_copy(update={"schedule": "constant", "warmup": 0.0})
    assert {learning_rate(constant, share) for share in shares} == {2.0}


def test_progress_goes_to_stderr_and_stdout_stays_empty(
    store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_train(make_config(store_path, tmp_path / "run", epochs=2))
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 2/2" in err


class PowerCut(BaseException):
    """Nothing in arcpipe catches it."""


class Saves(list[int]):
    original: Any


def count_saves(monkeypatch: pytest.MonkeyPatch, stop_after: int) -> Saves:
    """Save as always, but cut the power two steps after the checkpoint of a step."""
    saves = Saves()
    saves.original = loop.save_checkpoint

    def save(folder: Path, model: Any, optimiser: Any, progress: Any, average: Any) -> None:
        if progress.step <= stop_after:
            saves.original(folder, model, optimiser, progress, average)
            saves.append(progress.step)
        elif progress.step >= stop_after + 2:
            raise PowerCut

    monkeypatch.setattr(loop, "save_checkpoint", save)
    return saves


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C while a step is under way."""
    calls = []
    plain = loop.train_step

    def pressing(*args: Any) -> tuple[float, int]:
        calls.append(1)
        if len(calls) == step:
            signal.raise_signal(signal.SIGINT)
        return plain(*args)

    monkeypatch.setattr(loop, "train_step", pressing)


def logged(run: Path) -> list[dict[str, Any]]:
    """The log without times."""
    return [
        {name: value for name, value in line.items() if name not in ("seconds", "waiting_s")}
        for line in open_run(run).metrics()
    ]
