"""Where a store is: a folder here, or an address in a bucket such as `s3://bucket/name.zarr`.

`storage_at` makes the one object that stores and writers hold; nothing else asks which of the two it is.
"""

from __future__ import annotations

import os
from pathlib import Path

from arcpipe.errors import ConfigError
from arcpipe.paths import OWN_BYTES, checked, named
from arcpipe.storage import objects
from arcpipe.storage.bucket import BucketStorage, second_name
from arcpipe.storage.local import LocalStorage
from arcpipe.storage.objects import Address
from arcpipe.storage.protocol import ATTEMPTS, Storage

__all__ = ["ATTEMPTS", "BucketStorage", "LocalStorage", "Place", "Storage", "folder_path", "second_name", "storage_at"]

Place = Storage | Path | str
"""Where a store is, as people say it."""


def storage_at(place: Place) -> Storage:
    """The storage at a path, or at an address. It has a name, also where the path is `.`.

    Raises:
        ConfigError: what cannot be a path, see `checked`, or the root of all folders; another kind of address, one
            without a bucket or a name, or one that holds credentials.
    """
    if not isinstance(place, (str, Path)):
        if not hasattr(place, "is_taken"):
            raise TypeError(f"a store is named by a path or an address, not by {place!r}")
        return place
    written = checked(place, OWN_BYTES)
    scheme, sign, rest = written.partition("://")
    if isinstance(place, Path) or not sign:
        return LocalStorage(named(Path(written)))
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
        raise ConfigError(f"{place} does not name a store in a bucket.", fix=[example])
    return BucketStorage(Address(f"{scheme}://{pieces[0]}", "/".join(pieces[1:])))


def folder_path(text: str | os.PathLike[str]) -> Path:
    """A path on this machine, checked and with a name as that of a store.

    Raises:
        ConfigError: what cannot be a path, or an address: runs and pictures are kept on this machine.
    """
    if str(text).partition(":/")[0] in objects.SCHEMES:  # a Path of an address has lost a slash
        raise ConfigError(f"{text}: only stores are kept in buckets, runs and pictures here.", fix=["a folder here"])
    return named(Path(checked(text, OWN_BYTES)))
