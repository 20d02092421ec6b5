"""A run folder is begun, continued or refused; nothing that a run did not write is ever deleted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from arcpipe.config import TrainConfig
from arcpipe.convert.decoders import load_decoder
from arcpipe.errors import CheckpointError, ConfigError, DivergedError, StoreMismatchError
from arcpipe.train import run_evaluate, run_train
from arcpipe.train.checkpoint import load_tensors, save_tensors
from arcpipe.train.run import open_run
from tests.train.test_evaluate import config as evaluation


def make_config(store: Path, out: Path, **optim: object) -> TrainConfig:
    model = {"channels": (4,), "depths": (1,), "heads": (1,), "patch": 8}
    values = {"store": store, "out": out, "threads": 1, "device": "cpu", "model": model}
    return TrainConfig.model_validate({**values, "optim": {"epochs": 1, "batch_size": 30, **optim}})


@pytest.fixture(scope="module")
def trained(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("begin") / "run"
    run_train(make_config(store_path, out), quiet=True)
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_overwrite_deletes_what_a_run_wrote_and_nothing_else(store_path: Path, run: Path) -> None:
    (run / "notes.txt").write_text("mine")
    (run / "checkpoint" / "litter.partial").write_text("ours")
    report = run_train(make_config(store_path, run, lr=0.02), overwrite=True, quiet=True)
    assert not report.before
    assert (run / "notes.txt").read_text() == "mine"
    assert not (run / "checkpoint" / "litter.partial").exists()


def test_another_projects_config_is_nobodys_run(store_path: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "bert"
    theirs.mkdir()
    (theirs / "config.json").write_text('{"model_type": "bert"}')
    (theirs / "pytorch_model.bin").write_text("weights")
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match=r"bert is not a run folder; nothing was touched\.\n.*--out .*bert-2"):
            run_train(make_config(store_path, theirs), overwrite=overwrite, quiet=True)
    assert sorted(path.name for path in theirs.iterdir()) == ["config.json", "pytorch_model.bin"]


def test_a_damaged_config_is_refused_and_overwrite_helps(store_path: Path, run: Path) -> None:
    (run / "config.json").write_text('{"format": "arcp')
    with pytest.raises(CheckpointError, match="--overwrite"):
        run_train(make_config(store_path, run), quiet=True)
    assert not run_train(make_config(store_path, run), overwrite=True, quiet=True).before


def test_what_a_kill_left_of_a_beginning_is_no_hindrance(store_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in (".lock", "decoder.safetensors", "config.json.partial"):
        (out / name).write_text("")
    assert run_train(make_config(store_path, out), quiet=True).epochs == 1


def test_a_run_of_which_nothing_was_saved_gives_way_to_other_settings(store_path: Path, run: Path) -> None:
    shutil.rmtree(run / "checkpoint")
    (run / "summary.json").unlink()
    assert run_train(make_config(store_path, run, lr=0.02), quiet=True).epochs == 1


def test_a_folder_that_cannot_be_made_is_named(store_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/run cannot be made\.\n.*Not a directory"):
        run_train(make_config(store_path, tmp_path / "file" / "run"), quiet=True)


def test_a_model_that_cannot_be_leaves_no_folder(store_path: Path, tmp_path: Path) -> None:
    config = make_config(store_path, tmp_path / "run")
    wrong = config.model_copy(update={"model": config.model.model_copy(update={"channels": (4, 4)})})
    with pytest.raises(ConfigError, match="stages disagree"):
        run_train(wrong, quiet=True)
    assert not (tmp_path / "run").exists()


def test_another_path_that_is_free_is_proposed(store_path: Path, run: Path) -> None:
    run.with_name("run-2").mkdir()
    with pytest.raises(StoreMismatchError, match=r"--out \S+/run-3\n"):
        run_train(make_config(store_path, run, lr=0.02), quiet=True)


def test_another_conversion_is_named_setting_by_setting(new_store: Callable[..., Path], run: Path) -> None:
    with pytest.raises(StoreMismatchError, match=r"convert\.seed: was 0, now 5"):
        run_train(make_config(new_store(seed=5), run), quiet=True)


def test_a_finished_run_that_moved_says_where_it_is(store_path: Path, run: Path) -> None:
    assert f"next: arcpipe evaluate {run} " in run_train(make_config(store_path, run), quiet=True).lines()[-1]


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved["config"]["optim"].update(speed=3),
        lambda saved: saved["config"].pop("store"),
        lambda saved: saved["store"].pop("classes"),
        lambda saved: saved["store"].update(colour="red"),
        lambda saved: saved.pop("config"),
    ],
)
def test_a_config_with_other_keys_is_an_error_a_user_can_read(
    store_path: Path, run: Path, change: Callable[[dict], object]
) -> None:
    saved = json.loads((run / "config.json").read_text())
    change(saved)
    (run / "config.json").write_text(json.dumps(saved))
    with pytest.raises(CheckpointError, match="not a run folder that this version can read"):
        run_evaluate(evaluation(run, store_path))


def test_another_decoder_in_the_run_folder_is_found(run: Path) -> None:
    path = run / "decoder.safetensors"
    tensors = load_tensors(path)
    save_tensors(path, {**tensors, "weight_0": tensors["weight_0"] + 1})
    with pytest.raises(CheckpointError, match="expected decoder"):
        open_run(run).decoder()
    save_tensors(path, {"something": torch.zeros(2), "else": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="holds no decoder"):
        open_run(run).decoder()


def test_the_decoder_of_a_run_is_one_to_convert_with(run: Path) -> None:
    """A store's, or this file: so `arcpipe convert --decoder` says."""
    assert load_decoder(str(run / "decoder.safetensors")).sha256 == open_run(run).facts.decoder_sha256


def test_a_store_given_as_a_run_is_told_apart(store_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a store, no run"):
        open_run(store_path)


def test_weights_that_diverge_in_the_last_step_are_no_finished_run(store_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(DivergedError):  # one step only: its own loss is still a number
        run_train(make_config(store_path, out, lr=1e38, warmup=0.0, batch_size=60), quiet=True)
    assert not (out / "summary.json").exists()
