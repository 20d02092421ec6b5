"""Zarr v3 arrays and groups as the store uses them: cut and compressed on writing, opened with care on reading."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec
from zarr.storage import LocalStore

from arcpipe.errors import ArcpipeError, DamagedStoreError
from arcpipe.machine import is_shortage
from arcpipe.storage import Storage
from arcpipe.store.schema import group_document

CHUNK_BYTES = 2**20  # what is read to get one row; smaller chunks compress worse and cost more calls
MAX_CHUNK_BYTES = 2**26  # of an array somebody else wrote: more is refused before it is allocated
MAX_METADATA_BYTES = 2**28
MIN_STORED_CHUNK_BYTES = 16  # a chunk's entry in the shard index: a file of b bytes cannot hold more than b / 16 chunks

Kinds = Mapping[str, type | tuple[type, ...]]
"""Attributes that a group must have, and their types."""
READABLE_CODECS = {"sharding_indexed", "bytes", "transpose", "blosc", "zstd", "gzip", "crc32c"}
NUMBERS = {
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *(f"float{bits}" for bits in (16, 32, 64)),
}


@dataclass(frozen=True)
class Packing:
    """How chunks are compressed: column after column or row after row, what is shuffled before, and the level."""

    columns_first: bool = False
    shuffle: Literal["shuffle", "bitshuffle"] = "shuffle"
    level: int = 5


FLOATS, INTEGERS = Packing(), Packing(shuffle="bitshuffle")
"""fp16 latents: 0.89 of raw, with shuffled bits 0.90."""
SMALL_NUMBERS = Packing(level=1)
"""Numbers as if drawn by lot, most of them small: all that helps is that frequent ones have short codes. Repetitions,
which higher levels find, cost more than they save: 6-bit latents take 0.935 bytes a pixel at level 1 and 0.995 at 3,
where codes without any repetition would take 0.924."""


def write_array(folder: Path, name: str, values: NDArray[Any], packing: Packing | None = None) -> None:
    """Write one array below `folder`.

    Chunks of about 1 MiB along the rows, all of them in one shard (an array that fits in one chunk has no shard);
    Blosc (zstd) and a crc32c over each chunk. Without `packing` as `INTEGERS` or `FLOATS` are.
    """
    packing = packing or (INTEGERS if values.dtype.kind in "iu" else FLOATS)
    rows, row_bytes = len(values), max(1, values.dtype.itemsize * prod(values.shape[1:]))
    chunk_rows = min(max(rows, 1), max(1, CHUNK_BYTES // row_bytes))
    n_chunks = -(-rows // chunk_rows)
    array = zarr.create_array(
        LocalStore(folder / name),  # the array's own folder: given a name, Zarr writes the group's zarr.json as well
        shape=values.shape,
        dtype=values.dtype,
        chunks=(chunk_rows, *values.shape[1:]),
        shards=(n_chunks * chunk_rows, *values.shape[1:]) if n_chunks > 1 else None,
        filters=[TransposeCodec(order=(1, 0))] if packing.columns_first else None,
        compressors=[
            BloscCodec(cname="zstd", clevel=packing.level, shuffle=packing.shuffle, typesize=values.dtype.itemsize),
            Crc32cCodec(),
        ],
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    if rows:
        array[...] = values


def open_array(storage: Storage, group: str, name: str, size_of: Callable[[str], int]) -> zarr.Array:
    """Open an array after checking what its metadata claims, so that a hostile file allocates nothing.

    `size_of` tells the size of a file below the group, see `Storage.sizes`.

    Raises:
        DamagedStoreError: no such array, metadata that cannot be read, a codec or data type outside the format, or
            more data declared than the array's file can hold.
    """
    place = posixpath.join(group, name)
    document, data = read_json(storage, f"{place}/zarr.json")
    try:
        problem = _implausible(name, document, size_of)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        problem = f"metadata that cannot be understood ({type(error).__name__}: {error})"
    if problem:
        raise damaged(storage, place, problem)
    try:
        return zarr.open_array(storage.array(place, data), mode="r", zarr_format=3)
    except ArcpipeError:
        raise
    except Exception as error:
        if is_shortage(error):
            raise
        raise damaged(storage, place, f"Zarr cannot open it: {error}") from error


def read_rows(array: zarr.Array, start: int, stop: int, storage: Storage, place: str) -> NDArray[Any]:
    """Decode rows `start:stop` of the array `place` of a store.

    Raises:
        DamagedStoreError: a checksum, a codec or the file does not agree.
    """
    try:
        return np.asarray(array[start:stop])
    except ArcpipeError:  # the network's: no damage
        raise
    except Exception as error:  # the codecs raise ValueError, RuntimeError, OSError and more for the same thing
        if is_shortage(error):
            raise
        raise damaged(storage, place, f"{type(error).__name__}: {error}") from error


def read_json(storage: Storage, name: str) -> tuple[dict[str, Any], bytes]:
    """Read a metadata document and its bytes. Raises DamagedStoreError where it is missing, too large or no object."""
    try:
        data = storage.read(name, at_most=MAX_METADATA_BYTES)
    except FileNotFoundError:
        raise damaged(storage, name, "missing") from None
    except OSError as error:
        if is_shortage(error):
            raise
        raise damaged(storage, name, f"not JSON: {error}") from error
    except ValueError as error:
        raise damaged(storage, name, f"{error}, expected metadata") from None
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(storage, name, f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise damaged(storage, name, "not a JSON object")
    return document, data


def read_group(storage: Storage, group: str, required: Kinds | None = None) -> dict[str, Any]:
    """The attributes of a sealed group, without the seal.

    Raises:
        DamagedStoreError: missing, not JSON, any byte of it was changed since it was written, or one of the `required`
            attributes is absent or of another type.
    """
    name = posixpath.join(group, "zarr.json")
    document, data = read_json(storage, name)
    attributes = document.get("attributes")
    if not isinstance(attributes, dict):
        raise damaged(storage, name, "no attributes")
    own = {key: value for key, value in attributes.items() if key != "seal"}
    try:
        whole = data == group_document(own)
    except (ValueError, TypeError):
        whole = False
    if not whole:
        raise damaged(storage, name, "its seal does not match: some byte of it was changed")
    for key, kind in (required or {}).items():
        if not isinstance(own.get(key), kind):
            raise damaged(storage, name, f"attribute {key!r} is {own.get(key)!r}")
    return own


def damaged(storage: Storage, name: str, what: str) -> DamagedStoreError:
    """Say that a file, an array or a group of a store is damaged, and what to do about it."""
    where = posixpath.join(str(storage), name)
    store, sign, inside = where.rpartition(".zarr/")  # an attempt lies inside of its store
    store = f"{store}.zarr" if sign else str(storage)
    fix = [f"arcpipe verify {store}   (names everything that is damaged)"]
    if "/" in inside and not inside.startswith("decoder/"):
        fix.append(f"arcpipe verify {store} --repair, then the same arcpipe convert command: it makes this part again")
    error = DamagedStoreError(f"{where} is damaged.", details=[what], fix=fix)
    error.where = name
    return error


def data_file(name: str, n_dimensions: int) -> str:
    """The one file that holds an array's data, below its group: a shard, or a single chunk."""
    return "/".join([name, "c", *["0"] * n_dimensions])


def _implausible(name: str, document: dict[str, Any], size_of: Callable[[str], int]) -> str | None:
    """Say what is wrong with an array's metadata, or None."""
    if document["zarr_format"] != 3 or document["node_type"] != "array":
        return "not a Zarr v3 array"
    unknown = sorted(_codec_names(document["codecs"]) - READABLE_CODECS)
    if unknown:
        return f"codec {', '.join(unknown)} is not part of the format"
    if document["data_type"] not in NUMBERS:  # not left to NumPy, whose parser raises what it likes
        return f"data type {str(document['data_type'])[:40]}"
    kind = np.dtype(document["data_type"])
    shape = [int(n) for n in document["shape"]]
    outer = [int(n) for n in document["chunk_grid"]["configuration"]["chunk_shape"]]
    inner = outer
    if document["codecs"][0]["name"] == "sharding_indexed":
        inner = [int(n) for n in document["codecs"][0]["configuration"]["chunk_shape"]]
    if not len(shape) == len(outer) == len(inner) or min([*shape, 0]) < 0 or min(outer) < 1 or min(inner) < 1:
        return f"shape {shape} in chunks of {outer} and {inner}"
    if prod(inner) * kind.itemsize > MAX_CHUNK_BYTES:
        return f"chunks of {prod(inner) * kind.itemsize} bytes"
    if prod(shape) == 0:
        return None
    if any(n > size for n, size in zip(shape, outer, strict=True)):
        return f"shape {shape} does not fit in one shard of {outer}"
    file = data_file(name, len(shape))
    n_bytes = size_of(file)
    if prod(outer) // prod(inner) * MIN_STORED_CHUNK_BYTES > n_bytes:
        return f"shape {shape} declared, but {file.removeprefix(f'{name}/')} has {n_bytes} bytes"
    return None


def _codec_names(codecs: list[dict[str, Any]]) -> set[str]:
    names = set()
    for codec in codecs:
        names.add(codec["name"])
        inside = codec.get("configuration", {})
        names |= _codec_names(inside.get("codecs", [])) | _codec_names(inside.get("index_codecs", []))
    return names
