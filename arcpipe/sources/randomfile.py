"""One file that any thread reads at any place."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

from arcpipe.errors import ImageError


class RandomFile:
    """A file read by offset, opened at the first read and once in every process.

    `os.pread` has no shared position, so threads need no lock; a pickled copy opens its own handle.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None
        self._opening = threading.Lock()

    def read(self, offset: int, nbytes: int, name: str) -> bytes:
        """Exactly `nbytes` from `offset`.

        Raises:
            ImageError: the file ends before that, or cannot be read; `name` is the image whose bytes these are.
        """
        try:
            data = self._read_all(offset, nbytes)
        except OSError as error:
            raise ImageError(f"{name} cannot be read from {self.path}.", details=[str(error)]) from None
        if len(data) < nbytes:
            raise ImageError(
                f"{name} is cut off: {self.path} is shorter than it was.",
                reason="truncated",
                details=[f"expected {nbytes} bytes at {offset}, found {len(data)}"],
            )
        return data

    def _read_all(self, offset: int, nbytes: int) -> bytes:
        """One read returns 2 GiB at most, and less where a signal arrives."""
        data = os.pread(self._open(), nbytes, offset)
        while 0 < len(data) < nbytes:
            more = os.pread(self._open(), nbytes - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def _open(self) -> int:
        if self._handle is None:
            with self._opening:
                if self._handle is None:
                    self._handle = os.open(self.path, os.O_RDONLY)
        return self._handle

    def __reduce__(self) -> tuple[type[RandomFile], tuple[Path]]:
        return RandomFile, (self.path,)  # the handle and the lock belong to this process

    def __del__(self) -> None:
        if self._handle is not None:
            os.close(self._handle)


class Seekable(io.RawIOBase):
    """A stream of `nbytes` bytes that can be read from any place, `_at`; `readinto` is left to its kinds."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes, self._at = nbytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._nbytes}[whence]
        if start + offset < 0:
            raise ValueError(f"seek to {start + offset}")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at


class Window(Seekable):
    """A seekable stream over bytes `offset` to `offset + nbytes` of a file: headers without the rest of the image."""

    def __init__(self, file: RandomFile, offset: int, nbytes: int, name: str) -> None:
        super().__init__(nbytes)
        self._file, self._offset, self._name = file, offset, name

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # a writable buffer of any kind
        wanted = max(0, min(len(buffer), self._nbytes - self._at))
        data = self._file.read(self._offset + self._at, wanted, self._name)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
