"""Whatever happens to a byte of a store, `verify` names the file, and a reader does not hand out wrong numbers."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_samples import (
    empty_store,
    flip,
    full_store,
    make_batch,
    make_decoder,
    make_header,
    nearest,
    remove,
    to_version_1,
    write,
)

from arcpipe.cloud import FailedSample
from arcpipe.errors import DamagedStoreError, NotAStoreError
from arcpipe.files import file_hashes, file_sha256
from arcpipe.storage import LocalStorage, Storage
from arcpipe.store import arrays as array_module
from arcpipe.store import create_or_open, open_store, verify
from arcpipe.store.arrays import read_group
from arcpipe.store.check import _nearest
from arcpipe.store.part import Part
from arcpipe.store.schema import group_document

# The package has a function of this name.


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished store with shards of several chunks."""
    path = tmp_path_factory.mktemp("sound") / "s.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_module, "CHUNK_BYTES", 64)
        full_store(path)
    return path


@pytest.fixture
def three_parts(sound: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(sound, tmp_path / "s.zarr"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its first part alone, as a store that is quick to verify."""
    with monkeypatch.context() as patch:
        patch.setattr(array_module, "CHUNK_BYTES", 64)
        return full_store(tmp_path / "s.zarr", one_part=True).storage.path


def data_files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json")


def named(path: Path) -> str:
    return "\n".join(str(problem) for problem in verify(path).problems)


def levels(names: Iterable[str]) -> list[list[str]]:
    """Files of a store of one part that can be damaged at once: a damaged group hides what is below it."""
    below, split, root = ["train/0000/zarr.json", "decoder/zarr.json"], "train/zarr.json", "zarr.json"
    return [[name for name in names if name not in (*below, split, root)], below, [split], [root]]


def test_a_sound_store_has_no_problems(sound: Path) -> None:
    report = verify(sound)
    assert report.ok
    assert report.complete
    assert (report.parts, report.clouds, report.failed, report.missing_parts) == (3, 13, 0, 0)
    assert report.files == sum(file.is_file() for file in sound.rglob("*"))  # all of them were looked at
    longest = Part(LocalStorage(sound), "train/0000").array("latents")
    assert longest.shape[0] > longest.chunks[0]
    assert report.chunks > report.arrays  # and every chunk of every shard


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_changed_byte_in_any_file_is_named(place: Storage, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(array_module, "CHUNK_BYTES", 64)
    full_store(place, one_part=True)
    rng = np.random.default_rng(seed)
    whole = {name: place.read(name) for name in place.files()}
    assert len([name for name in whole if name.endswith("zarr.json")]) == 4 + 15 + 4  # groups, arrays, the decoder's
    for damaged in levels(whole):
        for name in damaged:
            flip(place, name, int(rng.integers(len(whole[name]))), 1 << int(rng.integers(8)))
        assert set(damaged) <= {problem.where for problem in verify(place).problems}
        for name in damaged:
            write(place, name, whole[name])


@pytest.mark.parametrize("change", ["missing", "cut"])
def test_files_that_are_gone_or_short_are_named(place: Storage, change: str) -> None:
    full_store(place, one_part=True)
    lost = [name for name in place.files("train") if name.endswith(("/c/0", "/c/0/0", "labels/zarr.json"))]
    for name in lost:
        data = place.read(name)
        remove(place, name)
        if change == "cut":
            write(place, name, data[: len(data) // 2])
    assert set(lost) <= {problem.where for problem in verify(place).problems}
    with pytest.raises(DamagedStoreError):
        open_store(place).read_part("train", "0000")


def test_a_changed_byte_of_data_is_never_read(store: Path) -> None:
    """The crc32c of chunk and index: every data file of a part, without looking at hashes."""
    rng = np.random.default_rng(1)
    silent = []
    for file in data_files(store / "train" / "0000"):
        data = file.read_bytes()
        place = int(rng.integers(len(data)))
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            open_store(store).read_part("train", "0000", neighbours=True)
            silent.append(file.name)
        except DamagedStoreError as error:
            assert error.exit_code == 6  # noqa: PT017  # many files in one test
        file.write_bytes(data)
    assert silent == []


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One part and a decoder: quick to verify hundreds of times."""
    path = tmp_path_factory.mktemp("small") / "s.zarr"
    writer = empty_store(path, {"train": {"samples": 4, "parts": 1}}, dtype="int8")
    failed = FailedSample(3, "cats/broken.jpg", "truncated", "train/cats/broken.jpg is cut off.")
    writer.commit_part("train", "0000", make_batch(range(3)), [failed], {"seconds": 0.5})
    writer.finish()
    return path


def flips_found(path: Path, count: int, seed: int) -> list[str]:
    """Flip so many single bits, one after another, half of them in a random file, half at a random byte of the store.

    Returns those that `verify` did not name by their file; the store is whole again.
    """
    rng = np.random.default_rng(seed)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    sizes = np.array([file.stat().st_size for file in files])
    silent = []
    for i in range(count):
        file = files[rng.choice(len(files), p=None if i % 2 else sizes / sizes.sum())]
        data = file.read_bytes()
        place, bit = int(rng.integers(len(data))), int(rng.integers(8))
        file.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        name = file.relative_to(path).as_posix()
        if name not in {problem.where for problem in verify(path).problems}:
            silent.append(f"{name}: byte {place}, bit {bit}")
        file.write_bytes(data)
    assert verify(path).ok
    return silent


@pytest.mark.parametrize(
    ("count", "seed"), [(25, 0), pytest.param(2000, 1, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_every_flipped_bit_is_found_and_its_file_named(
    small: Path, count: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    silent = flips_found(small, count, seed)
    record_property("flipped", count)
    record_property("found", count - len(silent))
    print(f"bits flipped {count}, found and named {count - len(silent)}")
    assert silent == []


@pytest.mark.parametrize("change", ["missing", "cut", "pipe", "folder", "a link that leads nowhere"])
def test_whatever_happens_to_any_file_is_named(small: Path, tmp_path: Path, change: str) -> None:
    path = Path(shutil.copytree(small, tmp_path / "s.zarr"))
    for victims in levels(LocalStorage(path).files()):
        for name in victims:
            spoil(path / name, change)
        assert set(victims) <= {problem.where for problem in verify(path).problems}
        for name in victims:
            shutil.rmtree(path / name) if change == "folder" else (path / name).unlink(missing_ok=True)
            shutil.copyfile(small / name, path / name)


def spoil(file: Path, change: str) -> None:
    data = file.read_bytes()
    file.unlink()
    if change == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif change == "pipe":
        os.mkfifo(file)  # opening it would wait for ever
    elif change == "folder":
        file.mkdir()
    elif change.startswith("a link"):
        file.symlink_to("nowhere")


@pytest.mark.parametrize("name", ["offsets", "pixel_offsets", "path_offsets"])
@pytest.mark.parametrize("value", [2**62, -1, 10**6])
def test_offsets_that_lead_outside_are_refused_at_once(small: Path, tmp_path: Path, name: str, value: int) -> None:
    """Sealed and hashed: found by fuzzing, a reader went through 2**40 chunks that are not there."""
    path = Path(shutil.copytree(small, tmp_path / "s.zarr"))
    part = path / "train" / "0000"
    values = np.array(Part(LocalStorage(part.parent), part.name).raw(name))
    values[1] = value
    shutil.rmtree(part / name)
    array_module.write_array(part, name, values)
    own = read_group(LocalStorage(part), "")
    (part / "zarr.json").unlink()
    (part / "zarr.json").write_bytes(group_document({**own, "files": file_hashes(part)}))
    with pytest.raises(DamagedStoreError, match=name):
        open_store(path).read_part("train", "0000", neighbours=True)
    assert f"train/0000/{name}: from 0 to" in named(path)


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [("latent_scale", 2, 6), ("latent_scale", 3, 5), ("pixel_offsets", 3, None), ("labels", 4, None), ("sizes", 2, 2)],
)
def test_arrays_of_other_shapes_are_refused(
    small: Path, tmp_path: Path, name: str, rows: int, columns: int | None
) -> None:
    """Sealed and hashed, as above; three clouds with latents of six values."""
    path = Path(shutil.copytree(small, tmp_path / "s.zarr"))
    part = path / "train" / "0000"
    values = np.array(Part(LocalStorage(part.parent), part.name).raw(name))
    values = np.resize(values, (rows,) if columns is None else (rows, columns))
    shutil.rmtree(part / name)
    array_module.write_array(part, name, values)
    own = read_group(LocalStorage(part), "")
    (part / "zarr.json").unlink()
    (part / "zarr.json").write_bytes(group_document({**own, "files": file_hashes(part)}))
    with pytest.raises(DamagedStoreError, match=name):
        open_store(path).read_block("train", "0000", 0, 3, neighbours=True)
    assert f"train/0000/{name}: " in named(path)


@pytest.mark.parametrize("change", ["missing", "truncated", "longer", "empty"])
@pytest.mark.parametrize("array", ["latents", "labels"])
def test_files_that_are_missing_or_of_another_length(store: Path, change: str, array: str) -> None:
    file = data_files(store / "train" / "0000" / array)[0]
    data = file.read_bytes()
    {
        "missing": file.unlink,
        "truncated": lambda: file.write_bytes(data[:-9]),
        "longer": lambda: file.write_bytes(data + b"\0"),
        "empty": lambda: file.write_bytes(b""),
    }[change]()
    assert file.relative_to(store).as_posix() in named(store)
    with pytest.raises(DamagedStoreError, match=array):  # Zarr alone reads a missing file as zeros
        open_store(store).read_part("train", "0000")


def test_swapped_parts_are_found(three_parts: Path) -> None:
    train = three_parts / "train"
    (train / "0000").rename(train / "spare")
    (train / "0001").rename(train / "0000")
    (train / "spare").rename(train / "0001")
    assert "train/0000: it is the part train/0001, in the wrong place" in named(three_parts)
    with pytest.raises(DamagedStoreError, match="train/0000 is damaged"):
        open_store(three_parts).read_part("train", "0000")


def test_a_part_that_is_there_twice_is_found(three_parts: Path) -> None:
    shutil.rmtree(three_parts / "train" / "0001")
    shutil.copytree(three_parts / "train" / "0000", three_parts / "train" / "0001")
    assert "train/0001: it is the part train/0000, in the wrong place" in named(three_parts)
    assert "train/0001/sample_ids: sample 0 is in part 0000 too" in named(three_parts)


def test_a_part_of_another_store_is_found(three_parts: Path, tmp_path: Path) -> None:
    full_store(tmp_path / "other.zarr", dtype="float32")
    shutil.rmtree(three_parts / "test" / "0000")
    shutil.copytree(tmp_path / "other.zarr" / "test" / "0000", three_parts / "test" / "0000")
    assert "test/0000: it belongs to another store" in named(three_parts)
    with pytest.raises(DamagedStoreError, match="test/0000 is damaged"):
        open_store(three_parts).read_part("test", "0000")


def test_a_missing_part_of_a_finished_store_is_named(three_parts: Path) -> None:
    shutil.rmtree(three_parts / "train" / "0001")
    assert named(three_parts) == "train/0001/zarr.json: missing"
    with pytest.raises(DamagedStoreError, match="train/0001"):
        open_store(three_parts).parts("train")


def test_missing_parts_of_an_unfinished_store_are_only_counted(tmp_path: Path) -> None:
    writer = empty_store(tmp_path / "s.zarr", {"train": {"samples": 10, "parts": 2}})
    writer.commit_part("train", "0001", make_batch(range(5)))
    report = verify(tmp_path / "s.zarr")
    assert (report.ok, report.complete, report.parts, report.missing_parts) == (True, False, 1, 1)


def test_pipes_and_links_that_do_not_belong_are_named(store: Path) -> None:
    os.mkfifo(store / "train" / "0000" / "pipe")
    (store / "train" / "loop").symlink_to(store)
    (store / "nowhere").symlink_to("nowhere")
    assert [problem.where for problem in verify(store).problems] == ["train/0000/pipe", "nowhere", "train/loop"]


@pytest.mark.parametrize("place", ["notes.txt", "train/notes.txt", "train/0000/latents/c/7/0", "train/0007/zarr.json"])
def test_files_that_do_not_belong_are_named(store: Path, place: str) -> None:
    (store / place).parent.mkdir(parents=True, exist_ok=True)
    (store / place).write_text("?")
    assert f"{place}: does not belong to the store" in named(store)


def test_verify_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(NotAStoreError, match="there is no store"):
        verify(tmp_path / "s.zarr")


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def set_shape(document: dict[str, Any], rows: int) -> None:
    document["shape"][0] = rows
    document["chunk_grid"]["configuration"]["chunk_shape"][0] = rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: set_shape(d, 10**15), "declared, but"),
        (lambda d: d["codecs"][0]["configuration"].update(chunk_shape=[10**9, 6]), "chunks of 12000000000 bytes"),
        (lambda d: d["codecs"].append({"name": "pickle"}), "codec pickle is not part of the format"),
        (lambda d: d.update(codecs="zstd"), "metadata that cannot be understood"),
        (lambda d: d.update(data_type="string"), "data type string"),
        (lambda d: d.update(data_type="9" * 5000 + "i4"), "data type 9999"),
        (lambda d: d.update(data_type=["float16"]), "metadata that cannot be understood"),
        (lambda d: d.update(data_type="complex64"), "data type complex64"),
        (lambda d: d.update(data_type="float64"), "data type float64, expected"),
        (lambda d: d.update(shape=[-1, 6]), "shape"),
        (lambda d: d.pop("shape"), "metadata that cannot be understood"),
        (lambda d: d.update(zarr_format=2), "not a Zarr v3 array"),
    ],
)
def test_hostile_metadata_is_refused_before_memory_is_taken(
    store: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit(store / "train" / "0000" / "latents" / "zarr.json", change)
    with pytest.raises(DamagedStoreError, match=message):
        open_store(store).read_part("train", "0000")
    assert "train/0000/latents/zarr.json" in named(store)


def test_a_deeply_nested_document_is_refused(store: Path) -> None:
    (store / "train" / "0000" / "zarr.json").write_text("[" * 100_000)
    with pytest.raises(DamagedStoreError, match="not JSON"):
        open_store(store).parts("train")
    (store / "zarr.json").write_text("[" * 100_000)
    with pytest.raises(NotAStoreError, match="not an arcpipe store"):
        open_store(store)
    (store / "zarr.json").write_text('{"format": "arcpipe-store", ' + "[" * 100_000)
    with pytest.raises(DamagedStoreError, match="cannot be understood"):
        open_store(store)


def test_sealed_metadata_that_lies_is_found(store: Path) -> None:
    """Somebody who seals again cannot pass off other numbers: arrays are compared with what the part says."""

    part = store / "train" / "0000"
    own = read_group(LocalStorage(part), "")
    sums = {**own["latent_sums"], "sum": [0.5] * 6}
    (part / "zarr.json").write_bytes(group_document({**own, "latent_sums": sums}))
    assert "latent_sums are not those of the latents" in named(store)
    (part / "zarr.json").write_bytes(group_document({**own, "points": 31}))
    assert "train/0000/latents: shape (30, 6), expected (31, 6)" in named(store)
    (part / "zarr.json").write_bytes(group_document({key: own[key] for key in ("split", "part")}))
    assert "train/0000/zarr.json: attribute 'fingerprint' is None" in named(store)
    (part / "zarr.json").write_bytes(group_document({**own, "samples": 6}))
    assert "6 samples, 5 are planned" in named(store)
    squares = {**own["latent_sums"], "sum_squares": [0.5] * 6}
    for change, message in (
        ({"latent_sums": squares}, "train/0000/zarr.json: latent_sums are not those of the latents"),
        ({"psnr": {"sum": 1.0, "count": 5}}, "train/0000/zarr.json: psnr are not those of the clouds"),
        ({"pixels": own["pixels"] + 1}, "train/0000/pixel_offsets: from 0 to"),
        ({"files": {"../../secret": {"bytes": 1, "sha256": ""}}}, "attribute 'files': '../../secret'"),
        ({"failures": [3]}, "attribute 'failures' cannot be understood"),
        ({"clouds": -1}, "cannot be understood"),
    ):
        (part / "zarr.json").write_bytes(group_document({**own, **change}))
        assert message in named(store)


@pytest.mark.parametrize("coding", ["plain", "arrivals", "sets"])
def test_neighbours_that_are_not_the_nearest_are_found(tmp_path: Path, coding: str) -> None:
    """Sealed, hashed and within the rules: only a search through all anchors tells."""
    batch, path = make_batch(range(3)), tmp_path / "s.zarr"
    begin = batch.pixel_offsets[1] if batch.pixel_offsets is not None else 0
    cloud = batch[1]
    assert batch.neighbours is not None
    assert cloud.neighbours is not None
    if coding == "plain":  # the order is wrong; a corner of an image is always looked at
        batch.neighbours[begin] = batch.neighbours[begin, ::-1]
    else:  # an anchor is forgotten everywhere
        others = np.delete(np.arange(len(cloud)), cloud.neighbours[0, 0])
        cloud.neighbours[:] = others[nearest(cloud.positions[others], cloud.size, 4)]
    writer = empty_store(path, {"train": {"samples": 3, "parts": 1}})
    writer.commit_part("train", "0000", batch)
    if coding == "sets":
        to_version_1(path)
    assert Part(LocalStorage(path), "train/0000").attributes["neighbours_coding"] == coding
    [problem] = verify(path).problems
    assert problem.where == "train/0000/neighbours"
    assert re.match(r"pixel \(0, 0\) of cloud 1 has \[.*\], the nearest are \[", problem.what)


def test_the_nearest_of_many_anchors_are_those_of_a_full_sort() -> None:
    rng = np.random.default_rng(5)
    positions = rng.integers(0, 40, (3000, 2))  # many equal distances
    pixels = rng.integers(0, 40, (9, 2))
    gaps = ((pixels[:, None] - positions) ** 2).sum(axis=2)
    np.testing.assert_array_equal(_nearest(positions, pixels, 4), np.argsort(gaps, axis=1, kind="stable")[:, :4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splits": {"train": {"samples": 10}}}, "split 'train'"),
        ({"splits": {"train": {"samples": 10.5, "parts": 2}}}, "split 'train'"),
        ({"splits": {"train": 3}}, "split 'train'"),
        ({"splits": {"a/../..": {"samples": 1, "parts": 1}}}, "split 'a/../..'"),
        ({"decoder": {"n_neighbours": 4, "latent_dim": 10**9, "sha256": ""}}, "decoder: "),
        ({"decoder": {}}, "decoder: "),
        ({"classes": [1, 2]}, "a class without a name"),
        ({"channels": 7}, "channels: 7"),
        ({"totals": {}}, "totals that do not name the splits"),
        ({"replaces": "../../home"}, "replaces"),
    ],
)
def test_a_sealed_root_that_makes_no_sense_is_refused(store: Path, change: dict[str, Any], message: str) -> None:
    (store / "zarr.json").write_bytes(group_document({**read_group(LocalStorage(store), ""), **change}))
    with pytest.raises(DamagedStoreError, match=re.escape(message)):
        open_store(store)


def test_a_decoder_of_other_shapes_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    right = make_decoder()
    for wrong in (
        replace(right, biases=(right.biases[0], right.biases[1][:2])),
        replace(right, weights=right.weights[:1], biases=right.biases[:1]),
    ):
        path = tmp_path / f"{len(wrong.weights)}.zarr"
        create_or_open(path, make_header({"train": {"samples": 0, "parts": 0}}), wrong)
        assert [problem.where for problem in verify(path).problems] == ["decoder"]


def test_a_damaged_root_stops_reading(store: Path) -> None:
    text = (store / "zarr.json").read_text()
    (store / "zarr.json").write_text(text.replace('"channels": 3', '"channels": 1'))
    with pytest.raises(DamagedStoreError, match="is damaged"):
        open_store(store)
    assert "zarr.json" in named(store)


@pytest.mark.parametrize(
    "splits", [{"../../etc": {"samples": 1, "parts": 1}}, {"train": {"samples": 1, "parts": 10**15}}]
)
def test_a_root_that_reaches_outside_or_promises_too_much_is_refused(store: Path, splits: dict[str, Any]) -> None:

    (store / "zarr.json").write_bytes(group_document({**read_group(LocalStorage(store), ""), "splits": splits}))
    with pytest.raises(DamagedStoreError, match="is damaged") as caught:
        open_store(store)
    assert "split" in str(caught.value)
    assert "zarr.json" in named(store)


def test_a_store_of_another_format_version_is_not_damaged(store: Path) -> None:
    document = json.loads((store / "zarr.json").read_text())
    attributes = {key: value for key, value in document["attributes"].items() if key != "seal"}
    (store / "zarr.json").write_bytes(group_document({**attributes, "format_version": 99}))
    with pytest.raises(NotAStoreError, match="format version 99"):
        verify(store)


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_looked_at(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a failing disk."""
    victim, whole = data_files(store)[-1], verify(store)
    module = sys.modules["arcpipe.store.verify"]  # the package has a function of this name

    def fails(path: Path) -> str:
        if path == victim:
            raise OSError(5, "Input/output error", str(path))
        return file_sha256(path)

    monkeypatch.setattr(module, "file_sha256", fails)
    report = verify(store)
    assert [str(problem) for problem in report.problems] == [
        f"{victim.relative_to(store).as_posix()}: cannot be read: Input/output error"
    ]
    assert report.files == whole.files
