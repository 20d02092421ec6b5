"""Opening, finding, columns, threads."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from store_samples import CLASSES, LATENT_DIM, empty_store, full_store, make_batch, make_decoder, same_clouds

from arcpipe.cloud import CloudBatch, FailedSample
from arcpipe.errors import MissingSplitError, NotAStoreError, SampleNotFoundError, UnfinishedStoreError
from arcpipe.storage import Storage
from arcpipe.store import Store, open_store, part


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("reader") / "s.zarr"
    full_store(path)
    return open_store(path)


def test_what_a_store_says_about_itself(store: Store) -> None:
    assert store.complete
    assert store.classes == CLASSES
    assert store.splits == ("train", "test")
    assert (store.channels, store.latent_dim, store.n_neighbours, store.dtype) == (3, LATENT_DIM, 4, "float16")
    assert store.has_neighbours
    assert store.config["fit"] == {"steps": 500}
    assert store.versions == {"arcpipe": "0.1.0"}
    decoder = make_decoder()
    assert store.decoder.sha256 == store.decoder_sha256 == decoder.sha256
    assert all(np.array_equal(a, b) for a, b in zip(store.decoder.weights, decoder.weights, strict=True))


def test_parts_and_columns(store: Store) -> None:
    parts = store.parts("train")
    whole = make_batch(range(10))
    assert [(p.id, p.n_samples, p.n_clouds, p.n_failures) for p in parts] == [("0000", 5, 5, 0), ("0001", 5, 5, 0)]
    assert sum(p.n_points for p in parts) == len(whole.positions)
    assert sum(p.n_pixels for p in parts) == len(whole.neighbours)
    assert np.array_equal(store.labels("train"), whole.labels)
    assert np.array_equal(store.psnr("train"), whole.psnr)
    assert np.array_equal(store.column("train", "counts"), np.diff(whole.offsets))
    assert np.array_equal(store.column("train", "sizes"), whole.sizes)
    assert np.array_equal(store.column("train", "repeats"), whole.repeats)
    assert store.sample_names("train") == [f"train/{path}" for path in whole.paths]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("train/7", ("train", "0001", 2)),
        ("test/2", ("test", "0000", 2)),
        ("train/dogs/0007.jpg", ("train", "0001", 2)),
        ("dogs/0007.jpg", ("train", "0001", 2)),  # only one split has it
        ("/data/animals/train/dogs/0007.jpg", ("train", "0001", 2)),
        ("./animals/test/cats/0000.jpg", ("test", "0000", 0)),
    ],
)
def test_a_sample_is_found_by_any_of_its_names(store: Store, name: str, place: tuple[str, str, int]) -> None:
    assert store.find(name) == place
    assert store.read_cloud(*place).sample_id == int(name.removesuffix(".jpg").split("/")[-1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cats/0000.jpg", "s.zarr test/cats/0000.jpg\n  try: arcpipe inspect "),  # both splits have it
        ("train/dogs/00007.jpg", "s.zarr train/dogs/0007.jpg"),
        ("train/77", "the numbers of train lie between 0 and "),
        ("", "has no sample ''"),
    ],
)
def test_a_name_that_fits_none_or_several_is_explained(store: Store, name: str, message: str) -> None:
    with pytest.raises(SampleNotFoundError) as caught:
        store.find(name)
    assert message in str(caught.value)


def test_a_failed_sample_says_why_and_of_repeats_the_first_is_found(tmp_path: Path) -> None:
    writer = empty_store(tmp_path / "s.zarr", {"train": {"samples": 3, "parts": 1}})
    batch = make_batch([0, 1, 0, 1])
    batch = replace(batch, repeats=np.array([1, 0, 0, 1]))
    writer.commit_part("train", "0000", batch, [FailedSample(5, "cats/bad.jpg", "truncated", "ends early")])
    writer.finish()
    store = open_store(tmp_path / "s.zarr")
    assert store.find("train/0") == ("train", "0000", 2)
    assert store.find("dogs/0001.jpg") == ("train", "0000", 1)
    assert store.find("train/0#1") == ("train", "0000", 0)
    assert store.find("dogs/0001.jpg#1") == ("train", "0000", 3)
    assert store.find("dogs/0001.jpg#0") == ("train", "0000", 1)
    with pytest.raises(SampleNotFoundError, match=r"(?s)no such repeat.*its repeats: 0, 1.*train/0#1"):
        store.find("train/0#2")
    for name in ("train/cats/bad.jpg", "cats/bad.jpg", "train/5"):
        with pytest.raises(SampleNotFoundError, match="could not be converted") as caught:
            store.find(name)
        assert "truncated: ends early" in str(caught.value)


def test_a_split_that_is_not_there(store: Store) -> None:
    with pytest.raises(MissingSplitError, match="no split 'val'") as caught:
        store.parts("val")
    assert "its splits: train, test" in str(caught.value)


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    full_store(tmp_path / "digits.zarr")
    with pytest.raises(NotAStoreError, match="there is no store") as caught:
        open_store(tmp_path / "digit.zarr")
    assert "digits.zarr" in str(caught.value)


def test_an_unfinished_store_says_how_to_go_on(tmp_path: Path) -> None:
    writer = empty_store(tmp_path / "s.zarr", {"train": {"samples": 10, "parts": 2}})
    writer.commit_part("train", "0001", make_batch(range(5)))
    with pytest.raises(UnfinishedStoreError, match="1 of 2 parts are missing") as caught:
        open_store(tmp_path / "s.zarr")
    assert "arcpipe convert digits --out" in str(caught.value)
    store = open_store(tmp_path / "s.zarr", allow_unfinished=True)
    assert [info.id for info in store.parts("train")] == ["0001"]
    assert not store.complete


def test_neighbours_of_a_store_without_them(tmp_path: Path) -> None:
    full_store(tmp_path / "s.zarr", neighbours_cache="none")
    store = open_store(tmp_path / "s.zarr")
    assert not store.has_neighbours
    with pytest.raises(ValueError, match="keeps no neighbours"):
        store.read_part("train", "0000", neighbours=True)
    assert store.read_part("train", "0000").neighbours is None


def test_threads_read_what_one_reads(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"0000": make_batch(range(5)), "0001": make_batch(range(5, 10))}
    fresh = open_store(store.storage.path, cache_bytes=2000)  # so small that threads throw out each other's chunks
    rng = np.random.default_rng(0)
    wanted = [(f"000{rng.integers(2)}", *sorted(rng.integers(0, 6, 2).tolist())) for _ in range(200)]

    def check(block: tuple[str, int, int]) -> bool:
        part_id, start, stop = block
        clouds = [expected[part_id][i] for i in range(start, stop)]
        read = fresh.read_block("train", part_id, start, stop, neighbours=True)
        return same_clouds(CloudBatch.join(clouds, latent_dim=LATENT_DIM), read)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, wanted))


def test_a_chunk_is_decoded_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    read = part.read_rows

    def counted(array: object, start: int, stop: int, storage: Storage, place: str) -> np.ndarray:
        decoded.append(place.split("/")[-1])
        return read(array, start, stop, storage, place)  # type: ignore[arg-type]

    monkeypatch.setattr(part, "read_rows", counted)
    fresh = open_store(store.storage.path)
    for start in range(5):
        fresh.read_block("train", "0000", start, start + 1)
    assert decoded.count("latents") == decoded.count("position_gaps") == 1
    assert "arrivals" not in decoded  # only on request


def test_a_store_travels_to_another_process(store: Store) -> None:
    store.read_part("train", "0000")
    there: Store = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 1000  # its caches stay here
    assert same_clouds(there.read_part("train", "0000", neighbours=True), make_batch(range(5)))
