"""Time and memory limits of one process: what a poison sample may cost before it is found.

A worker that exceeds a time limit ends itself, and Dask gives its part to another one; `isolate` then finds out which
sample it was. The limits are generous, for a machine may be busy with other things: they tell "never" from "slow".
"""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from arcpipe.machine import free_memory

LEAST_MEMORY = 2**30

_ends: dict[object, float] = {}
_lock = threading.Lock()


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """End this process by SIGALRM unless the block is left in time; None is no limit.

    The default action of the signal is the kernel's: it needs no Python code to run, so it also ends a process whose
    interpreter is stuck in a library. Several threads may be inside; the first deadline counts.
    """
    if seconds is None:
        yield
        return
    token = object()
    with _lock:
        _ends[token] = time.monotonic() + seconds
        _arm()
    try:
        yield
    finally:
        with _lock:
            del _ends[token]
            _arm()


def _arm() -> None:
    first = min(_ends.values(), default=None)
    signal.setitimer(signal.ITIMER_REAL, 0 if first is None else max(1e-3, first - time.monotonic()))


def memory_share(n_workers: int) -> int:
    """Bytes that one of `n_workers` on this machine may use: its share of what is free now."""
    return max(LEAST_MEMORY, free_memory() // max(n_workers, 1))


def limit_memory(n_bytes: int | None) -> None:
    """Let this process allocate so much beyond what it has mapped already; allocations that go further fail.

    What is mapped at the start is libraries, gigabytes of addresses and little memory. None is no limit.
    """
    if n_bytes is None:
        return
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + n_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))


def lift_memory_limit() -> None:
    """Let this process allocate again what its hard limit lets it."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
