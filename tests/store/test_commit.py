"""All or nothing: kills, disk full, two writers of one part, litter, and what a part may not contain."""

from __future__ import annotations

import errno
import os
import pickle
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_samples import (
    around,
    empty_store,
    full_store,
    make_batch,
    make_decoder,
    make_header,
    place_of,
    same_clouds,
)

from arcpipe.cloud import CloudBatch, FailedSample
from arcpipe.errors import DamagedStoreError, NoSpaceError, UnfinishedStoreError
from arcpipe.files import attempt_folder
from arcpipe.storage import Storage
from arcpipe.store import StoreWriter, create_or_open, open_store, verify
from arcpipe.store import writer as writing

ONE_PART = {"train": {"samples": 5, "parts": 1}}


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "where", "call", "moment", "committed"),
    [
        ("folder", "create.write_file", 2, "before", False),
        ("folder", "local.move", 1, "before", False),
        ("folder", "writer.write_array", 1, "before", False),
        ("folder", "writer.write_array", 4, "after", False),
        ("folder", "writer.write_file", 1, "before", False),
        ("folder", "writer.write_file", 1, "after", False),
        ("folder", "local.sync_tree", 2, "after", False),
        ("folder", "local.move", 2, "before", False),
        ("folder", "local.move", 2, "after", True),
        ("bucket", "objects.put", 3, "before", False),  # sending the beginning of the store
        ("bucket", "objects.create", 1, "after", False),  # choosing it
        ("bucket", "objects.put", 30, "before", False),  # sending the part
        ("bucket", "objects.create", 3, "after", True),  # choosing it
        ("bucket", "objects.copy", 30, "before", True),  # carrying it out
        ("bucket", "objects.create", 4, "after", True),  # its zarr.json
        pytest.param("bucket", "objects.create", 1, "before", False, marks=SLOW),
        pytest.param("bucket", "objects.copy", 4, "after", False, marks=SLOW),  # carrying out how the store begins
        pytest.param("bucket", "objects.create", 2, "before", False, marks=SLOW),  # its zarr.json
        pytest.param("bucket", "objects.create", 2, "after", False, marks=SLOW),
        pytest.param("bucket", "writer.write_file", 1, "before", False, marks=SLOW),  # on the local disk
        pytest.param("bucket", "objects.create", 4, "before", True, marks=SLOW),
        pytest.param("bucket", "objects.delete_below", 2, "before", None, marks=SLOW),  # tidying up
    ],
)
def test_a_killed_writer_leaves_all_or_nothing(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kill_a_writer: Callable[..., int],
    kind: str,
    where: str,
    call: int,
    moment: str,
    committed: bool | None,
) -> None:
    """`committed`: whether the next run finds the part, which in a bucket it may carry out itself."""
    place = place_of(kind, request, tmp_path)
    assert kill_a_writer(place, where, call, moment) == -signal.SIGKILL  # the fault was reached
    writer = empty_store(place, ONE_PART)  # the same command again
    if committed is not None:
        assert writer.committed() == {"train": {"0000"} if committed else set()}
    writer.commit_part("train", "0000", make_batch(range(5)))
    writer.finish()
    assert same_clouds(open_store(place).read_part("train", "0000", neighbours=True), make_batch(range(5)))
    assert verify(place).problems == []  # which also names every file that does not belong
    if where == "objects.put":
        empty_store(place, ONE_PART)  # once more, for requests of other threads that arrived late
    assert around(place) == [f"s.zarr/{name}" for name in place.files()]  # no litter beside it


def test_two_writers_of_one_part_make_one_part(tmp_path: Path) -> None:
    """In a bucket: `test_remote.py`, where their clouds differ."""
    writer = empty_store(tmp_path / "s.zarr", ONE_PART)
    batch = make_batch(range(5))
    with ThreadPoolExecutor(3) as pool:
        records = list(pool.map(lambda _: writer.commit_part("train", "0000", batch, [], {"seconds": 2}), range(3)))
    assert len(set(map(str, records))) == 1
    assert records[0].seconds == 2
    writer.finish()
    assert verify(writer.storage).problems == []


def test_a_task_that_runs_twice_does_no_harm(place: Storage) -> None:
    writer = empty_store(place, ONE_PART)
    first = writer.commit_part("train", "0000", make_batch(range(5)), [], {"seconds": {"fit": 1, "total": 3.5}})
    again = writer.commit_part("train", "0000", make_batch(range(5, 10)))  # other clouds: those of before stay
    assert again == first == writer.record("train", "0000")
    assert (first.seconds, first.n_samples, first.n_clouds) == (3.5, 5, 5)
    assert first.psnr_sum / first.psnr_count == pytest.approx(np.mean([20 + i / 7 for i in range(5)]))
    assert set(first.bytes) >= {"latents", "position_gaps", "arrivals"}


@pytest.mark.parametrize("place", ["write_array", "write_file"])
def test_a_full_disk_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    writer = empty_store(tmp_path / "s.zarr", ONE_PART)
    before = files(tmp_path)
    work, calls = getattr(writing, place), 0

    def full(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if place == "write_file" or calls == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return work(*args, **options)

    monkeypatch.setattr(writing, place, full)
    with pytest.raises(NoSpaceError, match="no space left") as caught:
        writer.commit_part("train", "0000", make_batch(range(5)))
    assert caught.value.exit_code == 7
    writer.storage.sweep()  # removes the empty folder of attempts
    assert files(tmp_path) == before


def test_everything_is_synced_before_the_part_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = empty_store(tmp_path / "s.zarr", ONE_PART)
    events: list[str] = []
    rename = os.rename
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr(os, "rename", lambda old, new: (events.append(f"rename {old}"), rename(old, new)))
    writer.commit_part("train", "0000", make_batch(range(5)))
    moment = next(i for i, event in enumerate(events) if event.startswith("rename"))
    attempt = events[moment].removeprefix("rename ")
    part = tmp_path / "s.zarr" / "train" / "0000"
    written = {f"{attempt}/{path.relative_to(part)}" for path in part.rglob("*")}
    assert {attempt, *written} <= set(events[:moment])
    assert str(part.parent) in events[moment:]  # the name itself


def test_sweep_leaves_the_attempts_of_living_processes(tmp_path: Path) -> None:
    writer = empty_store(tmp_path / "s.zarr", ONE_PART)
    (writer.storage.path / ".attempts" / "train-0000.host-1-abcd" / "latents").mkdir(parents=True)
    (writer.storage.path / ".attempts" / "train-0000.host-1-abcd.lock").touch()
    with attempt_folder(writer.storage.path / ".attempts", "train-0000") as alive:
        assert writer.storage.sweep() == 1
        assert alive.is_dir()
    assert writer.storage.sweep() == 0
    assert not (writer.storage.path / ".attempts").exists()


def test_a_finished_store_keeps_nothing_of_a_worker_that_was_killed_on_the_way(tmp_path: Path) -> None:
    writer = empty_store(tmp_path / "s.zarr", ONE_PART)
    (writer.storage.path / ".attempts" / "train-0000.host-1-abcd" / "latents").mkdir(parents=True)
    (writer.storage.path / ".attempts" / "train-0000.host-1-abcd.lock").touch()
    writer.commit_part("train", "0000", make_batch(range(5)))
    with attempt_folder(writer.storage.path / ".attempts", "train-0000") as alive:
        writer.finish()
        assert [path.name for path in (writer.storage.path / ".attempts").iterdir() if path.is_dir()] == [alive.name]
    writer.finish()
    assert not (writer.storage.path / ".attempts").exists()


def test_what_is_read_back_wrong_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = empty_store(tmp_path / "s.zarr", ONE_PART)
    work = writing.write_array

    def faulty(folder: Path, name: str, values: np.ndarray, *options: Any) -> None:
        work(folder, name, values + 1 if name == "labels" else values, *options)

    monkeypatch.setattr(writing, "write_array", faulty)
    with pytest.raises(DamagedStoreError, match="labels is damaged"):
        writer.commit_part("train", "0000", make_batch(range(5)))
    assert writer.committed() == {"train": set()}


def broken(**changes: Any) -> CloudBatch:
    return replace(make_batch(range(5)), **changes)


def altered(name: str, index: Any, value: Any) -> CloudBatch:
    values = getattr(make_batch(range(5)), name).astype(np.int64 if name == "positions" else None or float)
    values[index] = value
    return broken(**{name: values})


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (altered("positions", 0, (40, 0)), "positions: outside of the image in cloud 0"),
        (altered("positions", slice(0, 4), [(1, 1), (0, 0), (2, 2), (3, 3)]), "not in Morton order in cloud 0"),
        (altered("latents", (7, 2), np.nan), "latents: not finite in cloud 1"),
        (altered("labels", 2, 3), "labels: 0.0 to 3.0, expected 0 to 2"),
        (altered("relative", (1, 1), 0), "relative: not finite, or a standard deviation"),
        (altered("psnr", 1, np.inf), "psnr: infinite"),
        (altered("neighbours", (0, 0), 50), "neighbours: rows that cloud 0 does not have"),
        (broken(offsets=make_batch(range(5)).offsets[::-1]), "offsets: not rising"),
        (broken(pixel_offsets=make_batch(range(5)).pixel_offsets + 1), "pixel_offsets: not the running sum"),
        (broken(latents=make_batch(range(5)).latents[:-1]), "latents: 29 rows for 30 positions"),
        (broken(latents=make_batch(range(5)).latents[:, :-1]), "latents: 5 values each, expected 6"),
        (broken(neighbours=make_batch(range(5)).neighbours[:, :3]), "neighbours: 3 a pixel, expected 4"),
        (broken(neighbours=None), "the clouds have none"),
        (broken(sample_ids=np.zeros(5, np.int64)), "1 samples with clouds and 0 failures, planned are 5"),
        (make_batch(range(4)), "4 samples with clouds and 0 failures, planned are 5"),
    ],
)
def test_clouds_that_break_the_format_are_refused(tmp_path: Path, batch: CloudBatch, message: str) -> None:
    writer = empty_store(tmp_path / "s.zarr", ONE_PART)
    with pytest.raises(ValueError, match=message):
        writer.commit_part("train", "0000", batch)
    assert writer.committed() == {"train": set()}


def test_every_sample_ends_as_its_clouds_or_as_one_failure(place: Storage) -> None:
    writer = empty_store(place, ONE_PART)
    repeats = replace(
        make_batch(range(6)), sample_ids=np.array([0, 1, 2, 0, 1, 2]), repeats=np.array([0, 0, 0, 1, 1, 1])
    )
    lost = [FailedSample(i, "x", "truncated") for i in (3, 4)]
    with pytest.raises(ValueError, match="a failed sample is there twice"):
        writer.commit_part("train", "0000", repeats, [FailedSample(2, "x", "truncated"), lost[0]])
    with pytest.raises(ValueError, match="twice with the same repeat"):
        writer.commit_part("train", "0000", replace(repeats, repeats=np.zeros(6, np.int64)), lost)
    record = writer.commit_part("train", "0000", repeats, lost)
    assert (record.n_samples, record.n_clouds, record.n_failures) == (5, 6, 2)


def test_a_part_outside_of_the_plan_is_refused(tmp_path: Path) -> None:
    writer = empty_store(tmp_path / "s.zarr", ONE_PART)
    with pytest.raises(ValueError, match="train/0001 is not in the plan"):
        writer.commit_part("train", "0001", make_batch(range(5)))


def test_a_writer_travels_to_another_process(place: Storage) -> None:
    writer = empty_store(place, ONE_PART)
    there: StoreWriter = pickle.loads(pickle.dumps(writer))
    there.commit_part("train", "0000", make_batch(range(5)))
    assert writer.committed() == {"train": {"0000"}}
    assert there.decoder().sha256 == make_decoder().sha256
    assert len(pickle.dumps(writer)) < 2000  # it goes with every task


def test_finishing_needs_every_part(place: Storage) -> None:
    writer = empty_store(place, {"train": {"samples": 10, "parts": 2}})
    writer.commit_part("train", "0001", make_batch(range(5)))
    assert [part.id for part in writer.remaining()] == ["0000"]
    with pytest.raises(UnfinishedStoreError, match="lacks 1 of 2 parts") as caught:
        writer.finish()
    assert "first missing: train/0000" in str(caught.value)


def test_parts_with_failures_are_taken_back(place: Storage) -> None:
    writer = empty_store(place, {"train": {"samples": 10, "parts": 2}})
    writer.commit_part("train", "0000", make_batch(range(5)))
    writer.commit_part("train", "0001", make_batch(range(5, 9)), [FailedSample(9, "cats/9.jpg", "truncated")])
    writer.finish()
    assert writer.drop_failed() == 1
    assert writer.committed() == {"train": {"0000"}}
    assert not list(place.files("train/0001"))
    with pytest.raises(UnfinishedStoreError):  # and no reader takes it for finished
        open_store(place)
    writer.commit_part("train", "0001", make_batch(range(5, 10)))
    writer.finish()
    assert open_store(place).failures("train") == []
    assert verify(place).problems == []


def test_totals_and_statistics_are_those_of_the_arrays(tmp_path: Path) -> None:
    totals = full_store(tmp_path / "s.zarr").finish({"seconds": 7})
    train = make_batch(range(10))
    store = open_store(tmp_path / "s.zarr")
    assert store.totals == totals
    assert totals["seconds"] == 7
    assert totals["splits"]["train"]["points"] == len(train.latents)
    assert totals["splits"]["train"]["pixels"] == len(train.neighbours)
    assert totals["splits"]["test"]["clouds"] == 3
    statistics = store.latent_statistics
    latents = train.latents.astype(np.float64)
    assert statistics["split"] == "train"  # never the test split
    assert statistics["count"] == len(latents)
    np.testing.assert_allclose(statistics["mean"], latents.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(statistics["std"], latents.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose([statistics["whole_mean"], statistics["whole_std"]], [latents.mean(), latents.std()])


def test_statistics_of_an_unfinished_store_are_of_what_is_there(tmp_path: Path) -> None:
    writer = empty_store(tmp_path / "s.zarr", {"train": {"samples": 10, "parts": 2}})
    writer.commit_part("train", "0001", make_batch(range(5, 10)))
    store = open_store(tmp_path / "s.zarr", allow_unfinished=True)
    np.testing.assert_allclose(
        store.latent_statistics["mean"], make_batch(range(5, 10)).latents.mean(axis=0), atol=1e-6
    )


def test_int8_statistics_are_of_the_rounded_latents(tmp_path: Path) -> None:
    writer = create_or_open(tmp_path / "s.zarr", make_header(ONE_PART, dtype="int8"), make_decoder())
    writer.commit_part("train", "0000", make_batch(range(5)))
    writer.finish()
    store = open_store(tmp_path / "s.zarr")
    read = store.read_part("train", "0000").latents
    assert read.dtype == np.float32
    np.testing.assert_allclose(store.latent_statistics["mean"], read.astype(np.float64).mean(axis=0), atol=1e-12)
