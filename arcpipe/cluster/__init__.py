"""Where the work is done: a local cluster, on CPUs or GPUs, or a given scheduler. Only this room imports Dask."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcpipe.cluster import local
from arcpipe.cluster.jobs import check_jobs, queued, read_queue
from arcpipe.cluster.joining import ANSWER_WITHIN, WAIT_S, join
from arcpipe.cluster.local import worker_environment
from arcpipe.cluster.telling import listening, teller
from arcpipe.cluster.window import WindowExecutor
from arcpipe.config import RunSection
from arcpipe.devices import check_gpus, workers_here
from arcpipe.streams import hush

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "Cluster",
    "DeadWorkersError",
    "LostTaskError",
    "check_jobs",
    "dask_setup",
    "failure",
    "listening",
    "open_cluster",
    "teller",
    "worker_environment",
]


@dataclass(frozen=True)
class Cluster:
    """An executor (the `concurrent.futures` interface) and what a person wants to know about it."""

    executor: Executor
    n_workers: int
    threads: int
    """Compute threads of one worker; workers x threads = cores."""
    device: str
    """`cpu` or `cuda`: what a task in a worker computes on."""
    dashboard: str | None
    """Address of Dask's dashboard; None where Bokeh is not installed."""
    client: Client | None = None
    """Dask's; None where tasks run in this process, which is the user's own and must not be ended."""


@contextmanager
def open_cluster(run: RunSection, scratch: Path | None = None, must_see: Sequence[Path] = ()) -> Iterator[Cluster]:
    """Start, join or order the cluster that `run` names; what was started here ends with the block.

    `must_see`: files that a worker elsewhere has to see, so on a disk that all machines share.

    `scratch`: where local workers keep their files, by default a temporary folder.

    Everything listens on loopback only. Raises `DeviceError` for more GPUs than there are, `ClusterError` for a
    scheduler that does not answer, or that has no worker of the versions that run here.
    """
    if run.gpus is not None:
        check_gpus(run.gpus)
    with ExitStack() as stack:
        import dask
        from distributed import Client

        _quieten()
        stack.enter_context(dask.config.set({"distributed.comm.timeouts.connect": ANSWER_WITHIN}))
        if run.scheduler is not None or run.cluster is not None:
            if run.cluster is not None:
                far = queued(read_queue(run.cluster), run.wait_s, must_see)
            else:
                far = join(run.scheduler or "", run.wait_s or WAIT_S, must_see)
            client, executor, n_workers = stack.enter_context(far)
            yield Cluster(executor, n_workers, 0, "auto", _dashboard(client), client)
            return
        n_workers, threads = workers_here(run.workers, run.gpus, run.gpu_workers)
        client = stack.enter_context(Client(local.start(stack, n_workers, threads, scratch, run)))
        device = "cuda" if run.gpus is not None else "cpu"
        window = WindowExecutor(client.get_executor(pure=False))
        window.widen(n_workers)
        yield Cluster(window, n_workers, threads, device, _dashboard(client), client)


class LostTaskError(Exception):
    """A task has no result of its own, and its worker or the cluster is to blame."""


class DeadWorkersError(LostTaskError):
    """The workers of a task died, one after another."""


def failure(future: Future[Any]) -> BaseException | None:
    """What a finished task failed with, if it did."""
    from distributed import KilledWorker

    if future.cancelled():
        return LostTaskError("the cluster has gone")
    error = future.exception()
    if isinstance(error, KilledWorker):
        return DeadWorkersError("its workers died: killed, hung, or out of memory")
    return error


def _dashboard(client: Client) -> str | None:
    """Link to the scheduler's dashboard, where it has one: Dask gives a link also where Bokeh is not installed."""
    try:
        client.run_on_scheduler(metadata.version, "bokeh")
    except metadata.PackageNotFoundError:
        return None
    with suppress(KeyError):  # `dask scheduler --no-dashboard`
        return client.dashboard_link
    return None


def dask_setup(worker: Any) -> None:
    """Called by Dask as a worker starts: Ctrl-C is the client's business, which then ends its workers."""
    _quieten()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _quieten() -> None:
    """Errors travel to the client, which says them once, for people; Dask would log them too, with tracebacks."""
    hush()
    for room in ("worker", "core", "comm", "client", "utils", "scheduler", "nanny", "batched"):
        logging.getLogger(f"distributed.{room}").setLevel(logging.CRITICAL + 1)


def _end_with_parent(parent: int) -> None:
    """End this process when the client is gone (`kill -9`): what it would still commit is nobody's any more."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
