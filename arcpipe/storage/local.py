"""A store in a folder: renames publish, a lock on a file ends with its process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from arcpipe.errors import FileAccessError
from arcpipe.files import (
    attempt_folder,
    move,
    nearest_folder,
    no_space_as_error,
    remove_stale,
    replace_file,
    sync,
    sync_tree,
    try_lock,
)
from arcpipe.paths import outside_stores
from arcpipe.storage.protocol import ATTEMPTS, busy

T = TypeVar("T")


@dataclass(frozen=True)
class LocalStorage:
    """A store in the folder `path`, on this machine or on a file system that it sees, see `Storage`."""

    path: Path

    readers: ClassVar[int] = 1
    replaces: ClassVar[bool] = True

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def parent(self) -> str:
        return str(self.path.parent)

    def beside(self, name: str) -> LocalStorage:
        return LocalStorage(self.path.with_name(name))

    def absolute(self) -> LocalStorage:
        return LocalStorage(self.path.absolute())

    def read(self, name: str, at_most: int | None = None) -> bytes:
        file = self.path / name
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise ValueError("no file")
        if at_most is not None and status.st_size > at_most:
            raise ValueError(f"{status.st_size} bytes")
        return file.read_bytes()

    def sizes(self, group: str) -> Callable[[str], int]:
        def size_of(name: str) -> int:
            file = self.path / group / name
            return file.stat().st_size if file.is_file() else 0

        return size_of

    def is_file(self, name: str) -> bool:
        return (self.path / name).is_file()

    def is_folder(self, name: str = "") -> bool:
        return (self.path / name).is_dir()

    def is_taken(self, name: str = "") -> bool:
        return os.path.lexists(self.path / name)

    def occupied(self) -> bool:
        if self.path.is_dir():
            return any(self.path.iterdir())
        return self.is_taken()

    def groups(self, folder: str) -> set[str]:
        return {file.parent.name for file in (self.path / folder).glob("*/zarr.json")}

    def files(self, folder: str = "", skip: Collection[str] = ()) -> Iterator[str]:
        for place, folders, names in os.walk(self.path / folder):
            here = Path(place).relative_to(self.path)
            folders[:] = sorted(name for name in folders if (here / name).as_posix() not in skip)
            links = [name for name in folders if Path(place, name).is_symlink()]  # os.walk does not follow them
            found = ((here / name).as_posix() for name in sorted([*names, *links]))
            yield from (name for name in found if name not in skip)

    def stores_around(self) -> list[str]:
        return sorted(path.name for path in self.path.parent.glob("*.zarr"))

    def array(self, name: str, metadata: bytes) -> Any:
        from zarr.storage import LocalStore

        return LocalStore(self.path / name, read_only=True)

    def at_hand(self, group: str, names: Iterable[str]) -> AbstractContextManager[Path]:
        return contextlib.nullcontext(self.path)

    def each(self, act: Callable[[T], Any], items: Iterable[T]) -> list[Any]:
        return [act(item) for item in items]

    def attempt(self, name: str) -> AbstractContextManager[Path]:
        if name:
            return attempt_folder(self.path / ATTEMPTS, name.replace("/", "-"))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return attempt_folder(self.path.parent, f".{self.name}.new")

    def publish(self, attempt: Path, name: str) -> bool:
        sync_tree(attempt)
        published = move(attempt, self.path / name)
        if not name:
            self._marker.unlink(missing_ok=True)
        return published

    def replace(self, name: str, data: bytes) -> None:
        (self.path / name).parent.mkdir(exist_ok=True)
        replace_file(self.path / name, data)

    def drop(self, group: str) -> None:
        with self.attempt(f"dropped-{group}") as aside:
            os.rename(self.path / group, aside / "group")
            sync((self.path / group).parent)
        self._remove_empty_attempts()

    def move(self, name: str, other: LocalStorage) -> None:
        (other.path / name).parent.mkdir(parents=True, exist_ok=True)
        os.rename(self.path / name, other.path / name)
        sync((self.path / name).parent)

    def sweep(self, *, finished: bool = False) -> int:
        """Every attempt is locked by its process, and the lock ends with the process."""
        removed = remove_stale(self.path / ATTEMPTS)
        removed += remove_stale(self.path.parent, f".{self.name}.new.*")
        for file in self.path.glob(".zarr.json.*"):  # only the process that holds the store's lock replaces the root
            file.unlink(missing_ok=True)
            removed += 1
        self._remove_empty_attempts()
        return removed

    def _remove_empty_attempts(self) -> None:
        with contextlib.suppress(OSError):  # not there, or somebody is at work in it
            (self.path / ATTEMPTS).rmdir()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the file `.NAME.lock` beside the store, never inside it; a killed converter leaves nothing to clear."""
        store = LocalStorage(Path(os.path.abspath(self.path)))
        [lock] = store.shared_files()
        with no_space_as_error(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()
            descriptor = try_lock(lock)
            while descriptor is None and not lock.exists():  # its owner ended in between
                lock.touch()
                descriptor = try_lock(lock)
        if descriptor is None:
            raise busy(store, _owner(lock))
        try:
            owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
            with no_space_as_error(lock):
                lock.write_text(json.dumps(owner), encoding="utf-8")
            yield
        finally:
            with contextlib.suppress(OSError):  # the disk may be read-only by now, which is told by others
                lock.unlink(missing_ok=True)
            os.close(descriptor)

    def shared_files(self) -> list[Path]:
        return [self.path.with_name(f".{self.name}.lock")]

    def check_writable(self) -> None:
        """Raise where it would be in a store, below a file, on a read-only file system, or in somebody's folder."""
        outside_stores(self.path.parent, given=self.path)
        folder, why = nearest_folder(self.path), None
        if not folder.is_dir():
            why = f"{folder} is not a folder"
        elif not os.access(folder, os.W_OK | os.X_OK):
            read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
            why = f"{folder} is {'on a read-only file system' if read_only else 'not writable by this user'}"
        if why:
            raise FileAccessError(f"no store can be made at {self}.", details=[why], fix=["--out FOLDER/NAME.zarr"])

    def free_space(self) -> tuple[Path, int]:
        folder = nearest_folder(self.path)
        return folder, shutil.disk_usage(folder).free

    @contextlib.contextmanager
    def trial(self) -> Iterator[LocalStorage]:
        with tempfile.TemporaryDirectory(prefix=".arcpipe-trial-", dir=nearest_folder(self.path)) as folder:
            yield LocalStorage(Path(folder) / "trial.zarr")

    def set_aside(self) -> str:
        number = 1
        while True:
            name = f"{self.name}.old-{number}"
            replace_file(self._marker, name.encode())
            if move(self.path, self.path.with_name(name)):
                return name
            number += 1

    def undo_set_aside(self) -> None:
        if not self._marker.is_file():
            return
        name = self._marker.read_text(encoding="utf-8")
        if name.startswith(f"{self.name}.old-") and "/" not in name and not self.occupied():
            aside = self.path.with_name(name)
            if aside.is_dir():
                move(aside, self.path)
        self._marker.unlink()

    def delete_aside(self, name: str) -> None:
        shutil.rmtree(self.path.with_name(name), ignore_errors=True)

    @property
    def _marker(self) -> Path:
        """The file beside a store that says, while it is replaced, under which name the old one is."""
        return self.path.with_name(f".{self.name}.replacing")


def _owner(lock: Path) -> str:
    try:
        owner = json.loads(lock.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it ended or has not written its name yet
        return "a process that has not said its name yet"
