"""Stores that are damaged in their bytes, or sealed again over numbers that lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from arcpipe.cloud import FailedSample
from arcpipe.errors import ArcpipeError, DamagedStoreError
from arcpipe.files import file_hashes
from arcpipe.storage import LocalStorage
from arcpipe.store import arrays as array_module
from arcpipe.store import load_decoder_file, open_store, verify
from arcpipe.store.arrays import write_array
from arcpipe.store.decoder_file import misfit, save_decoder_file
from arcpipe.store.layout import ARRAYS, packing
from arcpipe.store.part import Part
from arcpipe.store.schema import group_document
from tests.fuzz.mutate import mutate, mutate_json, to_bytes
from tests.store.store_samples import empty_store, make_batch, make_decoder

Rng = np.random.Generator
EXTREMES = (0, 1, -1, 255, 65535, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))


def store(folder: Path) -> list[Path]:
    """A finished store with shards of several chunks, an int8 one, and one that is unfinished and has failures."""
    usual = array_module.CHUNK_BYTES
    array_module.CHUNK_BYTES = 256
    for dtype in ("float16", "int8"):
        writer = empty_store(folder / f"{dtype}.zarr", {"train": {"samples": 4, "parts": 1}}, dtype=dtype)
        failed = FailedSample(3, "cats/broken.jpg", "truncated", "train/cats/broken.jpg is cut off.")
        writer.commit_part("train", "0000", make_batch(range(3)), [failed], {"seconds": 0.5})
        writer.finish()
    array_module.CHUNK_BYTES = usual
    writer = empty_store(folder / "part.zarr", {"train": {"samples": 4, "parts": 2}}, neighbours_cache="none")
    writer.commit_part("train", "0001", make_batch(range(2)).without_neighbours())
    return [folder / "float16.zarr", folder / "int8.zarr", folder / "part.zarr"]


def whole(corpus: list[Path], folder: Path) -> Path:
    return _copy(corpus[0], folder)


def _copy(source: Path, folder: Path) -> Path:
    shutil.rmtree(folder / "x.zarr", ignore_errors=True)
    return Path(shutil.copytree(source, folder / "x.zarr"))


def _one(rng: Rng, corpus: list[Path], folder: Path) -> Path:
    return _copy(corpus[int(rng.integers(len(corpus)))], folder)


def _choice(rng: Rng, options: list[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def damaged_bytes(rng: Rng, corpus: list[Path], folder: Path) -> Path:
    """Any file: mutated, cut, gone, or swapped with another."""
    path = _one(rng, corpus, folder)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    victim, other = _choice(rng, files), _choice(rng, files)
    data = victim.read_bytes()
    if rng.random() < 0.1:
        victim.write_bytes(other.read_bytes())
        other.write_bytes(data)
    elif rng.random() < 0.05:
        victim.unlink()
    else:
        victim.write_bytes(mutate(data, rng, other.read_bytes()))
    return path


def damaged_attributes(rng: Rng, corpus: list[Path], folder: Path) -> Path:
    """The attributes of a group changed, and sealed again: nothing but their meaning tells."""
    path = _one(rng, corpus, folder)
    files = [file for file in sorted(path.rglob("zarr.json")) if b'"group"' in file.read_bytes()]
    _reseal(_choice(rng, files), rng)
    return path


def _reseal(file: Path, rng: Rng) -> None:
    attributes = json.loads(file.read_bytes())["attributes"]
    attributes.pop("seal")
    changed = mutate_json(attributes, rng)
    try:
        file.write_bytes(group_document(changed))
    except (ValueError, TypeError):  # no JSON: NaN, or a key twice
        file.write_bytes(to_bytes({"zarr_format": 3, "node_type": "group", "attributes": changed}))


def damaged_metadata(rng: Rng, corpus: list[Path], folder: Path) -> Path:
    """The metadata of an array changed, and its hash in the group's as well."""
    path = _one(rng, corpus, folder)
    files = [file for file in sorted(path.rglob("zarr.json")) if b'"array"' in file.read_bytes()]
    file = _choice(rng, files)
    file.write_bytes(to_bytes(mutate_json(json.loads(file.read_bytes()), rng)))
    _record(file.parent.parent)
    return path


def damaged_numbers(rng: Rng, corpus: list[Path], folder: Path) -> Path:
    """The numbers of an array changed, written as the writer does, hashed and sealed."""
    path = _one(rng, corpus, folder)
    part = _choice(rng, sorted(file.parent for file in path.glob("*/*/offsets")))
    own = Part(LocalStorage(part.parent), part.name)
    names = [name for name in ARRAYS if own.has(name)]
    _rewrite(part, _choice(rng, names), own, rng)
    return path


def damaged_neighbours(rng: Rng, corpus: list[Path], folder: Path) -> Path:
    """Neighbours and what they are decoded with."""
    path = _copy(corpus[int(rng.integers(2))], folder)
    part = _choice(rng, sorted(file.parent for file in path.glob("*/*/offsets")))
    names = ["arrivals", "arrival_counts", "arrival_offsets", "position_gaps", "offsets", "pixel_offsets", "sizes"]
    for name in {_choice(rng, names) for _ in range(2)}:
        _rewrite(part, name, Part(LocalStorage(part.parent), part.name), rng)
    return path


def _rewrite(part: Path, name: str, own: Part, rng: Rng) -> None:
    values = np.array(own.raw(name))
    if values.size:
        for _ in range(int(rng.integers(1, 4))):
            at = tuple(int(rng.integers(n)) for n in values.shape)
            if values.dtype.kind == "f":
                values[at] = _choice(rng, [np.nan, np.inf, -np.inf, 0, -1, 60000])
            else:
                values[at] = np.array(_choice(rng, [*EXTREMES, int(rng.integers(100))])).astype(values.dtype)
    if rng.random() < 0.2:
        values = values[: int(rng.integers(len(values) + 1))]
    if rng.random() < 0.1:
        values = np.concatenate([values, values])
    if rng.random() < 0.1:
        values = values.astype(_choice(rng, [np.uint8, np.int32, np.uint64, np.float32, np.float64]))
    shutil.rmtree(part / name)
    write_array(part, name, values, packing(name, values))
    _record(part)


def _record(group: Path) -> None:
    """The group's record of its files is true again, and sealed."""
    attributes = json.loads((group / "zarr.json").read_bytes())["attributes"]
    attributes.pop("seal")
    (group / "zarr.json").unlink()
    attributes["files"] = file_hashes(group)
    (group / "zarr.json").write_bytes(group_document(attributes))


def read_store(path: Path) -> None:
    """Everything that commands do with a store; each may refuse by itself, and `verify` never raises for damage."""
    refused = None
    for use in (_clouds, _names, _decoder):
        try:
            use(path)
        except ArcpipeError as error:
            str(error).encode("utf-8", "backslashreplace")
            refused = error
    report = verify(path)
    json.dumps([str(problem) for problem in report.problems])
    if isinstance(refused, DamagedStoreError):
        assert report.problems or not report.complete, f"verify finds nothing, reading says {refused}"
    if refused is not None:
        raise refused


def _clouds(path: Path) -> None:
    store = open_store(path, allow_unfinished=True)
    store.latent_statistics  # noqa: B018
    for split in store.splits:
        for info in store.parts(split):
            for start in range(0, min(info.n_clouds, 20), 2):
                store.read_block(split, info.id, start, start + 2, neighbours=store.has_neighbours)
        for column in ("labels", "psnr", "sample_ids", "counts", "sizes", "relative", "repeats"):
            store.column(split, column)


def _names(path: Path) -> None:
    store = open_store(path, allow_unfinished=True)
    store.find(f"{store.splits[0]}/1" if store.splits else "train/1")


def _decoder(path: Path) -> None:
    record = open_store(path, allow_unfinished=True).decoder
    assert misfit(record) is None


def decoder_file(folder: Path) -> bytes:
    save_decoder_file(folder / "sound.safetensors", make_decoder())
    return (folder / "sound.safetensors").read_bytes()


def whole_file(corpus: bytes, folder: Path) -> Path:
    (folder / "x.safetensors").write_bytes(corpus)
    return folder / "x.safetensors"


def damaged_file(rng: Rng, corpus: bytes, folder: Path) -> Path:
    return whole_file(mutate_safetensors(rng, corpus), folder)


def mutate_safetensors(rng: Rng, data: bytes) -> bytes:
    """The bytes, or the header as JSON with its length made right."""
    if rng.random() < 0.5:
        return mutate(data, rng)
    size = int.from_bytes(data[:8], "little")
    header = to_bytes(mutate_json(json.loads(data[8 : 8 + size]), rng))
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def read_decoder(path: Path) -> None:
    record = load_decoder_file(path)
    assert misfit(record) is None
    assert len(record.sha256) == 64
