"""Jobs of a batch system come and go: one that has ended is replaced, one that waits to run again is left alone."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arcpipe.errors import ClusterError
from arcpipe.progress import say

ASK_EVERY_S = 15.0
"""A batch system serves many users: it is asked seldom, and only while a job has no worker here."""
MOST_FUTILE = 3
"""Jobs in succession that ended before a worker of theirs connected; another one would hardly do better."""
LAST_LINES = 5
LONGEST_LINE = 300


@dataclass
class Keeper:
    """Sees to it that as many jobs wait or run as were asked for."""

    cluster: Any
    """dask-jobqueue's; its `workers` are the jobs by name. No job is kept here: Dask then fails as it closes."""
    kind: str
    jobs: int
    folder: Path
    """Where the jobs leave their logs."""
    _seen: set[str] = field(default_factory=set)
    """Numbers of jobs of which a worker has been here; Dask gives the name of a job that has gone to another one."""
    _missing: set[str] = field(default_factory=set)
    """Names of jobs that the batch system did not know when it was asked last."""
    _futile: list[str] = field(default_factory=list)
    """Numbers of the last jobs, where they ended before a worker of them connected."""
    _refusal: str | None = None
    _broken: ClusterError | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Look after the jobs, in a thread of its own, until the block ends."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            self._stop.set()
            with self._lock:  # what is being submitted is known to the cluster when it closes
                pass
            watcher.join(timeout=5)

    def _watch(self) -> None:
        while not self._stop.wait(ASK_EVERY_S):
            with self._lock:
                if not self._stop.is_set():
                    self.look()

    def broken(self) -> ClusterError | None:
        """Why no worker will come any more; None while one may."""
        return self._broken

    def look(self) -> None:
        """Replace jobs that have ended: those that the batch system did not know twice in succession."""
        jobs = {name: job.job_id for name, job in self.cluster.workers.items()}
        alone = set(jobs) - self._staffed(jobs)
        known = known_jobs(self.kind) if alone else None
        if known is None:  # all of them work, or nobody can say
            self._missing.clear()
        else:
            missing = {name for name in alone if jobs[name] not in known}
            ended, self._missing = missing & self._missing, missing - self._missing
            self._part_with({name: jobs[name] for name in sorted(ended)})
        if len(self.cluster.worker_spec) < self.jobs and len(self._futile) < MOST_FUTILE:
            self._submit()

    def _staffed(self, jobs: dict[str, str]) -> set[str]:
        """Names of the jobs that have a worker here."""
        workers = [str(worker.name) for worker in list(self.cluster.scheduler.workers.values())]
        found = {name for name in jobs if any(worker == name or worker.startswith(f"{name}-") for worker in workers)}
        numbers = {jobs[name] for name in found}
        if numbers - self._seen:
            self._futile.clear()
        self._seen |= numbers
        return found

    def _part_with(self, ended: dict[str, str]) -> None:
        """Forget jobs that have ended, and tell why no other ones follow where that is so."""
        for name, job in ended.items():
            del self.cluster.worker_spec[name], self.cluster.workers[name]
            if job in self._seen:
                say(f"the job {job} has ended")
            else:
                self._futile.append(job)
                say(f"the job {job} has ended before a worker of it connected")
        if len(self._futile) < MOST_FUTILE or not ended:
            return
        last = self._futile[-1]
        error = ClusterError(
            f"{len(self._futile)} jobs of {self.kind} in succession ended before a worker of them connected.",
            details=[f"the last one was {last}; its log, in {self.folder}, ends so:", *last_lines(self.folder, last)],
            fix=["mend what the log says: prologue, python, memory, interface or host of the file of --cluster"],
        )
        if self.cluster.workers:
            say(str(error), "no more jobs are submitted; those that are left go on")
        else:
            self._broken = error

    def _submit(self) -> None:
        try:
            submit(self.cluster, self.jobs)
        except ClusterError as error:  # it may be for now only, as where the batch system starts anew
            if str(error) != self._refusal:
                say(str(error), "trying again later")
            self._refusal = str(error)
        else:
            self._refusal = None
            say("another job is submitted")


def submit(cluster: Any, jobs: int) -> None:
    """Ask for as many jobs as there should be and are not; raise what the batch system says where it refuses them."""
    before = set(cluster.worker_spec)
    while len(cluster.worker_spec) < jobs:  # as `scale` does, which would not tell
        cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        cluster.sync(cluster._correct_state)
    except (RuntimeError, OSError, ValueError) as error:
        for name in [name for name, job in cluster.workers.items() if name not in before and job.job_id is None]:
            cluster._created.discard(cluster.workers[name])  # closing waits for jobs that were never there
            del cluster.workers[name], cluster.worker_spec[name]
        details = str(error).strip().splitlines()[-5:]
        kind = cluster.job_cls.config_name
        raise ClusterError(f"the jobs could not be submitted to {kind}.", details=details) from None


def known_jobs(kind: str) -> set[str] | None:
    """Numbers of this user's jobs that wait or run, as the batch system says; None where it does not answer."""
    mine = ["qstat", "-u", getpass.getuser()]
    command = {
        "slurm": ["squeue", "--me", "--noheader", "--format=%A"],
        "pbs": mine,
        "sge": mine,
        "lsf": ["bjobs", "-noheader", "-o", "jobid"],
    }[kind]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode != 0 and "No unfinished job" not in done.stderr:  # LSF's way to say none
        return None
    return set(re.findall(r"^\s*(\d+)", done.stdout, re.MULTILINE))


def last_lines(folder: Path, job: str) -> list[str]:
    """How the log of a job ends."""
    logs = [path for path in folder.glob("*") if path.is_file() and job in re.findall(r"\d+", path.name)]
    lines = [line for path in sorted(logs) for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return [line[:LONGEST_LINE] for line in lines[-LAST_LINES:]] or ["(there is none)"]
