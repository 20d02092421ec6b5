"""The root of a store: is this a store, of a format that is understood, and unchanged?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arcpipe.cloud import DecoderRecord, record_from_arrays
from arcpipe.errors import NotAStoreError
from arcpipe.store.arrays import MAX_METADATA_BYTES, damaged
from arcpipe.store.attributes import root_problem
from arcpipe.store.decoder_file import decoder_kind, misfit
from arcpipe.store.group import Kinds, read_group
from arcpipe.store.part import Part
from arcpipe.store.schema import FORMAT, READABLE_VERSIONS

ROOT_ATTRIBUTES: Kinds = {
    **dict.fromkeys(("fingerprint", "dtype", "neighbours_cache"), str),
    **dict.fromkeys(("config", "splits", "decoder", "versions", "totals", "latent_statistics"), dict),
    **dict.fromkeys(("channels", "seed", "complete"), int),
    "classes": list,
}


def read_root(path: Path) -> dict[str, Any]:
    """The root's attributes.

    Raises:
        NotAStoreError: nothing is at `path`, or no arcpipe store, or one of another format version, or one with a
            decoder of a kind that is gone.
        DamagedStoreError: it is one, but a byte of its metadata was changed.
    """
    file = path / "zarr.json"
    if not path.exists():
        stores = sorted(p.name for p in path.parent.glob("*.zarr")) if path.parent.is_dir() else []
        raise NotAStoreError(
            f"there is no store {path}.",
            details=[f"stores in {path.parent}: {', '.join(stores)}"] if stores else [],
            fix=[f"arcpipe convert digits --out {path}"],
        )
    if not file.is_file():
        raise _not_a_store(path, "it has no zarr.json")
    try:
        if file.stat().st_size > MAX_METADATA_BYTES:
            raise ValueError("too large")
        document = json.loads(file.read_bytes())
        found = (document["attributes"]["format"], document["attributes"]["format_version"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        if _mentions_format(file):
            raise damaged(file, "it names the format, but cannot be understood") from None
        raise _not_a_store(path, f"its zarr.json does not say {FORMAT}") from None
    if found[0] != FORMAT:
        raise _not_a_store(path, f"its zarr.json says {found[0]!r}, expected {FORMAT!r}")
    if found[1] not in READABLE_VERSIONS:
        readable = " and ".join(map(str, READABLE_VERSIONS))
        raise _not_a_store(path, f"format version {found[1]}, this arcpipe reads {readable}")
    root = read_group(path, ROOT_ATTRIBUTES)
    try:
        decoder_kind(root["decoder"], path)
        problem = root_problem(root)
    except ValueError as error:
        problem = str(error)
    if problem:
        raise damaged(file, problem)
    return root


def read_decoder(path: Path, root: Mapping[str, Any]) -> DecoderRecord:
    """The decoder inside the store. Raises DamagedStoreError where its hash is not the one that the root names."""
    part = Part(path / "decoder")
    names = {name.split("/")[0] for name in part.attributes["files"]}
    arrays = {name: part.raw(name) for name in names}
    try:
        about = root["decoder"]
        record = record_from_arrays(arrays, about["n_neighbours"], about["latent_dim"], decoder_kind(about, path))
        problem = misfit(record) or (None if record.channels == root["channels"] else f"{record.channels} channels")
    except (KeyError, IndexError) as error:
        problem = f"its arrays {', '.join(sorted(names))} are no decoder's ({error})"
    if problem:
        raise damaged(part.folder, problem)
    expected = root["decoder"]["sha256"]
    if record.sha256 != expected:
        raise damaged(part.folder, f"decoder {record.sha256[:8]}, the store was made with {expected[:8]}")
    return record


def _mentions_format(file: Path) -> bool:
    with file.open("rb") as opened:
        return FORMAT.encode() in opened.read(2**20)


def _not_a_store(path: Path, what: str) -> NotAStoreError:
    return NotAStoreError(
        f"{path} is not an arcpipe store that can be read.",
        details=[what, "nothing was changed"],
        fix=["give another path, or move what is there out of the way"],
    )
