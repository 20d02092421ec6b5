"""The memory of a worker: what it may use, which images fit, and how many of them are worked on together.

Nothing here changes a byte of a cloud: groups and threads are chosen so that memory suffices, and an image that cannot
fit is recorded as failed, with what it would need, before it is read.
"""

from __future__ import annotations

from collections.abc import Sequence

from arcpipe.arc.memory import LOADED_BYTES, Needs, joint_bytes
from arcpipe.config import FitSection, RunSection
from arcpipe.errors import ConfigError, ImageError
from arcpipe.machine import machine_memory, resident_bytes
from arcpipe.progress import byte_size

SHARE = 0.8
"""Of the machine's memory, for all workers together; the rest is the system's, and that of the client."""


def worker_memory(run: RunSection, n_workers: int) -> int:
    """Bytes that each of so many workers may have: what is asked for, or a share of this machine's."""
    return int(run.memory or SHARE * machine_memory() / max(1, n_workers))


def free_bytes(memory: int) -> int:
    """What is left of `memory` for images and clouds."""
    return memory - max(LOADED_BYTES, resident_bytes())


def check_memory(size: tuple[int, int] | None, needs: Needs, memory: int, kept_bytes: int = 0) -> None:
    """Refuse an image that does not fit into a worker of so much memory, which already keeps `kept_bytes` of clouds.

    Raises:
        ImageError: reason `out-of-memory`.
    """
    if size is None:
        return
    needed = needs.of(size).beside(kept_bytes)
    if needed <= memory:
        return
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
