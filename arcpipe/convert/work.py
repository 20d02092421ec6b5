"""What all tasks of a conversion share, how a process makes itself ready for them, and how much each of them may take.

Memory changes no byte of a cloud: groups and threads are chosen so that it suffices, and an image that cannot fit is
recorded as failed, with what it would need, before it is read. A worker that exceeds a time limit ends itself, and Dask
gives its part to another one; `isolate` then finds out which sample it was. The limits are generous, for a machine may
be busy with other things: they tell "never" from "slow".
"""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from arcpipe.arc.memory import LOADED_BYTES, Needs, joint_bytes
from arcpipe.config import ConvertConfig, FitSection, RunSection
from arcpipe.convert.plan import core_seconds
from arcpipe.devices import has_gpu_driver, workers_here
from arcpipe.errors import ConfigError, ImageError
from arcpipe.machine import free_memory, machine_memory, resident_bytes
from arcpipe.progress import byte_size
from arcpipe.sources import Sample
from arcpipe.threads import set_compute_threads

SHARE = 0.8
"""Of the machine's memory, for all workers together; the rest is the system's, and that of the client."""
GPU_SHARE = 0.9
"""Of a GPU's memory, for the tensors of all workers that share it; the rest is that of their contexts and kernels."""
SLOWEST = 30
"""A machine may be so many times slower than the planned speed before a part counts as hung: 2 cores for 80 processes
and a cold compiler cache were 25."""
LEAST_MEMORY = 2**30

_ends: dict[object, float] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Work:
    """What all tasks of a conversion share; small, so that every task carries it."""

    config: ConvertConfig
    channels: int
    threads: int
    """Compute threads of a worker; 0 leaves them as the worker was started."""
    device: str
    """`cpu`, `cuda`, or `auto` (CUDA where the worker has it)."""
    guarded: bool = False
    """Whether the process that works may be ended where it takes too long: not where it is the user's own."""
    memory: int = 0
    """Bytes of a worker; 0: the share of its machine that a worker for each core would have."""

    @property
    def fit(self) -> FitSection:
        return self.config.fit

    @property
    def on_cpu(self) -> bool:
        """Whether this process certainly computes on its CPU; else torch has to be asked."""
        return self.device == "cpu" or (self.device == "auto" and not has_gpu_driver())

    @property
    def needs_torch(self) -> bool:
        """Whether a network decodes or a GPU may fit: torch is then loaded before threads are set."""
        return self.fit.decoder_kind == "concat" or not self.on_cpu

    @cached_property
    def needs(self) -> Needs:
        """The memory that an image takes, by its size."""
        return Needs(self.channels, self.fit)

    @property
    def memory_bytes(self) -> int:
        return self.memory or worker_memory(RunSection(), os.cpu_count() or 1)

    @property
    def free_bytes(self) -> int:
        """What is left of a worker's memory for images and clouds."""
        return self.memory_bytes - max(LOADED_BYTES, resident_bytes())

    @property
    def read_limit_s(self) -> float | None:
        """Seconds that one image may take to read and decode."""
        return self.config.run.hung_read_s if self.guarded else None

    def fit_limit_s(self, samples: Sequence[Sample]) -> float | None:
        """Seconds that these samples may take in all; beyond them, one of them counts as hung."""
        return self.config.run.hung_part_s + SLOWEST * core_seconds(samples, self.fit) if self.guarded else None


def prepare(work: Work) -> str:
    """Set this process's threads and choose its device."""
    if work.needs_torch:
        import torch
    if work.threads:
        set_compute_threads(work.threads)
    if work.on_cpu:
        return "cpu"
    if work.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    run = work.config.run
    if run.gpus is not None:
        # What is full is then this worker's own part of the GPU, whatever the others that share it do at the time.
        n_workers, _ = workers_here(None, run.gpus, run.gpu_workers)
        torch.cuda.set_per_process_memory_fraction(GPU_SHARE * run.gpus / n_workers)
    return work.device


def worker_memory(run: RunSection, n_workers: int) -> int:
    """Bytes that each of so many workers may have: what is asked for, or a share of this machine's."""
    return int(run.memory or SHARE * machine_memory() / max(1, n_workers))


def check_memory(size: tuple[int, int] | None, needs: Needs, memory: int, kept_bytes: int = 0) -> None:
    """Refuse an image that does not fit into a worker of so much memory, which already keeps `kept_bytes` of clouds.

    Raises:
        ImageError: reason `out-of-memory`.
    """
    if size is None:
        return
    needed = needs.of(size).beside(kept_bytes)
    if needed > memory:
        raise ImageError(
            f"{size[0]} x {size[1]} pixels need {byte_size(needed)} of memory, a worker has {byte_size(memory)}.",
            reason="out-of-memory",
            fix=[f"--memory {-(-needed // 2**20)}MiB with fewer --workers, and --retry-failed", "--shorter 1024"],
        )


def check_joint_memory(shapes: Sequence[tuple[int, int, int]], fit: FitSection, memory: int) -> None:
    """Refuse a joint stage that does not fit.

    Raises:
        ConfigError: with the number of images that would.
    """
    needed = LOADED_BYTES + joint_bytes(shapes, fit)
    if needed <= memory:
        return
    fitting = len(shapes)
    while fitting > 1 and LOADED_BYTES + joint_bytes(shapes[:fitting], fit) > memory:
        fitting -= 1
    raise ConfigError(
        "the images of the joint stage do not fit into memory.",
        details=[f"{len(shapes)} images need {byte_size(needed)}, there is {byte_size(memory)}"],
        fix=[
            f"--memory {-(-needed // 2**20)}MiB",
            f"--set fit.pretrain_images={fitting}",
            "--decoder STORE, or --shorter 256",
        ],
    )


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
