"""Every check of the doctor: what it says on this machine, and what it says when something is wrong."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from arcpipe.doctor import machine, network, place, versions
from arcpipe.doctor.finding import DoctorReport, Finding, guarded, ok, problem
from arcpipe.storage import local, storage_at
from tests.commands import invoke


def only(findings: Iterable[Finding], check: str) -> Finding:
    """The one finding of this name."""
    [found] = [finding for finding in findings if finding.check == check]
    assert (found.advice == "") == (found.state == "ok"), "what is not well has an advice"
    return found


def test_versions_are_those_of_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    good = only(versions.versions(), "versions")
    assert good.state == "ok"
    assert "torch" in good.found
    assert "zarr" in good.found
    installed = versions._installed
    monkeypatch.setattr(
        versions, "_installed", lambda name: {"zarr": "2.18.0", "numba": None}.get(name, installed(name))
    )
    bad = only(versions.versions(), "versions")
    assert bad.state == "problem"
    assert bad.advice == "pip install 'zarr<4,>=3.1' 'numba>=0.60'"


def test_extras_that_are_missing_are_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_installed", lambda name: None if name == "bokeh" else "1.0")
    found = only(versions.extras(), "extras")
    assert found.state == "ok"
    assert "[viewer] without bokeh" in found.found


def test_kernel_and_the_folder_of_its_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(versions.kernel(), "kernel").state == "ok"
    monkeypatch.setattr(versions, "_writable", lambda folder: False)
    unkept = only(versions.kernel(), "kernel")
    assert unkept.state == "warning"
    assert "NUMBA_CACHE_DIR" in unkept.advice


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert only(machine.devices(), "devices").state == "ok"
    monkeypatch.setattr(machine, "_has_nvidia", lambda: True)
    assert only(machine.devices(), "devices").state == "warning"


def test_fewer_cores_than_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(machine, "available_cores", lambda: 2)
    assert only(machine.cores(), "cores").found == "2 of 64 may be used"


def test_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 1.0, 1.0))
    assert only(machine.cores(), "load").state == "warning"
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 1.0, 1.0))
    assert only(machine.cores(), "load").state == "ok"


def test_threads_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "999")
    many = only(machine.cores(), "threads")
    assert many.state == "warning"
    assert "OMP_NUM_THREADS=999" in many.found
    monkeypatch.setenv("OMP_NUM_THREADS", "hf_a-token-that-somebody-pasted")
    assert "token" not in only(machine.cores(), "threads").found
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "PASSIVE" in only(machine.cores(), "threads").advice


@pytest.mark.parametrize(("free", "state"), [(10**8, "problem"), (4 * 10**9, "warning"), (10**12, "ok")])
def test_memory(free: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 64)
    monkeypatch.setattr(machine, "free_memory", lambda: free)
    assert only(machine.memory(), "memory").state == state


@pytest.fixture
def open_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(("soft", "state"), [(100, "problem"), (512, "warning"), (2048, "ok")])
@pytest.mark.usefixtures("open_files")
def test_open_files(soft: int, state: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    found = only(machine.limits(), "open files")
    assert found.state == state
    assert state == "ok" or "ulimit -n" in found.advice


def test_little_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHARED_BYTES", 2**60)
    assert "--shm-size" in only(machine.limits(), "shared memory").advice


def test_a_sound_folder_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    found = list(place.place(storage_at(tmp_path / "not" / "yet" / "x.zarr")))
    found += place.speed(storage_at(tmp_path / "x.zarr"))
    assert {finding.check for finding in found} == {"place", "locks", "space", "speed"}
    assert not any(finding.state == "problem" for finding in found)
    assert not list(tmp_path.iterdir())


def test_a_sound_bucket_and_nothing_is_left_in_it(bucket: str) -> None:
    out = storage_at(f"{bucket}/x.zarr")
    found = [*place.place(out), *place.speed(out)]
    assert [(finding.check, finding.state) for finding in found[:2]] == [("place", "ok"), ("locks", "ok")]
    assert found[2].check == "speed"
    assert not list(out.beside("").files())


def test_a_folder_that_cannot_be_written() -> None:
    found = only(place.place(storage_at("/proc/some.zarr")), "place")
    assert found.state == "problem"
    assert "/proc" in found.found
    assert only(place.speed(storage_at("/proc/some.zarr")), "speed").found == "not measured: No such file or directory"


def test_a_file_where_the_store_would_be(tmp_path: Path) -> None:
    (taken := tmp_path / "a.zarr").touch()
    found = only(place.place(storage_at(taken)), "place")
    assert (found.state, found.found) == ("problem", f"{taken} is no folder")


def test_a_file_system_whose_renames_replace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def replace(attempt: Path, final: Path) -> bool:
        shutil.rmtree(final, ignore_errors=True)
        os.rename(attempt, final)
        return True

    monkeypatch.setattr(local, "move", replace)
    assert "replaces" in only(place.place(storage_at(tmp_path / "x.zarr")), "place").found


def test_a_file_system_without_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert only(place.place(storage_at(tmp_path / "x.zarr")), "locks").state == "warning"


def test_a_slow_disk_and_a_full_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(place, "SLOW_COMMIT_S", 0.0)
    monkeypatch.setattr(place, "SLOW_MB_S", 1e9)
    monkeypatch.setattr(place, "LITTLE_BYTES", 1e18)
    out = storage_at(tmp_path / "x.zarr")
    found = [*place.place(out), *place.speed(out)]
    assert [only(found, check).state for check in ("place", "space", "speed")] == ["warning"] * 3


def test_a_bucket_that_nobody_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    for name, value in (
        ("ENDPOINT_URL", "http://127.0.0.1:9"),
        ("ACCESS_KEY_ID", "a"),
        ("SECRET_ACCESS_KEY", "hidden"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("ARCPIPE_REMOTE_PATIENCE", "1")
    [found] = place.place(storage_at("s3://bucket/name.zarr"))
    assert (found.check, found.state) == ("place", "problem")
    assert "hidden" not in f"{found}"


def test_bytes_that_change_on_their_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(place, "read_rows", lambda *_: 0)
    assert only(place.speed(storage_at(tmp_path / "x.zarr")), "speed").state == "problem"


def test_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(network.loopback(), "loopback").state == "ok"

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "create_server", refused)
    found = only(network.loopback(), "loopback")
    assert found.state == "problem"
    assert "Operation not permitted" in found.found


def test_a_worker_starts_and_answers() -> None:
    assert only(network.cluster(), "cluster").state in ("ok", "warning")


def test_a_check_that_breaks_is_a_finding() -> None:
    def broken() -> Iterator[Finding]:
        yield ok("first", "fine")
        raise ValueError("odd\nTraceback")

    [found] = guarded("mine", broken)
    assert (found.check, found.state, found.found) == ("mine", "problem", "ValueError: odd")


def test_the_report_for_people() -> None:
    report = DoctorReport((ok("a", "fine"), problem("longer", "broken", "mend it")), 1.2)
    assert report.lines() == [
        "ok       a       fine",
        "problem  longer  broken",
        "                 -> mend it",
        "1 problem, 0 warnings, in 1 s",
    ]


def test_the_command_and_its_exit_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("arcpipe.doctor.run.cluster", lambda: [ok("cluster", "not now")])
    monkeypatch.chdir(tmp_path)
    sound = invoke(["doctor", "--json"])
    said = json.loads(sound.stdout)
    assert (sound.exit_code, said["ok"]) == (0, True), said
    assert not list(tmp_path.iterdir())
    ill = invoke(["doctor", "--json", "--out", "/proc/x.zarr"])
    assert ill.exit_code == 1
    assert json.loads(ill.stdout)["problems"] >= 1


@pytest.mark.slow
def test_the_doctor_is_quick_and_says_nothing_else(tmp_path: Path) -> None:
    started = time.monotonic()
    command = [sys.executable, "-m", "arcpipe", "doctor", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert json.loads(done.stdout)["ok"]
    if os.getloadavg()[0] < 1:
        assert time.monotonic() - started < 15
