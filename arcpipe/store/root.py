"""The root of a store: is this a store, of a format that is understood, and unchanged?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from arcpipe.cloud import DecoderRecord, record_from_arrays
from arcpipe.errors import NotAStoreError
from arcpipe.storage import Storage
from arcpipe.store.arrays import MAX_METADATA_BYTES, Kinds, damaged, read_group
from arcpipe.store.attributes import root_problem
from arcpipe.store.decoder_file import decoder_kind, misfit
from arcpipe.store.part import Part
from arcpipe.store.schema import FORMAT, READABLE_VERSIONS

ROOT_ATTRIBUTES: Kinds = {
    **dict.fromkeys(("fingerprint", "dtype", "neighbours_cache"), str),
    **dict.fromkeys(("config", "splits", "decoder", "versions", "totals", "latent_statistics"), dict),
    **dict.fromkeys(("channels", "seed", "complete"), int),
    "classes": list,
}


def read_root(storage: Storage) -> dict[str, Any]:
    """The root's attributes.

    Raises:
        NotAStoreError: nothing is there, or no arcpipe store, or one of another format version, or one with a
            decoder of a kind that is gone.
        DamagedStoreError: it is one, but a byte of its metadata was changed.
    """
    if not storage.is_taken():
        stores = storage.stores_around()
        raise NotAStoreError(
            f"there is no store {storage}.",
            details=[f"stores in {storage.parent}: {', '.join(stores)}"] if stores else [],
            fix=[f"arcpipe convert digits --out {storage}"],
        )
    if not storage.is_file("zarr.json"):
        raise _not_a_store(storage, "it has no zarr.json")
    data = b""
    try:
        data = storage.read("zarr.json", at_most=MAX_METADATA_BYTES)
        document = json.loads(data)
        found = (document["attributes"]["format"], document["attributes"]["format_version"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        if FORMAT.encode() in data:
            raise damaged(storage, "zarr.json", "it names the format, but cannot be understood") from None
        raise _not_a_store(storage, f"its zarr.json does not say {FORMAT}") from None
    if found[0] != FORMAT:
        raise _not_a_store(storage, f"its zarr.json says {found[0]!r}, expected {FORMAT!r}")
    if found[1] not in READABLE_VERSIONS:
        readable = " and ".join(map(str, READABLE_VERSIONS))
        raise _not_a_store(storage, f"format version {found[1]}, this arcpipe reads {readable}")
    root = read_group(storage, "", ROOT_ATTRIBUTES)
    try:
        decoder_kind(root["decoder"], storage)
        problem = root_problem(root)
    except ValueError as error:
        problem = str(error)
    if problem:
        raise damaged(storage, "zarr.json", problem)
    return root


def read_decoder(storage: Storage, root: Mapping[str, Any]) -> DecoderRecord:
    """The decoder inside the store. Raises DamagedStoreError where its hash is not the one that the root names."""
    part = Part(storage, "decoder")
    names = {name.split("/")[0] for name in part.attributes["files"]}
    arrays = {name: part.raw(name) for name in names}
    try:
        about = root["decoder"]
        record = record_from_arrays(arrays, about["n_neighbours"], about["latent_dim"], decoder_kind(about, storage))
        problem = misfit(record) or (None if record.channels == root["channels"] else f"{record.channels} channels")
    except (KeyError, IndexError) as error:
        problem = f"its arrays {', '.join(sorted(names))} are no decoder's ({error})"
    if problem:
        raise part.damaged("", problem)
    expected = root["decoder"]["sha256"]
    if record.sha256 != expected:
        raise part.damaged("", f"decoder {record.sha256[:8]}, the store was made with {expected[:8]}")
    return record


def _not_a_store(storage: Storage, what: str) -> NotAStoreError:
    return NotAStoreError(
        f"{storage} is not an arcpipe store that can be read.",
        details=[what, "nothing was changed"],
        fix=["give another path, or move what is there out of the way"],
    )
