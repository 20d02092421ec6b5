"""Reading the headers of a tar that may lie: nothing is read in one piece because a header says that it is long."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

MAX_READ = 2**24
"""tarfile reads long names and extended headers whole; real ones have some hundred bytes."""


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open an uncompressed tar for its headers. Raises what `tarfile` raises, and ReadError for a huge header."""
    with path.open("rb") as stream, tarfile.open(fileobj=_ShortReads(stream), mode="r:") as tar:
        yield tar


def is_tar(path: Path) -> bool:
    """Whether an uncompressed tar begins here."""
    try:
        with open_tar(path):
            return True
    except (tarfile.TarError, EOFError, ValueError, OverflowError, IndexError):
        return False


class _ShortReads(io.RawIOBase):
    """A file that refuses long reads, for a parser that believes what it is told."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_READ:
            raise tarfile.ReadError(f"a header says that it has {size:,} bytes")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()
