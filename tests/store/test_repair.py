"""`verify --repair` takes damage out of a store so that it can be made again, and touches nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from store_samples import around, flip, full_store, make_batch, remove, write, write_full_store

from arcpipe.errors import UnfinishedStoreError
from arcpipe.storage import BucketStorage, LocalStorage, Place, Storage, objects
from arcpipe.store import RepairReport, Store, content_hash, open_store, repair, verify
from arcpipe.store.arrays import read_group
from arcpipe.store.schema import group_document
from arcpipe.store.writer import StoreWriter

PARTS = (("train", "0000", range(5)), ("train", "0001", range(5, 10)), ("test", "0000", range(3)))


@pytest.fixture
def written(tmp_path: Path) -> tuple[StoreWriter, Path]:
    path = tmp_path / "s.zarr"
    return full_store(path), path


def make_again(writer: StoreWriter) -> None:
    """What the converter does with a store that lacks parts."""
    there = writer.committed()
    for split, part, numbers in PARTS:
        if part not in there[split]:
            writer.commit_part(split, part, make_batch(numbers), [], {"seconds": 0.5})
    writer.finish()


def tree(place: Storage) -> dict[str, tuple[object, ...]]:
    """Every file with its times, and in a folder its inode: not even written again with the same bytes."""

    def state(name: str) -> tuple[object, ...]:
        if isinstance(place, LocalStorage):
            status = (place.path / name).stat()
            return (status.st_ino, status.st_mtime_ns, place.read(name))
        assert isinstance(place, BucketStorage)
        return (objects.tag_of(place.address.at(name)),)  # its tag is a hash of its bytes

    names = list(place.files())
    return dict(zip(names, place.each(state, names), strict=True))


def repaired(place: Place) -> RepairReport:
    return repair(place, verify(place))


@pytest.mark.parametrize("victim", ["latents/c/0/0", "latents/zarr.json", "zarr.json"])
def test_a_damaged_part_is_moved_aside_and_made_again(place: Storage, victim: str) -> None:
    writer = full_store(place)
    content, before = content_hash(open_store(place)), tree(place)
    flip(place, f"train/0001/{victim}")
    done = repaired(place)
    assert (done.parts, done.strangers, done.left, done.mended) == (["train/0001"], [], [], [])
    assert done.aside == place.beside("s.zarr.damaged-1")
    assert done.aside.is_file(f"train/0001/{victim}")
    after = tree(place)
    sound = {name for name in before if not name.startswith("train/0001") and name != "zarr.json"}
    assert {name: after[name] for name in sound} == {name: before[name] for name in sound}
    with pytest.raises(UnfinishedStoreError):
        open_store(place)
    report = verify(place)
    assert (report.ok, report.missing_parts, report.complete) == (True, 1, False)
    make_again(writer)
    assert content_hash(open_store(place)) == content


def test_everything_at_once(place: Storage) -> None:
    writer = full_store(place)
    content = content_hash(open_store(place))
    for name in list(place.files("train/0000")):
        remove(place, name)
    flip(place, "train/zarr.json")
    remove(place, "test/0000/zarr.json")
    write(place, "notes.txt", b"mine")
    write(place, "train/0001/psnr/c/1", b"mine too")
    done = repaired(place)
    assert done.parts == ["test/0000", "train/0000"]
    assert done.mended == ["train/zarr.json"]
    assert sorted(done.strangers) == ["notes.txt", "train/0001/psnr/c/1"]
    assert done.aside is not None
    assert done.aside.read("notes.txt") == b"mine", "nothing is deleted"
    assert verify(place).ok
    make_again(writer)
    assert verify(place).content == content


def test_a_second_repair_gets_a_folder_of_its_own(place: Storage) -> None:
    full_store(place, one_part=True)
    for number in (1, 2):
        write(place, "notes.txt", b"mine")
        assert repaired(place).aside == place.beside(f"s.zarr.damaged-{number}")
        assert Store(place).complete, "no part is missing"


@pytest.mark.parametrize("victim", ["zarr.json", "decoder/zarr.json", "decoder/weight_0/c/0/0"])
def test_what_cannot_be_made_again_is_left_with_advice(place: Storage, victim: str) -> None:
    full_store(place, one_part=True)
    flip(place, victim, 40)
    flip(place, "train/0000/latents/c/0/0")
    before, beside = tree(place), around(place)
    done = repaired(place)
    assert (done.parts, done.strangers, done.aside) == ([], [], None)
    assert victim in {problem.where for problem in done.left}
    assert any("from a copy of the store" in line for line in done.advice)
    assert any(line.startswith("or start again: mv ") for line in done.advice)
    assert tree(place) == before
    assert around(place) == beside


def test_parts_survive_a_lost_root(written: tuple[StoreWriter, Path]) -> None:
    """The advice: begin again, stop, move the whole parts in, go on."""
    writer, path = written
    content = content_hash(open_store(path))
    flip(writer.storage, "zarr.json", 40)
    path.rename(path.with_name("s.zarr.damaged"))
    writer = write_full_store(path)  # begun again ...
    for split, part in (("train", "0000"), ("train", "0001"), ("test", "0000")):
        shutil.rmtree(path / split / part)
        (path.with_name("s.zarr.damaged") / split / part).rename(path / split / part)
    make_again(writer)
    assert verify(path).content == content


def test_a_part_that_reads_well_a_second_time_is_left(
    written: tuple[StoreWriter, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong bytes may come from memory or network: what is on the disk is looked at once more before it is moved."""
    _, path = written
    report = verify(path)
    report.add("train/0000/latents/c/0/0", "its bytes are not those that were written")
    before = tree(LocalStorage(path))
    done = repair(path, report)
    assert (done.parts, done.fleeting) == ([], ["train/0000"])
    assert tree(LocalStorage(path)) == before


def test_totals_that_lie_are_added_up_again(written: tuple[StoreWriter, Path]) -> None:
    writer, path = written
    root = read_group(LocalStorage(path), "")
    root["totals"]["splits"]["train"]["points"] += 1
    (path / "zarr.json").write_bytes(group_document(root))
    [problem] = verify(path).problems
    assert (problem.kind, "train.points: was" in str(problem)) == ("totals", True)
    assert repaired(path).parts == []
    make_again(writer)
    assert verify(path).ok


def test_content_tells_stores_apart_and_not_their_times(tmp_path: Path) -> None:
    full_store(tmp_path / "a.zarr", one_part=True)
    write_full_store(tmp_path / "b.zarr", one_part=True)
    full_store(tmp_path / "c.zarr", one_part=True, dtype="float32")
    a, b, c = (verify(tmp_path / f"{name}.zarr").content for name in "abc")
    assert a == b != c
    assert a is not None
    assert len(bytes.fromhex(a)) == 32
