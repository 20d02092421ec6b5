"""One operation in pieces, shared among as many threads as torch is set to."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import count, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PIECES = 8
"""Into so many pieces work is cut, whatever the number of threads, so that sums are always taken in one order."""


def pieces(n: int) -> list[tuple[int, int]]:
    """Where each of `PIECES` equal pieces of n rows begins and ends."""
    return list(pairwise(n * i // PIECES for i in range(PIECES + 1)))


def flat(values: Tensor) -> NDArray[np.float32]:
    """The numbers of a contiguous tensor as compiled loops take them."""
    return values.detach().view(-1).numpy()


def spread(work: Callable[[int], None]) -> None:
    """Call `work` with 0, ..., PIECES - 1. It should be a compiled function that holds no lock of Python's."""
    threads = min(torch.get_num_threads(), PIECES)
    if threads < 2:
        for piece in range(PIECES):
            work(piece)
        return
    left = count()  # whoever is free takes the next piece: threads start late where other programs run

    def help_out() -> None:
        while (piece := next(left)) < PIECES:
            work(piece)

    helpers = [_pool(threads - 1, os.getpid()).submit(help_out) for _ in range(threads - 1)]
    help_out()
    for helper in helpers:
        helper.result()


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that stay: starting them takes as long as a small operation. A forked process needs its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="models")
