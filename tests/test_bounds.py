"""Every number has bounds, every path is checked, and nothing is written into a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arcpipe.config import ConvertConfig, EvaluateConfig, ModelSection, TrainConfig, build
from arcpipe.devices import check_workers
from arcpipe.errors import ConfigError, DeviceError, SourceError
from arcpipe.models import resolve
from arcpipe.pipeline import PipelineConfig
from arcpipe.storage import storage_at
from tests.commands import invoke

LOW, HIGH = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
BY_HAND = ".memory.anyOf.anyOf"  # bytes with a unit: the schema does not tell the bounds, a case below does
BASE: dict[type, dict[str, Any]] = {
    ConvertConfig: {"source": {"source": "digits"}, "out": "x.zarr"},
    TrainConfig: {"store": "x.zarr", "out": "run"},
    EvaluateConfig: {"run": "run", "store": "x.zarr"},
}


def open_numbers(schema: Any, where: str = "") -> Iterator[str]:
    """Numbers of a JSON schema that lack a bound."""
    if isinstance(schema, list):
        for inner in schema:
            yield from open_numbers(inner, where)
    if not isinstance(schema, dict):
        return
    missing = not (schema.keys() & set(LOW) and schema.keys() & set(HIGH))
    if schema.get("type") in ("integer", "number") and missing and not where.endswith(BY_HAND):
        yield where
    for name, inner in schema.items():
        yield from open_numbers(inner, f"{where}.{name}")


@pytest.mark.parametrize("kind", BASE)
def test_every_number_has_a_lower_and_an_upper_bound(kind: type[Any]) -> None:
    assert list(open_numbers(kind.model_json_schema())) == []


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (ConvertConfig, {"seed": 2**71}),
        (TrainConfig, {"seed": 2**71}),
        (TrainConfig, {"threads": 100_000}),
        (TrainConfig, {"out": ""}),
        (ConvertConfig, {"run": {"memory": "2000PB"}}),
        (ConvertConfig, {"run": {"memory": "1B"}}),
        (ConvertConfig, {"out": "/"}),
        (ConvertConfig, {"out": "x" * 300}),
        (ConvertConfig, {"source": {"source": "a\0b"}}),
        (EvaluateConfig, {"push": 1e30}),
        (EvaluateConfig, {"run": ""}),
    ],
)
def test_what_cannot_be_is_refused(kind: type[Any], change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build(kind, {**BASE[kind], **change})


def test_a_store_has_a_name_also_where_it_is_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert build(TrainConfig, {"store": ".", "out": "./run"}).store == storage_at(tmp_path)


def test_a_model_of_too_many_parameters_is_refused_before_it_is_made() -> None:
    with pytest.raises(ConfigError, match="too large"):
        resolve(ModelSection(channels=(8192,) * 2))


def test_a_machine_takes_some_processes_a_core() -> None:
    check_workers(2)
    with pytest.raises(DeviceError, match="--workers 1024 asks for more processes"):
        check_workers(1024)


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--store", "{store}", "--out", "{store}/train-2", "--epochs", "1"],
        ["convert", "digits", "--limit", "2", "--out", "{store}/other.zarr"],
        ["evaluate", "RUN", "--store", "{store}", "--out", "{store}/figures"],
        ["inspect", "{store}", "--out", "{store}"],
        ["inspect", "{store}", "--html", "{store}/train/page.html"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_nothing_is_written_into_a_store(store_path: Path, command: list[str]) -> None:
    before = sorted(path for path in store_path.rglob("*"))
    done = invoke([word.format(store=store_path) for word in command])
    assert (done.exit_code, sorted(store_path.rglob("*"))) == (2, before), done.output
    named = command[1 + max(i for i, word in enumerate(command) if word in ("--out", "--html"))].format(
        store=store_path
    )
    assert f"{named} lies in the store" in done.output


@pytest.mark.parametrize("option", ["--out", "--html"])
def test_an_empty_path_is_refused(store_path: Path, option: str) -> None:
    done = invoke(["inspect", str(store_path), option, ""])
    assert done.exit_code == 2
    assert "a path is empty" in done.output


@pytest.mark.timeout(20)
def test_a_pipe_is_no_file_of_settings(tmp_path: Path) -> None:
    """Reading it would wait for ever."""
    (tmp_path / "run").mkdir()
    for name in ("run/config.json", "x.toml", "x.png"):
        os.mkfifo(tmp_path / name)
    for command in (["evaluate", str(tmp_path / "run"), "--store", "x.zarr"], ["run", str(tmp_path / "x.toml")]):
        done = invoke(command)
        assert done.exit_code in (1, 2)
        assert "no plain file" in done.output


@pytest.mark.parametrize(
    ("command", "message", "missing"),
    [
        (["convert", "/dev/null"], "neither a folder nor a file", "near it"),
        (["convert", "loop"], "leads nowhere", "near it"),
        (["run", "pipelines/digits.toml"], "lie in its checkout", "try: arcpipe run"),
        (["convert", "digits", "--cluster", "missing.toml"], "docs/clusters.md", "arcpipe run"),
        (["run", "train.toml"], "does not say what to convert", "train.store"),
        (["run", "arm.toml"], "line break", "Traceback"),
    ],
)
def test_advice_is_not_the_command_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], message: str, missing: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "train.toml").write_text("[train]\nepochs = 3\n")
    (tmp_path / "arm.toml").write_text('[convert]\nsource = "digits"\n[[arm]]\nname = "a\\nb"\n[train]\n')
    done = invoke(command)
    assert done.exit_code == 2
    assert message in done.output
    assert missing not in done.output


def test_pipelines_have_bounds_too() -> None:
    values = {"convert": BASE[ConvertConfig], "seeds": [2**71]}
    with pytest.raises(ConfigError, match="seeds"):
        build(PipelineConfig, values)


def test_a_validation_share_that_takes_nobody_is_known_before_the_first_epoch(
    new_store: Callable[..., Path], tmp_path: Path
) -> None:
    store = new_store(splits={"train": 6, "test": 3}, part_samples=1)
    command = ["train", "--store", str(store), "--out", str(tmp_path / "run"), "--validation", "0.4", "--epochs", "1"]
    done = invoke(command)
    assert done.exit_code == SourceError.exit_code
    assert "takes none of 6 clouds" in done.output
    assert not (tmp_path / "run").exists()
