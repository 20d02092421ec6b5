"""Checking every byte of a store: metadata against seals, files against hashes, arrays against their rules."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from arcpipe.config import differences
from arcpipe.errors import ArcpipeError, DamagedStoreError, NotAStoreError
from arcpipe.place import RemotePath, as_place
from arcpipe.store.bucket import ATTEMPTS
from arcpipe.store.commit import add_up
from arcpipe.store.content import content_hash
from arcpipe.store.files import file_sha256, is_taken
from arcpipe.store.group import read_group
from arcpipe.store.part import Part
from arcpipe.store.reader import Store
from arcpipe.store.schema import PlannedPart, plan_parts
from arcpipe.store.statistics import combine_statistics
from arcpipe.store.verify_part import SeenSamples, check_arrays, check_content, check_seen, nearly_equal
from arcpipe.store.verify_report import VerifyReport

OnPart = Callable[[int], None]


def verify(path: Path | str, *, on_part: OnPart | None = None) -> VerifyReport:
    """Read everything and compare it with what was written; names what is wrong and changes nothing.

    Checked: the seal of every group (any byte of its `zarr.json`), size and sha256 of every other file, whatever does
    not belong, every chunk decoded with its checksum, shapes, the rules of `batch_problems` (Morton order, labels,
    ...), the neighbours of some pixels of every cloud against brute force, each part's own split, id and fingerprint,
    samples = clouds + failures = plan, no sample twice, sums and totals, and the decoder's hash. Damage is in the
    report and never raised. An unfinished store's missing parts are counted only.

    Args:
        on_part: called after every part with the number of parts done.

    Raises:
        NotAStoreError: nothing at `path`, or a store of another format version.
        PermissionError: a file may not be read by this user.
    """
    path = as_place(path)
    report = VerifyReport(path)
    if not path.is_dir():
        raise NotAStoreError(f"there is no store {path}.", fix=["arcpipe convert digits"])
    if not (path / "zarr.json").is_file() and not (path / "decoder").is_dir():
        raise NotAStoreError(
            f"{path} is not an arcpipe store.",
            details=["expected zarr.json and the folder decoder, found neither"],
            fix=["arcpipe convert makes one"],
        )
    report.files += 1
    try:
        store = Store(path)
    except ArcpipeError as error:
        if isinstance(error, NotAStoreError) and _is_sealed(path):  # as it was written, for another arcpipe
            raise
        report.add("zarr.json", "; ".join([error.what.rstrip("."), *error.details]))
        return report
    report.complete = store.complete
    _verify_decoder(store, report)
    for split in store.splits:
        _verify_seal(path / split, report)
    planned = plan_parts(store.root["splits"])
    seen: SeenSamples = {}
    for done, part in enumerate(planned, start=1):
        if _is_there(store, part, report):
            verify_part(store, part, report, seen)
        if on_part:
            on_part(done)
    check_seen(seen, report)
    _verify_totals(store, report)
    groups = [path / "decoder", *(path / part.split / part.id for part in planned)]
    known = {path / "zarr.json", *(path / split / "zarr.json" for split in store.splits)}
    if not store.complete:
        groups.append(path / ATTEMPTS)
    for file in _strangers(path, known, skip=set(groups)):
        report.add(file, "does not belong to the store", kind="stranger")
    report.content = content_hash(store) if store.complete and not report.problems else None
    return report


def verify_part(store: Store, planned: PlannedPart, report: VerifyReport, seen: SeenSamples | None = None) -> None:
    """Check one committed part; `seen` are the samples of the parts before it."""
    folder = store.path / planned.split / planned.id
    if not _verify_seal(folder, report):
        return
    try:
        part = Part(folder)
    except DamagedStoreError as error:  # whole, and yet not what a part has to say
        report.add(folder / "zarr.json", "; ".join(error.details))
        return
    own = part.attributes
    if (own["split"], own["part"]) != (planned.split, planned.id):
        report.add(folder, f"it is the part {own['split']}/{own['part']}, in the wrong place")
    if own["fingerprint"] != store.fingerprint:
        report.add(folder, "it belongs to another store (its fingerprint differs)")
    whole = _verify_files(folder, own["files"], report)
    report.parts += 1
    report.clouds += part.n_clouds
    report.failed += len(own["failures"])
    if own["samples"] != planned.n_samples:
        report.add(folder, f"{own['samples']} samples, {planned.n_samples} are planned")
    if check_arrays(store, part, report, say=whole) and whole:
        check_content(store, part, report, {} if seen is None else seen)


def _is_there(store: Store, part: PlannedPart, report: VerifyReport) -> bool:
    folder = store.path / part.split / part.id
    if (folder / "zarr.json").is_file():
        return True
    if is_taken(folder) or store.complete:
        report.add(folder / "zarr.json", "missing")
    report.missing_parts += 1
    return False


def _verify_decoder(store: Store, report: VerifyReport) -> None:
    folder = store.path / "decoder"
    if not _verify_seal(folder, report):
        return
    try:
        if _verify_files(folder, Part(folder).attributes["files"], report):
            report.arrays += len(store.decoder.arrays())
    except DamagedStoreError as error:
        report.add(folder, "; ".join(error.details))


def _is_sealed(folder: Path) -> bool:
    try:
        read_group(folder)
    except DamagedStoreError:
        return False
    return True


def _verify_seal(folder: Path, report: VerifyReport) -> bool:
    report.files += 1
    try:
        read_group(folder)
    except DamagedStoreError as error:
        report.add(folder / "zarr.json", "; ".join(error.details))
        return False
    return True


def _verify_files(folder: Path, recorded: Mapping[str, Mapping[str, Any]], report: VerifyReport) -> bool:
    """Compare the files below a group with their recorded sizes and hashes, and look for others. False: damage."""
    damage = False
    for name, expected in recorded.items():
        report.files += 1
        problem = _file_problem(folder / name, expected)
        if problem:
            damage = True
            report.add(folder / name, problem)
        else:
            report.bytes += expected["bytes"]
    for file in _strangers(folder, {folder / name for name in (*recorded, "zarr.json")}):
        report.add(file, "does not belong to the store", kind="stranger")
    return not damage


def _file_problem(file: Path, expected: Mapping[str, Any]) -> str | None:
    if isinstance(file, RemotePath):
        return _object_problem(file, expected)
    try:
        if not file.is_file():
            return "no file" if os.path.lexists(file) else "missing"
        if file.stat().st_size != expected["bytes"]:
            return f"{file.stat().st_size} bytes, expected {expected['bytes']}"
        return None if file_sha256(file) == expected["sha256"] else "its bytes are not those that were written"
    except PermissionError:  # a question for whoever owns the store, no damage
        raise
    except OSError as error:  # a failing disk: the others are still looked at
        return f"cannot be read: {error.strerror}"


def _object_problem(file: RemotePath, expected: Mapping[str, Any]) -> str | None:
    try:
        n_bytes = file.stat().st_size
        if n_bytes != expected["bytes"]:
            return f"{n_bytes} bytes, expected {expected['bytes']}"
        return None if file_sha256(file) == expected["sha256"] else "its bytes are not those that were written"
    except FileNotFoundError:
        return "missing"


def _strangers(folder: Path, known: set[Path], skip: Iterable[Path] = ()) -> Iterator[Path]:
    """Whatever lies below a folder and is neither known nor a folder; `skip`: folders that are not looked into."""
    skipped = set(skip)
    if isinstance(folder, RemotePath):
        yield from (file for file in folder.rglob("*") if file not in known and skipped.isdisjoint(file.parents))
        return
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(name for name in folders if here / name not in skipped)
        links = [name for name in folders if (here / name).is_symlink()]  # os.walk does not follow them
        for name in sorted([*names, *links]):
            if here / name not in known and here / name not in skipped:
                yield here / name


def _verify_totals(store: Store, report: VerifyReport) -> None:
    """What the root of a finished store says about all parts must be what its parts add up to."""
    if not store.complete or report.problems:
        return
    parts = [store.part(split, info.id) for split in store.splits for info in store.parts(split)]
    found = {"totals": add_up(parts), "latent_statistics": combine_statistics(parts, store.splits)}
    recorded = {"totals": store.totals["splits"], "latent_statistics": store.root["latent_statistics"]}
    for name, values in found.items():
        if not nearly_equal(values, recorded[name]):
            lines = differences(recorded[name], values)
            what = f"{name} are not what the parts add up to: {'; '.join(lines[:3])}"
            report.add("zarr.json", what, kind="totals")
