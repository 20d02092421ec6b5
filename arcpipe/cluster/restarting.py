"""Workers of this machine are kept at their number: Dask gives a worker up that dies while it starts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from arcpipe.errors import ClusterError

STARTS = 3
"""Times that a cluster is started before its start is given up."""
LOOK_EVERY_S = 2.0
ALONE_S = 300.0
"""Time that may pass without any worker. To start one takes some seconds, on a busy machine a minute."""


def start(make: Callable[[], Any]) -> Any:
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


def keep(cluster: Any) -> None:
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
