"""Starts the processes that train together on this machine, watches them, and ends them together.

Each is `python -m arcpipe.train.rank FOLDER RANK`. They meet in a file of FOLDER and talk over loopback only. They
ignore Ctrl-C, which a terminal sends to all: this process hears it and asks them to stop, so that all stop after the
same step. Their standard input is a pipe that nobody writes to: it closes when this process is gone, even by `kill -9`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import arcpipe
from arcpipe.config import TrainConfig
from arcpipe.errors import EndedElsewhereError, RankLostError, rebuilt
from arcpipe.train.interrupt import Interrupts
from arcpipe.train.report import TrainReport

LOOK_EVERY_S = 0.05
GRACE_S = 5.0
"""Time for the others to leave, once one has failed: their collectives fail as its connections close."""

Process = subprocess.Popen[bytes]


class Apart:
    """A training in processes of its own. The caller looks whether it is `over`; leaving the block ends them.

    Args:
        config: All settings; its `workers` or `gpus` say how many processes, `threads` how many each has.
        resume, overwrite, quiet: As for `run_train`.
    """

    def __init__(
        self, config: TrainConfig, *, resume: bool = False, overwrite: bool = False, quiet: bool = True
    ) -> None:
        self._holder = tempfile.TemporaryDirectory(prefix="arcpipe-")
        self._folder = Path(self._holder.name)
        world = config.workers or config.gpus or 1
        job = {"world": world, "resume": resume, "overwrite": overwrite, "quiet": quiet}
        (self._folder / "job.json").write_text(json.dumps({**job, "config": config.model_dump(mode="json")}))
        self.processes: list[Process] = []
        with ExitStack() as failing:
            failing.callback(self.close)
            for rank in range(world):
                self.processes.append(_start(self._folder, rank))
            failing.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def over(self) -> bool:
        """All processes have ended, or one has failed."""
        codes = [process.poll() for process in self.processes]
        return any(codes) or None not in codes

    def ask_to_stop(self) -> None:
        """It finishes its step and saves; until then it is not over."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()

    def close(self) -> None:
        """End what is left of it, gently at first."""
        self._end()
        self._holder.cleanup()

    def result(self) -> TrainReport:
        """End what is left of it, and return its report.

        Raises:
            RankLostError: a process was killed, or crashed.
            Whatever `train_rank` raises: the first process that says more than that another one ended is believed.
        """
        self._end()
        outcomes = [_outcome(self._folder / f"outcome-{rank}.json") for rank in range(len(self.processes))]
        failures = [_error(outcome) for outcome in outcomes if "error" in outcome or "os_error" in outcome]
        for failure in failures:
            if not isinstance(failure, RankLostError | EndedElsewhereError):
                raise failure
        for rank, process in enumerate(self.processes):
            if process.returncode:
                raise RankLostError(
                    f"process {rank + 1} of the {len(self.processes)} that train together "
                    f"{_death(process.returncode)}.",
                    details=["the others were ended; at most the work since the last checkpoint is lost"],
                    fix=["the same command again: it continues"],
                )
        if failures:
            raise failures[0]
        return TrainReport.from_dict(outcomes[0]["report"])

    def _end(self) -> None:
        """End what is left, gently where it still answers: rank 0 may have a bar on the terminal."""
        running = [process for process in self.processes if process.poll() is None]
        self.ask_to_stop()
        until = time.monotonic() + GRACE_S
        while any(process.poll() is None for process in running) and time.monotonic() < until:
            time.sleep(LOOK_EVERY_S)
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        for process in running:
            process.returncode = 0  # it ended because another one did


def run_ranks(config: TrainConfig, *, resume: bool, overwrite: bool, quiet: bool) -> TrainReport:
    """Train in `config.workers` processes on the CPU, or `config.gpus` with a GPU each.

    An interrupt is passed on to all, which are then waited for.

    Raises:
        What `Apart.result` does.
    """
    with Interrupts() as interrupts, Apart(config, resume=resume, overwrite=overwrite, quiet=quiet) as training:
        asked = False
        while any(process.poll() is None for process in training.processes):
            if interrupts.pending is not None and not asked:
                training.ask_to_stop()
                asked = True
            if not asked and training.over:
                time.sleep(4 * LOOK_EVERY_S)  # who was killed is known before anybody is asked to leave
                break
            time.sleep(LOOK_EVERY_S)
        interrupts.deliver()
        return training.result()


def _start(folder: Path, rank: int) -> Process:
    package = str(Path(arcpipe.__file__).parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([package, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).strip(os.pathsep),
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, "-m", "arcpipe.train.rank", str(folder), str(rank)]
    with _deaf_to_ctrl_c():
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, env=environment)  # stdout is for results


def _outcome(path: Path) -> dict[str, Any]:
    """What a process left behind: its error, or the report of rank 0; nothing if it was killed."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _error(outcome: dict[str, Any]) -> Exception:
    return OSError(*outcome["os_error"]) if "os_error" in outcome else rebuilt(*outcome["error"])


def _death(code: int) -> str:
    if code >= 0:
        return "crashed"
    name = signal.Signals(-code).name
    return f"was killed ({name}{': perhaps out of memory' if code == -signal.SIGKILL else ''})"


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started in the block ignore SIGINT. Outside the main thread, where none arrives, nothing is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
