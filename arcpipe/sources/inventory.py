"""The nouns of this room: one sample, the inventory of a dataset, and what every source can do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from arcpipe.errors import SourceError
from arcpipe.seeds import generator

Locator = tuple[int | str, ...]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a dataset, before it is decoded.

    `path` lies inside the split (`cats/0001.jpg`; for sets without files the zero-padded row of the split, `00017`).
    `sample_id` is the row in the split's inventory sorted by path, before `--limit`: it does not change with the limit.
    `locator` finds the bytes without another scan. `size` is (height, width) in pixels, upright and after shaping;
    None exactly where `reason` says why the header alone already rules the image out.
    """

    split: str
    label: int
    path: str
    sample_id: int
    locator: Locator
    size: tuple[int, int] | None
    reason: str | None = None

    @property
    def key(self) -> str:
        """The name that seeds and messages use: `train/cats/0001.jpg`."""
        return f"{self.split}/{self.path}"


@dataclass(frozen=True, slots=True)
class Inventory:
    """All samples of a dataset.

    `samples`: split -> samples sorted by path (Python's order of strings). `channels`: 1 with `--grey` or if every
    readable image is greyscale, else 3. `digest`: sha256 over split, path, label, bytes and cheap evidence of the
    content of every sample, the classes and the channels; dates and the place of the dataset do not enter.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    samples: dict[str, tuple[Sample, ...]]
    digest: str


class Source(Protocol):
    """A dataset that can be listed and read. Picklable and cheap to open: every worker opens its own."""

    def inventory(self) -> Inventory:
        """List all samples; reads headers, not pixels.

        Raises:
            SourceError: no image, no class folder, a damaged archive, or a folder that cannot be read.
        """

    def read(self, sample: Sample, channels: int) -> NDArray[np.float32]:
        """Decode one sample: upright, shaped, (height, width, channels) float32 in [0, 1]. Any thread may call it.

        Raises:
            ImageError: this sample cannot be used; `reason` is its stable code.
        """


def silent(message: str) -> None:
    """The progress of somebody who does not listen; unlike a lambda it can be pickled."""


def choose(labels: NDArray[np.int64], limit: int | None, split: str) -> NDArray[np.int64]:
    """Rows that `--limit` keeps, rising: evenly over the classes, the same ones every time.

    Rows are shuffled by the split's name and dealt class by class, the classes in a shuffled order too, so that a
    limit below the number of classes does not always take the first ones. Small classes give what they have.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    rng = generator("limit", split)
    shuffled = rng.permutation(len(labels))
    turn = rng.permutation(int(labels.max()) + 1)
    grouped = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, counts = np.unique(labels[grouped], return_index=True, return_counts=True)
    round_of = np.arange(len(grouped)) - np.repeat(starts, counts)
    dealt = grouped[np.lexsort((turn[labels[grouped]], round_of))]
    return np.sort(dealt[:limit])


def digest(classes: Iterable[str], channels: int, evidence: Iterable[bytes]) -> str:
    """Hash what a source is made of; `evidence` comes in the order of splits and samples."""
    sha = hashlib.sha256(f"arcpipe-source/1/{channels}".encode())
    for part in (*(name.encode() for name in classes), b"", *evidence):
        sha.update(len(part).to_bytes(8, "little") + part)
    return sha.hexdigest()


def check_usable(name: str, samples: dict[str, tuple[Sample, ...]]) -> None:
    """Stop before any work where not a single image can be used.

    Raises:
        SourceError: every sample's header already rules it out; the first reasons are named.
    """
    reasons = [sample.reason for rows in samples.values() for sample in rows]
    if reasons and all(reason is not None for reason in reasons):
        raise SourceError(
            f"none of the {len(reasons)} images of {name} can be used.",
            details=[str(reason) for reason in reasons[:3]],
            fix=["other --size, --shorter, --center-crop, --pad or --max-pixels, if the reason is the size"],
        )
