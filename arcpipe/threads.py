"""How the threads of a training process share the cores: who waits soon sleeps, and who prepares gives way.

A training step is some hundred short pieces of work for several threads. OpenMP's threads, which torch uses for most of
them, can spin while they wait for the next, or sleep and be woken, which takes longer than many a piece does. But the
compiled loops (`models.cpu`) have threads of their own, which need the cores meanwhile, as other programs do. Threads
that spin for long are faster on idle cores, and much slower beside another program that keeps one busy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar, cast

from arcpipe.machine import available_cores

T = TypeVar("T")
R = TypeVar("R")

SPINS = 1000
"""Turns that a waiting thread spins before it sleeps. `GOMP_SPINCOUNT=10000` suits a machine of one's own."""
GIVE_WAY = 10
"""Niceness that threads add which work ahead of others."""


def set_waiting() -> None:
    """Set the environment for the OpenMP that torch will load; what the user has set stays.

    To be called before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


_wanted: int | None = None


def set_compute_threads(count: int) -> None:
    """Let fits take so many threads, and torch where it is loaded already: the recipe `basis` needs none on a CPU."""
    global _wanted
    _wanted = count
    if set_torch := getattr(sys.modules.get("torch"), "set_num_threads", None):
        set_torch(count)


def compute_threads() -> int:
    """How many threads a fit takes: torch's number where torch is loaded, else the one set here, else a thread for each
    core, or as many as `OMP_NUM_THREADS` says."""
    if torch_threads_now := getattr(sys.modules.get("torch"), "get_num_threads", None):
        return int(torch_threads_now())
    said = os.environ.get("OMP_NUM_THREADS", "")
    return _wanted or (int(said) if said.isdecimal() and int(said) > 0 else available_cores())


@contextmanager
def torch_threads(wanted: int | None = None) -> Iterator[None]:
    """Let torch and the compiled loops take `wanted` threads, by default one per core that this process may use.

    Torch's own default is one per core of the machine, also where a container or a batch job has a few of them. The
    number before comes back at the end.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(wanted or available_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def each(act: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    """Apply `act` to every item, by so many threads; results in the order of the items."""
    with team(threads) as helpers:
        return helpers.each(act, items)


class Helpers:
    """Some threads with work memory of their own, for the bands of one image."""

    def __init__(self, pool: ThreadPoolExecutor | None, count: int) -> None:
        self.pool, self.count = pool, count

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Do the items, in any order; results in theirs. The calling thread reads them, while others work."""
        if self.pool is None:
            return [work(item) for item in items]
        return list(self.pool.map(work, items))


@contextmanager
def team(threads: int) -> Iterator[Helpers]:
    """Threads that sleep between their pieces of work, so that a busy neighbour costs only its share."""
    if threads < 2:
        yield Helpers(None, 1)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield Helpers(pool, threads)


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, each made by a thread of its own while the one before it is used."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        coming: Future[T | object] = thread.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, source, end)
            yield cast("T", item)


def give_way() -> None:
    """Let the calling thread work when a core is free, and wait while others have something to do.

    For threads that prepare what is needed later: the threads of a training step wait for each other often, so that
    one of them held up holds up all. Linux gives every thread its own niceness; elsewhere, nothing is done. What it
    gains is below the noise of `arcpipe bench stream` on the shared machine that it was tried on.
    """
    if sys.platform == "linux":
        os.nice(GIVE_WAY)
