"""Threads spin on an idle machine only, and the user's own word counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arcpipe import threads


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy_ticks: int, idle_ticks: int) -> Path:
    """A /proc/stat whose counters advance by so much while one looks."""
    stat = tmp_path / "stat"
    stat.write_text("cpu 100 0 0 500 0 0 0 0 7 0\ncpu0 1 2 3\n")
    later = f"cpu {100 + busy_ticks} 0 0 {500 + idle_ticks} 0 0 0 0 7 0\n"
    monkeypatch.setattr(threads.time, "sleep", lambda _: stat.write_text(later))
    return stat


def test_on_an_idle_machine_threads_spin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads.set_waiting(machine(tmp_path, monkeypatch, busy_ticks=1, idle_ticks=19))
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]) == ("PASSIVE", threads.SPIN)


def test_beside_a_busy_neighbour_they_sleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = machine(tmp_path, monkeypatch, busy_ticks=10, idle_ticks=10)
    assert threads.busy_cores(stat) == pytest.approx(10 / (os.sysconf("SC_CLK_TCK") * threads.LOOK_S))
    assert not threads.set_waiting(machine(tmp_path, monkeypatch, busy_ticks=10, idle_ticks=10))
    assert "GOMP_SPINCOUNT" not in os.environ


def test_what_the_user_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    threads.set_waiting(machine(tmp_path, monkeypatch, busy_ticks=0, idle_ticks=20))
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]) == ("ACTIVE", "5")


def test_where_the_system_does_not_say_they_sleep(tmp_path: Path) -> None:
    assert not threads.set_waiting(tmp_path / "nothing")
