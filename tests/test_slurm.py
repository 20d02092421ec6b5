"""`convert --cluster` on a real Slurm: to the end, with jobs that are cancelled, preempted or broken, and with Ctrl-C.

`apt-get install slurm-wlm munge` brings it. Where it is not installed, or does not start, the tests are skipped.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from arcpipe.convert import run_convert
from arcpipe.store import content_hash, open_store
from tests.far_cluster import OPTIONS, SETTINGS, eventually, parts
from tests.listening import open_to, with_children
from tests.pictures import contents, in_process, make_pictures, settings
from tests.slurm import Slurm, find_slurm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        importlib.util.find_spec("dask_jobqueue") is None, reason="the extra `cluster` is not installed"
    ),
]
SLURM_TOML = Path(__file__).resolve().parents[1] / "pipelines" / "clusters" / "slurm.toml"
SMALLER = {"cores": "1", "processes": "1", "memory": '"2 GB"'}
"""What a job asks for here; the other keys of the file are taken as they are."""
SOON_S = 60
"""For Slurm to put something in order: it looks at its jobs every few seconds."""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    find_slurm()
    with ExitStack() as stack:
        yield Slurm(tmp_path_factory.mktemp("slurm"), stack)


@dataclass(frozen=True)
class Near:
    """Pictures, and what one process of this machine makes of them."""

    pictures: Path
    store: Path


@pytest.fixture(scope="module")
def near(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Near:
    folder = tmp_path_factory.mktemp("near")
    pictures = make_pictures(folder / "pictures", per_class=2)
    with ThreadPoolExecutor(1) as executor:
        run_convert(settings(pictures, folder / "near.zarr", **SETTINGS), cluster=in_process(executor))
    return Near(pictures, folder / "near.zarr")


def slurm_toml(folder: Path, jobs: int, /, **more: str) -> Path:
    """`pipelines/clusters/slurm.toml` with smaller jobs, and on loopback."""
    changes = {**SMALLER, "jobs": str(jobs), "folder": f'"{folder / "jobs"}"', "host": '"127.0.0.1"', **more}
    lines = [line for line in SLURM_TOML.read_text().splitlines() if line.split("=")[0].strip() not in changes]
    lines += [f"{key} = {value}" for key, value in changes.items()]
    (folder / "slurm.toml").write_text("\n".join(lines))
    return folder / "slurm.toml"


@dataclass
class Converting:
    """A conversion by jobs, in a process of its own."""

    process: subprocess.Popen[bytes]
    store: Path
    said_in: Path

    def said(self) -> str:
        return self.said_in.read_text()

    def ends_well(self, near: Near) -> None:
        """Wait for its end; the store is what a local conversion makes."""
        assert self.process.wait(timeout=900) == 0, self.said()
        assert content_hash(open_store(self.store)) == content_hash(open_store(near.store))
        assert contents(self.store) == contents(near.store)


@contextmanager
def converting(slurm: Slurm, near: Near, file: Path) -> Iterator[Converting]:
    store, said_in = file.with_name("far.zarr"), file.with_name("said")
    command = [sys.executable, "-m", "arcpipe", "convert", near.pictures, "--out", store, "--cluster", file, *OPTIONS]
    with said_in.open("a") as told:  # in a session of its own, as a terminal has it: Ctrl-C goes to all in it
        process = subprocess.Popen(
            command, cwd=file.parent, env=slurm.environment, stdout=told, stderr=told, start_new_session=True
        )
        try:
            yield Converting(process, store, said_in)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            slurm.run("scancel", "--name=arcpipe", fails=True)  # what a failed test has left
            none_left(slurm)


def none_left(slurm: Slurm) -> None:
    """Slurm knows no job any more; one that was cancelled is `completing` until its processes have gone."""
    end = time.monotonic() + SOON_S
    while left := slurm.jobs():
        assert time.monotonic() < end, slurm.run("squeue")
        time.sleep(0.5)
    assert left == []


def test_jobs_convert_to_the_end_on_loopback(slurm: Slurm, near: Near, tmp_path: Path) -> None:
    with converting(slurm, near, slurm_toml(tmp_path, 2)) as run:
        eventually(lambda: parts(run.store) >= 1, "the first part", run.process, 600)
        assert len(slurm.jobs("running")) == 2
        daemons = {pid for process in slurm.processes for pid in with_children(process.pid)}
        opened = open_to(daemons | with_children(run.process.pid) | _workers(tmp_path))
        assert {address for found in opened.values() for address in found} == {"127.0.0.1"}
        run.ends_well(near)
        assert slurm.jobs("pending,running") == []
    assert not list((tmp_path / "jobs").glob("tls-*")), "the certificates go with the run"


def _workers(folder: Path) -> set[int]:
    """Processes that have the path of this run's certificates in their command line: the workers of its jobs."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if str(folder / "jobs").encode() in line and b"dask_worker" in line:
            found |= with_children(int(path.parent.name))
    assert found
    return found


def test_another_job_takes_the_place_of_a_cancelled_one(slurm: Slurm, near: Near, tmp_path: Path) -> None:
    with converting(slurm, near, slurm_toml(tmp_path, 1)) as run:
        eventually(lambda: parts(run.store) >= 1, "the first part", run.process, 600)
        [first] = slurm.jobs()
        slurm.run("scancel", first)
        eventually(lambda: slurm.jobs() not in ([], [first]), "another job", run.process, 300)
        run.ends_well(near)
        assert f"the job {first} has ended\n" in run.said()
        assert "another job is submitted" in run.said()
        assert slurm.jobs("pending,running") == []


def test_a_preempted_job_waits_and_goes_on(slurm: Slurm, near: Near, tmp_path: Path) -> None:
    with converting(slurm, near, slurm_toml(tmp_path, 1)) as run:
        eventually(lambda: parts(run.store) >= 1, "the first part", run.process, 600)
        [ours] = slurm.jobs("running")
        # For longer than Dask would let a worker be away (15 s), and than `Keeper` takes to find that a job has ended.
        slurm.run("sbatch", "-p", "urgent", "-c", "2", "--mem=1G", "-o", "/dev/null", "--wrap", "sleep 40", "-J", "vip")
        vip = ("squeue", "--noheader", "--format=%T", "--name=vip")
        eventually(lambda: slurm.run(*vip).split() == ["RUNNING"], "another one has its place", run.process, 300)
        assert slurm.jobs("running") == []
        eventually(lambda: slurm.restarts(ours) == 1, "it is requeued", run.process, 300)
        eventually(lambda: slurm.jobs("running") == [ours], "it runs again", run.process, 300)
        run.ends_well(near)
        assert "has ended" not in run.said(), "a job that waits again is not replaced"


def test_ctrl_c_takes_all_jobs_with_it(slurm: Slurm, near: Near, tmp_path: Path) -> None:
    file = slurm_toml(tmp_path, 2, cores="2")  # one of them runs, one waits
    with converting(slurm, near, file) as run:
        eventually(lambda: parts(run.store) >= 1, "the first part", run.process, 600)
        assert [len(slurm.jobs(state)) for state in ("running", "pending")] == [1, 1]
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.process.wait(timeout=120) == 130, run.said()
        assert slurm.jobs("pending,running") == []
        none_left(slurm)
    with converting(slurm, near, file) as run:
        run.ends_well(near)
        assert "continuing: " in run.said()


def test_jobs_that_never_bring_a_worker(slurm: Slurm, near: Near, tmp_path: Path) -> None:
    """It would have waited for a day."""
    prologue = '["echo no such module: torch >&2", "exit 3"]'
    with converting(slurm, near, slurm_toml(tmp_path, 3, prologue=prologue)) as run:
        assert run.process.wait(timeout=300) == 1, run.said()
        assert "3 jobs of slurm in succession ended before a worker of them connected" in run.said()
        assert "no such module: torch" in run.said()
        assert slurm.jobs() == []


def test_a_queue_that_is_not_there(slurm: Slurm, near: Near, tmp_path: Path) -> None:
    with converting(slurm, near, slurm_toml(tmp_path, 1, queue='"nowhere"')) as run:
        assert run.process.wait(timeout=300) == 1, run.said()
        assert "the jobs could not be submitted to slurm" in run.said()
        assert "invalid partition specified: nowhere" in run.said()
