"""Loopback, and a cluster of one worker on it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

from arcpipe.doctor.finding import Finding, ok, problem, warning

LOOPBACK = "127.0.0.1"


def loopback() -> Iterator[Finding]:
    """Bind a port of loopback and talk to it, as client, scheduler and workers do."""
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            server.settimeout(5)
            port = server.getsockname()[1]
            with socket.create_connection((LOOPBACK, port), timeout=5) as client:
                peer, _ = server.accept()
                with peer:
                    client.sendall(b"arcpipe")
                    heard = peer.recv(7)
    except OSError as error:
        advice = "workers cannot be reached: is the interface lo up, and may this process open sockets?"
        yield problem("loopback", f"{LOOPBACK}: {error.strerror or error}", advice)
        return
    if heard != b"arcpipe":
        yield problem("loopback", f"{LOOPBACK}:{port} answers with other bytes", "does something redirect connections?")
    else:
        yield ok("loopback", f"{LOOPBACK} binds, connects and answers")


def cluster() -> Iterator[Finding]:
    """Start the cluster of `arcpipe convert --workers 1`, and let it do one task."""
    from arcpipe.cluster import open_cluster
    from arcpipe.config import RunSection

    started = time.monotonic()
    with open_cluster(RunSection(workers=1)) as one:
        pid = one.executor.submit(os.getpid).result(timeout=30)
        up = time.monotonic() - started
    found = f"a worker (process {pid}) started and answered in {up:.1f} s"
    if up > 10:
        yield warning("cluster", found, "a slow disk or a busy machine: workers take long to start")
    else:
        yield ok("cluster", found)
