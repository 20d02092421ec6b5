"""Small clouds and stores that the tests of this room share (also imported by the processes that they kill)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arcpipe.cloud import BasisRecord, Cloud, CloudBatch, DecoderRecord, NetworkRecord, morton_codes
from arcpipe.files import file_hashes
from arcpipe.storage import BucketStorage, LocalStorage, Place, Storage, objects, storage_at
from arcpipe.store import StoreHeader, StoreWriter, create_or_open, fingerprint, open_writer
from arcpipe.store import arrays as array_module
from arcpipe.store.arrays import read_group, write_array
from arcpipe.store.part import Part
from arcpipe.store.schema import group_document

LATENT_DIM = 6
CLASSES = ("cats", "dogs", "pandas")


def nearest(positions: np.ndarray, size: tuple[int, int], n: int) -> np.ndarray:
    """Brute force: by squared distance, then by row."""
    pixels = np.stack(np.divmod(np.arange(size[0] * size[1]), size[1]), axis=1)
    gaps = ((pixels[:, None] - positions.astype(np.int64)[None]) ** 2).sum(axis=2)
    return np.argsort(gaps, axis=1, kind="stable")[:, :n]


def make_cloud(i: int, *, size: tuple[int, int] = (9, 7), points: int = 6, n: int = 4, **others: Any) -> Cloud:
    """A cloud as the converter would make it, seeded by `i`."""
    rng = np.random.default_rng(i)
    flat = rng.choice(size[0] * size[1], points, replace=points > size[0] * size[1])
    positions = np.stack(np.divmod(flat, size[1]), axis=1)
    positions = positions[np.argsort(morton_codes(positions), kind="stable")].astype(np.uint16)
    known = {"label": i % 3, "psnr": 20 + i / 7, "sample_id": i, "path": f"{CLASSES[i % 3]}/{i:04d}.jpg"}
    return Cloud(
        positions=positions,
        latents=rng.normal(size=(points, LATENT_DIM)).astype(np.float16).astype(np.float32),
        size=size,
        relative=(float(np.float32(rng.normal())), float(np.float32(2 + rng.random()))),
        neighbours=nearest(positions, size, n).astype(np.uint16),
        **{**known, **others},
    )


def make_batch(numbers: Sequence[int], **options: Any) -> CloudBatch:
    """Clouds of several sizes."""
    clouds = [make_cloud(i, size=(5 + i % 4, 6 + i % 3), points=4 + i % 5, **options) for i in numbers]
    return CloudBatch.join(clouds, latent_dim=LATENT_DIM, n_neighbours=4)


def make_decoder() -> DecoderRecord:
    rng = np.random.default_rng(99)
    width = 4 * (LATENT_DIM + 2)
    shapes = [(8, width), (3, 8)]
    return NetworkRecord(
        weights=tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes),
        biases=tuple(rng.normal(size=shape[0]).astype(np.float32) for shape in shapes),
        n_neighbours=4,
        latent_dim=LATENT_DIM,
    )


def make_basis() -> BasisRecord:
    """A decoder of the other kind, with latents of as many numbers: its anchors have scales."""
    rng = np.random.default_rng(7)
    return BasisRecord(
        profiles=rng.normal(size=(5, 3, 4)).astype(np.float32),
        orders=np.array([0, 0, 1, 2], np.float32),
        spacing=0.5,
        sharpness=1.0,
        floor=0.5,
        scale_rule=np.array([1, 1.5, 40], np.float32),
        costs=np.array([4, 1, 1, 1, 0.25, 0.25], np.float32),
        ranges=np.array([1, 2, 3, 1, 1, 4], np.float32),
        n_neighbours=4,
    )


def to_version_1(path: Path) -> None:
    """Make the store at `path` one of the first format version: positions and sets of neighbours in full."""
    for file in path.glob("*/*/offsets"):
        folder = file.parent
        part = Part(LocalStorage(path), folder.relative_to(path).as_posix())
        clouds = part.clouds(0, part.n_clouds, neighbours=True)
        own = dict(part.attributes)
        for name in ("position_gaps", "arrivals", "arrival_counts", "arrival_offsets", "zarr.json"):
            target = folder / name
            target.unlink() if name == "zarr.json" else shutil.rmtree(target)
        write_array(folder, "positions", clouds.positions)
        assert clouds.neighbours is not None
        write_array(folder, "neighbours", np.sort(clouds.neighbours, axis=1))
        del own["positions_coding"], own["n_neighbours"]
        own |= {"neighbours_coding": "sets", "files": file_hashes(folder)}
        (folder / "zarr.json").write_bytes(group_document(own))
    (path / "zarr.json").write_bytes(group_document({**read_group(LocalStorage(path), ""), "format_version": 1}))


def make_header(splits: dict[str, dict[str, int]], *, steps: int = 500, **options: Any) -> StoreHeader:
    config = {"source": {"source": "digits"}, "fit": {"steps": steps}}
    options = {"dtype": "float16", "neighbours_cache": "pixels", **options}
    return StoreHeader(
        config=config,
        fingerprint=fingerprint({**config, **options, "splits": splits}),
        classes=CLASSES,
        channels=3,
        splits=splits,
        versions={"arcpipe": "0.1.0"},
        **options,
    )


def empty_store(
    place: Place, splits: dict[str, dict[str, int]], decoder: DecoderRecord | None = None, **options: Any
) -> StoreWriter:
    return create_or_open(place, make_header(splits, **options), decoder or make_decoder())


def full_store(place: Place, **options: Any) -> StoreWriter:
    """A finished store, copied from the one that `write_full_store` once wrote."""
    storage, files = storage_at(place), _files_of_a_full_store(array_module.CHUNK_BYTES, **options)
    storage.each(lambda name: write(storage, name, files[name]), files)
    return open_writer(storage)


@cache
def _files_of_a_full_store(_chunk_bytes: int, **options: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        storage = write_full_store(Path(folder, "s.zarr"), **options).storage
        return {name: storage.read(name) for name in storage.files()}


def write_full_store(place: Place, *, one_part: bool = False, **options: Any) -> StoreWriter:
    """A finished store: two training parts of 5 clouds and one test part of 3, or the first part only."""
    parts = [("train", "0000", range(5)), ("train", "0001", range(5, 10)), ("test", "0000", range(3))]
    splits = {"train": {"samples": 10, "parts": 2}, "test": {"samples": 3, "parts": 1}}
    if one_part:
        parts, splits = parts[:1], {"train": {"samples": 5, "parts": 1}}
    writer = empty_store(place, splits, **options)
    for split, part, numbers in parts:
        batch = make_batch(numbers)
        if writer.root["neighbours_cache"] == "none":
            batch = batch.without_neighbours()
        writer.commit_part(split, part, batch, [], {"seconds": 0.5})
    writer.finish()
    return writer


def place_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Where a store can be made, alone in its surroundings: in a `folder`, or in a `bucket`."""
    around = str(tmp_path) if kind == "folder" else request.getfixturevalue("bucket")
    return storage_at(f"{around}/s.zarr")


def around(place: Storage) -> list[str]:
    """Every file in the folder or the prefix that the store is in."""
    if isinstance(place, BucketStorage):
        return list(place.beside("").files())
    return list(LocalStorage(Path(place.parent)).files())


def flip(place: Storage, name: str, at: int = -1, bit: int = 4) -> None:
    """Change a bit of one byte of a file."""
    data = bytearray(place.read(name))
    data[at] ^= bit
    write(place, name, bytes(data))


def write(place: Storage, name: str, data: bytes) -> None:
    """Write or replace a file behind the store's back."""
    if isinstance(place, LocalStorage):
        (place.path / name).parent.mkdir(parents=True, exist_ok=True)
        (place.path / name).write_bytes(data)
    else:
        place.replace(name, data)


def remove(place: Storage, name: str) -> None:
    """Remove a file behind the store's back."""
    if isinstance(place, BucketStorage):
        objects.delete(place.address.root, [place.address.at(name).key])
    else:
        Path(str(place), name).unlink()


def same_clouds(left: CloudBatch, right: CloudBatch) -> bool:
    """Equal in every array, whatever the integer widths."""
    names = ("offsets", "positions", "latents", "sizes", "relative", "labels", "repeats", "sample_ids")
    if left.scales is not None or right.scales is not None:
        names += ("scales",)
    names += ("psnr",) + (("neighbours", "pixel_offsets") if left.neighbours is not None else ())
    equal = (np.array_equal(getattr(left, n), getattr(right, n), equal_nan=n == "psnr") for n in names)
    return all(equal) and left.paths == right.paths
