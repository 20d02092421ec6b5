"""The folder of a store: does it keep what a commit relies on, is there space, and how fast is it?"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from arcpipe import objects
from arcpipe.doctor.finding import Finding, ok, problem, warning
from arcpipe.errors import ArcpipeError
from arcpipe.objects import Address
from arcpipe.place import RemotePath
from arcpipe.progress import byte_size
from arcpipe.store.arrays import open_array, read_rows, write_array
from arcpipe.store.files import move, sync_tree, try_lock, write_file

LITTLE_BYTES = 2e9
SLOW_SYNC_S = 0.5
SLOW_MB_S = 20
ROWS, LATENT_DIM = 2**18, 32
"""16 MB of float16 latents: a shard of 16 chunks."""
PROBE_BYTES = 2**23


def folder(out: Path) -> Iterator[Finding]:
    """Do what a commit does: write, sync, rename, and fail to rename onto what is there; lock; look at the space."""
    if isinstance(out, RemotePath):
        yield from bucket(out)
        return
    place = nearest_folder(out)
    try:
        with tempfile.TemporaryDirectory(prefix=".arcpipe-doctor-", dir=place) as name:
            yield from _commit(Path(name), place)
            yield from _locks(Path(name), place)
    except OSError as error:
        yield problem("folder", f"{place}: {error.strerror}", "choose another one: --out FOLDER/NAME.zarr")
        return
    usage = shutil.disk_usage(place)
    found = f"{byte_size(usage.free)} free of {byte_size(usage.total)} in {place}"
    if usage.free < LITTLE_BYTES:
        yield warning("space", found, "`arcpipe convert SOURCE --dry-run` says how much a store takes")
    else:
        yield ok("space", found)


def speed(out: Path) -> Iterator[Finding]:
    """Write and read back one array of a part as the store does: compressed, with checksums, in one shard.

    Where `out` is in a bucket, this is the temporary folder in which parts are written before they are sent.
    """
    if isinstance(out, RemotePath):
        out = Path(tempfile.gettempdir()) / "NAME.zarr"
    try:
        yield from _speed(nearest_folder(out))
    except OSError as error:
        yield problem("speed", f"not measured: {error.strerror}", "see what is said of the folder, or choose another")


def _speed(place: Path) -> Iterator[Finding]:
    latents = np.random.default_rng(0).normal(size=(ROWS, LATENT_DIM)).astype(np.float16)
    with tempfile.TemporaryDirectory(prefix=".arcpipe-doctor-", dir=place) as name:
        write_array(Path(name), "first", latents[:1])  # Zarr loads what it needs
        started = time.perf_counter()
        write_array(Path(name), "latents", latents)
        wrote = time.perf_counter() - started
        started = time.perf_counter()
        back = read_rows(open_array(Path(name), "latents"), 0, len(latents), Path(name))
        read = time.perf_counter() - started
    if not np.array_equal(latents, back):
        yield problem(
            "speed", "what was read is not what was written", "the disk or its memory is broken: do not use it"
        )
        return
    megabytes = latents.nbytes / 1e6
    found = f"a shard of {megabytes:.0f} MB: writes {megabytes / wrote:.0f} MB/s, reads {megabytes / read:.0f} MB/s"
    if megabytes / min(wrote, read) < SLOW_MB_S or megabytes / max(wrote, read) < SLOW_MB_S:
        yield warning("speed", found, "put the store on a faster disk, or train with the store copied to one")
    else:
        yield ok("speed", found)


def bucket(out: RemotePath) -> Iterator[Finding]:
    """Do what a commit to an object store does: create an object, fail to create it again, read it back, delete it."""
    probe = Address(out.address.root, f"{out.address.key}.doctor-{secrets.token_hex(4)}")
    data = secrets.token_bytes(PROBE_BYTES)
    try:
        with objects.impatient():
            objects.create(probe, b"arcpipe doctor")
            try:
                objects.create(probe, b"arcpipe doctor, again")
            except FileExistsError:
                yield ok("bucket", f"{out} takes objects, and refuses a name that is taken")
            else:
                advice = "two workers could commit one part: use a service with conditional writes (If-None-Match)"
                yield problem("bucket", f"{out} replaces an object that must not exist", advice)
            started = time.perf_counter()
            objects.put(probe, data)
            wrote = time.perf_counter() - started
            back = objects.get(probe)
            read = time.perf_counter() - started - wrote
            objects.delete(probe.root, [probe.key])
    except ArcpipeError as error:
        yield problem("bucket", error.what, "; ".join(error.fix) or "see docs/store-format.md")
        return
    rates = [len(data) / 1e6 / seconds for seconds in (wrote, read)]
    found = f"an object of {len(data) / 1e6:.0f} MB: writes {rates[0]:.0f} MB/s, reads {rates[1]:.0f} MB/s"
    if back != data:
        yield problem("bucket speed", "what was read is not what was written", "do not use this service")
    elif min(rates) < SLOW_MB_S:
        yield warning("bucket speed", found, "run where the bucket is near")
    else:
        yield ok("bucket speed", found)


def nearest_folder(out: Path) -> Path:
    """The folder in which `out` would be made, or the nearest one above it that exists."""
    place = Path(os.path.abspath(out)).parent
    while not place.is_dir():
        place = place.parent
    return place


def _commit(scratch: Path, place: Path) -> Iterator[Finding]:
    slowest = 0.0
    for number in range(3):
        attempt = scratch / f"attempt-{number}"
        attempt.mkdir()
        started = time.perf_counter()
        write_file(attempt / "zarr.json", secrets.token_bytes(4096))
        sync_tree(attempt)
        if not move(attempt, scratch / f"part-{number}"):
            yield problem("folder", f"{place}: a rename to a new name fails", "choose a local disk or NFS")
            return
        slowest = max(slowest, time.perf_counter() - started)
    (scratch / "attempt").mkdir()
    write_file(scratch / "attempt" / "zarr.json", b"{}")
    if move(scratch / "attempt", scratch / "part-0"):
        advice = "two workers could commit one part: choose a file system with POSIX renames"
        yield problem("folder", f"{place}: a rename replaces a folder that is there", advice)
    elif slowest > SLOW_SYNC_S:
        advice = "every part waits for about 30 of them: a local disk is faster"
        yield warning("folder", f"{place} writes, renames, and syncs in {slowest:.2f} s", advice)
    else:
        found = f"{place} writes, syncs ({1000 * slowest:.0f} ms), renames, and refuses a name that is taken"
        yield ok("folder", found)


def _locks(scratch: Path, place: Path) -> Iterator[Finding]:
    lock = scratch / "lock"
    lock.touch()
    first = try_lock(lock, required=True)
    if first is None:
        advice = "two converters would not see each other, and litter of killed ones is not swept; nothing is damaged"
        yield warning("locks", f"{place} has no flock", advice)
        return
    second = try_lock(lock, required=True)
    os.close(first)
    if second is not None:
        os.close(second)
        yield warning("locks", f"{place} gives a lock twice", "let only one converter at a time work on a store there")
    else:
        yield ok("locks", f"{place} has flock")
