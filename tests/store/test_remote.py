"""Stores in a bucket, against a real S3 service: commits, kills, two at once, refusals, outages, requests."""

from __future__ import annotations

import hashlib
import json
import os
import pickle  # only here: Dask sends places this way
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from store_samples import (
    empty_store,
    full_store,
    make_batch,
    make_decoder,
    make_header,
    same_clouds,
    write_full_store,
)

from arcpipe.errors import (
    ArcpipeError,
    ConfigError,
    FileAccessError,
    NotAStoreError,
    RemoteStoreError,
    StoreBusyError,
    StoreMismatchError,
)
from arcpipe.storage import BucketStorage, LocalStorage, commits, folder_path, lease, objects, storage_at
from arcpipe.storage.objects import Address
from arcpipe.store import content_hash, create_or_open, open_store, verify
from tests.bucket_server import USERS, BucketServer

HERE = Path(__file__).resolve().parent


def store_in(bucket: str, name: str = "deep/clouds.zarr") -> BucketStorage:
    place = storage_at(f"{bucket}/{name}")
    assert isinstance(place, BucketStorage)
    return place


def keys(place: BucketStorage) -> list[str]:
    return [key for key, _ in objects.listing(place.address)]


def around(place: BucketStorage) -> list[str]:
    """The keys of the store and of what lies beside it."""
    return keys(place.beside(""))


# Addresses, without a service


def test_an_address_survives_the_trip_to_a_worker() -> None:
    place = storage_at("s3://photos/deep//clouds.zarr/")
    assert str(place) == f"{place}" == "s3://photos/deep/clouds.zarr"
    assert (place.name, place.parent) == ("clouds.zarr", "s3://photos/deep")
    assert str(place.beside("other.zarr")) == "s3://photos/deep/other.zarr"
    assert str(storage_at("s3://photos/clouds.zarr").beside("other.zarr")) == "s3://photos/other.zarr"
    assert place.absolute() == place
    assert pickle.loads(pickle.dumps(place)) == place
    assert storage_at(str(place)) == place
    assert storage_at(place) is place
    assert storage_at("store/clouds.zarr") == LocalStorage(Path("store/clouds.zarr"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://host/clouds.zarr", "no address of a store"),
        ("s3://photos", "does not name a store"),
        ("s3://photos/../clouds.zarr", "does not name a store"),
        ("s3://photos/clouds.zarr?versionId=1", "does not name a store"),
        ("s3://key:secret@photos/clouds.zarr", "credentials do not belong"),
    ],
)
def test_other_addresses_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        storage_at(text)
    assert "secret" not in str(caught.value)


def test_runs_are_kept_here() -> None:
    with pytest.raises(ConfigError, match="only stores are kept in buckets"):
        folder_path("s3://photos/run")
    with pytest.raises(ConfigError, match="only stores are kept in buckets"):
        folder_path(Path("s3://photos/run"))  # as the command line gives it


# Writing and reading


def test_a_store_in_a_bucket_is_the_store_in_a_folder(bucket: str, tmp_path: Path) -> None:
    here, there = full_store(tmp_path / "clouds.zarr"), write_full_store(store_in(bucket))
    left, right = open_store(here.storage.path), open_store(str(there.storage))
    assert content_hash(left) == content_hash(right)
    files = {path.relative_to(here.storage.path).as_posix() for path in here.storage.path.rglob("*") if path.is_file()}
    start = len(there.storage.address.key) + 1
    assert {key[start:] for key in keys(there.storage)} == files  # and nothing is left of the attempts
    assert same_clouds(
        left.read_part("train", "0001", neighbours=True), right.read_part("train", "0001", neighbours=True)
    )
    assert right.find("test/cats/0000.jpg") == left.find("test/cats/0000.jpg")
    np.testing.assert_array_equal(right.labels("train"), left.labels("train"))
    assert right.decoder.sha256 == left.decoder.sha256
    report = verify(there.storage)
    assert (report.problems, report.parts, report.content) == ([], 3, content_hash(left))
    assert pickle.loads(pickle.dumps(right)).storage == there.storage
    assert around(there.storage) == keys(there.storage)  # no lock either


def test_credentials_are_in_no_object(bucket: str, bucket_server: BucketServer) -> None:
    place = store_in(bucket)
    with storage_at(place).lock():
        write_full_store(place, one_part=True)
        everything = b"".join(objects.get(objects.Address(place.address.root, key)) for key in around(place))
    for word in [word for user in USERS.values() for word in user]:
        assert word.encode() not in everything
    assert str(bucket_server.relay.port).encode() not in everything


def test_other_settings_are_refused_and_nothing_is_replaced(bucket: str) -> None:
    writer = full_store(store_in(bucket), one_part=True)
    place, splits = writer.storage, writer.splits
    with pytest.raises(StoreMismatchError, match=r"fit.steps: was 500, now 7") as caught:
        empty_store(place, splits, steps=7)
    assert "--overwrite" not in str(caught.value)
    with pytest.raises(ConfigError, match="--overwrite cannot replace"):
        create_or_open(place, make_header(splits, steps=7), make_decoder(), overwrite=True)
    store_in(bucket, "photos").replace("holiday.jpg", b"mine")
    with pytest.raises(NotAStoreError, match=r"no zarr\.json"):
        empty_store(store_in(bucket, "photos"), splits)
    assert verify(place).problems == []


# Killed, and two at once


def test_attempts_that_differ_never_mix(bucket: str) -> None:
    """Other processors round otherwise: whoever wins, all files of a part are one attempt's."""
    writer = empty_store(store_in(bucket), {"train": {"samples": 10, "parts": 2}})
    attempts = [make_batch(range(5 * i, 5 * i + 5)) for i in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for part in writer.planned():
            start = threading.Barrier(3)

            def attempt(batch: object, part_id: str = part.id, start: threading.Barrier = start) -> object:
                start.wait()
                return writer.commit_part("train", part_id, batch)  # type: ignore[arg-type]

            records = list(pool.map(attempt, attempts))
            assert len(set(map(str, records))) == 1
    store = open_store(writer.storage, allow_unfinished=True)
    for part in writer.planned():
        found = store.read_part("train", part.id, neighbours=True)
        assert sum(same_clouds(found, batch) for batch in attempts) == 1
        for name, file in store.part("train", part.id).attributes["files"].items():
            data = store.storage.read(f"train/{part.id}/{name}")
            assert hashlib.sha256(data).hexdigest() == file["sha256"]
    assert not any(".attempts" in key for key in keys(writer.storage))


def test_a_straggler_that_read_an_old_choice_harms_nothing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sleeps between reading who was chosen and copying; meanwhile the part is committed and tidied up."""
    writer = empty_store(store_in(bucket), {"train": {"samples": 5, "parts": 1}})
    first, second = make_batch(range(5)), make_batch(range(5, 10))
    chosen, go_on = threading.Event(), threading.Event()
    carry_out = commits._carry_out

    def slowly(place: Address, choice: commits.Choice, final: Address) -> bool:
        if threading.current_thread().name.startswith("straggler"):
            chosen.set()
            assert go_on.wait(30)
        return carry_out(place, choice, final)

    monkeypatch.setattr(commits, "_carry_out", slowly)
    with ThreadPoolExecutor(1, "straggler") as pool:
        late = pool.submit(writer.commit_part, "train", "0000", first)  # its attempt is chosen
        assert chosen.wait(30)
        writer.commit_part("train", "0000", second)  # and carried out by the other one
        assert writer.committed() == {"train": {"0000"}}
        go_on.set()
        late.result(timeout=30)
    writer.finish()
    assert verify(writer.storage).problems == []
    assert same_clouds(open_store(writer.storage).read_part("train", "0000"), first.without_neighbours())


def test_what_a_killed_writer_had_sent_off_may_arrive_late(bucket: str) -> None:
    writer = full_store(store_in(bucket), one_part=True)
    objects.put(writer.storage.address.at(".attempts/train-0000/elsewhere-1-ab/latents/zarr.json"), b"{}")
    assert verify(writer.storage).problems == []
    create_or_open(writer.storage, make_header(writer.splits), make_decoder())
    assert not any(".attempts" in key for key in keys(writer.storage))


def test_a_second_converter_is_told_who_is_at_work(bucket: str) -> None:
    place = store_in(bucket)
    holder = [sys.executable, str(HERE / "lock_holder.py"), str(place)]
    path = os.pathsep.join([str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(holder, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(StoreBusyError, match=f"process {process.pid} on"), storage_at(place).lock():
            pass
        process.kill()
        process.wait()
    started = time.monotonic()
    with storage_at(place).lock():  # it died on this machine: nothing to wait for
        pass
    assert time.monotonic() - started < lease.STALE_S / 2
    assert around(place) == []


def test_a_lease_of_another_machine_is_watched(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE_S", 1.0)
    monkeypatch.setattr(lease, "RENEW_S", 0.15)
    place = store_in(bucket)
    address = place.beside(f".{place.name}.lock").address
    elsewhere = {"host": "far", "pid": 7, "since": "today", "token": "x", "machine": "other", "started": "1"}
    tag = objects.create(address, json.dumps(elsewhere).encode())
    renewing = threading.Event()

    def renew() -> None:
        nonlocal tag
        for count in range(3):
            time.sleep(0.25)
            tag = objects.swap(address, json.dumps({**elsewhere, "renewals": count}).encode(), tag)
        renewing.set()

    thread = threading.Thread(target=renew)
    thread.start()
    with pytest.raises(StoreBusyError, match="process 7 on far"), storage_at(place).lock():
        pass
    thread.join()
    with storage_at(place).lock():  # silent for longer than a living one is
        first = objects.tag_of(address)
        time.sleep(0.5)
        assert objects.tag_of(address) != first  # ours is renewed
        assert json.loads(objects.get(address))["pid"] == os.getpid()
    assert around(place) == []


# Refusals and outages


def test_what_a_user_can_mend_is_said(
    bucket: str, bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = full_store(store_in(bucket), one_part=True).storage
    with pytest.raises(NotAStoreError, match="there is no store"):
        open_store(store_in(bucket, "deep/cloud.zarr"))
    for act in (open_store, verify, _lock):
        with pytest.raises(RemoteStoreError, match="there is no bucket s3://no-such-bucket"):
            act(store_in("s3://no-such-bucket"))
    for name, value in bucket_server.environment("reader").items():
        monkeypatch.setenv(name, value)
    assert open_store(place).complete
    with pytest.raises(FileAccessError, match=r"refused to these credentials[\s\S]*AccessDenied"):
        _lock(place)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(FileAccessError, match="SignatureDoesNotMatch") as caught:
        open_store(place)
    assert "wrong-secret" not in str(caught.value)
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(ConfigError, match="is not encrypted"):
        open_store(place)


def _lock(place: BucketStorage) -> None:
    with storage_at(place).lock():
        pass


def test_a_wrong_endpoint_is_told_soon(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(objects, "_answered", set())
    monkeypatch.setattr(objects, "FIRST_ANSWER_S", 1.0)
    with pytest.raises(RemoteStoreError, match=r"does not answer[\s\S]*Connection refused[\s\S]*127\.0\.0\.1:1"):
        open_store(store_in(bucket))


def test_an_outage_is_waited_for_and_then_told(
    bucket: str, bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = full_store(store_in(bucket))
    writer.drop_part("train", "0000")
    store = open_store(writer.storage, allow_unfinished=True)
    relay = bucket_server.relay
    relay.cut()
    try:
        mending = threading.Timer(1.5, relay.mend)
        mending.start()
        assert len(store.read_part("train", "0001")) == 5  # through Zarr
        assert writer.commit_part("train", "0000", make_batch(range(5))).n_clouds == 5
        mending.join()
        writer.finish()
        relay.cut()
        monkeypatch.setenv("ARCPIPE_REMOTE_PATIENCE", "1")
        with pytest.raises(RemoteStoreError, match=r"does not answer[\s\S]*run the same command again"):
            store.read_part("test", "0000")
        with pytest.raises(ArcpipeError):
            writer.drop_part("train", "0000")
    finally:
        if relay._listener is None:
            relay.mend()
    monkeypatch.delenv("ARCPIPE_REMOTE_PATIENCE")
    assert verify(writer.storage).problems == []


# Requests


def test_every_chunk_is_fetched_once_and_metadata_is_not_fetched_again(
    bucket: str, bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks are smaller than chunks, and a shard has many chunks: still one request for each."""
    monkeypatch.setattr("arcpipe.store.arrays.CHUNK_BYTES", 200)
    writer = empty_store(store_in(bucket), {"train": {"samples": 60, "parts": 2}})
    for i, part in enumerate(writer.planned()):
        writer.commit_part("train", part.id, make_batch(range(30 * i, 30 * i + 30)))
    writer.finish()
    store = open_store(writer.storage)
    for part in store.parts("train"):
        store.read_block("train", part.id, 0, 1)  # opens its arrays
    opened = store.part("train", "0000")
    n_chunks = sum(
        -(-store.part("train", part.id).array(name).shape[0] // store.part("train", part.id).array(name).chunks[0])
        for part in store.parts("train")
        for name in ("latents", "position_gaps", "paths")
    )
    assert n_chunks > 20
    requests = bucket_server.relay.requests
    before = requests.total()
    for start in range(0, 30, 3):
        for part in store.parts("train"):
            store.read_block("train", part.id, start, start + 3)
    assert requests.total() - before <= n_chunks
    before = requests.total()
    for start in range(0, 30, 3):
        store.read_block("train", "0000", start, start + 3)
    assert requests.total() == before  # the chunks are kept
    assert opened is store.part("train", "0000")
    requests.clear()
    assert verify(writer.storage).ok
    assert {n for asked, n in requests.items() if "/c/" in asked and "decoder" not in asked} == {1}
