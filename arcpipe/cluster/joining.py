"""Join a scheduler that others started: ask every worker who it is, wait for the first one, and say what goes on."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from arcpipe.cluster.vetting import (
    ABSENT,
    PACKAGES,
    Versions,
    admission,
    admit,
    differing,
    versions_here,
    versions_there,
)
from arcpipe.cluster.window import WindowExecutor
from arcpipe.errors import ClusterError
from arcpipe.progress import duration, say

if TYPE_CHECKING:
    from distributed import Client

LOOPBACK = "127.0.0.1"
ANSWER_WITHIN = "15s"
WAIT_S = 120.0
LOOK_EVERY_S = 0.5
SAY_AFTER_S = 5.0
"""Workers may still be starting when the client comes (importing torch alone takes seconds): then nobody is told."""
GONE = (OSError, TimeoutError, CancelledError, RuntimeError, ValueError, KeyError)
"""What asking a scheduler or a worker that is going away may raise."""


@dataclass
class Workforce:
    """Who is connected: admitted workers with their threads, refused ones with why."""

    client: Client
    address: str
    wait_s: float
    hint: str
    """What helps where no worker comes."""
    must_see: Sequence[Path] = ()
    """Files of this machine that every worker needs, so on a disk that they share."""
    broken: Callable[[], ClusterError | None] = lambda: None
    """Why no worker will come any more, as soon as that is known."""
    admitted: dict[str, int] = field(default_factory=dict)
    refused: dict[str, list[str]] = field(default_factory=dict)
    here: Versions = field(default_factory=versions_here)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.resource = admission(self.here)
        self.window = WindowExecutor(self.client.get_executor(pure=False, resources={self.resource: 1}))

    @contextmanager
    def at_work(self) -> Iterator[tuple[Client, Executor, int]]:
        """Wait for the first worker that can be used, and watch who comes and goes until the block ends; see `join`."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        try:
            self._wait_for_one()
            yield self.client, self.window, len(self.admitted)
        finally:
            self.stop.set()
            watcher.join(timeout=5)

    def _watch(self) -> None:
        """Look at the workers until `stop` is set; run in a thread of its own."""
        last_seen, said = time.monotonic(), False
        while True:
            with suppress(*GONE):  # the scheduler goes, as its futures say; or a worker, as the next look will say
                self._look()
            alone = 0 if self.admitted else time.monotonic() - last_seen
            if self.admitted:
                if said:
                    say("a worker is connected: going on")
                last_seen, said = time.monotonic(), False
            elif error := self.broken():
                say(str(error))
                self.window.give_up()
                return
            elif alone > self.wait_s:
                say(f"no worker that can be used for {duration(alone)}: giving up")
                self.window.give_up()
                return
            elif alone > SAY_AFTER_S and not said:
                said = True
                say(
                    f"no worker that can be used is connected to {self.address}: waiting for up to "
                    f"{duration(self.wait_s)}; {self.hint}"
                )
            if self.stop.wait(LOOK_EVERY_S):
                return

    def _look(self) -> None:
        connected = set(self.client.scheduler_info(n_workers=-1)["workers"])
        for worker in (set(self.admitted) | set(self.refused)) - connected:
            self.admitted.pop(worker, None)
            self.refused.pop(worker, None)
        new = sorted(connected - set(self.admitted) - set(self.refused))
        for worker, there in (versions_there(self.client, new) if new else {}).items():
            why = self._unfit(worker, there)
            if why:
                self.refused[worker] = why
                say(f"the worker {worker} gets no work: {why[0]}", *why[1:])
            else:
                self.admitted.update(self.client.run(admit, self.resource, workers=[worker], on_error="ignore"))
        self.window.widen(sum(self.admitted.values()))

    def _unfit(self, worker: str, there: Versions) -> list[str]:
        table = differing(self.here, there)
        if table:
            return ["it runs other versions", *table]
        for path in self.must_see:
            if not self.client.run(os.path.exists, str(path), workers=[worker])[worker]:
                return [f"it does not see {path}; all machines must share that folder, or --out be in a bucket"]
        return []

    def _wait_for_one(self) -> None:
        """Wait until a worker is admitted; raise where none will be."""
        started = time.monotonic()
        while not self.admitted:
            waited = time.monotonic() - started
            if error := self.broken():
                raise error
            if self.refused and waited > SAY_AFTER_S:
                raise self._none_fits()
            if waited > self.wait_s:
                raise ClusterError(
                    f"the scheduler at {self.address} has no workers.",
                    details=[f"expected one within {duration(self.wait_s)}, found none"],
                    fix=[self.hint, "or wait for longer: --set run.wait_s=3600"],
                )
            time.sleep(0.1)

    def _none_fits(self) -> ClusterError:
        reasons = list(self.refused.items())
        details = [line for worker, why in reasons[:3] for line in (f"{worker}: {why[0]}", *why[1:])]
        if len(reasons) > 3:
            details.append(f"and {len(reasons) - 3} more")
        packages = " ".join(f"{name}=={self.here[name]}" for name in PACKAGES if self.here[name] != ABSENT)
        versions = [f"pip install {packages} where the workers run", "or one image for client and workers"]
        shared = ["a folder that all machines share, or --out s3://BUCKET/NAME.zarr"]
        fix = (versions if any(len(why) > 1 for _, why in reasons) else []) or shared
        return ClusterError(f"no worker of {self.address} can be used.", details=details, fix=fix)


@contextmanager
def join(address: str, wait_s: float, must_see: Sequence[Path] = ()) -> Iterator[tuple[Client, Executor, int]]:
    """Connect to a scheduler; yields the client, an executor that reaches admitted workers only, and their number.

    Raises `ClusterError` if nobody answers, if no worker comes within `wait_s`, or if none of those who came can be
    used: they run other versions, or do not see the files of `must_see`.
    """
    warn_if_open(address)
    client = _connect(address)
    try:
        hint = f"this starts one: {worker_command(address)}"
        with Workforce(client, address, wait_s, hint, must_see).at_work() as staff:
            yield staff
    finally:
        client.close()


def _connect(address: str) -> Client:
    from distributed import Client
    from distributed.security import Security

    ours = f"tcp://{LOOPBACK}:8786"
    fix = [f"dask scheduler --host {LOOPBACK} --port 8786", worker_command(ours), f"--scheduler {ours}"]
    certificates = Security().get_connection_args("client").get("ssl_context") if address.startswith("tls:") else None
    if address.startswith("tls:") and certificates is None:
        raise ClusterError(
            f"there are no certificates for {address}.",
            details=["expected in Dask's configuration, for example DASK_DISTRIBUTED__COMM__TLS__CA_FILE"],
            fix=["see docs/clusters.md, Who can reach it"],
        )
    try:
        host, _, port = address.rpartition("://")[2].rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), 15) as line:  # Dask would go on trying, aloud
            if certificates is not None:
                _shake_hands(line, certificates, address)
        return Client(address, timeout=ANSWER_WITHIN, set_as_default=False)
    except (OSError, ValueError, OverflowError) as error:
        raise ClusterError(f"no Dask scheduler answers at {address}.", details=[str(error)], fix=fix) from None


def _shake_hands(line: socket.socket, certificates: ssl.SSLContext, address: str) -> None:
    """Raise where one side refuses the other's certificate; Dask would only say, after a while, that nobody answers."""
    try:
        with certificates.wrap_socket(line) as guarded:
            guarded.recv(1)  # a scheduler speaks first: also of a certificate that it does not accept
    except ssl.SSLError as error:
        raise ClusterError(
            f"there is no trust between this machine and the scheduler at {address}.",
            details=["expected certificates of one ca.pem on both sides", f"found {error.reason or error}"],
            fix=[
                "give client and scheduler certificates of the same ca.pem: docs/clusters.md, Who can reach it",
                f"or, if the scheduler runs without TLS: --scheduler {address.replace('tls:', 'tcp:', 1)}",
            ],
        ) from None


def worker_command(address: str) -> str:
    """The command that starts a worker for the scheduler at `address`."""
    return f"dask worker {address} --nthreads 1"


def warn_if_open(address: str) -> None:
    """Say what a scheduler without TLS means where its address is not this machine's own."""
    if not address.startswith("tls:") and not on_loopback(address):
        say(
            f"warning: {address} is not encrypted, and whoever reaches it is not asked who they are.",
            "  They can run programs as the user of its scheduler and workers, and read your images on their way.",
            "  In a network that is not yours alone use tls:// (docs/clusters.md says how to make the certificates).",
        )


def on_loopback(address: str) -> bool:
    """Whether all that an address (`tcp://host:port`) means is this machine's loopback; names are looked up."""
    try:
        host = urlsplit(address if "://" in address else f"tcp://{address}").hostname or ""
    except ValueError:
        return False
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(one.split("%")[0]).is_loopback for one in found)
