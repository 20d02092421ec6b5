"""Share the pieces of one operation among as many threads as torch is set to."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch

PIECES = 8
"""Into so many pieces work is cut, whatever the number of threads, so that sums are always taken in one order."""


def spread(work: Callable[[int], None], n_pieces: int = PIECES) -> None:
    """Call `work` with 0, ..., n_pieces - 1. It should be a compiled function that holds no lock of Python's."""
    threads = min(torch.get_num_threads(), n_pieces)
    if threads < 2:
        for piece in range(n_pieces):
            work(piece)
        return
    left = itertools.count()  # whoever is free takes the next piece: threads start late where other programs run

    def help_out() -> None:
        while (piece := next(left)) < n_pieces:
            work(piece)

    helpers = [_pool(threads - 1, os.getpid()).submit(help_out) for _ in range(threads - 1)]
    help_out()
    for helper in helpers:
        helper.result()


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that stay: starting them takes as long as a small operation. A forked process needs its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="models")
