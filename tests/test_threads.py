"""Threads sleep while they wait, and the user's own word counts."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from arcpipe import threads


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


def test_threads_sleep() -> None:
    threads.set_waiting()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]) == ("PASSIVE", str(threads.SPINS))


def test_a_policy_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    threads.set_waiting()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in os.environ


def test_a_count_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    threads.set_waiting()
    assert os.environ["GOMP_SPINCOUNT"] == "5"


def test_the_next_item_is_made_while_one_is_used() -> None:
    begun = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for i, event in enumerate(begun[:3]):
            event.set()
            yield i

    for i in threads.ahead(items()):
        assert i == 2 or begun[i + 1].wait(10)
    assert list(threads.ahead([])) == []


def test_what_goes_wrong_ahead_is_told_where_it_is_used() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    made = threads.ahead(items())
    assert next(made) == 1
    with pytest.raises(OSError, match="no more"):
        next(made)


@pytest.mark.skipif(sys.platform != "linux", reason="only there has a thread a niceness of its own")
def test_a_thread_gives_way_and_the_others_do_not() -> None:
    before = os.nice(0)
    with ThreadPoolExecutor(1, initializer=threads.give_way) as pool:
        assert pool.submit(os.nice, 0).result() == min(before + threads.GIVE_WAY, 19)
    assert os.nice(0) == before
