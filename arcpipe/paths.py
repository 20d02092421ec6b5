"""Paths that a person gives: what cannot be one, and where nothing may be written."""

from __future__ import annotations

import os
from pathlib import Path

from arcpipe.errors import ConfigError

NAME_BYTES = 255
"""Longest name of one file on the usual file systems."""
OWN_BYTES = 24
"""What the names of arcpipe's own files beside a store or run are longer by."""


def checked(text: str | os.PathLike[str], room: int = 0) -> str:
    """The text of a path, whose names leave `room` bytes for what is added to them.

    Raises:
        ConfigError: it is empty, has a zero byte, or a name in it is longer than file systems take.
    """
    written = str(text)
    if not written.strip():
        raise ConfigError("a path is empty.", fix=["name a file or folder, or leave the option out"])
    if "\0" in written:
        raise ConfigError(f"the path {written!r} has a zero byte in it.")
    longest = max(len(os.fsencode(name)) for name in written.split("/"))
    if longest > NAME_BYTES - room:
        raise ConfigError(
            f"a name in the path {written[:40]}... is too long.",
            details=[f"expected at most {NAME_BYTES - room} bytes, found {longest}"],
            fix=["a shorter name"],
        )
    return written


def named(path: Path) -> Path:
    """The same path, whose last step is a name: `.` becomes the folder that it means.

    Raises:
        ConfigError: it is the root of all folders, which has no name.
    """
    if path.name not in ("", ".."):
        return path
    whole = Path(os.path.realpath(path))
    if not whole.name:
        raise ConfigError(f"{path} is the root of all folders.", fix=["name a folder in it"])
    return whole


def outside_stores(path: Path, what: str = "--out", given: Path | None = None) -> None:
    """Refuse to write a file or folder into a store, where `verify` would call it a stranger.

    Args:
        path: What will be written; for a store, the folder that it will lie in.
        what: The option that named it.
        given: The path that was given, where it is another.

    Raises:
        ConfigError: it is a store, or below one.
    """
    place = Path(os.path.realpath(path))
    for folder in (place, *place.parents):
        if os.path.isfile(folder / "zarr.json"):
            raise ConfigError(
                f"{what} {given or path} lies in the store {folder}.",
                details=["a store holds nothing but what arcpipe convert wrote"],
                fix=[f"{what} with a path outside of {folder}"],
            )
