"""What goes wrong around a conversion while it runs: space, permission, images; and what a killed one leaves."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from arcpipe.cluster import Cluster
from arcpipe.config import ConvertConfig
from arcpipe.convert import run_convert, run_verify
from arcpipe.errors import ArcpipeError, FileAccessError, NoSpaceError, StoreBusyError
from arcpipe.files import temporary_folder
from arcpipe.progress import Progress
from arcpipe.storage import Place
from arcpipe.store import create, open_store
from tests.pictures import Finished, contents, few_parts, in_process, make_pictures, settings

NOBODY = 65534


class Meanwhile(ThreadPoolExecutor):
    """Does something once `after` tasks are done (the decoder's counts as one)."""

    def __init__(self, after: int, does: Callable[[], object]) -> None:
        super().__init__(1)
        self.after, self.does = after, does

    def submit(self, fn: Any, *args: Any, **kwargs: Any) -> Future[Any]:
        def task() -> Any:
            if self.after == 0:
                self.does()
            self.after -= 1
            return fn(*args, **kwargs)

        return super().submit(task)


def stopped(config: Any, after: int, does: Callable[[], object]) -> ArcpipeError:
    with Meanwhile(after, does) as executor, pytest.raises(ArcpipeError) as caught:
        run_convert(config, cluster=in_process(executor))
    return caught.value


def committed(store: Place) -> int:
    return len(list(Path(str(store)).glob("t*/*/zarr.json")))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if os.getuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here: not root, or in a container without the right to")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_fills_stops_in_order_and_says_what_is_missing(
    finished: Finished, disk: Path, here: Cluster
) -> None:
    config = few_parts(finished.source, disk / "a.zarr")
    filler = disk / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    return

    error = stopped(config, 2, fill)
    assert isinstance(error, NoSpaceError)
    assert error.exit_code == 7
    assert "1 of 3 parts are committed" in str(error)
    assert "are missing" in str(error)
    assert "Meanwhile" not in str(error)
    with pytest.raises(NoSpaceError, match="not enough space"):  # now the plan sees it
        run_convert(config, cluster=here)
    filler.unlink()
    assert committed(config.out) == 1
    run_convert(config, cluster=here)
    assert contents(config.out) == contents(finished.store)


def test_a_disk_that_becomes_read_only(finished: Finished, disk: Path, here: Cluster) -> None:
    config = few_parts(finished.source, disk / "a.zarr")

    def protect() -> None:
        """The store only: what is open for writing keeps the whole disk from it."""
        subprocess.run(["mount", "--bind", str(config.out), str(config.out)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(config.out)], check=True)

    error = stopped(config, 2, protect)
    subprocess.run(["umount", str(config.out)], check=True)
    assert isinstance(error, FileAccessError)
    assert error.exit_code == 1
    assert "Read-only file system" in str(error)
    assert "committed parts are safe" in str(error)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(FileAccessError, match="read-only"):
        run_convert(few_parts(finished.source, disk / "b.zarr"), cluster=here)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    run_convert(config, cluster=here)
    assert run_verify(config.out).problems == ()


def test_permission_that_is_taken_away(finished: Finished, here: Cluster) -> None:
    place = Path(tempfile.mkdtemp(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))  # others may not look into `tmp_path`
    root = os.geteuid() == 0
    place.chmod(0o777)
    importlib.import_module("distributed")  # nobody may not read the libraries everywhere, so they are loaded before
    run_convert(few_parts(finished.source, finished.store), cluster=here)  # nothing left to do
    config = few_parts(make_pictures(place / "pictures", per_class=4), place / "a.zarr")
    try:
        if root:
            os.seteuid(NOBODY)
        error = stopped(config, 2, lambda: (Path(str(config.out)) / ".attempts").chmod(0o555))
        assert isinstance(error, FileAccessError)
        assert "Permission denied" in str(error)
        (Path(str(config.out)) / ".attempts").chmod(0o755)
        assert run_convert(config, cluster=here).failed == 0
    finally:
        os.seteuid(os.getuid())
        shutil.rmtree(place)


def test_images_that_vanish_stop_the_conversion_instead_of_failing_one_by_one(
    finished: Finished, tmp_path: Path, here: Cluster
) -> None:
    """First all of their folder, and when the conversion continues, what is in it."""
    source = shutil.copytree(finished.source, tmp_path / "pictures")
    config = few_parts(source, tmp_path / "a.zarr", fit={"decoder": str(finished.store)})

    def vanish() -> None:
        source.rename(tmp_path / "elsewhere")

    def empty() -> None:
        vanish()
        source.mkdir()

    for before, does in ((0, vanish), (1, empty)):
        assert committed(config.out) == before
        error = stopped(config, 1, does)
        assert isinstance(error, FileAccessError)
        assert "have gone" in str(error)
        assert committed(config.out) == before + 1
        (tmp_path / "elsewhere").replace(source)
    assert run_convert(config, cluster=here).failed == 0


def test_one_image_that_vanishes_is_a_record(finished: Finished, tmp_path: Path) -> None:
    source = shutil.copytree(finished.source, tmp_path / "pictures")
    fit = {"decoder": str(finished.store)}
    config = few_parts(source, tmp_path / "a.zarr", fit=fit, source={"splits": ["test"]})
    with Meanwhile(0, lambda: (source / "test" / "ants" / "0.png").unlink()) as executor:
        report = run_convert(config, cluster=in_process(executor))
    assert [(failure.path, failure.reason) for failure in report.failures] == [("ants/0.png", "unreadable")]


def test_a_kill_between_moving_aside_and_creating_brings_the_old_store_back(
    copied: ConvertConfig, finished: Finished, tmp_path: Path, here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(copied.out)
    fit, source = {"latents": 0.3, "decoder": str(finished.store)}, {"splits": ["test"]}
    other = few_parts(finished.source, tmp_path / "a.zarr", fit=fit, source=source)
    with monkeypatch.context() as patch:  # the process ends at this place
        patch.setattr(create, "_write_empty_store", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_convert(other, cluster=here, overwrite=True)
    assert not (tmp_path / "a.zarr").exists()
    again = run_convert(copied, cluster=here)
    assert again.clouds_made == 0
    assert contents(copied.out) == before
    run_convert(other, cluster=here, overwrite=True)
    assert open_store(other.out).config["fit"]["latents"] == 0.3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr"]


def test_folders_of_killed_runs_are_removed_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, tempfile\nfrom arcpipe.files import temporary_folder\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "with temporary_folder('workers', 'run') as own:\n    (own / 'file').touch()\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (place,) = tmp_path.iterdir()
    assert len(list(place.rglob("file"))) == 1
    with temporary_folder("workers", "run") as first, temporary_folder("workers", "run") as second:
        assert not list(place.rglob("file"))
        assert first.is_dir()
        assert second.is_dir()
    assert list(place.iterdir()) == []


def test_the_closing_report_is_in_the_store(with_broken_images: Finished, here: Cluster) -> None:
    report, store = with_broken_images.report, with_broken_images.store
    text = "\n".join(report.lines())
    for word in ("samples", "failed", "planned", "median", "failed, unreadable: 2", "fit ", "next: arcpipe inspect"):
        assert word in text
    totals = open_store(store).totals
    assert totals["failed_by_reason"] == {"unreadable": 2}
    assert set(totals["seconds_by_stage"]) == {"read", "fit", "finish", "write"}
    assert totals["bytes_by_array"] == dict(report.bytes_by_array)
    low, *_, high = totals["psnr"]["train"].values()
    assert low < report.splits["train"].mean_psnr < high
    assert json.loads(json.dumps(report.as_dict(), default=str))["next"][0].startswith("arcpipe inspect")
    run_convert(few_parts(with_broken_images.source, store), cluster=here)  # nothing to do
    assert open_store(store).totals["seconds"] == totals["seconds"], "what is known of the run that did it stays"


def test_a_dry_run_times_a_sample(pictures: Path, tmp_path: Path) -> None:
    report = run_convert(settings(pictures, tmp_path / "a.zarr", run={"workers": 2}), dry_run=True)
    assert report.timing is not None
    assert 0 < report.expected_s < report.expected_core_s
    areas = [height * width for height, width in report.sizes.values()]
    assert areas == sorted(areas)
    assert areas[0] < areas[2]
    assert any("timed sample" in line for line in report.lines())
    assert list(tmp_path.iterdir()) == []


CONVERTER = """
import sys
from pathlib import Path
from arcpipe.convert import run_convert
from arcpipe.errors import StoreBusyError
from tests.pictures import few_parts, without_workers

with without_workers():
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        run_convert(few_parts(Path(sys.argv[1]), Path(sys.argv[2])))
    except StoreBusyError as error:
        sys.exit(error.exit_code)
"""


def test_two_converters_that_begin_together_make_one_store(finished: Finished, tmp_path: Path, here: Cluster) -> None:
    command = [sys.executable, "-c", CONVERTER, str(finished.source), str(tmp_path / "a.zarr")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes) as other:
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        code = 0
        try:
            run_convert(few_parts(finished.source, tmp_path / "a.zarr"), cluster=here)
        except StoreBusyError as error:
            code = error.exit_code
        assert sorted([code, other.wait(timeout=280)]) in ([0, 4], [0, 0])  # the second too late to find the first
    assert contents(tmp_path / "a.zarr") == contents(finished.store)


def test_the_pace_is_that_of_recent_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("arcpipe.progress.time.monotonic", lambda: now[0])
    with Progress("convert", 1000, "images", enabled=False, expected_s=100) as progress:
        now[0] = 10
        assert progress.left_s == 90  # the plan's word
        now[0] = 50  # a slow start
        progress.update(100)
        assert progress.rate == pytest.approx(2)
        for _ in range(4):
            now[0] += 10
            progress.update(progress.done + 100)
        assert progress.rate == pytest.approx(10)
        now[0] += 5
        assert progress.left_s == pytest.approx(45)
        now[0] += 500  # a part that takes very long: no promise
        assert "any moment" in progress.line()


def test_a_slow_start_of_even_steps_is_no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("arcpipe.progress.time.monotonic", lambda: now[0])
    with Progress("pretrain", 400, "steps", enabled=False, even=True) as progress:
        now[0] = 60  # kernels are compiled
        progress.update(1)
        assert progress.line() == "pretrain: 1/400 steps (0 %)"
        now[0] = 61
        progress.update(21)
        assert progress.line() == "pretrain: 21/400 steps (5 %), 20.0 steps/s, 19 s left"


def test_the_second_signal_ends_at_once_and_so_do_the_workers(pictures: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "arcpipe", "convert", str(pictures), "--out", "a.zarr", "--workers", "1"]
    command += ["--recipe", "thesis", "--steps", "100000", "--set", "fit.pretrain_steps=100000"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    workers: list[psutil.Process] = []
    while process.poll() is None and not workers:
        time.sleep(0.05)
        below = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in below if any("spawn_main" in word for word in child.cmdline())]
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode in (143, 130, -signal.SIGTERM)  # the others where the first one was done already
    assert "ended at once" in errors or "the same command continues" in errors
    assert psutil.wait_procs(workers, timeout=20)[1] == []
