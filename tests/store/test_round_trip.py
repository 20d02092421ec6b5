"""What is committed is what is read: any clouds, any part of them, by arcpipe and by plain Zarr."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_samples import (
    LATENT_DIM,
    empty_store,
    full_store,
    make_basis,
    make_batch,
    make_cloud,
    make_decoder,
    same_clouds,
    to_version_1,
    write_full_store,
)

from arcpipe.cloud import CloudBatch, FailedSample, morton_codes
from arcpipe.errors import DamagedStoreError, StoreMismatchError
from arcpipe.storage import LocalStorage
from arcpipe.store import Rounding, StoreWriter, open_store, open_writer, verify
from arcpipe.store import arrays as array_module
from arcpipe.store.arrays import read_group
from arcpipe.store.layout import decode_gaps, encode_gaps
from arcpipe.store.quantise import scale_codes, scales_of
from arcpipe.store.schema import group_document

ONE_PART = {"train": {"samples": 3, "parts": 1}}
SHAPES = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(4, 9)), max_size=6)
PATHS = st.text(min_size=1, max_size=12).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))


@given(SHAPES, st.data(), st.sampled_from(["float16", "float32", "int8"]), st.sampled_from(["pixels", "none"]))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_ragged_clouds_come_back(shapes: list, data: st.DataObject, dtype: str, cache: str) -> None:
    paths = [data.draw(PATHS) for _ in shapes]
    clouds = [
        make_cloud(i, size=(h, w), points=k, path=path)
        for i, ((h, w, k), path) in enumerate(zip(shapes, paths, strict=True))
    ]
    batch = CloudBatch.join(clouds, latent_dim=LATENT_DIM)
    batch = batch.without_neighbours() if cache == "none" else batch
    failures = [FailedSample(100, "dogs/broken.jpg", "truncated", "ends early")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s.zarr")
        writer = empty_store(
            path, {"train": {"samples": len(clouds) + 1, "parts": 1}}, dtype=dtype, neighbours_cache=cache
        )
        record = writer.commit_part("train", "0000", batch, failures)
        assert (record.n_samples, record.n_clouds, record.n_failures) == (len(clouds) + 1, len(clouds), 1)
        writer.finish()
        store = open_store(path)
        rounded = Rounding(dtype).round(batch.latents, batch.offsets)
        assert same_clouds(
            replace(batch, latents=rounded), store.read_part("train", "0000", neighbours=cache == "pixels")
        )
        assert store.failures("train") == failures
        assert verify(path).problems == []


def test_blocks_are_slices_of_the_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_module, "CHUNK_BYTES", 64)  # many chunks in a shard, clouds across their borders
    full_store(tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    whole = make_batch(range(5))
    for start in range(6):
        for stop in range(start, 7):
            block = store.read_block("train", "0000", start, stop, neighbours=True)
            expected = [whole[i] for i in range(start, min(stop, 5))]
            assert same_clouds(CloudBatch.join(expected, latent_dim=LATENT_DIM), block)
    assert verify(tmp_path / "s.zarr").problems == []


def test_changing_a_block_changes_nothing_that_is_read_later(tmp_path: Path) -> None:
    full_store(tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    block = store.read_block("train", "0000", 1, 3)
    for name in ("positions", "latents", "labels", "sizes", "offsets"):
        getattr(block, name)[...] = 0
    assert same_clouds(store.read_part("train", "0000", neighbours=True), make_batch(range(5)))


def test_it_is_nothing_but_zarr(tmp_path: Path) -> None:
    """Warnings are errors here: plain Zarr reads every array and names every group, without a word of complaint."""
    full_store(tmp_path / "s.zarr")
    root = zarr.open_group(tmp_path / "s.zarr", mode="r", zarr_format=3)
    assert set(root.group_keys()) == {"train", "test", "decoder"}
    part = root["train/0001"]
    assert np.array_equal(part["latents"][:], make_batch(range(5, 10)).latents)
    assert part["offsets"][-1] == part["position_gaps"].shape[0]
    assert part.attrs["clouds"] == 5
    weights = make_decoder().arrays()
    assert all(np.array_equal(root["decoder"][name][:], values) for name, values in weights.items())


def test_the_same_clouds_give_the_same_bytes(tmp_path: Path) -> None:
    """Only `provenance` in the part's own zarr.json may differ."""
    for name in ("a.zarr", "b.zarr"):
        write_full_store(tmp_path / name)
    first, second = (
        {
            file.relative_to(tmp_path / name): file.read_bytes()
            for file in (tmp_path / name).rglob("*")
            if file.is_file()
        }
        for name in ("a.zarr", "b.zarr")
    )
    assert first == second


@pytest.mark.parametrize("count", [0, 1])
def test_parts_without_clouds_or_of_one(tmp_path: Path, count: int) -> None:
    writer = empty_store(tmp_path / "s.zarr", {"train": {"samples": 3, "parts": 1}})
    failures = [FailedSample(i, f"cats/{i:04d}.jpg", "unreadable", "") for i in range(count, 3)]
    writer.commit_part("train", "0000", make_batch(range(count)), failures)
    writer.finish()
    store = open_store(tmp_path / "s.zarr")
    assert same_clouds(make_batch(range(count)), store.read_part("train", "0000", neighbours=True))
    assert len(store.psnr("train")) == count
    assert verify(tmp_path / "s.zarr").problems == []


def test_file_names_that_are_no_text_survive(tmp_path: Path) -> None:
    writer = empty_store(tmp_path / "s.zarr", {"train": {"samples": 1, "parts": 1}})
    name = b"cats/\xff\xe9.jpg".decode("utf-8", "surrogateescape")
    writer.commit_part("train", "0000", CloudBatch.join([make_cloud(0, path=name)]))
    assert open_store(tmp_path / "s.zarr", allow_unfinished=True).read_part("train", "0000").paths == (name,)


def test_rows_above_65535_and_large_sides(tmp_path: Path) -> None:
    writer = empty_store(tmp_path / "s.zarr", {"train": {"samples": 1, "parts": 1}}, neighbours_cache="none")
    columns = np.sort(np.random.default_rng(0).choice(70_000, 66_000, replace=False))
    cloud = replace(
        make_cloud(0),
        positions=np.stack([0 * columns, columns], axis=1),
        latents=np.zeros((66_000, LATENT_DIM), np.float32),
        size=(1, 70_000),
        neighbours=None,
    )
    writer.commit_part("train", "0000", CloudBatch.join([cloud]))
    back = open_store(tmp_path / "s.zarr", allow_unfinished=True).read_part("train", "0000")
    assert back.positions.dtype == np.uint32
    assert np.array_equal(back.positions[:, 1], columns)


def test_stores_of_the_first_format_version_are_read(tmp_path: Path) -> None:
    full_store(tmp_path / "s.zarr")
    expected = open_store(tmp_path / "s.zarr").read_part("train", "0000", neighbours=True)
    to_version_1(tmp_path / "s.zarr")
    open_writer(tmp_path / "s.zarr").finish()  # its parts have another size now
    store = open_store(tmp_path / "s.zarr")
    assert same_clouds(expected, store.read_part("train", "0000", neighbours=True))
    assert same_clouds(expected, make_batch(range(5)))
    assert verify(tmp_path / "s.zarr").problems == []
    with pytest.raises(StoreMismatchError, match="format version: was 1, now 2"):
        write_full_store(tmp_path / "s.zarr")


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 8), ("int8", 8), ("int8", 2)])
def test_clouds_of_a_basis_come_back_with_their_scales(tmp_path: Path, dtype: str, bits: int) -> None:
    """And its int8 latents have the steps of the store, whatever lies in the part."""
    decoder, batch = make_basis(), make_batch(range(3))
    rng = np.random.default_rng(1)
    batch = replace(batch, scales=2 ** rng.uniform(0, 5, len(batch.positions)).astype(np.float32))
    writer = empty_store(tmp_path / "s.zarr", ONE_PART, decoder, dtype=dtype, bits=bits)
    writer.commit_part("train", "0000", batch)
    writer.finish()
    store = open_store(tmp_path / "s.zarr")
    expected = replace(batch, latents=writer.rounding.round(batch.latents), scales=scales_of(scale_codes(batch.scales)))
    assert same_clouds(expected, store.read_part("train", "0000", neighbours=True))
    assert same_clouds(CloudBatch.join([expected[1]]), store.read_block("train", "0000", 1, 2, neighbours=True))
    assert store.root.get("latent_steps") == (list(writer.rounding.steps) if writer.rounding.steps else None)
    assert (writer.rounding.steps is not None) == (dtype == "int8")
    assert verify(tmp_path / "s.zarr").problems == []
    again = StoreWriter.commit_part(
        empty_store(tmp_path / "t.zarr", ONE_PART, decoder, dtype=dtype, bits=bits), "train", "0000", expected
    )
    assert again.bytes == store_bytes(tmp_path / "s.zarr")  # what was rounded before is stored as it is


def store_bytes(path: Path) -> dict[str, int]:
    return open_writer(path).record("train", "0000").bytes


def test_parts_without_clouds_of_a_basis(tmp_path: Path) -> None:
    writer = empty_store(tmp_path / "s.zarr", ONE_PART, make_basis())
    writer.commit_part(
        "train", "0000", make_batch([]), [FailedSample(i, f"cats/{i}.jpg", "unreadable", "") for i in range(3)]
    )
    writer.finish()
    assert verify(tmp_path / "s.zarr").problems == []


def test_scales_are_there_if_the_decoder_has_them(tmp_path: Path) -> None:
    batch = make_batch(range(3))
    scaled = replace(batch, scales=np.ones(len(batch.positions), np.float32))
    with pytest.raises(ValueError, match="scales: missing"):
        empty_store(tmp_path / "a.zarr", ONE_PART, make_basis()).commit_part("train", "0000", batch)
    with pytest.raises(ValueError, match="scales: there, and the decoder takes none"):
        empty_store(tmp_path / "b.zarr", ONE_PART).commit_part("train", "0000", scaled)
    for wrong in (np.zeros_like(scaled.scales), scaled.scales[1:], scaled.scales * np.nan):
        with pytest.raises(ValueError, match="scales: "):
            empty_store(tmp_path / "c.zarr", ONE_PART, make_basis()).commit_part(
                "train", "0000", replace(batch, scales=wrong)
            )


def test_another_step_of_a_part_is_damage(tmp_path: Path) -> None:
    batch = make_batch(range(3))
    writer = empty_store(tmp_path / "s.zarr", ONE_PART, make_basis(), dtype="int8")
    writer.commit_part("train", "0000", replace(batch, scales=np.ones(len(batch.positions), np.float32)))
    part = tmp_path / "s.zarr" / "train" / "0000"
    own = read_group(LocalStorage(part), "")
    (part / "zarr.json").write_bytes(group_document({**own, "latent_steps": [0.5] * LATENT_DIM}))
    assert "latent_steps are not those of the store" in str(verify(tmp_path / "s.zarr").problems[0])
    (part / "zarr.json").write_bytes(group_document({**own, "latent_steps": [0.5]}))
    with pytest.raises(DamagedStoreError, match="latents"):
        open_store(tmp_path / "s.zarr", allow_unfinished=True).read_part("train", "0000")


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), max_size=6), max_size=4),
    st.sampled_from([1, 2**16, 2**28]),
)
@settings(max_examples=80, deadline=None)
def test_positions_come_back_from_their_gaps(clouds: list[list[tuple[int, int]]], coarse: int) -> None:
    """Of any size, of empty clouds, and several at one place."""
    places = [np.array(cloud, np.int64).reshape(-1, 2) // coarse for cloud in clouds]
    sorted_ = [cloud[np.argsort(morton_codes(cloud), kind="stable")] for cloud in places]
    positions = np.concatenate([*sorted_, np.zeros((0, 2), np.int64)])
    offsets = np.concatenate([[0], np.cumsum([len(cloud) for cloud in sorted_])]).astype(np.int64)
    gaps = encode_gaps(positions, offsets)
    assert np.array_equal(decode_gaps(gaps, offsets), positions)
    for i, cloud in enumerate(sorted_):
        own = offsets[i : i + 2]
        assert np.array_equal(decode_gaps(gaps[own[0] : own[1]], own - own[0]), cloud)
