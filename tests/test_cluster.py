"""The cluster: loopback only, threads times workers is cores, and clear refusals."""

from __future__ import annotations

import importlib.util
import os
import signal
from concurrent.futures import Future, wait
from pathlib import Path

import pytest

from arcpipe import cluster, devices
from arcpipe.cluster import joining, local
from arcpipe.config import RunSection
from arcpipe.errors import ClusterError, DeviceError, NoSpaceError
from arcpipe.machine import available_cores
from tests.listening import open_to, with_children


def _refuse() -> None:
    raise NoSpaceError("no space.")


def test_a_local_cluster_is_on_loopback_shares_the_cores_and_leaves_errors_to_the_client(
    capfd: pytest.CaptureFixture[str],
) -> None:
    others = with_children(os.getpid()) - {os.getpid()}  # a bucket's server, from other tests
    with cluster.open_cluster(RunSection(workers=2)) as two:
        opened = open_to(with_children(os.getpid()) - others)
        assert len(opened["tcp"]) >= 3, "a scheduler and two workers"
        assert {address for addresses in opened.values() for address in addresses} == {"127.0.0.1"}
        assert two.n_workers * two.threads <= max(2, available_cores())
        assert two.executor.submit(os.getenv, "OMP_NUM_THREADS").result() == str(two.threads)
        assert two.executor.submit(os.getenv, "OMP_WAIT_POLICY").result() == "PASSIVE"
        assert two.executor.submit(os.getpid).result() != os.getpid()
        has_bokeh = importlib.util.find_spec("bokeh") is not None
        assert (two.dashboard is not None) == has_bokeh, "Dask has a link also where Bokeh is missing"
        with pytest.raises(NoSpaceError, match="no space"):
            two.executor.submit(_refuse).result()
    assert "Traceback" not in capfd.readouterr().err, "Dask logs it too, with a traceback"


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match="expected 4, found 0"), cluster.open_cluster(RunSection(gpus=4)):
        pass


def test_each_gpu_worker_sees_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "check_gpus", lambda wanted: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with cluster.open_cluster(RunSection(gpus=2, gpu_workers=1)) as gpus:
        assert gpus.device == "cuda"
        futures = [gpus.executor.submit(os.getenv, "CUDA_VISIBLE_DEVICES") for _ in range(12)]
        assert {future.result() for future in futures} == {"3", "5"}
    assert [local._one_gpu(i, 2)["CUDA_VISIBLE_DEVICES"] for i in range(4)] == ["3", "5", "3", "5"]


@pytest.mark.parametrize(
    ("cores", "run", "expected"),
    [
        (2, {}, (2, 1)),
        (16, {"workers": 4}, (4, 4)),
        (16, {"gpus": 1}, (4, 4)),
        (16, {"gpus": 8}, (16, 1)),
        (2, {"gpus": 4}, (4, 1)),
        (16, {"gpus": 2, "gpu_workers": 1}, (2, 8)),
    ],
)
def test_workers_and_threads_by_cores_and_gpus(
    cores: int, run: dict[str, int], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "available_cores", lambda: cores)
    section = RunSection.model_validate(run)
    assert devices.workers_here(section.workers, section.gpus, section.gpu_workers) == expected


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "no-such-host.invalid:8786"])
def test_no_scheduler_at_the_address(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(joining, "ANSWER_WITHIN", "1s")
    run = RunSection(scheduler=address)
    with pytest.raises(ClusterError, match="no Dask scheduler answers") as caught, cluster.open_cluster(run):
        pass
    # Three commands that fit each other, also where the address was none.
    assert all("127.0.0.1" in line and "8786" in line for line in caught.value.fix)


DIES_AT_ITS_START = """
import os, pathlib, signal, sys
left = pathlib.Path({left!r})
if any("spawn_main" in word for word in sys.orig_argv) and (deaths := int(left.read_text())):
    left.write_text(str(deaths - 1))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def deaths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that says how many of the next worker processes die as they start."""
    left = tmp_path / "left"
    left.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(DIES_AT_ITS_START.format(left=str(left)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return left


def test_a_worker_that_dies_as_it_starts(deaths: Path) -> None:
    deaths.write_text("9")
    with pytest.raises(ClusterError, match="died at its start, 3 times"), cluster.open_cluster(RunSection(workers=1)):
        pass
    deaths.write_text("1")
    with cluster.open_cluster(RunSection(workers=1)) as one:
        assert one.executor.submit(os.getpid).result() != os.getpid()
    assert deaths.read_text() == "0"


def test_a_worker_that_dies_again_as_it_is_started_anew(deaths: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOOK_EVERY_S", 0.1)
    with cluster.open_cluster(RunSection(workers=1)) as one:
        first = one.executor.submit(os.getpid).result()
        deaths.write_text("2")
        os.kill(first, signal.SIGKILL)
        assert one.executor.submit(os.getpid).result() != first


@pytest.mark.slow
def test_whoever_waits_for_workers_that_do_nothing_but_die_is_told(
    deaths: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(local, "ALONE_S", 2.0)
    with cluster.open_cluster(RunSection(workers=1)) as one:
        deaths.write_text("10000")
        os.kill(one.executor.submit(os.getpid).result(), signal.SIGKILL)
        assert isinstance(cluster.failure(_ended(one.executor.submit(os.getpid))), cluster.LostTaskError)


def _ended(future: Future[int]) -> Future[int]:
    wait([future], timeout=60)
    assert future.done(), "whoever waits is not told"
    return future


def test_tls_without_certificates() -> None:
    run = RunSection(scheduler="tls://127.0.0.1:9")
    with pytest.raises(ClusterError, match="no certificates for tls"), cluster.open_cluster(run):
        pass
