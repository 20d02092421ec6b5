"""Files that are written whole or not at all, and locks that end with their process."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def read_plain(path: Path) -> bytes:
    """Read a file whole. A pipe or a device, which may never end, raises OSError instead."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no plain file", str(path))
        with open(handle, "rb", closefd=False) as opened:
            return opened.read()
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file: readers, also those after a power cut, see the former content or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    with naming(partial):
        partial.write_bytes(content)
        _sync(partial)
    os.replace(partial, path)
    _sync(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path into errors of the block that name no file: a write that fails does not know what it writes to."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of a file, which is made, in the block.

    Raises:
        BlockingIOError: another process holds it, and `wait` is not set.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
