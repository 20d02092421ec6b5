"""One converter at a time works on a store: a second one is told who is at work instead of repeating its work."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from arcpipe.errors import StoreBusyError
from arcpipe.place import RemotePath
from arcpipe.store.files import no_space_as_error, try_lock
from arcpipe.store.lease import store_lease


@contextlib.contextmanager
def store_lock(path: Path) -> Iterator[None]:
    """Hold the store at `path` (which need not exist yet) for this process.

    A lock on the file `.NAME.lock` beside the store, never inside it: it ends with the process, however that dies, so
    a killed converter leaves nothing to clear by hand. Two converters would not damage each other without it (parts are
    published by rename); they would only do the same work twice.

    Raises:
        StoreBusyError: another process holds it; says which, where and since when.
    """
    if isinstance(path, RemotePath):
        with store_lease(path):
            yield
        return
    path = Path(os.path.abspath(path))
    lock = path.with_name(f".{path.name}.lock")
    with no_space_as_error(lock):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        descriptor = try_lock(lock)
        while descriptor is None and not lock.exists():  # its owner ended in between
            lock.touch()
            descriptor = try_lock(lock)
    if descriptor is None:
        raise _busy(path, lock)
    try:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        with no_space_as_error(lock):
            lock.write_text(json.dumps(owner), encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):  # the disk may be read-only by now, which is told by others
            lock.unlink(missing_ok=True)
        os.close(descriptor)


def _busy(path: Path, lock: Path) -> StoreBusyError:
    try:
        owner = json.loads(lock.read_text(encoding="utf-8"))
        who = f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it ended or has not written its name yet
        who = "a process that has not said its name yet"
    return StoreBusyError(
        f"another converter is at work on {path}.",
        details=[who],
        fix=["wait for it to finish, then run the same command again", "or write another store: --out OTHER.zarr"],
    )
