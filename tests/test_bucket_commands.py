"""The commands on a store in a bucket: converted, trained on, killed, cut off, and the same as in a folder."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arcpipe.config import EvaluateConfig, TrainConfig, build
from arcpipe.convert import run_convert, run_verify
from arcpipe.storage import storage_at
from arcpipe.store import committed_parts, content_hash, open_store
from tests.bucket_server import USERS, BucketServer
from tests.commands import arcpipe_here
from tests.pictures import contents, in_process, make_pictures, settings

PACKAGE = Path(__file__).resolve().parents[1]
OPTIONS = "--limit 16 --steps 20 --workers 2 --set store.part_samples=4 --set fit.pretrain_steps=20"
OPTIONS += " --set fit.pretrain_images=8"


@pytest.mark.usefixtures("quick_figures")
def test_a_bucket_is_converted_to_and_trained_from_as_a_folder_is(bucket: str, tmp_path: Path) -> None:
    from arcpipe.inspect import run_inspect
    from arcpipe.train import run_evaluate, run_predict, run_train

    pictures, three_parts = make_pictures(tmp_path / "pictures", per_class=3), {"store": {"part_samples": 6}}
    here, there = tmp_path / "a.zarr", storage_at(f"{bucket}/a.zarr")
    with ThreadPoolExecutor(1) as executor:
        for out in (here, there):
            report = run_convert(settings(pictures, out, **three_parts), cluster=in_process(executor))
            assert json.loads(json.dumps(report.as_dict(), default=str))["store"] == str(out)
        report = run_convert(settings(pictures, there, **three_parts), cluster=in_process(executor))
        assert "nothing left to do" in report.lines()[0]
    assert contents(here) == contents(there)
    assert run_verify(there, decode=4).problems == ()
    losses = []
    for store in (here, there):
        values = {
            "store": str(store),
            "out": tmp_path / f"run-{len(losses)}",
            "device": "cpu",
            "threads": 1,
            "stream": {"cache_mb": 0},
            "optim": {"epochs": 2, "batch_size": 4},
        }
        config = build(TrainConfig, values)
        run_train(config)
        lines = (config.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses.append([entry["train_loss"] for entry in map(json.loads, lines) if entry["kind"] == "epoch"])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2
    measured = run_evaluate(build(EvaluateConfig, {"run": config.out, "store": str(there), "device": "cpu"}))
    assert str(there) in json.dumps(measured.as_dict(), default=str)
    assert run_predict(config.out, [next((pictures / "test").rglob("*.png"))], device="cpu").as_dict()
    run_inspect(there, ["train/0"], tmp_path / "sheets")
    assert list((tmp_path / "sheets").iterdir())
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not [word for user in USERS.values() for word in user if word.encode() in written]


def start(store: str, *more: str, source: str = "digits") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "arcpipe", "convert", source, "--out", store, *OPTIONS.split(), *more]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(store: str, *more: str) -> tuple[int, str]:
    with start(store, *more) as process:
        told = process.communicate(timeout=250)[1]
    return process.returncode, told


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The content of the store that nothing disturbs, in a folder."""
    out = tmp_path_factory.mktemp("undisturbed") / "digits.zarr"
    assert finish(str(out))[0] == 0
    return content_hash(open_store(out))


@pytest.mark.slow
def test_killed_converters_leave_the_store_of_an_undisturbed_run(bucket: str, expected: str) -> None:
    """kill -9 of the client with its workers, or of single workers, at random moments, until it is done."""
    store, chance, kills = f"{bucket}/digits.zarr", random.Random(5), 0
    for _ in range(12):
        with start(store) as process:
            told = threading.Thread(target=process.stderr.read if process.stderr else None)
            told.start()
            try:
                process.wait(timeout=chance.uniform(3, 14))
            except subprocess.TimeoutExpired:
                victims = _children(process.pid) if kills % 3 == 1 else []
                if victims:
                    os.kill(chance.choice(victims), signal.SIGKILL)
                    process.wait(timeout=200)
                else:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                kills += 1
            told.join()
    code, told_last = finish(store)
    assert code == 0, told_last
    assert kills >= 3
    assert content_hash(open_store(store)) == expected
    report = run_verify(storage_at(store))
    assert report.problems == ()
    print(f"{kills} kills, the same content")


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[2]) == pid and int(stat.parent.name) != pid:
                found.append(int(stat.parent.name))
        except (OSError, IndexError):
            continue
    return found


@pytest.mark.slow
def test_two_converters_make_one_store(bucket: str, expected: str) -> None:
    store = f"{bucket}/digits.zarr"
    with start(store) as first:
        lock = storage_at(store).beside(".digits.zarr.lock")
        while not lock.is_file(""):
            assert first.poll() is None
            time.sleep(0.2)
        code, told = finish(store)
        assert (code, "another converter is at work" in told) == (4, True), told
        told_first = first.communicate(timeout=250)[1]
    assert first.returncode == 0, told_first
    code, told = finish(store, "--seed", "3")
    assert (code, "seed: was 0, now 3" in told) == (3, True), told
    assert content_hash(open_store(store)) == expected


@pytest.mark.slow
def test_an_outage_in_the_middle_is_outlived_or_ends_in_order(
    bucket: str, bucket_server: BucketServer, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, relay = f"{bucket}/digits.zarr", bucket_server.relay
    monkeypatch.setenv("ARCPIPE_REMOTE_PATIENCE", "4")
    with start(store) as process:
        _wait_for_parts(store, 2, process)
        relay.cut()  # for longer than patience
        told = process.communicate(timeout=250)[1]
        relay.mend()
    assert process.returncode == 1, told
    assert "does not answer" in told
    assert "run the same command again" in told
    assert "Traceback" not in told
    monkeypatch.setenv("ARCPIPE_REMOTE_PATIENCE", "60")
    with start(store) as process:
        _wait_for_parts(store, 4, process)
        relay.cut()
        time.sleep(4)  # for less
        relay.mend()
        told = process.communicate(timeout=250)[1]
    assert process.returncode == 0, told
    assert content_hash(open_store(store)) == expected


def _wait_for_parts(store: str, count: int, process: subprocess.Popen[str]) -> None:
    while sum(map(len, committed_parts(storage_at(store), ("train", "test")).values())) < count:
        if process.poll() is not None:
            return
        time.sleep(0.3)


def test_the_command_line_says_what_is_wrong_with_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for arguments, said in (
        (["convert", "digits", "--out", "s3://onlybucket"], "does not name a store in a bucket"),
        (["verify", "s3://bucket/a.zarr"], "is not encrypted"),
        (["train", "--store", "s3://bucket/a.zarr", "--out", "s3://bucket/run"], "only stores are kept in buckets"),
    ):
        done = arcpipe_here(*arguments, cwd=tmp_path)
        assert (done.returncode, said in " ".join(done.stderr.replace("│", " ").split())) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []
