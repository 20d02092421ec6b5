"""A store in a bucket: objects below one prefix, whose parts are committed as `commits` says."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeVar

from arcpipe.errors import ConfigError
from arcpipe.files import no_space_as_error, temporary_folder
from arcpipe.storage import commits, lease, objects
from arcpipe.storage.objects import Address
from arcpipe.storage.protocol import ATTEMPTS

T = TypeVar("T")


@dataclass(frozen=True)
class BucketStorage:
    """A store at an address such as `s3://bucket/deep/clouds.zarr`, see `Storage`.

    What is written is written in a local folder first. A prefix is a folder as long as an object is below it.
    """

    address: Address

    readers: ClassVar[int] = objects.CONNECTIONS
    replaces: ClassVar[bool] = False

    def __str__(self) -> str:
        return str(self.address)

    @property
    def name(self) -> str:
        return self.address.key.rpartition("/")[2]

    @property
    def parent(self) -> str:
        return str(self).rpartition("/")[0]

    def beside(self, name: str) -> BucketStorage:
        above = self.address.key.rpartition("/")[0]
        return BucketStorage(Address(self.address.root, above).at(name))

    def absolute(self) -> BucketStorage:
        return self

    def read(self, name: str, at_most: int | None = None) -> bytes:
        return objects.get(self.address.at(name), at_most=at_most)

    def sizes(self, group: str) -> Callable[[str], int]:
        """One listing tells them all, when the first is asked for."""
        known: dict[str, int] = {}

        def size_of(name: str) -> int:
            if not known:
                start = len(self.address.at(group).key) + 1
                known.update({key[start:]: n for key, n in objects.listing(self.address.at(group))})
            return known.get(name, 0)

        return size_of

    def is_file(self, name: str) -> bool:
        return objects.exists(self.address.at(name))

    def is_folder(self, name: str = "") -> bool:
        return objects.any_below(self.address.at(name))

    def is_taken(self, name: str = "") -> bool:
        return self.is_folder(name) or self.is_file(name)

    def occupied(self) -> bool:
        """A beginning that was killed is none yet: its attempt is still there."""
        return self.is_file("zarr.json") or (self.is_folder() and not self.is_folder(ATTEMPTS))

    def groups(self, folder: str) -> set[str]:
        found = (PurePosixPath(name) for name in self.files(folder))
        return {
            path.parts[-2] for path in found if path.name == "zarr.json" and path.parent.parent.as_posix() == folder
        }

    def files(self, folder: str = "", skip: Collection[str] = ()) -> Iterator[str]:
        """Without attempts: what a killed writer had sent off may arrive after all was tidied up, and harms nothing."""
        start = len(self.address.key) + 1
        names = (key[start:] for key, _ in objects.listing(self.address.at(folder)))
        left_out = {*skip, ATTEMPTS}
        return (name for name in names if left_out.isdisjoint(map(str, PurePosixPath(name).parents)))

    def stores_around(self) -> list[str]:
        names = [key.rpartition("/")[2] for key in objects.folders(self.beside("").address)]
        return sorted(name for name in names if name.endswith(".zarr"))

    def array(self, name: str, metadata: bytes) -> Any:
        from arcpipe.storage.arrays import BucketArrayStore

        return BucketArrayStore(self.address.at(name), metadata)

    @contextlib.contextmanager
    def at_hand(self, group: str, names: Iterable[str]) -> Iterator[Path]:
        """What has gone meanwhile is left out."""
        with temporary_folder("reading", group.replace("/", "-")) as folder:

            def fetch(name: str) -> None:
                file = folder / group / name
                file.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError), no_space_as_error(file):
                    file.write_bytes(self.read(f"{group}/{name}"))

            self.each(fetch, names)
            yield folder

    def each(self, act: Callable[[T], Any], items: Iterable[T]) -> list[Any]:
        return objects.each(act, items)

    def attempt(self, name: str) -> AbstractContextManager[Path]:
        return temporary_folder("staging", name.replace("/", "-") or "store")

    def publish(self, attempt: Path, name: str) -> bool:
        return commits.publish(attempt, self.address, name)

    def replace(self, name: str, data: bytes) -> None:
        objects.put(self.address.at(name), data)

    def drop(self, group: str) -> None:
        commits.drop(self.address, group)

    def move(self, name: str, other: BucketStorage) -> None:
        source, target = self.address.at(name), other.address.at(name)
        keys = [key for key, _ in objects.listing(source)] or [source.key]  # of one object below no prefix
        targets = {key: Address(target.root, target.key + key[len(source.key) :]) for key in keys}
        objects.each(lambda key: objects.copy(Address(source.root, key), targets[key]), keys)
        self.drop(name)
        objects.delete(source.root, [source.key])

    def sweep(self, *, finished: bool = False) -> int:
        """Commit the attempts that were chosen. Others have no locks, so that they wait until the store is finished."""
        done = commits.recover(self.address)
        if finished:
            objects.delete_below(self.address.at(ATTEMPTS))
        return done

    def lock(self) -> AbstractContextManager[None]:
        """A lease that is renewed, and goes stale when its converter dies."""
        return lease.hold(self.address, self.beside(f".{self.name}.lock").address)

    def shared_files(self) -> list[Path]:
        return []

    def check_writable(self) -> None:
        """Whether it can be written is seen by taking its lease."""

    def free_space(self) -> None:
        return None

    @contextlib.contextmanager
    def trial(self) -> Iterator[BucketStorage]:
        free = self.beside(f"{self.name}.trial-{secrets.token_hex(4)}")
        try:
            with objects.impatient():
                yield free
        finally:
            with contextlib.suppress(Exception), objects.impatient():
                objects.delete_below(free.address)

    def set_aside(self) -> str:
        raise ConfigError(
            f"--overwrite cannot replace {self}: objects cannot be moved aside until the new store is finished.",
            fix=[
                f"write another store: --out {self.beside(second_name(self.name))}",
                "or delete it first, with the tools of the bucket",
            ],
        )

    def undo_set_aside(self) -> None:
        """Nothing: no store was set aside here."""

    def delete_aside(self, name: str) -> None:
        """Nothing: no store was set aside here."""


def second_name(name: str) -> str:
    """`clouds-2.zarr` for `clouds.zarr`."""
    path = PurePosixPath(name)
    return f"{path.stem}-2{path.suffix}"
