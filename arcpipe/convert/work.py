"""What all tasks of a conversion share, and how a process makes itself ready for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from arcpipe.arc.memory import Needs
from arcpipe.config import FitSection, RunSection, SourceSection, StoreSection
from arcpipe.convert.budget import worker_memory
from arcpipe.convert.limits import fit_limit_s
from arcpipe.convert.plan import core_seconds
from arcpipe.devices import has_gpu_driver, workers_here
from arcpipe.sources import Sample
from arcpipe.threads import set_compute_threads

GPU_SHARE = 0.9
"""Of a GPU's memory, for the tensors of all workers that share it; the rest is that of their contexts and kernels."""


@dataclass(frozen=True)
class Work:
    """What all tasks of a conversion share; small, so that every task carries it."""

    source: SourceSection
    channels: int
    fit: FitSection
    store: StoreSection
    seed: int
    threads: int
    """Compute threads of a worker; 0 leaves them as the worker was started."""
    device: str
    """`cpu`, `cuda`, or `auto` (CUDA where the worker has it)."""
    run: RunSection
    guarded: bool
    """Whether the process that works may be ended where it takes too long: not where it is the user's own."""
    memory: int = 0
    """Bytes of a worker; 0: the share of its machine that a worker for each core would have."""

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
    def read_limit_s(self) -> float | None:
        """Seconds that one image may take to read and decode."""
        return self.run.hung_read_s if self.guarded else None

    def fit_limit_s(self, samples: Sequence[Sample]) -> float | None:
        """Seconds that these samples may take in all."""
        return fit_limit_s(self.run, core_seconds(samples, self.fit)) if self.guarded else None


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
    if work.run.gpus is not None:
        # What is full is then this worker's own part of the GPU, whatever the others that share it do at the time.
        n_workers, _ = workers_here(None, work.run.gpus, work.run.gpu_workers)
        torch.cuda.set_per_process_memory_fraction(GPU_SHARE * work.run.gpus / n_workers)
    return work.device
