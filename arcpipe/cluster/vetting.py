"""Workers that others started get work only if they would compute the same: every one is asked for its versions."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client, Worker

PACKAGES = ("arcpipe", "distributed", "torch", "numpy", "numba", "scipy", "pillow", "zarr", "numcodecs")
"""Whatever reads an image, fits it or writes it (any of them can change a byte), and what carries the tasks."""
ABSENT = "absent"

Versions = dict[str, str]


def versions_here() -> Versions:
    """Python (without its patch level: no number depends on it) and packages (without builds such as `+cpu`)."""
    return {"python": _minor(platform.python_version())} | {name: _installed(name) for name in PACKAGES}


def versions_there(client: Client, workers: Iterable[str]) -> dict[str, Versions]:
    """Versions by worker; workers that left meanwhile are missing.

    Functions of the standard library are asked for, so it also works where arcpipe is another version, or absent.
    """
    found: dict[str, dict[str, Any]] = {worker: {} for worker in workers}

    def ask(name: str, function: Any, *arguments: str) -> None:
        for worker, answer in client.run(function, *arguments, workers=list(found), on_error="return").items():
            found[worker][name] = answer

    ask("python", platform.python_version)
    for package in PACKAGES:
        ask(package, metadata.version, package)
    there: dict[str, Versions] = {}
    for worker, answers in found.items():
        absent = {name: ABSENT for name, answer in answers.items() if isinstance(answer, metadata.PackageNotFoundError)}
        if all(isinstance(answer, str) or name in absent for name, answer in answers.items()):
            plain = {name: _release(answer) for name, answer in answers.items() if name not in absent}
            there[worker] = {**plain, **absent, "python": _minor(answers["python"])}
    return there


def differing(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """A table of what differs, with a head; empty if nothing does."""
    names = [name for name in here if here[name] != there.get(name, ABSENT)]
    if not names:
        return []
    rows = [("", "here", "there"), *((name, here[name], there.get(name, ABSENT)) for name in names)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{name:{widths[0]}}  {ours:{widths[1]}}  {theirs}" for name, ours, theirs in rows]


def admission(versions: Mapping[str, str]) -> str:
    """Name of the Dask resource that an admitted worker has and every task asks for."""
    text = ",".join(f"{name}={versions[name]}" for name in sorted(versions))
    return f"arcpipe-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


async def admit(resource: str, dask_worker: Worker) -> int:
    """Run on a worker: let it take tasks that ask for `resource`, as many at a time as it has threads (returned)."""
    from distributed.core import Status

    threads: int = dask_worker.state.nthreads
    await dask_worker.set_resources(**{resource: threads})
    if dask_worker.status == Status.running:
        # The scheduler looks again at tasks that no worker could take when a worker joins or resumes, not when it gets
        # a resource; so resume.
        dask_worker.status = Status.paused
        dask_worker.status = Status.running
    return threads


@cache
def _installed(package: str) -> str:
    try:
        return _release(metadata.version(package))
    except metadata.PackageNotFoundError:
        return ABSENT


def _release(version: str) -> str:
    return version.split("+")[0]


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
