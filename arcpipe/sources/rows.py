"""A source whose images are rows of one size in a few binary files (mnist, cifar10) or in memory (digits)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from arcpipe.config import SourceSection
from arcpipe.errors import ImageError
from arcpipe.sources.inventory import Inventory, Locator, Sample, check_usable, choose, digest
from arcpipe.sources.shape import shape_image, shaped_size


@dataclass(frozen=True, slots=True)
class Rows:
    """One split: `labels` (s,) int64, a name and a locator for each row, and evidence of all pixels."""

    labels: NDArray[np.int64]
    names: list[str]
    locators: list[Locator]
    evidence: bytes


@dataclass(frozen=True)
class Records:
    """What tells one such dataset from another. Picklable; files are opened at first use in every process.

    `size`: height and width of every image, pixels. `scan` lists the splits. `image` reads the one at a locator, in
    mode `L`, `RGB` or `F` ([0, 1]); its second argument is what messages call it.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    scan: Callable[[], dict[str, Rows]]
    image: Callable[[Locator, str], Image.Image]


class ImageRows:
    """The `Source` of records."""

    def __init__(self, records: Records, section: SourceSection, *, seed: int = 0) -> None:
        self.records, self.section, self.seed = records, section, seed

    def read(self, sample: Sample, channels: int) -> NDArray[np.float32]:
        image = self.records.image(sample.locator, sample.key)
        return shape_image(image, self.section, channels, sample.key, self.seed)

    def inventory(self) -> Inventory:
        records = self.records
        channels = 1 if self.section.grey else records.channels
        size, reason = None, None
        try:  # all images have one size, so one look at the shape answers for all
            size = shaped_size(records.size, self.section, f"every image of {records.name}")
        except ImageError as error:
            reason = " ".join([error.what, *error.details])
        samples: dict[str, tuple[Sample, ...]] = {}
        evidence: list[bytes] = []
        for split, rows in sorted(records.scan().items()):
            kept = choose(rows.labels, self.section.limit, split)
            samples[split] = tuple(
                Sample(split, int(rows.labels[row]), rows.names[row], row, rows.locators[row], size, reason)
                for row in kept.tolist()
            )
            chosen, labels = (numbers.astype("<i8").tobytes() for numbers in (kept, rows.labels))
            evidence += [split.encode(), chosen, labels, rows.evidence]
        check_usable(records.name, samples)
        content = digest(records.classes, channels, evidence)
        return Inventory(records.name, records.classes, channels, samples, content)


def numbered(count: int) -> list[str]:
    """Names of rows: zero-padded, so that their order as strings is their order as numbers."""
    width = max(5, len(str(max(count - 1, 0))))
    return [f"{row:0{width}d}" for row in range(count)]
