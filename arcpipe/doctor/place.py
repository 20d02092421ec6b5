"""The place of a store: does it keep what a commit relies on, is there space, and how fast is it?"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from arcpipe.doctor.finding import Finding, ok, problem, warning
from arcpipe.errors import ArcpipeError, StoreBusyError
from arcpipe.files import write_file
from arcpipe.progress import byte_size
from arcpipe.storage import Storage
from arcpipe.store.arrays import open_array, read_rows, write_array

LITTLE_BYTES = 2e9
SLOW_COMMIT_S = 0.5
SLOW_MB_S = 20
ROWS, LATENT_DIM = 2**18, 32
"""16 MB of float16 latents: a shard of 16 chunks."""
OTHER_PLACE = "choose another one: --out FOLDER/NAME.zarr"


def place(out: Storage) -> Iterator[Finding]:
    """Do what a conversion does beside the store: commit, fail to commit again, lock; look at the space."""
    try:
        if out.is_taken() and not out.is_folder():
            yield problem("place", f"{out} is no folder", OTHER_PLACE)
            return
        with out.trial() as trial:
            yield from _commit(trial, out)
            yield from _locks(trial, out)
    except (ArcpipeError, OSError) as error:
        what, fix = (error.what, error.fix) if isinstance(error, ArcpipeError) else (error.strerror, ())
        yield problem("place", f"{out.parent}: {what}", "; ".join(fix) or OTHER_PLACE)
        return
    space = out.free_space()
    if space is None:
        return
    found = f"{byte_size(space[1])} free in {space[0]}"
    if space[1] < LITTLE_BYTES:
        yield warning("space", found, "`arcpipe convert SOURCE --dry-run` says how much a store takes")
    else:
        yield ok("space", found)


def speed(out: Storage) -> Iterator[Finding]:
    """Commit one array and read it back as the store does: compressed, with checksums, in one shard."""
    try:
        with out.trial() as trial:
            yield from _speed(trial)
    except (ArcpipeError, OSError) as error:
        what = error.what if isinstance(error, ArcpipeError) else error.strerror
        yield problem("speed", f"not measured: {what}", "see what is said of the place, or choose another")


def _commit(trial: Storage, out: Storage) -> Iterator[Finding]:
    with trial.attempt("") as attempt:
        write_file(attempt / "zarr.json", b"{}")
        published = trial.publish(attempt, "")
    slowest = 0.0
    for number in range(3):
        started = time.perf_counter()
        with trial.attempt(f"part-{number}") as attempt:
            write_file(attempt / "zarr.json", secrets.token_bytes(4096))
            published = trial.publish(attempt, f"part-{number}") and published
        slowest = max(slowest, time.perf_counter() - started)
    if not published:
        yield problem("place", f"{out.parent}: a part does not get its name", "choose a local disk, NFS or a bucket")
        return
    with trial.attempt("part-0") as attempt:
        write_file(attempt / "zarr.json", b"{}")
        published = trial.publish(attempt, "part-0")
    if published:
        advice = "two workers could commit one part: choose a file system with POSIX renames"
        yield problem("place", f"{out.parent}: a part replaces one that is there", advice)
    elif slowest > SLOW_COMMIT_S:
        advice = "every part waits for its commit: a local disk, or a bucket that is near, is faster"
        yield warning("place", f"{out.parent} commits a part in {slowest:.2f} s", advice)
    else:
        found = f"{out.parent} commits a part ({1000 * slowest:.0f} ms), and refuses a name that is taken"
        yield ok("place", found)


def _locks(trial: Storage, out: Storage) -> Iterator[Finding]:
    with ExitStack() as stack:
        stack.enter_context(trial.lock())
        try:
            stack.enter_context(trial.lock())
        except StoreBusyError:
            yield ok("locks", f"{out.parent} gives a lock once")
            return
    advice = "let only one converter at a time work on a store there; nothing is damaged"
    yield warning("locks", f"{out.parent} has no locks: two converters would not see each other", advice)


def _speed(trial: Storage) -> Iterator[Finding]:
    latents = np.random.default_rng(0).normal(size=(ROWS, LATENT_DIM)).astype(np.float16)
    with trial.attempt("") as attempt:
        write_array(attempt, "first", latents[:1])  # Zarr loads what it needs
        started = time.perf_counter()
        write_array(attempt, "latents", latents)
        write_file(attempt / "zarr.json", b"{}")
        trial.publish(attempt, "")
        wrote = time.perf_counter() - started
    started = time.perf_counter()
    array = open_array(trial, "", "latents", trial.sizes(""))
    back = read_rows(array, 0, len(latents), trial, "latents")
    read = time.perf_counter() - started
    if not np.array_equal(latents, back):
        yield problem(
            "speed", "what was read is not what was written", "the disk or its memory is broken: do not use it"
        )
        return
    megabytes = latents.nbytes / 1e6
    found = f"a shard of {megabytes:.0f} MB: commits {megabytes / wrote:.0f} MB/s, reads {megabytes / read:.0f} MB/s"
    if megabytes / max(wrote, read) < SLOW_MB_S:
        yield warning("speed", found, "put the store on a faster disk, or train with the store copied to one")
    else:
        yield ok("speed", found)
