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
from arcpipe.sources.decode import check_bytes, decode, quick_header, read_header
from arcpipe.sources.inventory import Inventory, Locator, Sample, Tell, check_usable, choose, digest, silent
from arcpipe.sources.layout import EXPECTED, is_hidden_image, is_image, place
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


@dataclass(frozen=True, slots=True)
class _Row:
    """A file with its place among the samples, before its header is read."""

    sample: Sample
    entry: Entry


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
        rows, classes = self._placed(images)
        return self._described(self._chosen(rows), classes)

    def _placed(self, images: list[Entry]) -> tuple[list[_Row], tuple[str, ...]]:
        """Split and label of every image that has them, and the classes."""
        places, notes = place([entry.name for entry in images], self.container.name, self.section.held_out)
        for note in notes:
            self.progress(note)
        classes = tuple(sorted({where.label for where in places if where}))
        if len(classes) == 1:
            self.progress(f"{self.container.name} has one class only ({classes[0]}): nothing to learn from it")
        labels = {label: row for row, label in enumerate(classes)}
        rows = [
            _Row(Sample(where.split, labels[where.label], where.path, -1, entry.locator, None), entry)
            for where, entry in zip(places, images, strict=True)
            if where is not None
        ]
        return rows, classes

    def _chosen(self, rows: list[_Row]) -> dict[str, list[_Row]]:
        """Split, sort, number and limit."""
        splits: dict[str, list[_Row]] = {}
        for row in rows:
            splits.setdefault(row.sample.split, []).append(row)
        for split, group in sorted(splits.items()):
            group.sort(key=lambda row: row.sample.path)
            kept = choose(np.array([row.sample.label for row in group]), self.section.limit, split)
            splits[split] = [_Row(replace(group[i].sample, sample_id=i), group[i].entry) for i in kept.tolist()]
        return dict(sorted(splits.items()))

    def _described(self, splits: dict[str, list[_Row]], classes: tuple[str, ...]) -> Inventory:
        """Read the headers of all that is kept."""
        samples: dict[str, tuple[Sample, ...]] = {}
        evidence: list[bytes] = []
        all_grey, total, told = True, sum(map(len, splits.values())), time.monotonic()
        for split, rows in splits.items():
            described = []
            for row in rows:
                sample, proof, grey = self._header(row)
                all_grey &= grey
                described.append(sample)
                line = f"{sample.key}\0{sample.sample_id}\0{sample.label}\0{row.entry.nbytes}\0"
                evidence.append(line.encode() + proof)
                if time.monotonic() - told > REPORT_EVERY_S:
                    told = time.monotonic()
                    self.progress(f"{len(evidence)} of {total} headers read")
            samples[split] = tuple(described)
        check_usable(self.container.name, samples)
        channels = 1 if self.section.grey or all_grey else 3
        return Inventory(self.container.name, classes, channels, samples, digest(classes, channels, evidence))

    def _header(self, row: _Row) -> tuple[Sample, bytes, bool]:
        """The sample with its size or reason, evidence of its content, and whether it lets the set be greyscale."""
        sample, entry, head, grey = row.sample, row.entry, b"", True
        try:
            check_bytes(entry.nbytes, sample.key)
            with self.container.open(entry.locator, sample.key) as stream:
                head = stream.read(HEAD_BYTES)
                header = quick_header(head)
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
