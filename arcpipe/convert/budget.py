"""The memory of a worker: what it may use, which images fit, and how many of them are worked on together.

Nothing here changes a byte of a cloud: groups and threads are chosen so that memory suffices, and an image that cannot
fit is recorded as failed, with what it would need, before it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arcpipe.arc.memory import cloud_bytes, fit_bytes, joint_bytes
from arcpipe.config import FitSection, RunSection
from arcpipe.errors import ConfigError, ImageError
from arcpipe.machine import machine_memory, resident_bytes
from arcpipe.progress import byte_size

SHARE = 0.8
"""Of the machine's memory, for all workers together; the rest is the system's, and that of the client."""
LOADED_BYTES = 448 * 2**20
"""What a worker has in memory before its first image: Python, torch, Numba and the compiled kernel, Dask, Zarr."""
GROUP_PIXELS = 2**22
"""Read, fitted and let go together at most: more would change no speed."""


def worker_memory(run: RunSection, n_workers: int) -> int:
    """Bytes that each of so many workers may have: what is asked for, or a share of this machine's."""
    return int(run.memory or SHARE * machine_memory() / max(1, n_workers))


def free_bytes(memory: int) -> int:
    """What is left of `memory` for images and clouds."""
    return memory - max(LOADED_BYTES, resident_bytes())


def needed_bytes(size: tuple[int, int], channels: int, fit: FitSection) -> int:
    """Memory of a worker that converts an image of this size, everything included."""
    shape = (*size, channels)
    image, cloud = 4 * channels * size[0] * size[1], cloud_bytes(shape, fit)
    reading = image + 2 * channels * size[0] * size[1] + 4 * size[0] * size[1]
    fitting = image + (fit.repeats - 1) * cloud + fit_bytes(shape, fit)
    finishing = 2 * image + (fit.repeats + 1) * cloud
    return LOADED_BYTES + max(reading, fitting, finishing, writing_bytes(fit.repeats * cloud))


def writing_bytes(clouds_bytes: int) -> int:
    """Memory of writing a part: its clouds joined, and their neighbours as they are stored."""
    return 2 * clouds_bytes


@dataclass(frozen=True, slots=True)
class Need:
    """Memory that an image takes, in bytes, with every repeat: `group` from being read until its clouds are finished,
    `fit` while it is fitted, `clouds` from then on, `alone` as the only image of a worker. `pixels` to fit."""

    pixels: int
    group: int
    fit: int
    clouds: int
    alone: int

    def beside(self, kept_bytes: int) -> int:
        """What a worker needs that already keeps so many bytes of clouds."""
        return max(kept_bytes + self.alone, LOADED_BYTES + writing_bytes(kept_bytes + self.clouds))


class Needs:
    """The needs of images, worked out once for each size: sets of many small images have few."""

    def __init__(self, channels: int, fit: FitSection) -> None:
        self._channels, self._fit = channels, fit
        self._known: dict[tuple[int, ...], Need] = {}

    def of(self, size: tuple[int, ...] | None) -> Need:
        """Of an image of this height and width; nothing of one that will not be read (None)."""
        if size is None:
            return Need(0, 0, 0, 0, 0)
        need = self._known.get(size)
        if need is None:
            height, width = size
            shape, repeats = (height, width, self._channels), self._fit.repeats
            need = self._known[size] = Need(
                pixels=height * width * repeats,
                group=group_bytes(shape, self._fit),
                fit=fit_bytes(shape, self._fit),
                clouds=repeats * cloud_bytes(shape, self._fit),
                alone=needed_bytes((height, width), self._channels, self._fit),
            )
        return need


def check_memory(
    size: tuple[int, int] | None,
    channels: int,
    fit: FitSection,
    memory: int,
    kept_bytes: int = 0,
    needs: Needs | None = None,
) -> None:
    """Refuse an image that does not fit into a worker of so much memory, which already keeps `kept_bytes` of clouds.

    `needs`: those of `channels` and `fit`, where many images are asked for.

    Raises:
        ImageError: reason `out-of-memory`.
    """
    if size is None:
        return
    needed = (needs or Needs(channels, fit)).of(size).beside(kept_bytes)
    if needed <= memory:
        return
    raise ImageError(
        f"{size[0]} x {size[1]} pixels need {byte_size(needed)} of memory, a worker has {byte_size(memory)}.",
        reason="out-of-memory",
        fix=[f"--memory {-(-needed // 2**20)}MiB with fewer --workers, and --retry-failed", "--shorter 1024"],
    )


def group_bytes(shape: Sequence[int], fit: FitSection) -> int:
    """What an image takes in its group from being read until its clouds are finished."""
    n_values = shape[0] * shape[1] * shape[2]
    return 4 * n_values + fit.repeats * cloud_bytes(shape, fit)


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
