"""What is measured of a process and of the machine."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of this process while it does the work."""
    before = time.process_time()
    work()
    return time.process_time() - before


def peak_memory() -> int:
    """The most bytes that this process ever had resident.

    Not `ru_maxrss` where Linux says it better: that one begins at the peak of the process that started this one.
    """
    if STATUS.is_file():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def matrix_peak() -> float:
    """The best of many products of 1024 x 1024 float32 matrices, operations a second, on all threads of torch.

    The best of 100 over a second or more, so that a core that is slow to wake, or a neighbour for a while, does not
    show.
    """
    import torch

    matrix = torch.rand(1024, 1024, generator=torch.Generator().manual_seed(0))
    made = torch.empty_like(matrix)
    best = float("inf")
    for _ in range(5):
        for _ in range(20):
            before = time.perf_counter()
            torch.mm(matrix, matrix, out=made)
            best = min(best, time.perf_counter() - before)
        time.sleep(0.1)
    return 2 * 1024**3 / best


def in_fresh_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a process of its own, which knows nothing of what was measured before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        future = pool.submit(work, *arguments)
        try:
            return future.result()
        except BaseException:  # a signal that reached this process alone: nobody waits for the measurement any more
            for process in multiprocessing.active_children():
                process.terminate()
            raise
