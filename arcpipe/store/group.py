"""Reading the sealed `zarr.json` of a group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arcpipe.store.arrays import damaged, read_json
from arcpipe.store.schema import seal_is_whole


def read_group(folder: Path) -> dict[str, Any]:
    """The attributes of a sealed group, without the seal.

    Raises:
        DamagedStoreError: missing, not JSON, or any byte of it was changed since it was written.
    """
    document = read_json(folder / "zarr.json")
    attributes = document.get("attributes")
    if not isinstance(attributes, dict):
        raise damaged(folder / "zarr.json", "no attributes")
    try:
        whole = seal_is_whole((folder / "zarr.json").read_bytes(), attributes)
    except (OSError, ValueError, TypeError):
        whole = False
    if not whole:
        raise damaged(folder / "zarr.json", "its seal does not match: some byte of it was changed")
    return {key: value for key, value in attributes.items() if key != "seal"}
