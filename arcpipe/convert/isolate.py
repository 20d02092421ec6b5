"""Finding the sample that kills, hangs or floods its worker: the part is tried in a process of its own, and bisected.

The process says which images it is about to read or fit. If it ends there, those are the suspects: the next one
begins with their halves, until one image is left. That has ended two processes by itself before it is recorded. All
others are converted, and the process commits the part as a worker would.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

from arcpipe.cloud import FailedSample
from arcpipe.convert.child import encode
from arcpipe.convert.plan import PartPlan
from arcpipe.convert.work import Work, memory_share
from arcpipe.errors import ClusterError, rebuilt
from arcpipe.sources import Sample
from arcpipe.store import PartRecord, StoreWriter

STRIKES = 2
"""Times that a sample ends a process by itself before it is to blame: once may be anybody's `kill -9`."""
MOST_BLAMED = 8
"""More samples in one part that end their process are not the images' fault."""
NEARLY = 0.7
"""A process that was killed with this share of its memory in use died of it."""


@dataclass(frozen=True)
class Ended:
    """How a process went that did not finish: where it was, and of what it died."""

    stage: str
    rows: tuple[int, ...]
    reason: str
    how: str


def isolate_part(work: Work, part: PartPlan, writer: StoreWriter) -> PartRecord:
    """Convert and commit a part of which some samples end the process that works on them; they become failures.

    Raises:
        ClusterError: it is not some samples: too many of them, or the process ends before or after them.
        ArcpipeError: what the process itself raised.
    """
    record, _ = _bisect(work, part, str(writer.storage))
    assert record is not None
    return record


def find_deadly(work: Work, samples: tuple[Sample, ...]) -> list[FailedSample]:
    """Of samples that belong to no part, those that end the process that reads them."""
    return _bisect(work, PartPlan("pretraining", "", samples), None)[1]


def _bisect(work: Work, part: PartPlan, writer: str | None) -> tuple[PartRecord | None, list[FailedSample]]:
    """Try a part, again without the samples that end their process, until it is committed.

    Returns its record, and these samples. Without a writer the images are only read, and there is no record.
    """
    work = replace(work, guarded=True)
    failures: dict[int, FailedSample] = {}
    strikes: Counter[int] = Counter()
    asked = {"work": work, "part": part, "writer": writer, "first": [], "failures": failures}
    asked["memory_bytes"] = work.config.run.memory or memory_share(2)
    with ExitStack() as stack:
        attempts = _Attempts(stack)
        while len(failures) <= MOST_BLAMED:
            ended = attempts.run(asked)
            if not isinstance(ended, Ended):
                return ended, list(failures.values())
            if not ended.rows:
                strikes[-1] += 1
                if strikes[-1] == STRIKES:
                    raise ClusterError(f"part {part.name} ended two processes, at {ended.stage}.", details=[ended.how])
            elif len(ended.rows) > 1:
                middle = len(ended.rows) // 2
                asked["first"] = [ended.rows[:middle], ended.rows[middle:]]
            else:
                row = ended.rows[0]
                strikes[row] += 1
                asked["first"] = [[row]]
                if strikes[row] == STRIKES:
                    failures[row] = _record(part.samples[row], ended, work)
                    asked["first"] = []
    raise ClusterError(
        f"part {part.name}: {len(failures)} samples ended the process that worked on them.",
        details=[failure.message for failure in list(failures.values())[:3]],
        fix=["look for what they share: a library that crashes, too little memory, a disk that hangs"],
    )


class _Attempts:
    """The processes of `child`: one that waits, and forks for every request."""

    def __init__(self, stack: ExitStack) -> None:
        command = [sys.executable, "-c", "from arcpipe.convert.child import main; main()"]
        self._complaints = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._complaints}
        self._child = stack.enter_context(subprocess.Popen(command, **pipes, start_new_session=True))
        stack.callback(self._child.kill)

    def run(self, request: dict[str, Any]) -> PartRecord | Ended | None:
        """Send a request and follow it to its end. Raises what it raised, if that was foreseen."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        stage: str = "start"
        rows: tuple[int, ...] = ()
        answer, ended = None, None
        with suppress(BrokenPipeError):
            self._child.stdin.write(encode(request))
            self._child.stdin.flush()
        for line in self._child.stdout:
            message = json.loads(line)
            if "stage" in message:
                stage, rows = message["stage"], tuple(message["rows"])
            elif "ended" in message:
                ended = message
                break
            else:
                answer = message
        if ended is None:  # the process that waits, which does nothing: by chance, or Python cannot start here
            raise ClusterError("a process to try a part in could not be started.", details=self._last_words())
        if answer is not None and "error" in answer:
            raise rebuilt(*answer["error"])
        if answer is not None:
            return PartRecord(**answer["record"]) if answer["record"] is not None else None
        return _ended(stage, rows, ended, request["memory_bytes"], self._last_words())

    def _last_words(self) -> list[str]:
        """The last line of what was written to standard error, which then begins anew."""
        self._complaints.seek(0)
        words = self._complaints.read().decode(errors="replace").strip().splitlines()[-1:]
        self._complaints.seek(0)
        self._complaints.truncate()
        return words


def _ended(stage: str, rows: tuple[int, ...], ended: dict[str, Any], memory: int, last_words: list[str]) -> Ended:
    code = ended["ended"]
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    if code == -signal.SIGALRM:
        reason = "hung"
    elif any("MemoryError" in line for line in last_words) or (code < 0 and ended["peak_bytes"] > NEARLY * memory):
        reason = "out-of-memory"
    else:
        reason = "killed"
    return Ended(stage, rows, reason, ": ".join([how, *last_words]))


def _record(sample: Sample, ended: Ended, work: Work) -> FailedSample:
    doing = "reading" if ended.stage == "read" else "fitting"
    if ended.reason == "hung":
        limit = work.read_limit_s if doing == "reading" else work.fit_limit_s([sample])
        what = f"{sample.key} hung: {doing} it took more than {limit:g} s"
    elif ended.reason == "out-of-memory":
        what = f"{sample.key} does not fit into memory: {doing} it, its process was {ended.how}"
    else:
        what = f"{sample.key} killed its process: {doing} it, it was {ended.how}"
    return FailedSample(sample.sample_id, sample.path, ended.reason, what)
