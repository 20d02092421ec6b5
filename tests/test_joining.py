"""Whom work is given to, and what is said about it; the real cluster is in test_compose.py."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

import dask
import pytest

from arcpipe.cluster.joining import join, on_loopback, warn_if_open
from arcpipe.cluster.vetting import PACKAGES, admission, differing, versions_here
from arcpipe.cluster.window import WindowExecutor
from arcpipe.errors import ClusterError


class Counting(Executor):
    """Threads that remember how many tasks were there at once."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(8)
        self.now = self.most = 0
        self.futures: list[Future[Any]] = []
        self._lock = threading.Lock()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

        def work() -> Any:
            time.sleep(0.01)
            with self._lock:
                self.now -= 1
            return fn(*args, **kwargs)

        self.futures.append(self._threads.submit(work))
        return self.futures[-1]


def test_no_more_tasks_at_a_time_than_the_window_is_wide() -> None:
    inner = Counting()
    window = WindowExecutor(inner)
    futures = [window.submit(pow, i, 2) for i in range(20)]
    assert not inner.futures, "nobody is there to work"
    window.widen(3)
    assert [future.result(timeout=10) for future in futures] == [i**2 for i in range(20)]
    assert inner.most == 3


def test_an_error_arrives_and_the_next_task_runs() -> None:
    window = WindowExecutor(Counting())
    window.widen(1)
    broken, sound = window.submit(int, "x"), window.submit(int, "7")
    with pytest.raises(ValueError, match="invalid literal"):
        broken.result(timeout=10)
    assert sound.result(timeout=10) == 7


@pytest.mark.parametrize("width", [0, 1])
def test_giving_up_cancels_what_waits_and_what_comes(width: int) -> None:
    window = WindowExecutor(Counting())
    window.widen(width)
    futures = [window.submit(abs, -1) for _ in range(3)]
    window.give_up()
    futures.append(window.submit(abs, -1))
    assert not wait(futures, timeout=10).not_done
    assert sum(future.cancelled() for future in futures) == 4 - width


def test_a_scheduler_that_goes_takes_all_tasks_with_it() -> None:
    class Going(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            threading.Timer(0.05, lambda: (future.cancel(), future.set_running_or_notify_cancel())).start()
            return future

    window = WindowExecutor(Going())
    window.widen(1)
    futures = [window.submit(abs, -1) for _ in range(3)]
    assert not wait(futures, timeout=10).not_done
    assert all(future.cancelled() for future in futures)


def test_cancelling_a_task_lets_the_next_one_go() -> None:
    window = WindowExecutor(Counting())
    first, second = window.submit(abs, -1), window.submit(abs, -2)
    assert first.cancel()
    window.widen(1)
    assert second.result(timeout=10) == 2


def test_what_differs_is_a_table() -> None:
    here = {"python": "3.11", "torch": "2.13.0", "numba": "0.68.1", "zarr": "3.1.6"}
    assert differing(here, here) == []
    assert differing(here, {**here, "torch": "2.4.0", "zarr": "absent"}) == [
        "       here    there",
        "torch  2.13.0  2.4.0",
        "zarr   3.1.6   absent",
    ]
    assert differing({"torch": "2.13.0"}, {}) == ["       here    there", "torch  2.13.0  absent"]


def test_every_package_that_can_change_a_byte_is_compared() -> None:
    here = versions_here()
    assert set(here) == {"python", *PACKAGES}
    assert "absent" not in here.values(), "all of them are requirements of arcpipe"
    assert admission(here) != admission({**here, "numba": "0.1"})


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:8786", "127.0.0.2:1", "tcp://localhost:8786", "tcp://[::1]:8786", "tls://10.1.2.3:8786"],
)
def test_no_warning_where_nobody_else_can_listen(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    warn_if_open(address)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("address", ["tcp://10.1.2.3:8786", "10.1.2.3:8786", "tcp://[fe80::1]:8786", "ws://10.1.2.3:1"])
def test_a_warning_where_others_can(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    warn_if_open(address)
    said = capsys.readouterr().err
    assert address in said
    assert "run programs" in said
    assert "tls://" in said


def test_an_address_that_is_none_is_not_on_loopback() -> None:
    assert not on_loopback("")
    assert not on_loopback("tcp://[::1")


@pytest.mark.parametrize("speaks_tls", [True, False])
def test_certificates_of_somebody_else_are_named(speaks_tls: bool) -> None:
    """It said that no scheduler answers."""
    security = pytest.importorskip("distributed.security").Security
    pytest.importorskip("cryptography")
    theirs, ours = security.temporary(), security.temporary()
    settings = {
        "distributed.comm.tls.ca-file": ours.tls_ca_file,
        "distributed.comm.tls.client.cert": ours.tls_client_cert,
        "distributed.comm.tls.client.key": ours.tls_client_key,
    }

    def answer(server: socket.socket) -> None:
        line = server.accept()[0]
        with suppress(OSError), line:
            if speaks_tls:
                theirs.get_listen_args("scheduler")["ssl_context"].wrap_socket(line, server_side=True)
            else:
                line.sendall(b"a scheduler without TLS")

    with socket.create_server(("127.0.0.1", 0)) as server, dask.config.set(settings):
        there = threading.Thread(target=answer, args=(server,))
        there.start()
        with (
            pytest.raises(ClusterError, match="no trust between") as caught,
            join(f"tls://127.0.0.1:{server.getsockname()[1]}", 5),
        ):
            pass
        there.join()
    assert ("CERTIFICATE_VERIFY_FAILED" if speaks_tls else "WRONG_VERSION_NUMBER") in str(caught.value)
