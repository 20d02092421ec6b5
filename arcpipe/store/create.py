"""Creating a store, or continuing the one that is there if it was made by the same settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from arcpipe.cloud import DecoderRecord
from arcpipe.config import differences
from arcpipe.errors import ConfigError, FileAccessError, StoreBusyError, StoreMismatchError
from arcpipe.paths import outside_stores
from arcpipe.place import RemotePath, as_place
from arcpipe.store.arrays import write_array
from arcpipe.store.attributes import is_split_name
from arcpipe.store.bucket import ATTEMPTS
from arcpipe.store.decoder_file import describe
from arcpipe.store.files import attempt_folder, file_hashes, move, publish, replace_file, write_file
from arcpipe.store.quantise import Rounding
from arcpipe.store.root import read_decoder, read_root
from arcpipe.store.schema import FORMAT, FORMAT_VERSION, StoreHeader, group_document
from arcpipe.store.writer import StoreWriter

IMAGES_DIFFER = "the images of the source are not those of before: added, removed or changed"


def create_or_open(path: Path, header: StoreHeader, decoder: DecoderRecord, *, overwrite: bool = False) -> StoreWriter:
    """Make an empty store at `path`, or continue the one there.

    A new store (root group, decoder, one group per split) appears at once, by one rename; litter of killed attempts is
    swept. With `overwrite` an older store is moved aside to `NAME.zarr.old-1` and deleted by `StoreWriter.finish`; an
    unfinished one that already replaced another, with the same fingerprint, is continued.

    Raises:
        NotAStoreError: something else is at `path`; it is left as it is, also with `overwrite`.
        StoreMismatchError: the store there has another fingerprint; names what differs.
        NoSpaceError: the disk is full.
    """
    if not all(is_split_name(split) for split in header.splits):
        raise ValueError(f"a split cannot have such a name: {list(header.splits)}")
    path = as_place(path)
    replaces = None
    if _occupied(path):
        root = read_root(path)
        if not overwrite or (
            root["fingerprint"] == header.fingerprint and root.get("replaces") and not root["complete"]
        ):
            _require_same(path, root, header, decoder)
            return _writer(path, root)
        replaces = _move_aside(path)  # and if this process is killed now, `undo_half_overwrite` moves it back
    if not isinstance(path, RemotePath):
        path.parent.mkdir(parents=True, exist_ok=True)
    with attempt_folder(path.parent, f".{path.name}.new") as attempt:
        _write_empty_store(attempt, header, decoder, replaces)
        if not publish(attempt, path, path) and not _occupied(path):
            raise StoreBusyError(f"{path} appeared and disappeared.", fix=["run the same command again"])
    if replaces:
        _marker(path).unlink(missing_ok=True)
    root = read_root(path)
    _require_same(path, root, header, decoder)  # another converter may have been first
    return _writer(path, root)


def with_mended_images(path: Path, header: StoreHeader) -> StoreHeader:
    """The header that continues the store at `path` although images that had failed were mended (`--retry-failed`).

    Settings, classes and counts must be those of before; only the digest of the inventory may differ.
    """
    if not _occupied(path):
        return header
    root = read_root(path)
    before, now = (
        {key: value for key, value in content.items() if key != "inventory"}
        for content in (root["config"].get("content", {}), _content(header))
    )
    if (before, root["splits"], root["classes"]) != (now, _plain(header.splits), list(header.classes)):
        return header
    return replace(header, fingerprint=root["fingerprint"], config=root["config"])


def check_place(path: Path) -> None:
    """Raise unless a store can be made or continued at `path`; cheap, so that it is known before any work.

    Raises:
        NotAStoreError, DamagedStoreError: something else is there, or a store that cannot be read.
        FileAccessError: the place is below a file, read-only, or not this user's to write.
    """
    if _occupied(path):
        read_root(path)
    if isinstance(path, RemotePath):  # whether it can be written is seen by taking its lease
        return
    outside_stores(path.parent)
    folder = Path(os.path.abspath(path)).parent
    while not os.path.lexists(folder):
        folder = folder.parent
    why = None
    if not folder.is_dir():
        why = f"{folder} is not a folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        why = f"{folder} is {'on a read-only file system' if read_only else 'not writable by this user'}"
    if why:
        raise FileAccessError(f"no store can be made at {path}.", details=[why], fix=["--out FOLDER/NAME.zarr"])


def existing_decoder(path: Path, header: StoreHeader) -> DecoderRecord | None:
    """The decoder of the store that `create_or_open` would continue; None where there is nothing yet.

    Raises:
        NotAStoreError, StoreMismatchError: as `create_or_open`, so that it is known before a decoder is pretrained.
    """
    if not _occupied(path):
        return None
    root = read_root(path)
    _require_same(path, root, header)
    return read_decoder(path, root)


def _occupied(path: Path) -> bool:
    if isinstance(path, RemotePath):  # a killed beginning is none yet: its attempt is still there
        return (path / "zarr.json").is_file() or (path.is_dir() and not (path / ATTEMPTS).is_dir())
    if path.is_dir():
        return any(path.iterdir())
    return path.exists() or path.is_symlink()


def open_writer(path: Path) -> StoreWriter:
    """A handle on the store at `path`, for a process that helps its converter: nothing is created, checked or swept.

    Raises:
        NotAStoreError, DamagedStoreError: as `read_root`.
    """
    return _handle(path, read_root(path))


def _writer(path: Path, root: Mapping[str, Any]) -> StoreWriter:
    writer = _handle(path, root)
    writer.sweep()
    return writer


def _handle(path: Path, root: Mapping[str, Any]) -> StoreWriter:
    return StoreWriter(
        path=path.absolute(),  # workers may have started in other folders
        splits=root["splits"],
        fingerprint=root["fingerprint"],
        dtype=root["dtype"],
        neighbours_cache=root["neighbours_cache"],
        n_classes=len(root["classes"]),
        latent_dim=root["decoder"]["latent_dim"],
        n_neighbours=root["decoder"]["n_neighbours"],
        decoder_kind=root["decoder"].get("kind", "concat"),
        bits=root.get("bits", 8),
        latent_steps=None if root.get("latent_steps") is None else tuple(root["latent_steps"]),
    )


def _require_same(
    path: Path, root: Mapping[str, Any], header: StoreHeader, decoder: DecoderRecord | None = None
) -> None:
    if root["format_version"] != FORMAT_VERSION:
        raise StoreMismatchError(
            f"cannot continue {path}: another version of arcpipe made it.",
            details=[f"format version: was {root['format_version']}, now {FORMAT_VERSION}"],
            fix=[f"write another store: --out {path.with_name(f'{path.stem}-2{path.suffix}')}"]
            + ([] if isinstance(path, RemotePath) else ["or replace it: --overwrite"]),
        )
    if root["fingerprint"] == header.fingerprint:
        return
    # The converter keeps what changes content apart: the rest (paths, workers) may differ.
    details = differences(root["config"].get("content", root["config"]), _content(header))
    if any(line.startswith("inventory: ") for line in details):
        details = [line for line in details if not line.startswith("inventory: ")]
        details.append(IMAGES_DIFFER)
    if decoder is not None and root["decoder"]["sha256"] != decoder.sha256:
        details.append(f"decoder: was {root['decoder']['sha256'][:8]}, now {decoder.sha256[:8]}")
    for name in ("classes", "splits", "channels", "seed"):
        before, now = root[name], _plain(getattr(header, name))
        if before != now:
            details.append(f"{name}: was {before}, now {now}")
    if not details:
        details = [IMAGES_DIFFER]
    moved = [line for line in details if line.startswith("device: ")]
    if moved:  # without the key: CPUs
        details = [line.replace("None", "cpu") if line in moved else line for line in details]
        details.append("numbers of CPUs and GPUs differ in their last digits: a store is of one of them")
    other = path.with_name(f"{path.stem}-2{path.suffix}")
    raise StoreMismatchError(
        f"cannot continue {path}: it was made by other settings.",
        details=[*details, f"fingerprint: was {root['fingerprint'][:8]}, now {header.fingerprint[:8]}"],
        fix=[f"write another store: --out {other}", "or repeat the settings of before"]
        + ([] if isinstance(path, RemotePath) else ["or replace it: --overwrite"])
        + (["or continue where it was begun: --workers N for CPUs, --gpus N for GPUs"] if moved else [])
        + (["or, where only failed images were mended: --retry-failed"] if details == [IMAGES_DIFFER] else []),
    )


def _move_aside(path: Path) -> str:
    """Rename a store to the first free `NAME.old-<n>` and return that name."""
    if isinstance(path, RemotePath):
        raise ConfigError(
            f"--overwrite cannot replace {path}: objects cannot be moved aside until the new store is finished.",
            fix=[
                f"write another store: --out {path.with_name(f'{path.stem}-2{path.suffix}')}",
                "or delete it first, with the tools of the bucket",
            ],
        )
    number = 1
    while True:
        name = f"{path.name}.old-{number}"
        replace_file(_marker(path), name.encode())
        if move(path, path.with_name(name)):
            return name
        number += 1


def undo_half_overwrite(path: Path) -> None:
    """Move a store back that a killed process had moved aside (`--overwrite`) and not replaced yet.

    To be called by whoever holds the store's lock.
    """
    if isinstance(path, RemotePath) or not _marker(path).is_file():
        return
    name = _marker(path).read_text(encoding="utf-8")
    if name.startswith(f"{path.name}.old-") and "/" not in name and not _occupied(path):
        aside = path.with_name(name)
        if aside.is_dir():
            move(aside, path)
    _marker(path).unlink()


def _marker(path: Path) -> Path:
    """The file beside a store that says, while it is replaced, under which name the old one is."""
    return path.with_name(f".{path.name}.replacing")


def _write_empty_store(folder: Path, header: StoreHeader, decoder: DecoderRecord, replaces: str | None) -> None:
    for name, values in decoder.arrays().items():
        write_array(folder / "decoder", name, values)
    about = describe(decoder)
    rounding = Rounding.of(header.dtype, header.bits, decoder)
    document = group_document({**about, "files": file_hashes(folder / "decoder")})
    write_file(folder / "decoder" / "zarr.json", document)
    for split in header.splits:
        (folder / split).mkdir()
        write_file(folder / split / "zarr.json", group_document({"split": split}))
    write_file(folder / "zarr.json", group_document(_root_attributes(header, about, rounding, replaces)))


def _root_attributes(
    header: StoreHeader, decoder: Mapping[str, Any], rounding: Rounding, replaces: str | None
) -> dict[str, Any]:
    attributes = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fingerprint": header.fingerprint,
        "config": _plain(header.config),
        "classes": list(header.classes),
        "channels": header.channels,
        "splits": _plain(header.splits),
        "seed": header.seed,
        "dtype": header.dtype,
        "neighbours_cache": header.neighbours_cache,
        "decoder": dict(decoder),
        "versions": dict(header.versions),
        "complete": False,
        "totals": {},
        "latent_statistics": {},
    }
    if header.dtype == "int8":
        attributes |= {"bits": header.bits, "latent_steps": rounding.steps and list(rounding.steps)}
    return {**attributes, "replaces": replaces} if replaces else attributes


def _content(header: StoreHeader) -> dict[str, Any]:
    config: dict[str, Any] = _plain(header.config)
    return config.get("content", config)


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples become lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inside) for key, inside in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inside) for inside in value]
    return value
