"""Where a store is: a folder here, or an address in an object store such as `s3://bucket/name.zarr`.

A `RemotePath` is a pathlib path whose file operations are requests, so that what reads a store need not know where it
is. Only what the store uses is there: any other operation raises instead of touching a local folder named `s3:`.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Generator, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PosixPath
from typing import Any, Self

from arcpipe import objects
from arcpipe.errors import ConfigError
from arcpipe.objects import Address


class RemotePath(PosixPath):
    """An object, or a prefix of objects. `str` gives the address back; missing objects raise FileNotFoundError."""

    def __str__(self) -> str:
        scheme, _, rest = super().__str__().partition(":/")
        return f"{scheme}://{rest}" if rest and not rest.startswith("/") and "/" not in scheme else super().__str__()

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is in an object store: this operation is for local files")

    def as_posix(self) -> str:
        return str(self)

    @property
    def address(self) -> Address:
        scheme, bucket, *key = self.parts
        return Address(f"{scheme}//{bucket}", "/".join(key))

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size and time of an object; a prefix has none."""
        head = objects.head(self.address)
        return os.stat_result((stat.S_IFREG | 0o444, 0, 0, 1, 0, 0, head.n_bytes, *([int(head.modified)] * 3)))

    def is_file(self, **_: Any) -> bool:
        try:
            objects.head(self.address)
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, **_: Any) -> bool:
        return objects.any_below(self.address)

    def exists(self, **_: Any) -> bool:
        return self.is_dir() or self.is_file()

    def is_symlink(self) -> bool:
        return False

    def resolve(self, strict: bool = False) -> Self:
        return self

    def absolute(self) -> Self:
        return self

    def read_bytes(self) -> bytes:
        return objects.get(self.address)

    def read_text(self, *args: Any, **options: Any) -> str:
        return self.read_bytes().decode("utf-8")

    def open(self, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode != "rb":
            raise io.UnsupportedOperation(f"{self}: objects are opened for reading bytes only")
        return io.BytesIO(self.read_bytes())

    def iterdir(self) -> Generator[Self, None, None]:
        folders, files = objects.children(self.address)
        yield from (self._at(key) for key in sorted({*folders, *files}))

    def glob(self, pattern: str, **_: Any) -> Iterator[Self]:  # type: ignore[override]
        """Patterns of one step name prefixes and objects, longer ones objects; no `**`."""
        if "/" not in pattern:
            return (child for child in self.iterdir() if fnmatchcase(child.name, pattern))
        wanted = pattern.split("/")
        return (
            path
            for path in self.rglob("*")
            if len(steps := path.parts[len(self.parts) :]) == len(wanted) and all(map(fnmatchcase, steps, wanted))
        )

    def rglob(self, pattern: str, **_: Any) -> Iterator[Self]:  # type: ignore[override]
        """Every object below, by its last step."""
        found = (self._at(key) for key, _ in objects.listing(self.address))
        return (path for path in found if fnmatchcase(path.name, pattern))

    def mkdir(self, *args: Any, **options: Any) -> None:
        """Nothing: a prefix is there when an object is."""

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok:
            objects.head(self.address)
        objects.delete(self.address.root, [self.address.key])

    def _at(self, key: str) -> Self:
        return type(self)(self.parts[0], self.parts[1], key)


def as_place(text: str | os.PathLike[str]) -> Path:
    """A local path, or a `RemotePath` for an address.

    Raises:
        ConfigError: another kind of address, one without a bucket or a name, or one that holds credentials.
    """
    if isinstance(text, Path):
        return text
    written = os.fspath(text)
    scheme, sign, rest = written.partition("://")
    if not sign:
        return Path(written)
    example = "s3://BUCKET/NAME.zarr"
    if scheme not in objects.SCHEMES:
        known = ", ".join(f"{name}://" for name in objects.SCHEMES)
        raise ConfigError(f"{scheme}:// is no address of a store.", details=[f"known: {known}"], fix=[example])
    if "@" in rest.split("/")[0]:
        raise ConfigError(
            f"credentials do not belong into the address of a store ({scheme}://...@...).",
            fix=["set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", example],
        )
    pieces = [piece for piece in rest.split("/") if piece]
    if len(pieces) < 2 or {".", ".."} & set(pieces) or any(sign in rest for sign in "?#"):
        raise ConfigError(f"{written} does not name a store in a bucket.", fix=[example])
    return RemotePath(f"{scheme}:", *pieces)


def as_folder(text: str | os.PathLike[str]) -> Path:
    """A local path; an address raises ConfigError, since runs and pictures are kept on this machine."""
    if str(text).partition(":/")[0] in objects.SCHEMES:  # a Path of an address has lost a slash
        raise ConfigError(f"{text}: only stores are kept in buckets, runs and pictures here.", fix=["a folder here"])
    return Path(text)


def is_remote(path: Path) -> bool:
    return isinstance(path, RemotePath)
