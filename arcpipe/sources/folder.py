"""Image files in a folder."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from arcpipe.errors import ImageError, SourceError
from arcpipe.sources.decode import check_bytes
from arcpipe.sources.files import Entry, Listing
from arcpipe.sources.inventory import Locator

Identity = tuple[int, int]
MAX_VISITS = 64
"""So often may links lead to one folder: links to folders of links would otherwise multiply without end."""


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
        """List what lies below the root, folder by folder; with a stack and no calls, for folders may be very deep."""
        real_root, status = Path(os.path.realpath(self.root)), self.root.stat()
        listing, seen = Listing([], []), Counter[Identity]()
        waiting: list[tuple[str, tuple[Identity, ...]]] = [("", ((status.st_dev, status.st_ino),))]
        while waiting:
            inside, above = waiting.pop()
            seen[above[-1]] += 1
            if seen[above[-1]] > MAX_VISITS:
                raise SourceError(
                    f"more than {MAX_VISITS} links lead to the folder {self.root / inside}.",
                    details=["each of them would make all its images samples once more"],
                    fix=["remove the links, or give the folder that they lead to"],
                )
            found = []
            for entry in self._entries(self.root / inside):
                name = f"{inside}/{entry.name}" if inside else entry.name
                try:
                    why, below = self._look(entry, name, above, real_root, listing)
                except OSError as error:  # gone since it was listed, or behind a folder that may not be looked into
                    why, below = error.strerror or "cannot be read", None
                if why:
                    listing.refused.append(f"{readable(name)}: {why}")
                elif below:
                    found.append((name, (*above, below)))
            waiting += reversed(found)  # the first is the next
        return listing

    def open(self, locator: Locator, key: str) -> BinaryIO:
        try:
            # A pipe that took the place of the file since the scan would be waited for.
            handle = os.open(self.root / str(locator[0]), os.O_RDONLY | os.O_NONBLOCK)
            if stat.S_ISREG(os.fstat(handle).st_mode):
                return os.fdopen(handle, "rb")
            os.close(handle)
        except OSError as error:
            raise ImageError(f"{key} cannot be read.", details=[str(error)]) from None
        raise ImageError(f"{key} is no file any more.")

    def read(self, locator: Locator, key: str) -> bytes:
        try:
            with self.open(locator, key) as stream:
                check_bytes(os.fstat(stream.fileno()).st_size, key)
                return stream.read()
        except OSError as error:
            raise ImageError(f"{key} cannot be read.", details=[str(error)]) from None

    def _look(
        self,
        entry: os.DirEntry[str],
        name: str,
        above: tuple[Identity, ...],
        real_root: Path,
        listing: Listing,
    ) -> tuple[str | None, Identity | None]:
        """List a file; for a folder return its identity, for the rest why it is passed over."""
        if entry.is_symlink() and not _stays_inside(entry.path, real_root):
            return "a link that leads outside or nowhere", None
        if entry.is_dir():
            status = entry.stat()
            identity = (status.st_dev, status.st_ino)
            return ("a link to a folder above it", None) if identity in above else (None, identity)
        if not entry.is_file():
            return "neither file nor folder", None
        listing.entries.append(Entry(readable(name), entry.stat().st_size, (name,)))
        return None, None

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
    """A name as text that can be stored and printed: bytes that are no UTF-8, and control codes, become `\\xNN`."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _stays_inside(path: str, real_root: Path) -> bool:
    try:
        real = Path(os.path.realpath(path))
        return real.is_relative_to(real_root) and real.exists()
    except OSError:  # it leads through a folder that may not be looked into
        return False
