"""Creating a store, or continuing the one that is there if it was made by the same settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from arcpipe.cloud import DecoderRecord
from arcpipe.config import differences
from arcpipe.errors import StoreBusyError, StoreMismatchError
from arcpipe.files import file_hashes, write_file
from arcpipe.storage import Place, Storage, second_name, storage_at
from arcpipe.store.arrays import write_array
from arcpipe.store.attributes import is_split_name
from arcpipe.store.decoder_file import describe
from arcpipe.store.quantise import Rounding
from arcpipe.store.root import read_decoder, read_root
from arcpipe.store.schema import FORMAT, FORMAT_VERSION, StoreHeader, group_document
from arcpipe.store.writer import StoreWriter

IMAGES_DIFFER = "the images of the source are not those of before: added, removed or changed"


def create_or_open(
    place: Place, header: StoreHeader, decoder: DecoderRecord, *, overwrite: bool = False
) -> StoreWriter:
    """Make an empty store at `place`, or continue the one there.

    A new store (root group, decoder, one group per split) appears at once, by one rename; litter of killed attempts is
    swept. With `overwrite` an older store is moved aside to `NAME.zarr.old-1` and deleted by `StoreWriter.finish`; an
    unfinished one that already replaced another, with the same fingerprint, is continued.

    Raises:
        NotAStoreError: something else is there; it is left as it is, also with `overwrite`.
        StoreMismatchError: the store there has another fingerprint; names what differs.
        NoSpaceError: the disk is full.
    """
    if not all(is_split_name(split) for split in header.splits):
        raise ValueError(f"a split cannot have such a name: {list(header.splits)}")
    storage = storage_at(place)
    replaces = None
    if storage.occupied():
        root = read_root(storage)
        if not overwrite or (
            root["fingerprint"] == header.fingerprint and root.get("replaces") and not root["complete"]
        ):
            return _continued(storage, root, header, decoder)
        replaces = storage.set_aside()  # and if this process is killed now, `undo_set_aside` moves it back
    with storage.attempt("") as attempt:
        _write_empty_store(attempt, header, decoder, replaces)
        if not storage.publish(attempt, "") and not storage.occupied():
            raise StoreBusyError(f"{storage} appeared and disappeared.", fix=["run the same command again"])
    return _continued(storage, read_root(storage), header, decoder)  # another converter may have been first


def with_mended_images(storage: Storage, header: StoreHeader) -> StoreHeader:
    """The header that continues a store although images that had failed were mended (`--retry-failed`).

    Settings, classes and counts must be those of before; only the digest of the inventory may differ.
    """
    if not storage.occupied():
        return header
    root = read_root(storage)
    before, now = (
        {key: value for key, value in content.items() if key != "inventory"}
        for content in (root["config"].get("content", {}), _content(header))
    )
    if (before, root["splits"], root["classes"]) != (now, _plain(header.splits), list(header.classes)):
        return header
    return replace(header, fingerprint=root["fingerprint"], config=root["config"])


def check_place(storage: Storage) -> None:
    """Raise unless a store can be made or continued there; cheap, so that it is known before any work.

    Raises:
        NotAStoreError, DamagedStoreError: something else is there, or a store that cannot be read.
        FileAccessError: the place is below a file, read-only, or not this user's to write.
    """
    if storage.occupied():
        read_root(storage)
    storage.check_writable()


def existing_decoder(storage: Storage, header: StoreHeader) -> DecoderRecord | None:
    """The decoder of the store that `create_or_open` would continue; None where there is nothing yet.

    Raises:
        NotAStoreError, StoreMismatchError: as `create_or_open`, so that it is known before a decoder is pretrained.
    """
    if not storage.occupied():
        return None
    root = read_root(storage)
    _require_same(storage, root, header)
    return read_decoder(storage, root)


def open_writer(place: Place) -> StoreWriter:
    """A handle on the store at `place`, for a process that helps its converter: nothing is created, checked or swept.

    Raises:
        NotAStoreError, DamagedStoreError: as `read_root`.
    """
    storage = storage_at(place)
    return StoreWriter(storage.absolute(), read_root(storage))


def _continued(storage: Storage, root: Mapping[str, Any], header: StoreHeader, decoder: DecoderRecord) -> StoreWriter:
    _require_same(storage, root, header, decoder)
    storage.sweep(finished=root["complete"])
    return StoreWriter(storage.absolute(), root)  # absolute: workers may have started in other folders


def _require_same(
    storage: Storage, root: Mapping[str, Any], header: StoreHeader, decoder: DecoderRecord | None = None
) -> None:
    other = [f"write another store: --out {storage.beside(second_name(storage.name))}"]
    replace_it = ["or replace it: --overwrite"] if storage.replaces else []
    if root["format_version"] != FORMAT_VERSION:
        raise StoreMismatchError(
            f"cannot continue {storage}: another version of arcpipe made it.",
            details=[f"format version: was {root['format_version']}, now {FORMAT_VERSION}"],
            fix=other + replace_it,
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
        details = [line.replace("not set", "cpu") if line in moved else line for line in details]
        details.append("numbers of CPUs and GPUs differ in their last digits: a store is of one of them")
    raise StoreMismatchError(
        f"cannot continue {storage}: it was made by other settings.",
        details=[*details, f"fingerprint: was {root['fingerprint'][:8]}, now {header.fingerprint[:8]}"],
        fix=[*other, "or repeat the settings of before", *replace_it]
        + (["or continue where it was begun: --workers N for CPUs, --gpus N for GPUs"] if moved else [])
        + (["or, where only failed images were mended: --retry-failed"] if details == [IMAGES_DIFFER] else []),
    )


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
        "decoder": about,
        "versions": dict(header.versions),
        "complete": False,
        "totals": {},
        "latent_statistics": {},
    }
    if header.dtype == "int8":
        attributes |= {"bits": header.bits, "latent_steps": rounding.steps and list(rounding.steps)}
    if replaces:
        attributes["replaces"] = replaces
    write_file(folder / "zarr.json", group_document(attributes))


def _content(header: StoreHeader) -> dict[str, Any]:
    config: dict[str, Any] = _plain(header.config)
    return config.get("content", config)


def _plain(value: Any) -> Any:
    """The value as JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value))
