"""A source whose samples are image files in a container: a folder, a tar or a zip."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from arcpipe.config import SourceSection
from arcpipe.errors import ImageError, SourceError
from arcpipe.progress import counted
from arcpipe.sources.decode import check_bytes, decode, read_header
from arcpipe.sources.headers import plain_header
from arcpipe.sources.inventory import Inventory, Locator, Sample, Tell, check_usable, choose, digest, silent
from arcpipe.sources.layout import EXPECTED, FilePlace, is_hidden_image, is_image, place
from arcpipe.sources.shape import shape_image, shaped_size

HEAD_BYTES = 8192
"""How much of a file enters the digest: what a header read takes from the disk anyway."""
REPORT_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file of a container. `evidence`: a checksum of the content that the container already knows."""

    name: str
    nbytes: int
    locator: Locator
    evidence: bytes = b""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a scan found. `refused`: what is there but is never followed, a line for each (`x.jpg: a link`)."""

    entries: list[Entry]
    refused: list[str]


class Container(Protocol):
    """Where image files lie. Picklable; handles are opened at first use in every process."""

    @property
    def name(self) -> str: ...

    def scan(self) -> Listing: ...

    def open(self, locator: Locator, key: str) -> BinaryIO:
        """A seekable stream of one file, for its header. `key` names the image in an `ImageError`."""

    def read(self, locator: Locator, key: str) -> bytes:
        """A whole file. `key` names the image in an `ImageError`."""


class ImageFiles:
    """The `Source` of a container of image files."""

    def __init__(self, container: Container, section: SourceSection, *, seed: int = 0, progress: Tell = silent) -> None:
        self.container, self.section, self.seed, self.progress = container, section, seed, progress

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "progress": silent}  # a terminal does not travel to a worker

    def read(self, sample: Sample, channels: int) -> NDArray[np.float32]:
        data = self.container.read(sample.locator, sample.key)
        image = decode(data, sample.key, accept=lambda size: shaped_size(size, self.section, sample.key))
        return shape_image(image, self.section, channels, sample.key, self.seed)

    def inventory(self) -> Inventory:
        listing = self.container.scan()
        images = [entry for entry in listing.entries if is_image(entry.name)]
        if listing.refused:
            self.progress(_first(f"{counted(len(listing.refused), 'entry', 'entries')} passed over", listing.refused))
        hidden = [entry.name for entry in listing.entries if is_hidden_image(entry.name)]
        if hidden:
            passed = f"{counted(len(hidden), 'image', 'images')} passed over"
            self.progress(_first(f"{passed}, a name in whose path begins with a dot", hidden))
        if not images:
            raise self._empty(listing)
        places, notes = place([entry.name for entry in images], self.container.name, self.section.held_out)
        for note in notes:
            self.progress(note)
        classes = tuple(sorted({where.label for where in places if where}))
        if len(classes) == 1:
            self.progress(f"{self.container.name} has one class only ({classes[0]}): nothing to learn from it")
        splits: dict[str, list[tuple[FilePlace, Entry]]] = {}
        for where, entry in zip(places, images, strict=True):
            if where is not None:
                splits.setdefault(where.split, []).append((where, entry))
        return self._described(dict(sorted(splits.items())), classes)

    def _described(self, splits: dict[str, list[tuple[FilePlace, Entry]]], classes: tuple[str, ...]) -> Inventory:
        """Sort, number and limit the files of each split, and read the headers of those that are kept."""
        labels = {label: row for row, label in enumerate(classes)}
        kept: dict[str, list[int]] = {}
        for split, files in splits.items():
            files.sort(key=lambda file: file[0].path)
            own = np.array([labels[where.label] for where, _ in files])
            kept[split] = choose(own, self.section.limit, split).tolist()
        samples: dict[str, list[Sample]] = {split: [] for split in splits}
        evidence: list[bytes] = []
        all_grey, total, told = True, sum(map(len, kept.values())), time.monotonic()
        for split, number in ((split, number) for split, numbers in kept.items() for number in numbers):
            where, entry = splits[split][number]
            sample = Sample(split, labels[where.label], where.path, number, entry.locator, None)
            sample, proof, grey = self._header(sample, entry)
            all_grey &= grey
            samples[split].append(sample)
            line = f"{sample.key}\0{sample.sample_id}\0{sample.label}\0{entry.nbytes}\0"
            evidence.append(line.encode() + proof)
            if time.monotonic() - told > REPORT_EVERY_S:
                told = time.monotonic()
                self.progress(f"{len(evidence)} of {total} headers read")
        found = {split: tuple(rows) for split, rows in samples.items()}
        check_usable(self.container.name, found)
        channels = 1 if self.section.grey or all_grey else 3
        return Inventory(self.container.name, classes, channels, found, digest(classes, channels, evidence))

    def _header(self, sample: Sample, entry: Entry) -> tuple[Sample, bytes, bool]:
        """The sample with its size or reason, evidence of its content, and whether it lets the set be greyscale."""
        head, grey = b"", True
        try:
            check_bytes(entry.nbytes, sample.key)
            with self.container.open(entry.locator, sample.key) as stream:
                head = stream.read(HEAD_BYTES)
                header = plain_header(head)
                if header is None:
                    stream.seek(0)
                    header = read_header(stream, sample.key)
            grey = header.grey
            sample = replace(sample, size=shaped_size(header.size, self.section, sample.key))
        except ImageError as error:
            sample = replace(sample, reason=" ".join([error.what, *error.details]))
        return sample, entry.evidence or zlib.crc32(head).to_bytes(4, "little"), grey

    def _empty(self, listing: Listing) -> SourceError:
        kinds = Counter(_suffix(entry.name) for entry in listing.entries)
        found = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(5))
        count = len(listing.entries) + len(listing.refused)
        return SourceError(
            f"{self.container.name} holds no images.",
            details=[
                f"{count} files were passed over" + (f": {found}" if found else ""),
                *listing.refused[:3],
                *EXPECTED,
            ],
            fix=["arcpipe convert digits", "check the path, and that the images end in .jpg, .png, .webp, .tif, ..."],
        )


def _suffix(name: str) -> str:
    file = name.rsplit("/", 1)[-1]
    return f"*{file[file.rfind('.') :]}" if file.rfind(".") > 0 else file


def _first(what: str, lines: list[str]) -> str:
    """`what: a, b, c, ...`"""
    return f"{what}: {', '.join(lines[:3])}{', ...' if len(lines) > 3 else ''}"
