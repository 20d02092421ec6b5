"""Reading the sealed `zarr.json` of a group."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from arcpipe.storage import Storage
from arcpipe.store.arrays import damaged, read_json, read_metadata
from arcpipe.store.schema import seal_is_whole

Kinds = Mapping[str, type | tuple[type, ...]]


def read_group(storage: Storage, group: str, required: Kinds | None = None) -> dict[str, Any]:
    """The attributes of a sealed group, without the seal.

    Raises:
        DamagedStoreError: missing, not JSON, any byte of it was changed since it was written, or one of the `required`
            attributes is absent or of another type.
    """
    name = posixpath.join(group, "zarr.json")
    data = read_metadata(storage, name)
    document = read_json(storage, name, data)
    attributes = document.get("attributes")
    if not isinstance(attributes, dict):
        raise damaged(storage, name, "no attributes")
    try:
        whole = seal_is_whole(data, attributes)
    except (ValueError, TypeError):
        whole = False
    if not whole:
        raise damaged(storage, name, "its seal does not match: some byte of it was changed")
    for key, kind in (required or {}).items():
        if not isinstance(attributes.get(key), kind):
            raise damaged(storage, name, f"attribute {key!r} is {attributes.get(key)!r}")
    return {key: value for key, value in attributes.items() if key != "seal"}
