"""Jobs that end are replaced, jobs that wait again are left alone: with a batch system of three shell scripts."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from arcpipe.cluster import keeping
from arcpipe.cluster.keeping import MOST_FUTILE, Keeper, known_jobs, last_lines
from arcpipe.errors import ClusterError


class Job:
    """Stands for a job of dask-jobqueue."""

    def __init__(self, number: int) -> None:
        self.job_id: str | None = str(number)


class Jobs:
    """Stands for a cluster of dask-jobqueue, whose jobs have no processes."""

    job_cls = SimpleNamespace(config_name="slurm")

    def __init__(self, n_jobs: int) -> None:
        self.workers: dict[str, Job] = {}
        self.worker_spec: dict[str, Any] = {}
        self._created: set[Job] = set()
        self.scheduler = SimpleNamespace(workers={})
        self.refuses = ""
        self.submitted = 0
        keeping.submit(self, n_jobs)

    def new_worker_spec(self) -> dict[str, Any]:
        """As Dask does: a name that is free again is taken again."""
        return {next(name for i in range(99) if (name := f"arcpipe-{i}") not in self.worker_spec): {}}

    def _correct_state(self) -> None:
        for name in sorted(set(self.worker_spec) - set(self.workers)):
            self.submitted += 1
            self.workers[name] = Job(self.submitted)
            if self.refuses:
                self.workers[name].job_id = None
        if self.refuses:
            raise RuntimeError(self.refuses)

    def sync(self, function: Any) -> None:
        function()

    def numbers(self) -> list[str | None]:
        return [job.job_id for job in self.workers.values()]

    def connect(self, *names: str) -> None:
        """Let these workers be the ones that are connected."""
        self.scheduler.workers = {name: SimpleNamespace(name=name) for name in names}


class Queue:
    """What the batch system says that it knows; None: it does not answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *known: str) -> None:
        self.known: set[str] | None = set(known)
        self.asked = 0
        monkeypatch.setattr(keeping, "known_jobs", self._answer)

    def _answer(self, kind: str) -> set[str] | None:
        self.asked += 1
        return self.known


def keeper(jobs: Jobs, folder: Path) -> Keeper:
    return Keeper(jobs, "slurm", len(jobs.workers), folder)


def test_a_job_that_has_ended_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs, queue = Jobs(2), Queue(monkeypatch, "2")
    first, second = jobs.workers
    keep = keeper(jobs, tmp_path)
    jobs.connect(first, second)
    keep.look()
    assert queue.asked == 0, "all jobs work: nobody needs to be asked"
    jobs.connect(second)
    keep.look()
    assert jobs.numbers() == ["1", "2"], "the batch system is asked twice"
    keep.look()
    assert jobs.numbers() == ["2", "3"]
    assert capsys.readouterr().err == "the job 1 has ended\nanother job is submitted\n"


def test_a_job_that_waits_or_of_which_nobody_can_say_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    jobs, queue = Jobs(1), Queue(monkeypatch, "1")
    keep = keeper(jobs, tmp_path)
    for known in ({"1"}, {"1"}, None, set(), None, set(), {"1"}, set()):
        queue.known = known
        keep.look()
        assert jobs.numbers() == ["1"]
    assert keep.broken() is None


def test_workers_of_one_job_have_its_name_and_a_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jobs, queue = Jobs(1), Queue(monkeypatch)
    keep = keeper(jobs, tmp_path)
    [name] = jobs.workers
    jobs.connect(f"{name}-0", f"{name}-1")
    keep.look()
    assert queue.asked == 0
    jobs.connect(f"{name}0")
    keep.look()
    assert queue.asked == 1, "that worker is of another job"


def test_jobs_that_bring_no_worker_are_not_submitted_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jobs = Jobs(1)
    Queue(monkeypatch)
    keep = keeper(jobs, tmp_path)
    (tmp_path / f"arcpipe-{MOST_FUTILE}.err").write_text("loading\n\npython: command not found\n")
    for _ in range(4 * MOST_FUTILE):
        keep.look()
    assert jobs.submitted == MOST_FUTILE
    error = keep.broken()
    assert error is not None
    assert "3 jobs of slurm in succession ended before a worker of them connected" in str(error)
    assert error.details[-1] == "python: command not found"


def test_a_worker_that_connects_is_hope_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jobs = Jobs(1)
    Queue(monkeypatch)
    keep = keeper(jobs, tmp_path)
    for _ in range(3):
        for _ in range(2 * (MOST_FUTILE - 1)):
            keep.look()
        jobs.connect(*jobs.workers)
        keep.look()
        jobs.connect()
    assert keep.broken() is None
    assert jobs.workers


def test_a_refusal_is_told_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = Jobs(1)
    Queue(monkeypatch)
    keep = keeper(jobs, tmp_path)
    jobs.refuses = "sbatch: error: Unable to contact slurm controller"
    for _ in range(5):
        keep.look()
    assert jobs.workers == jobs.worker_spec == {}
    assert capsys.readouterr().err.count("Unable to contact slurm controller") == 1
    jobs.refuses = ""
    keep.look()
    assert len(jobs.workers) == 1


def test_jobs_that_were_taken_before_one_is_refused_stay_known() -> None:
    """They were forgotten, and stayed in the queue when the command had failed."""
    jobs = Jobs(2)
    jobs.refuses = "sbatch: error: QOSMaxSubmitJobPerUserLimit"
    with pytest.raises(ClusterError, match="could not be submitted to slurm"):
        keeping.submit(jobs, 3)
    assert jobs.numbers() == ["1", "2"]
    assert set(jobs.workers) == set(jobs.worker_spec)


@pytest.mark.parametrize(
    ("kind", "program", "answer", "known"),
    [
        ("slurm", "squeue", "echo 12; echo 13", {"12", "13"}),
        ("slurm", "squeue", "true", set()),
        ("slurm", "squeue", "echo 12; exit 1", None),
        ("slurm", "squeue", "echo $SQUEUE_STATES", set()),
        ("pbs", "qstat", "echo; echo 'head:'; echo 'Job ID  Username'; echo '12.head me batch'", {"12"}),
        ("sge", "qstat", "echo 'job-ID  prior'; echo -----; echo '     12 0.5 arcpipe me r'", {"12"}),
        ("lsf", "bjobs", "echo 12", {"12"}),
        ("lsf", "bjobs", "echo 'No unfinished job found' >&2; exit 255", set()),
        ("lsf", "other", "true", None),
    ],
)
def test_what_a_batch_system_says_of_its_jobs(
    kind: str, program: str, answer: str, known: set[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / program).write_text(f"#!/bin/sh\n{answer}\n")
    (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere" if program == "other" else f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SQUEUE_STATES", "99")
    assert known_jobs(kind) == known


def test_a_job_without_a_log(tmp_path: Path) -> None:
    (tmp_path / "arcpipe-120.err").write_text("of another job\n")
    assert last_lines(tmp_path, "12") == ["(there is none)"]
