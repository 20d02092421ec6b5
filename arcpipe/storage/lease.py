"""Who is at work on a store in a bucket: an object that its converter renews, and that goes stale when it dies.

Commits do not need it (see `commits`): like the lock beside a local store it only spares two converters doing the same
work twice. Staleness is judged by watching for a renewal, never by comparing clocks; a converter that died on this
machine is known to be dead at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arcpipe.errors import ArcpipeError, RemoteStoreError
from arcpipe.storage import objects
from arcpipe.storage.objects import Address
from arcpipe.storage.protocol import busy

RENEW_S = 10.0
STALE_S = 45.0  # a renewal may be late by a few requests that had to be repeated


@contextlib.contextmanager
def hold(store: Address, address: Address) -> Iterator[None]:
    """Hold a store for this process by its lease, the object at `address`.

    Raises:
        StoreBusyError: another converter renews its lease.
        RemoteStoreError: the service has no create-if-absent, so that it can hold no store.
    """
    owner = {**_identity(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z"), "token": secrets.token_hex(8)}
    tag = _acquire(store, address, owner)
    ended = threading.Event()
    renewals = threading.Thread(target=_renew, args=(address, owner, tag, ended), name="arcpipe-lease", daemon=True)
    renewals.start()
    try:
        yield
    finally:
        ended.set()
        renewals.join(timeout=2)
        with contextlib.suppress(ArcpipeError, OSError), objects.impatient():
            if _read(address).get("token") == owner["token"]:
                objects.delete(address.root, [address.key])


def _acquire(store: Address, address: Address, owner: dict[str, Any]) -> str:
    while True:
        try:
            tag = objects.create(address, _document(owner, 0))
        except FileExistsError:
            taken = _take_over(store, address, owner)
            if taken is not None:
                return taken
            continue
        with contextlib.suppress(FileExistsError):
            objects.create(address, _document(owner, 1))
            objects.delete(address.root, [address.key])
            raise RemoteStoreError(
                f"{address.root} cannot hold a store: it overwrites objects that should be created only if absent.",
                details=["expected a refusal of the second PUT with If-None-Match: *, found none"],
                fix=["a service with conditional writes (Amazon S3, Google, Azure, MinIO, Ceph, SeaweedFS ...)"],
            )
        return tag


def _take_over(store: Address, address: Address, owner: dict[str, Any]) -> str | None:
    """Replace a lease whose owner is dead. None where it was released meanwhile. Raises StoreBusyError."""
    try:
        tag = objects.tag_of(address)
        other = _read(address)
        who = f"process {other.get('pid')} on {other.get('host')}, since {other.get('since')}"
        alive = _lives_here(other)
        if alive is None:
            print(f"{store}: {who}: waiting up to {STALE_S:.0f} s to see whether it lives", file=sys.stderr, flush=True)
            ends = time.monotonic() + STALE_S
            while time.monotonic() < ends and not alive:
                time.sleep(1)
                alive = objects.tag_of(address) != tag
        if not alive:
            with contextlib.suppress(FileExistsError):
                return objects.swap(address, _document(owner, 0), tag)
    except FileNotFoundError:
        return None
    raise busy(store, who)


def _renew(address: Address, owner: dict[str, Any], tag: str, ended: threading.Event) -> None:
    count = 1
    while not ended.wait(RENEW_S):
        try:
            tag = objects.swap(address, _document(owner, count), tag)
        except FileExistsError:  # taken over, after this process was silent for long: commits are safe without it
            return
        except (ArcpipeError, OSError):  # an outage; the work itself will say so
            continue
        count += 1


def _document(owner: dict[str, Any], renewals: int) -> bytes:
    return (json.dumps({**owner, "renewals": renewals}, indent=1) + "\n").encode()


def _read(address: Address) -> dict[str, Any]:
    try:
        document = json.loads(objects.get(address))
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {}


def _identity() -> dict[str, Any]:
    """This process, told apart from one of the same number in another container, or after a restart."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(), "started": _started(os.getpid())}


def _lives_here(owner: dict[str, Any]) -> bool | None:
    """Whether a process of this machine still runs; None where it is another machine's."""
    if owner.get("machine") != _machine() or not isinstance(owner.get("pid"), int):
        return None
    return _started(owner["pid"]) == owner.get("started") is not None


def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"no-proc-{socket.gethostname()}"


def _started(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; None where it runs no more."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] == "Z" else after_name[19]
