"""Local files and folders: written whole or not at all, synced, locked, and swept when their process died."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import secrets
import shutil
import socket
import stat
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from arcpipe.errors import NoSpaceError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
SYNCED_AT_ONCE = 8


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and sync it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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
    """Write a file: readers, also those after a power cut, see the former content or the new one.

    A killed process leaves `NAME.partial`, which the next one writes again: for files that one process writes.
    """
    partial = path.with_name(f"{path.name}.partial")
    with naming(partial):
        partial.write_bytes(content)
        sync(partial)
    os.replace(partial, path)
    sync(path.parent)


def write_drawn(path: Path, save: Callable[[BinaryIO], object]) -> None:
    """Write a file as `write_atomically` does, with what `save` writes into an open one: a picture, a figure."""
    drawn = io.BytesIO()
    save(drawn)
    write_atomically(path, drawn.getvalue())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file as `write_atomically` does, where several processes may write it at once; the last one wins."""
    temporary = path.with_name(f".{path.name}.{attempt_tag()}")
    try:
        with no_space_as_error(path):
            write_file(temporary, data)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync_tree(folder: Path) -> None:
    """Sync every file and folder below `folder`, and itself.

    Many at once: a disk that is asked for one after the other does one turn for each, where it could do one for all.
    """
    with ThreadPoolExecutor(SYNCED_AT_ONCE) as threads:
        deque(threads.map(sync, [folder, *folder.rglob("*")]), maxlen=0)


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(attempt: Path, final: Path) -> bool:
    """Rename a folder. False where the new name is taken."""
    try:
        os.rename(attempt, final)  # POSIX: fails on a folder that is not empty
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    sync(final.parent)
    return True


def nearest_folder(path: Path) -> Path:
    """The folder in which `path` would be made, or the nearest one above it that exists."""
    place = Path(os.path.abspath(path)).parent
    while not os.path.lexists(place):
        place = place.parent
    return place


def file_hashes(folder: Path) -> dict[str, dict[str, int | str]]:
    """Size and sha256 of every file below `folder`, by relative name, sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in paths
    }


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def attempt_tag() -> str:
    """A name no other attempt has: host, process and a random number, for whoever finds it lying about."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def attempt_folder(place: Path, name: str) -> Iterator[Path]:
    """Make a folder that is locked while this process lives, and removed at the end unless it was published.

    The lock is on a file beside the folder and ends with the process, however it dies: that is how `remove_stale` tells
    the litter of a killed attempt from one that is at work, with no clock and no process table.
    """
    folder, descriptor = _locked_folder(place, name)
    try:
        with no_space_as_error(place):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # published: no longer under this name
        _lock_of(folder).unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def temporary_folder(kind: str, name: str) -> Iterator[Path]:
    """A new folder in this user's own `arcpipe-KIND-UID` of the temporary folder; those of dead processes go first."""
    place = Path(tempfile.gettempdir()) / f"arcpipe-{kind}-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    if place.is_symlink() or place.stat().st_uid != os.getuid():  # somebody else was here first: nothing is swept
        with tempfile.TemporaryDirectory(prefix="arcpipe-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    remove_stale(place)
    with attempt_folder(place, name) as own:
        yield own


def _locked_folder(place: Path, name: str) -> tuple[Path, int]:
    while True:
        folder = place / f"{name}.{attempt_tag()}"
        with no_space_as_error(place):
            place.mkdir(exist_ok=True)
            try:
                _lock_of(folder).touch(exist_ok=False)
            except FileNotFoundError:  # a sweep removed the empty `place` in between
                continue
            descriptor = try_lock(_lock_of(folder))
            if descriptor is None:  # a sweep was quicker with the lock
                continue
            folder.mkdir()
            return folder, descriptor


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def try_lock(path: Path, *, required: bool = False) -> int | None:
    """Lock a file until the returned descriptor is closed; None where another process has it or it is gone.

    A file system without locks gives a descriptor without a lock, or None where the lock is `required`.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)  # NFS locks only what is open for writing
    except FileNotFoundError:
        return None
    try:
        if _flock(descriptor, required) and os.stat(path).st_ino == os.fstat(descriptor).st_ino:
            return descriptor  # and it was neither removed nor replaced between open and lock
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _flock(descriptor: int, required: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return not required
    return True


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path into errors of the block that name no file: a write that fails does not know what it writes to."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
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


def remove_stale(place: Path, pattern: str = "*") -> int:
    """Remove the attempts in `place` whose process is dead. Returns how many."""
    removed = 0
    for lock in place.glob(f"{pattern}.lock"):
        descriptor = try_lock(lock, required=True)
        if descriptor is not None:
            shutil.rmtree(lock.with_name(lock.name.removesuffix(".lock")), ignore_errors=True)
            lock.unlink(missing_ok=True)
            os.close(descriptor)
            removed += 1
    return removed


@contextlib.contextmanager
def no_space_as_error(path: Path) -> Iterator[None]:
    """Turn "disk full" and "over quota" into `NoSpaceError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise NoSpaceError(
            f"no space left to write {path}.",
            details=[f"{os.strerror(error.errno or 0)}; parts that were committed are safe"],
            fix=["free some space, then run the same command again: it continues"],
        ) from error
