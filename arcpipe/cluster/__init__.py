"""Where the work is done: a local cluster, on CPUs or GPUs, or a given scheduler. Only this room imports Dask."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcpipe.cluster import restarting
from arcpipe.cluster.environment import worker_environment
from arcpipe.cluster.jobs import check_jobs, queued, read_queue
from arcpipe.cluster.joining import ANSWER_WITHIN, LOOPBACK, WAIT_S, join
from arcpipe.cluster.telling import listening, teller
from arcpipe.cluster.window import WindowExecutor
from arcpipe.config import RunSection
from arcpipe.devices import check_gpus, workers_here
from arcpipe.machine import machine_memory
from arcpipe.streams import hush

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "Cluster",
    "check_jobs",
    "dask_setup",
    "describe_loss",
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
    guarded: bool = False
    """Whether tasks run in processes that may end (and are then started again), not in the user's own."""
    client: Client | None = None
    """Dask's; None where tasks run in this process."""


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
            yield Cluster(executor, n_workers, 0, "auto", _dashboard(client), guarded=True, client=client)
            return
        n_workers, threads = workers_here(run.workers, run.gpus, run.gpu_workers)
        client = stack.enter_context(Client(_start(stack, n_workers, threads, scratch, run)))
        device = "cuda" if run.gpus is not None else "cpu"
        window = WindowExecutor(client.get_executor(pure=False))
        window.widen(n_workers)
        yield Cluster(window, n_workers, threads, device, _dashboard(client), guarded=True, client=client)


def died(future: Future[Any]) -> bool:
    """Whether a finished task has no result because its workers died, one after another."""
    from distributed import KilledWorker

    return not future.cancelled() and isinstance(future.exception(), KilledWorker)


def describe_loss(future: Future[Any]) -> str | None:
    """Say why a finished task has no result of its own, where its worker or the cluster is to blame; else None."""
    if future.cancelled():
        return "the cluster has gone"
    if died(future):
        return "its workers died: killed, hung, or out of memory"
    return None


def _start(stack: ExitStack, n_workers: int, threads: int, scratch: Path | None, run: RunSection) -> Any:
    """A cluster of worker processes on this machine, one task at a time each; each sees only its own GPU."""
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    environment = worker_environment(threads)
    settings = {
        # Dask sets thread counts and MALLOC_TRIM_THRESHOLD_ of its own before it spawns; ours must win.
        "distributed.nanny.pre-spawn-environ": environment,
        # Within this time Dask closes whoever starts a dead worker anew; `restarting` sees to those that give up.
        "distributed.deploy.lost-worker-timeout": "1 hour",
        "distributed.scheduler.allowed-failures": 1,  # the second death is looked into: `convert.isolate`
        "distributed.worker.memory.terminate": 0.95,
    }
    stack.enter_context(dask.config.set(settings))
    stack.enter_context(_without_script())
    if scratch is None:
        temporary = tempfile.TemporaryDirectory(prefix="arcpipe-", ignore_cleanup_errors=True)
        scratch = Path(stack.enter_context(temporary))
    options: dict[str, Any] = {
        "nthreads": 1,
        "host": LOOPBACK,
        "dashboard_address": f"{LOOPBACK}:0",
        "local_directory": str(scratch),
        "preload": ["arcpipe.cluster", "arcpipe.arc.engine"],
        "silence_logs": "ERROR",
        # Dask's own share would be one core's, however many a worker has. Where it ends, Dask kills the worker.
        "memory_limit": max(int(1.2 * (run.memory or 0)), machine_memory() // n_workers),
    }
    environments = [environment | (_one_gpu(i, run.gpus) if run.gpus is not None else {}) for i in range(n_workers)]
    workers = {i: {"cls": Nanny, "options": {**options, "env": env}} for i, env in enumerate(environments)}
    scheduler = {"cls": Scheduler, "options": {"host": LOOPBACK, "dashboard_address": f"{LOOPBACK}:0"}}
    # A worker that is killed cannot tidy up its semaphore; Python's tracker does it, and need not say so.
    stack.enter_context(_environment("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning"))
    # Ctrl-C reaches every process of the terminal. Blocked here, it is blocked in the threads of the cluster and in all
    # processes that they start, now or later; this thread gets it as soon as the block is lifted.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        cluster = restarting.start(lambda: SpecCluster(workers=workers, scheduler=scheduler, silence_logs="ERROR"))
        stack.callback(_close, cluster)
        restarting.keep(cluster)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return cluster


def _close(cluster: Any) -> None:
    with suppress(TimeoutError):  # where workers die as they start; what is left ends with this process
        cluster.close(timeout=20)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """A variable of the environment for the processes that are started in the block, unless it is set already."""
    before = os.environ.get(name)
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


@contextmanager
def _without_script() -> Iterator[None]:
    """Keep Python from running the user's script again in every process that is started in the block.

    It would do so to find the script's functions, of which a task needs none; a script without
    `if __name__ == "__main__"` would then start its conversion again in every worker.
    """
    main = sys.modules["__main__"]
    before: dict[str, Any] = {
        name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__
    }
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(before)


def _one_gpu(worker: int, gpus: int) -> dict[str, str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    index = worker % gpus
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[index].strip() if visible else str(index)}


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
