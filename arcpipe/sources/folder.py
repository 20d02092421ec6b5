"""Image files in a folder."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from arcpipe.errors import ImageError, SourceError
from arcpipe.sources.decode import check_bytes
from arcpipe.sources.files import Entry, Listing
from arcpipe.sources.inventory import Locator


@dataclass(frozen=True, slots=True)
class Folder:
    """All files below `root`. A locator is the path inside it.

    Links are followed while they stay inside `root`; a link to a folder above itself ends there. Links that lead
    outside or nowhere are refused, and so is whatever is neither file nor folder.
    """

    root: Path

    @property
    def name(self) -> str:
        return self.root.resolve().name or str(self.root)

    def scan(self) -> Listing:
        listing = Listing([], [])
        status = self.root.stat()
        self._walk("", ((status.st_dev, status.st_ino),), Path(os.path.realpath(self.root)), listing)
        return listing

    def open(self, locator: Locator, key: str) -> BinaryIO:
        try:
            return (self.root / str(locator[0])).open("rb")
        except OSError as error:
            raise ImageError(f"{key} cannot be read.", details=[str(error)]) from None

    def read(self, locator: Locator, key: str) -> bytes:
        try:
            with self.open(locator, key) as stream:
                check_bytes(os.fstat(stream.fileno()).st_size, key)
                return stream.read()
        except OSError as error:
            raise ImageError(f"{key} cannot be read.", details=[str(error)]) from None

    def _walk(self, inside: str, above: tuple[tuple[int, int], ...], real_root: Path, listing: Listing) -> None:
        """Add what lies in the folder `inside`; `above` are the identities of the folders that lead to it."""
        here = self.root / inside
        for entry in self._entries(here):
            name = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_symlink() and not _stays_inside(entry.path, real_root):
                listing.refused.append(f"{readable(name)}: a link that leads outside or nowhere")
            elif entry.is_dir():
                status = entry.stat()
                identity = (status.st_dev, status.st_ino)
                if identity in above:
                    listing.refused.append(f"{readable(name)}: a link to a folder above it")
                else:
                    self._walk(name, (*above, identity), real_root, listing)
            elif entry.is_file():
                listing.entries.append(Entry(readable(name), entry.stat().st_size, (name,)))
            else:
                listing.refused.append(f"{readable(name)}: neither file nor folder")

    def _entries(self, here: Path) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(here) as entries:
                yield from sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise SourceError(
                f"the folder {here} cannot be read.",
                details=[str(error)],
                fix=[f"chmod -R u+rX {shlex.quote(str(here))}"],
            ) from None


def readable(name: str) -> str:
    """A name as text that can be stored: bytes that are no UTF-8 become `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _stays_inside(path: str, real_root: Path) -> bool:
    try:
        real = Path(os.path.realpath(path))
        return real.is_relative_to(real_root) and real.exists()
    except OSError:  # it leads through a folder that may not be looked into
        return False
