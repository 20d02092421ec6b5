"""Worker processes of this machine, kept at their number: Dask gives a worker up that dies while it starts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from arcpipe.cluster.joining import LOOPBACK
from arcpipe.config import RunSection
from arcpipe.errors import ClusterError
from arcpipe.machine import machine_memory

STARTS = 3
"""Times that a cluster is started before its start is given up."""
LOOK_EVERY_S = 2.0
ALONE_S = 300.0
"""Time that may pass without any worker. To start one takes some seconds, on a busy machine a minute."""


def worker_environment(threads: int) -> dict[str, str]:
    """What a worker process must find in its environment before NumPy and torch start."""
    return {
        **{f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS", "NUMBA", "BLIS")},
        # Idle threads sleep: spinning ones made a step 12 times slower where two processes share the cores.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        # Keep freed blocks: gathers that allocate were 1.2 to 4.8 times faster than with glibc's defaults.
        "MALLOC_MMAP_THRESHOLD_": str(2**28),
        "MALLOC_TRIM_THRESHOLD_": str(2**29),
        "MALLOC_TOP_PAD_": str(2**26),
    }


def start(stack: ExitStack, n_workers: int, threads: int, scratch: Path | None, run: RunSection) -> Any:
    """A cluster of worker processes on this machine, one task at a time each; each sees only its own GPU."""
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    environment = worker_environment(threads)
    settings = {
        # Dask sets thread counts and MALLOC_TRIM_THRESHOLD_ of its own before it spawns; ours must win.
        "distributed.nanny.pre-spawn-environ": environment,
        # Within this time Dask closes whoever starts a dead worker anew; `_keep` sees to those that give up.
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
    if "PYTHONWARNINGS" not in os.environ:
        # A worker that is killed cannot tidy up its semaphore; Python's tracker does it, and need not say so.
        os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"
        stack.callback(os.environ.pop, "PYTHONWARNINGS", None)
    # Ctrl-C reaches every process of the terminal. Blocked here, it is blocked in the threads of the cluster and in all
    # processes that they start, now or later; this thread gets it as soon as the block is lifted.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        cluster = _started(lambda: SpecCluster(workers=workers, scheduler=scheduler, silence_logs="ERROR"))
        stack.callback(_close, cluster)
        _keep(cluster)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return cluster


def _close(cluster: Any) -> None:
    with suppress(TimeoutError):  # where workers die as they start; what is left ends with this process
        cluster.close(timeout=20)


@contextmanager
def _without_script() -> Iterator[None]:
    """Keep Python from running the user's script again in every process that is started in the block.

    It would do so to find the script's functions, of which a task needs none; a script without
    `if __name__ == "__main__"` would then start its conversion again in every worker.
    """
    main = sys.modules["__main__"]
    before: dict[str, Any] = {name: vars(main).pop(name) for name in ("__file__", "__spec__") if name in vars(main)}
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(before)


def _one_gpu(worker: int, gpus: int) -> dict[str, str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    index = worker % gpus
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[index].strip() if visible else str(index)}


def _started(make: Callable[[], Any]) -> Any:
    """Start a `SpecCluster`, again where a worker dies as it starts: the system may have killed it for memory.

    Raises:
        ClusterError: a worker died each time.
    """
    for _ in range(STARTS - 1):
        with suppress(RuntimeError):
            return make()
    try:
        return make()
    except RuntimeError as error:
        raise ClusterError(
            f"the worker processes of this machine do not start: one of them died at its start, {STARTS} times.",
            details=[f"Dask said: {error}"],
            fix=["arcpipe doctor", "arcpipe convert ... --workers 1   # where memory is short"],
        ) from error


def _keep(cluster: Any) -> None:
    """Put another worker in the place of each that is given up, until the cluster is closed.

    Where workers do nothing but die as they start, the cluster is ended, so that whoever waits for a task is told.
    """

    async def watch() -> None:
        from distributed.core import Status

        seen = time.monotonic()
        while cluster.status == Status.running:
            await asyncio.sleep(LOOK_EVERY_S)
            given_up = [name for name, nanny in cluster.workers.items() if nanny.status == Status.closed]
            for name in given_up:
                del cluster.workers[name]
            if cluster.scheduler.workers:
                seen = time.monotonic()
            if time.monotonic() - seen > ALONE_S:
                await cluster.scheduler.close()
                return
            if given_up and cluster.status == Status.running:
                with suppress(RuntimeError, OSError):
                    await cluster  # starts those that are missing

    cluster.loop.add_callback(watch)
