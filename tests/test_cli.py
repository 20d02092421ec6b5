"""The commands as a user types them: in processes of their own where a process is what is tested."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from arcpipe.config import ConvertConfig, EvaluateConfig, Section, SourceSection, TrainConfig
from arcpipe.errors import ConfigError
from arcpipe.options import default_store
from tests.commands import arcpipe_here, invoke
from tests.listening import open_to, with_children
from tests.pictures import contents, make_pictures, without_workers

SMALL = ["--latents", "0.2", "--latent-dim", "4", "--set", "fit.pretrain_images=4", "--set", "fit.pretrain_steps=8"]
SMALL += ["--set", "store.part_samples=3"]
PIPELINE = str(Path(__file__).parents[1] / "pipelines" / "exp3-table5-small.toml")


def arcpipe(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "arcpipe", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


def count_parts(store: Path) -> int:
    """Committed parts; the arrays of the decoder have a `zarr.json` as deep as theirs."""
    return sum(file.parts[-3] != "decoder" for file in store.glob("*/*/zarr.json"))


@dataclass(frozen=True)
class Conversion:
    """One by two workers: its folder, what it said, and where its processes listened, by protocol."""

    folder: Path
    stdout: str
    stderr: str
    addresses: dict[str, set[str]]
    most: int
    """Sockets that listened at the same time."""


@pytest.fixture(scope="module")
def conversion(tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    folder, seen, most = tmp_path_factory.mktemp("cli"), dict[str, set[str]](), 0
    make_pictures(folder / "pictures", per_class=8)
    command = [sys.executable, "-m", "arcpipe", "convert", "pictures", "--json", "--workers", "2", *SMALL]
    with (folder / "said").open("w+") as said, (folder / "printed").open("w+") as printed:
        process = subprocess.Popen(command, cwd=folder, stdout=printed, stderr=said)
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                for table, addresses in open_to(with_children(process.pid)).items():
                    seen.setdefault(table, set()).update(addresses)
                    most = max(most, len(addresses))
            time.sleep(0.1)
    done = Conversion(folder, (folder / "printed").read_text(), (folder / "said").read_text(), seen, most)
    assert process.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(conversion: Conversion) -> Path:
    """A working folder with pictures and a finished store, which tests only read."""
    return conversion.folder


@pytest.fixture
def no_workers() -> Iterator[None]:
    with without_workers():
        yield


def test_a_conversion_reports_in_json(conversion: Conversion) -> None:
    report = json.loads(conversion.stdout)
    assert (report["planned"], report["failed"]) == (30, 0)


def test_the_test_sees_what_listens_everywhere() -> None:
    with socket.socket() as everywhere:
        everywhere.bind(("0.0.0.0", 0))
        everywhere.listen()
        assert "0.0.0.0" in open_to({os.getpid()})["tcp"]


def test_a_conversion_listens_on_loopback_only(conversion: Conversion) -> None:
    """With its dashboard, while it works."""
    assert conversion.most >= 4, "scheduler, dashboard and two workers listen; else this test looks at the wrong thing"
    if importlib.util.find_spec("bokeh"):
        assert re.search(r"dashboard: http://127\.0\.0\.1:\d+", conversion.stderr)
    for table, addresses in conversion.addresses.items():
        assert all(ip_address(one).is_loopback for one in addresses), f"{table}: {addresses}"


@pytest.mark.usefixtures("no_workers")
def test_the_number_of_workers_changes_no_byte(folder: Path) -> None:
    done = arcpipe_here("convert", "pictures", "--out", "one.zarr", "--workers", 1, *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert contents(folder / "one.zarr") == contents(folder / "store" / "pictures.zarr")


@pytest.mark.usefixtures("no_workers")
def test_stopped_again_and_again_the_same_command_continues(folder: Path) -> None:
    """By SIGTERM, and then with no warning; what the third one finishes is the store that nobody disturbed."""
    out = "stopped.zarr"
    command = [sys.executable, "-m", "arcpipe", "convert", "pictures", "--out", out, "--workers", "1", *SMALL]
    code, made, errors = stopped(command, folder / out, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert f"the same command continues:\n  {shlex.join(['python', *command[1:]])}" in errors
    refused = arcpipe_here("train", "--store", out, cwd=folder)
    assert refused.returncode == 1
    assert "UnfinishedStoreError" in refused.stderr
    code, made_then, _ = stopped(command, folder / out, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert 1 <= made < made_then < 10, "the signals came too late to mean anything"
    again = arcpipe_here(*command[3:], cwd=folder)
    assert again.returncode == 0, again.stderr
    assert contents(folder / out) == contents(folder / "store" / "pictures.zarr")
    assert arcpipe_here("verify", out, cwd=folder).returncode == 0


@pytest.mark.slow
@pytest.mark.usefixtures("no_workers")
def test_after_ctrl_c_the_same_command_continues(folder: Path) -> None:
    out = "interrupted.zarr"
    command = [sys.executable, "-m", "arcpipe", "convert", "pictures", "--out", out, "--workers", "1", *SMALL]
    code, made, errors = stopped(command, folder / out, signal.SIGINT)
    assert (code, 1 <= made < 10) == (128 + signal.SIGINT, True)
    assert f"the same command continues:\n  {shlex.join(['python', *command[1:]])}" in errors
    assert arcpipe_here(*command[3:], cwd=folder).returncode == 0
    assert contents(folder / out) == contents(folder / "store" / "pictures.zarr")


def stopped(command: list[str], store: Path, how: signal.Signals) -> tuple[int, int, str]:
    """Run a conversion until it has committed one more part: its exit code, the parts that are there, what it said."""
    before = count_parts(store)
    process = subprocess.Popen(command, cwd=store.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and count_parts(store) == before:
        time.sleep(0.03)
    process.send_signal(how)
    _, errors = process.communicate(timeout=40)
    return process.returncode, count_parts(store), errors


def test_other_settings_exit_3_and_name_the_difference(folder: Path) -> None:
    done = arcpipe_here("convert", "pictures", *SMALL, "--seed", 3, cwd=folder)
    assert (done.returncode, done.stdout) == (3, "")
    assert "seed: was 0, now 3" in done.stderr


def test_a_flipped_byte_is_found_and_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "store" / "pictures.zarr", tmp_path / "a.zarr")
    victim = next((tmp_path / "a.zarr" / "train").glob("*/latents/c/*/*"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    done = arcpipe_here("verify", tmp_path / "a.zarr", "--json", cwd=folder)
    assert done.returncode == 6
    assert any(
        "latents" in problem and victim.parents[2].name in problem for problem in json.loads(done.stdout)["problems"]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["convert", "nowhere"], 2, "nowhere"),
        (["convert", "pictures", "--gpus", "4"], 2, "asks for more GPUs"),
        (["convert", "pictures", "--set", "fit.stepz=3"], 2, "fit.steps"),
        (["convert", "pictures", "--workers", "1", "--gpus", "1"], 2, "cannot be combined"),
        (["convert", "pictures", "--set", "run.gpu_workers=2"], 2, "no --gpus is given"),
        (["train", "--store", "nowhere.zarr"], 2, "nowhere.zarr"),
        (["train", "--store", "store/pictures.zarr", "--augment", "none,mask"], 2, "none stands alone"),
        (["train", "--store", "pictures"], 2, "pictures"),
        (["inspect", "pictures"], 2, "pictures"),
        (["inspect", "store/pictures.zarr", "--html", "page.png"], 2, "does not end in .html"),
        (["inspect", "store/pictures.zarr", "train/0", "--html", "page.html"], 2, "cannot be combined with SAMPLE"),
        (["verify", "pictures"], 2, "pictures"),
        (["evaluate", "pictures", "--store", "store/pictures.zarr"], 1, "pictures"),
        (["predict", "pictures", "pictures/train/ants/0.png"], 1, "pictures"),
        (["run", "nowhere.toml"], 2, "nowhere.toml"),
        (["run", PIPELINE, "--only", "flip", "--only", "mask"], 2, "there is no arm 'flip'"),
    ],
)
def test_a_mistake_gets_one_message_and_no_traceback(
    folder: Path, arguments: list[str], code: int, message: str
) -> None:
    done = arcpipe_here(*arguments, cwd=folder)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert message in done.stderr
    assert done.returncode == code


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["convert", "pictures", "--workers", "some"], 2, "--workers"),
        (["convert", "nowhere"], 2, "nowhere"),
    ],
)
def test_a_whole_process_ends_with_that_message_and_code_too(
    folder: Path, arguments: list[str], code: int, message: str
) -> None:
    done = arcpipe(*arguments, cwd=folder)
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout, message in done.stderr) == (code, "", True)


@pytest.mark.parametrize(
    ("arguments", "function", "config"),
    [
        (
            ["convert", "digits"],
            "arcpipe.convert.run_convert",
            ConvertConfig(source=SourceSection(source="digits"), out=Path("store/digits.zarr")),
        ),
        (
            ["train", "--store", "store/digits.zarr"],
            "arcpipe.train.run_train",
            TrainConfig(store=Path("store/digits.zarr"), out=Path("runs/digits")),
        ),
        (
            ["evaluate", "runs/digits", "--store", "store/digits.zarr"],
            "arcpipe.train.run_evaluate",
            EvaluateConfig(run=Path("runs/digits"), store=Path("store/digits.zarr")),
        ),
    ],
)
def test_what_no_option_says_is_as_the_settings_have_it(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], function: str, config: Section
) -> None:
    """An option shows its default in `--help`: a second place, which had kept an older one for `--epochs`."""
    built: list[Section] = []

    def run(config: Section, **_: object) -> None:
        built.append(config)
        raise ConfigError("seen")

    monkeypatch.setattr(function, run)
    monkeypatch.delenv("ARCPIPE_DATA", raising=False)
    done = invoke(arguments)
    assert "seen" in done.output
    assert built == [config]


def test_a_source_names_its_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "pictures")
    sources = ("digits", "a/cats.tar.gz", "cats.v2/", ".", "..", "../pictures")
    assert [default_store(source).name for source in sources] == [
        *("digits.zarr", "cats.zarr", "cats.v2.zarr", "pictures.zarr", f"{folder.name}.zarr", "pictures.zarr")
    ]


def test_with_json_stdout_is_one_object_and_stderr_has_the_rest(folder: Path) -> None:
    done = arcpipe("convert", "pictures", "--json", *SMALL, cwd=folder)  # a process: Dask and torch speak there too
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["clouds_made"] == 0
    assert "30 images" in done.stderr
    assert "dashboard" not in done.stderr, "no workers are started where nothing is left to do"
