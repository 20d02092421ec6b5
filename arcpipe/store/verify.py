"""Checking every byte of a store: metadata against seals, files against hashes, arrays against their rules."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arcpipe.config import differences
from arcpipe.errors import ArcpipeError, DamagedStoreError, NotAStoreError
from arcpipe.files import file_sha256
from arcpipe.storage import ATTEMPTS, Place, Storage, storage_at
from arcpipe.store.arrays import read_group
from arcpipe.store.part import Part
from arcpipe.store.reader import Store
from arcpipe.store.schema import PlannedPart, canonical, plan_parts
from arcpipe.store.statistics import add_up, combine_statistics
from arcpipe.store.verify_part import SeenSamples, VerifyReport, check_arrays, check_content, check_seen, nearly_equal


def verify(place: Place, *, on_part: Callable[[int], None] | None = None) -> VerifyReport:
    """Read everything and compare it with what was written; names what is wrong and changes nothing.

    Checked: the seal of every group (any byte of its `zarr.json`), size and sha256 of every other file, whatever does
    not belong, every chunk decoded with its checksum, shapes, the rules of `batch_problems` (Morton order, labels,
    ...), the neighbours of some pixels of every cloud against brute force, each part's own split, id and fingerprint,
    samples = clouds + failures = plan, no sample twice, sums and totals, and the decoder's hash. Damage is in the
    report and never raised. An unfinished store's missing parts are counted only.

    Args:
        on_part: called after every part with the number of parts done.

    Raises:
        NotAStoreError: nothing is there, or a store of another format version.
        PermissionError: a file may not be read by this user.
    """
    storage = storage_at(place)
    report = VerifyReport(storage)
    if not storage.is_folder():
        raise NotAStoreError(f"there is no store {storage}.", fix=["arcpipe convert digits"])
    if not storage.is_file("zarr.json") and not storage.is_folder("decoder"):
        raise NotAStoreError(
            f"{storage} is not an arcpipe store.",
            details=["expected zarr.json and the folder decoder, found neither"],
            fix=["arcpipe convert makes one"],
        )
    report.files += 1
    try:
        store = Store(storage)
    except ArcpipeError as error:
        as_it_was_written = _verify_seal(storage, "", VerifyReport(storage))
        if isinstance(error, NotAStoreError) and as_it_was_written:  # for another arcpipe
            raise
        report.add("zarr.json", "; ".join([error.what.rstrip("."), *error.details]))
        return report
    report.complete = store.complete
    _verify_decoder(store, report)
    for split in store.splits:
        _verify_seal(storage, split, report)
    planned = plan_parts(store.root["splits"])
    seen: SeenSamples = {}
    for done, part in enumerate(planned, start=1):
        group = f"{part.split}/{part.id}"
        if storage.is_file(f"{group}/zarr.json"):
            verify_part(store, part, report, seen)
        else:
            report.missing_parts += 1
            if store.complete or storage.is_taken(group):
                report.add(f"{group}/zarr.json", "missing")
        if on_part:
            on_part(done)
    check_seen(seen, report)
    _verify_totals(store, report)
    groups = {"decoder", *(f"{part.split}/{part.id}" for part in planned), *([] if store.complete else [ATTEMPTS])}
    _verify_names(storage, "", {"zarr.json", *(f"{split}/zarr.json" for split in store.splits)}, report, groups)
    report.content = content_hash(store) if store.complete and not report.problems else None
    return report


def content_hash(store: Store) -> str:
    """One hash for all that a conversion made: two stores with the same hash hold the same clouds, bit for bit.

    It is the sha256 over decoder, classes, and the file hashes and failures of all parts, as their sealed metadata say.
    Times, hosts and versions do not enter, nor does the place of the store. Cheap: no array is read (`verify` does).

    Raises:
        DamagedStoreError: a part is missing from a finished store, or its metadata was changed.
    """
    digest = hashlib.sha256(canonical([store.decoder_sha256, list(store.classes), store.channels]))
    for split in store.splits:
        for info in store.parts(split):
            own = store.part(split, info.id).attributes
            steps = own.get("latent_steps")
            digest.update(canonical([split, info.id, own["files"], own["failures"], *([steps] if steps else [])]))
    return digest.hexdigest()


def verify_part(store: Store, planned: PlannedPart, report: VerifyReport, seen: SeenSamples | None = None) -> None:
    """Check one committed part; `seen` are the samples of the parts before it."""
    group = f"{planned.split}/{planned.id}"
    report.files += 1
    try:
        part = Part(store.storage, group)
    except DamagedStoreError as error:
        report.add(f"{group}/zarr.json", "; ".join(error.details))
        return
    own = part.attributes
    if (own["split"], own["part"]) != (planned.split, planned.id):
        report.add(group, f"it is the part {own['split']}/{own['part']}, in the wrong place")
    if own["fingerprint"] != store.fingerprint:
        report.add(group, "it belongs to another store (its fingerprint differs)")
    report.parts += 1
    report.clouds += part.n_clouds
    report.failed += len(own["failures"])
    if own["samples"] != planned.n_samples:
        report.add(group, f"{own['samples']} samples, {planned.n_samples} are planned")
    with _checked_files(part, report) as (part, whole):
        if check_arrays(store, part, report, say=whole) and whole:
            check_content(store, part, report, {} if seen is None else seen)


def _verify_decoder(store: Store, report: VerifyReport) -> None:
    if not _verify_seal(store.storage, "decoder", report):
        return
    try:
        with _checked_files(Part(store.storage, "decoder"), report) as (_, whole):
            if whole:
                report.arrays += len(store.decoder.arrays())
    except DamagedStoreError as error:
        report.add("decoder", "; ".join(error.details))


def _verify_seal(storage: Storage, group: str, report: VerifyReport) -> bool:
    report.files += 1
    try:
        read_group(storage, group)
    except DamagedStoreError as error:
        report.add(f"{group}/zarr.json", "; ".join(error.details))
        return False
    return True


@contextmanager
def _checked_files(part: Part, report: VerifyReport) -> Iterator[tuple[Part, bool]]:
    """Compare the files of a part with their recorded sizes and hashes, and look for others.

    Gives the part as it was read for that, so that arrays are of the same bytes, and whether all is as it was written.
    """
    storage, group, recorded = part.storage, part.group, part.attributes["files"]
    whole, size_of = True, storage.sizes(group)
    readable = [name for name, file in recorded.items() if size_of(name) == file["bytes"]]
    with storage.at_hand(group, ["zarr.json", *readable]) as near:
        for name, expected in recorded.items():
            report.files += 1
            problem = _file_problem(storage, f"{group}/{name}", size_of(name), expected, near)
            if problem:
                whole = False
                report.add(f"{group}/{name}", problem)
            else:
                report.bytes += expected["bytes"]
        _verify_names(storage, group, {f"{group}/{name}" for name in (*recorded, "zarr.json")}, report)
        yield Part(storage_at(near), group), whole


def _file_problem(storage: Storage, name: str, n_bytes: int, expected: Mapping[str, Any], near: Path) -> str | None:
    try:
        if not n_bytes and not storage.is_file(name):
            return "no file" if storage.is_taken(name) else "missing"
        if n_bytes != expected["bytes"]:
            return f"{n_bytes} bytes, expected {expected['bytes']}"
        same = file_sha256(near / name) == expected["sha256"]
        return None if same else "its bytes are not those that were written"
    except PermissionError:  # a question for whoever owns the store, no damage
        raise
    except OSError as error:  # a failing disk: the others are still looked at
        return f"cannot be read: {error.strerror}"


def _verify_names(
    storage: Storage, folder: str, known: set[str], report: VerifyReport, skip: Collection[str] = ()
) -> None:
    """Name whatever lies below a folder and does not belong there; see `Storage.files` for `skip`."""
    for name in storage.files(folder, skip):
        if name not in known:
            report.add(name, "does not belong to the store", kind="stranger")


def _verify_totals(store: Store, report: VerifyReport) -> None:
    """What the root of a finished store says about all parts must be what its parts add up to."""
    if not store.complete or report.problems:
        return
    records = [record for split in store.splits for record in store.parts(split)]
    parts = [store.part(record.split, record.id) for record in records]
    found = {"totals": add_up(records), "latent_statistics": combine_statistics(parts, store.splits)}
    recorded = {"totals": store.totals["splits"], "latent_statistics": store.root["latent_statistics"]}
    for name, values in found.items():
        if not nearly_equal(values, recorded[name]):
            lines = differences(recorded[name], values)
            what = f"{name} are not what the parts add up to: {'; '.join(lines[:3])}"
            report.add("zarr.json", what, kind="totals")
