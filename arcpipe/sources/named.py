"""Datasets that have a name: where their files are looked for, and what is said when they are missing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from arcpipe.config import SourceSection
from arcpipe.errors import DownloadError
from arcpipe.sources.download import RemoteFile, fetch, verify
from arcpipe.sources.files import Container, ImageFiles
from arcpipe.sources.inventory import Source, Tell
from arcpipe.sources.rows import ImageRows, Records
from arcpipe.sources.uncompressed import uncompressed


@dataclass(frozen=True, slots=True)
class NamedSet:
    """One named dataset. `open` gets the path of every file, in the order of `files`.

    `folders`: where else below the data folder it may lie, besides a folder of its name and the data folder itself.
    """

    name: str
    open: Callable[[list[Path]], Records | Container]
    files: tuple[RemoteFile, ...] = ()
    folders: tuple[str, ...] = ()


def data_folder(section: SourceSection) -> Path:
    """`--data`, else `ARCPIPE_DATA`, else `data` in the working directory."""
    return Path(section.data or os.environ.get("ARCPIPE_DATA") or "data").expanduser()


def open_named(
    named: NamedSet,
    section: SourceSection,
    *,
    seed: int,
    progress: Tell,
    download: bool,
    scratch: Path | None = None,
) -> Source:
    """Find the files of a set (or fetch them), decompress what is compressed, and open it.

    Raises:
        DownloadError: a file is missing and cannot or may not be fetched, or is not the pinned one.
    """
    root = data_folder(section)
    paths = []
    for remote in named.files:
        path = _find(named, remote, root) or _fetch(named, remote, root, progress, download)
        if path.is_file():
            path = uncompressed(path, check=partial(_check, path, remote, progress), progress=progress, scratch=scratch)
        paths.append(path)
    content = named.open(paths)
    if isinstance(content, Records):
        return ImageRows(content, section, seed=seed)
    return ImageFiles(content, section, seed=seed, progress=progress)


def _check(path: Path, remote: RemoteFile, progress: Tell) -> None:
    """Compare a file with its pin: once, before its first decompression."""
    progress(f"checking {path}")
    verify(path, remote)


def _find(named: NamedSet, remote: RemoteFile, root: Path) -> Path | None:
    places = [root / named.name, *(root / folder for folder in named.folders), root]
    candidates = (place / name for place in places for name in (remote.name, *remote.same_as))
    return next((path for path in candidates if path.exists()), None)


def _fetch(named: NamedSet, remote: RemoteFile, root: Path, progress: Tell, download: bool) -> Path:
    try:
        if not download:
            raise DownloadError(f"{remote.name} is not here, and is not to be downloaded now.")
        progress(f"downloading {remote.url} ({remote.nbytes / 1e6:,.1f} MB) to {root / named.name}")
        return fetch(remote, root / named.name, progress=progress)
    except DownloadError as error:
        missing = [remote.describe() for remote in named.files if _find(named, remote, root) is None]
        raise DownloadError(
            f"the dataset {named.name} is not in {root}{', and could not be downloaded' if download else ''}.",
            details=[error.what, *error.details[:2], "it consists of", *missing],
            fix=[
                f"put {'it' if len(missing) == 1 else 'them'} into {root / named.name}/",
                f"or into another folder X, as X/{named.name}/, and give --data X or set ARCPIPE_DATA=X",
                *error.fix,
                "arcpipe convert digits (needs no download)",
            ],
        ) from None
