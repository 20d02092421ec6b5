"""What a store asks of the place that it lies in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

from arcpipe.errors import StoreBusyError

T = TypeVar("T")

ATTEMPTS = ".attempts"
"""Inside an unfinished store: where parts are before they are committed."""


@runtime_checkable
class Storage(Protocol):
    """The place of one store, which need not exist yet. Values: they can be compared, hashed and sent to workers.

    Files have names below it, `train/0000/zarr.json`; the empty name is the store itself. A group is a folder with a
    `zarr.json`; it appears and disappears as a whole. `str` gives the path or the address back.
    """

    readers: ClassVar[int]
    """How many threads it takes at least to keep it busy with reading."""
    replaces: ClassVar[bool]
    """Whether a store can be set aside until the one that replaces it is finished."""

    @property
    def name(self) -> str:
        """The last step: `clouds.zarr`."""

    @property
    def parent(self) -> str:
        """Path or address of what it is in."""

    def beside(self, name: str) -> Self:
        """The same place under another last step."""

    def absolute(self) -> Self:
        """The same place as processes in other folders name it."""

    # Reading

    def read(self, name: str, at_most: int | None = None) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is no file, or has more than `at_most` bytes; nothing is read.
        """

    def sizes(self, group: str) -> Callable[[str], int]:
        """A function from names below a group to bytes, 0 where there is no file, for a group that does not change."""

    def is_file(self, name: str) -> bool:
        """Whether a file has this name."""

    def is_folder(self, name: str = "") -> bool:
        """Whether anything can be below this name."""

    def is_taken(self, name: str = "") -> bool:
        """Whether anything has this name, be it a broken link."""

    def occupied(self) -> bool:
        """Whether anything is here that a new store must not touch."""

    def groups(self, folder: str) -> set[str]:
        """Names of the groups one step below a folder; none where there is no such folder."""

    def files(self, folder: str = "", skip: Collection[str] = ()) -> Iterator[str]:
        """Names of all that lies below a folder and is no folder, but for what is below those to `skip`."""

    def stores_around(self) -> list[str]:
        """Last steps of the stores in the same folder, sorted."""

    def array(self, name: str, metadata: bytes) -> Any:
        """Zarr's store of one array of a committed group, whose `zarr.json` was read before."""

    def at_hand(self, group: str, names: Iterable[str]) -> AbstractContextManager[Path]:
        """A local folder that has these files of a group under their names, each of which is fetched once."""

    def each(self, act: Callable[[T], Any], items: Iterable[T]) -> list[Any]:
        """Apply a function that reads here to all items, several at once where most of the time is waiting."""

    # Writing

    def attempt(self, name: str) -> AbstractContextManager[Path]:
        """A local folder in which a group is written before it is published; what is left in it is removed."""

    def publish(self, attempt: Path, name: str) -> bool:
        """Make an attempt the group `name`, at once and for good. False where there is one already: it stays."""

    def replace(self, name: str, data: bytes) -> None:
        """Write a file, atomically: readers see the former content or the new one."""

    def drop(self, group: str) -> None:
        """Take a committed group back, so that it is not there even if this process is killed in between."""

    def move(self, name: str, other: Self) -> None:
        """Move a file or a group to the same name in another place beside this one."""

    def sweep(self, *, finished: bool = False) -> int:
        """Remove, or complete, what killed attempts left, and nothing of a living one. Returns how many.

        `finished`: all parts are committed, so that nobody is at work.
        """

    def lock(self) -> AbstractContextManager[None]:
        """Hold the store for this process, so that two converters do not do the same work twice.

        It ends with the process, however that dies. Two converters would not damage each other without it.

        Raises:
            StoreBusyError: another process holds it; says which, where and since when.
        """

    def shared_files(self) -> list[Path]:
        """Local files that workers see, where they see what this process does, while the lock is held."""

    def check_writable(self) -> None:
        """Find out whether a store can be made here; cheap.

        Raises:
            ConfigError: this is inside another store.
            FileAccessError: it cannot be written.
        """

    def free_space(self) -> tuple[Path, int] | None:
        """Where there are how many bytes free for a store; None where nobody can know."""

    def trial(self) -> AbstractContextManager[Self]:
        """A free place of the same kind, on the same disk or service, removed at the end: to try out what it can do."""

    def set_aside(self) -> str:
        """Move the store to the first free `NAME.old-<n>`, whose last step is returned, until `publish` replaces it.

        Raises:
            ConfigError: not here, see `replaces`.
        """

    def undo_set_aside(self) -> None:
        """Move a store back that a killed process had set aside and not replaced. For whoever holds the lock."""

    def delete_aside(self, name: str) -> None:
        """Delete a store that was set aside under this last step."""


def busy(storage: object, who: str) -> StoreBusyError:
    """Say that somebody else has the lock."""
    return StoreBusyError(
        f"another converter is at work on {storage}.",
        details=[who],
        fix=["wait for it to finish, then run the same command again", "or write another store: --out OTHER.zarr"],
    )
