"""What a conversion says when something is in its way: before the work, in it, and at its end."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import typer
from distributed import KilledWorker
from PIL import Image

from arcpipe.arc.decoder import Decoder
from arcpipe.cli import reports_errors
from arcpipe.cluster import Cluster
from arcpipe.config import ConvertConfig
from arcpipe.convert import run, run_convert, run_verify
from arcpipe.convert.plan import PART_BYTES
from arcpipe.errors import (
    ClusterError,
    ConfigError,
    DivergedError,
    FileAccessError,
    NoSpaceError,
    NotAStoreError,
    StoreBusyError,
    StoreMismatchError,
    TooManyFailuresError,
)
from arcpipe.fitter import Fitter
from arcpipe.storage import storage_at
from arcpipe.store import open_store
from arcpipe.store.decoder_file import save_decoder_file
from tests.commands import arcpipe_here
from tests.pictures import Finished, contents, few_parts, in_process, make_pictures, settings


class Refuses(ThreadPoolExecutor):
    """Nobody may give it work."""

    def submit(self, fn: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError(f"{fn} was submitted")


class Loses(ThreadPoolExecutor):
    """Every task ends with this error, or is cancelled, as Dask does it."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__(1)
        self.error = error

    def submit(self, fn: Any, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if self.error is None:
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            future.set_exception(self.error)
        return future


def killed() -> KilledWorker:
    return KilledWorker(task="t", last_worker="tcp://127.0.0.1:1", allowed_failures=2)


def must_not_run(*args: Any, **kwargs: Any) -> NoReturn:
    raise AssertionError("this comes too early")


@pytest.fixture(scope="module")
def one_class(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "cats"
    folder.mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (8, 9, 3))
        Image.fromarray(noise.astype(np.uint8)).save(folder / f"{i}.png")
    return folder.parent


def test_a_place_that_cannot_hold_a_store_is_refused_before_the_inventory(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "open_source", must_not_run)
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(FileAccessError, match="is not a folder"):
        run_convert(settings(pictures, file / "a.zarr"))
    with pytest.raises(NotAStoreError, match="nothing was changed"):
        run_convert(settings(pictures, file), overwrite=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(FileAccessError, match="not writable by this user"):
        run_convert(settings(pictures, tmp_path / "deep" / "a.zarr"))
    assert list(tmp_path.iterdir()) == [file]


def test_a_source_without_a_name_is_not_the_working_folder(pictures: Path, tmp_path: Path) -> None:
    """As in `arcpipe convert "$UNSET"`."""
    with pytest.raises(ConfigError, match="a path is empty"):
        run_convert(settings(pictures, tmp_path / "a.zarr", source={"source": ""}), dry_run=True)


def test_a_decoder_that_is_not_there(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--decoder nowhere: there is no such store or file"):
        run_convert(settings(pictures, tmp_path / "a.zarr", fit={"decoder": "nowhere"}))


def test_a_dry_run_says_what_is_there_and_what_is_in_the_way(copied: ConvertConfig, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "a.zarr" / "train" / "0000")
    report = run_convert(copied, dry_run=True)
    assert (report.parts_before, report.clouds) == (2, 9)  # one part of nine pictures is missing
    pictures = Path(copied.source.source)
    with pytest.raises(StoreMismatchError, match=r"fit.latents: was 0.2, now 0.3") as caught:
        run_convert(few_parts(pictures, tmp_path / "a.zarr", fit={"latents": 0.3}), dry_run=True)
    assert not any("--retry-failed" in line for line in caught.value.fix), "that would not help here"
    crop = settings(make_pictures(tmp_path / "many", per_class=15), tmp_path / "b.zarr", source={"center_crop": 14})
    report = run_convert(crop, dry_run=True)
    lines = [line for line in report.lines() if "will fail" in line]
    assert len(lines) == 11
    assert lines[0].count(".png") == 1
    assert lines[-1] == f"  and {len(report.failing) - 10} more will fail"


def test_only_what_is_still_to_do_needs_space_and_workers(
    copied: ConvertConfig, tmp_path: Path, here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 * PART_BYTES))
    done = run_convert(copied, cluster=in_process(Refuses(1)))
    assert "nothing left to do, all 3 parts were there before" in done.lines()[0]
    shutil.rmtree(tmp_path / "a.zarr" / "train" / "0000")
    assert run_convert(copied, cluster=here).clouds_made == 9
    with pytest.raises(NoSpaceError):  # all of it again does not fit
        run_convert(copied, cluster=here, overwrite=True)


@pytest.mark.parametrize(("error", "why"), [(killed(), "its workers died"), (None, "the cluster has gone")])
def test_lost_workers_are_explained(
    copied: ConvertConfig, tmp_path: Path, error: BaseException | None, why: str
) -> None:
    new = few_parts(Path(copied.source.source), tmp_path / "b.zarr")
    with Loses(error) as executor, pytest.raises(ClusterError, match="could not be pretrained") as caught:
        run_convert(new, cluster=in_process(executor))
    assert why in str(caught.value)
    shutil.rmtree(tmp_path / "a.zarr" / "train" / "0000")
    with Loses(error) as executor, pytest.raises(ClusterError, match="1 of 3 parts could not be made") as caught:
        run_convert(copied, cluster=in_process(executor))
    assert why in str(caught.value)


def test_a_rate_that_is_too_high_is_seen_in_pretraining(pictures: Path, tmp_path: Path, here: Cluster) -> None:
    with pytest.raises(DivergedError, match="finite numbers"):
        run_convert(
            settings(pictures, tmp_path / "a.zarr", fit={"recipe": "thesis", "steps": 8, "lr": 1e30}), cluster=here
        )
    assert not (tmp_path / "a.zarr").exists()


def test_failures_of_every_sample_make_a_report_that_can_be_read(pictures: Path, tmp_path: Path, here: Cluster) -> None:
    decoder = tmp_path / "decoder.safetensors"
    fit = {"recipe": "thesis", "steps": 8, "lr": 1e30, "decoder": str(decoder)}
    config = few_parts(pictures, tmp_path / "a.zarr", fit=fit)
    save_decoder_file(decoder, Decoder.initial(config.fit, 3, 0).to_record())
    report = run_convert(config, cluster=here)
    assert report.failed == report.planned == 24
    text = "\n".join(report.lines())
    assert "nan" not in text.replace("finite", "")
    assert "nothing left to do" not in text
    assert "next:" not in text, "there is nothing to look at, nor to learn from"
    told = json.loads(json.dumps(report.as_dict(), default=str, allow_nan=False))
    assert told["splits"]["train"]["mean_psnr"] is None
    with pytest.raises(TooManyFailuresError):
        report.check()


def test_every_failure_is_one_line_that_names_the_image(with_broken_images: Finished) -> None:
    lines = with_broken_images.report.lines()
    start = next(i for i, line in enumerate(lines) if line.startswith("  failed"))
    assert sorted(lines[start + 1 : start + 3])[0].count("ants/0.png") == 1
    assert sorted(lines[start + 1 : start + 3])[1].count("ants/bad.png") == 1
    assert lines[start + 3].startswith("next:")


def test_one_class_only_is_not_sent_to_the_trainer(
    one_class: Path, finished: Finished, tmp_path: Path, here: Cluster
) -> None:
    fit, source = {"decoder": str(finished.store)}, {"held_out": 0}
    report = run_convert(settings(one_class, tmp_path / "a.zarr", fit=fit, source=source), cluster=here)
    assert [line for line in report.lines() if "arcpipe" in line] == [f"next: arcpipe inspect {tmp_path / 'a.zarr'}"]


def test_the_images_are_found_from_another_folder_and_missed_when_they_have_gone(
    finished: Finished, tmp_path: Path, here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(shutil.copytree(finished.source / "test", tmp_path / "pictures" / "test").parents[1])
    fit = {"decoder": str(finished.store)}
    run_convert(few_parts(Path("pictures"), tmp_path / "a.zarr", fit=fit), cluster=here)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run_verify(tmp_path / "a.zarr", decode=3).checked["decoded samples"] == 3
    shutil.rmtree(tmp_path / "pictures")
    report = run_verify(tmp_path / "a.zarr", decode=2)
    assert report.checked["decoded samples"] == 0
    assert any("there is no dataset" in note for note in report.notes)
    assert open_store(tmp_path / "a.zarr").complete


def test_the_command_that_mends_a_damaged_part_works(finished: Finished, tmp_path: Path, here: Cluster) -> None:
    store = shutil.copytree(finished.store, tmp_path / "a b.zarr")
    victim = next((store / "train" / "0001").glob("latents/c/*/*"))
    victim.write_bytes(victim.read_bytes()[:-1])
    report = run_verify(store, decode=2)
    assert not report.ok
    advice = next(note for note in report.notes if note.startswith("try: "))
    command = shlex.split(advice.removeprefix("try: "))
    assert command == ["arcpipe", "verify", str(store), "--repair"]
    with storage_at(store).lock(), pytest.raises(StoreBusyError):  # a converter is at work
        run_verify(store, repair=True)
    assert victim.is_file()
    done = arcpipe_here(*command[1:], "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["repaired"]["aside"]["parts"]) == (0, ["train/0001"]), done.stderr
    assert (store.with_name("a b.zarr.damaged-1") / "train" / "0001").is_dir()
    run_convert(few_parts(finished.source, store), cluster=here)
    assert contents(store) == contents(finished.store)
    assert run_verify(store).ok


def test_pictures_that_are_not_those_of_their_record_are_named(
    finished: Finished, tmp_path: Path, here: Cluster
) -> None:
    """A store whose bytes, hashes, seals and sums are all in order, and whose PSNR somebody made up."""
    fit, source = {"decoder": str(finished.store)}, {"splits": ["test"]}
    config = settings(finished.source, tmp_path / "a.zarr", fit=fit, source=source)
    with pytest.MonkeyPatch.context() as patch:
        finish = Fitter.finish
        patch.setattr(Fitter, "finish", lambda *args: [replace(it, psnr=it.psnr + 0.02) for it in finish(*args)])
        run_convert(config, cluster=here)
    assert run_verify(config.out).ok
    report = run_verify(config.out, decode=6)
    assert (report.ok, len(report.problems)) == (False, 6)
    assert re.fullmatch(r"test/0001, \S+\.png: PSNR \S+ dB, the record says \S+ dB", sorted(report.problems)[-1])
    done = arcpipe_here("verify", config.out, "--decode", 2, cwd=tmp_path)
    assert (done.returncode, "2 problems" in done.stdout) == (6, True), done.stdout + done.stderr


@pytest.mark.parametrize(("number", "name", "exit_code"), [(13, "FileAccessError", 1), (28, "NoSpaceError", 7)])
def test_what_the_file_system_refuses_is_one_message(
    number: int, name: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no room knows better, as for a file without permission."""

    @reports_errors
    def breaks() -> None:
        raise OSError(number, os.strerror(number), "some/file")

    with pytest.raises(typer.Exit) as caught:
        breaks()
    told = capsys.readouterr()
    assert told.err.startswith(f"{name}: ")
    assert "some/file" in told.err
    assert (caught.value.exit_code, told.out) == (exit_code, "")
