"""Checking every byte of a store: metadata against seals, files against hashes, arrays against their rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arcpipe.errors import ArcpipeError, DamagedStoreError, NotAStoreError
from arcpipe.store.arrays import read_rows
from arcpipe.store.check import batch_problems, sample_problems
from arcpipe.store.files import file_sha256
from arcpipe.store.group import read_group
from arcpipe.store.layout import array_names, expected_shapes
from arcpipe.store.part import Part
from arcpipe.store.reader import Store
from arcpipe.store.schema import PlannedPart, plan_parts
from arcpipe.store.statistics import latent_sums
from arcpipe.store.writer import ATTEMPTS


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: in which file or array of the store (relative to it), and what."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class VerifyReport:
    """What `verify` checked and found. `complete`: whether the store says it is finished."""

    path: Path
    complete: bool = False
    parts: int = 0
    arrays: int = 0
    chunks: int = 0
    files: int = 0
    bytes: int = 0
    clouds: int = 0
    failed: int = 0
    missing_parts: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, where: Path | str, what: str) -> None:
        name = where.relative_to(self.path).as_posix() if isinstance(where, Path) else where
        self.problems.append(Problem(name, what))


def verify(path: Path | str) -> VerifyReport:
    """Read everything and compare it with what was written; names what is wrong and changes nothing.

    Checked: the seal of every group (any byte of its `zarr.json`), size and sha256 of every other file, files that do
    not belong, every chunk decoded with its checksum, shapes, the rules of `batch_problems` (Morton order, neighbours,
    labels, ...), each part's own split, id and fingerprint, samples = clouds + failures = plan, latent sums, and the
    decoder's hash. Damage is in the report and never raised. An unfinished store's missing parts are counted only.

    Raises:
        NotAStoreError: nothing at `path`, or a store of another format version.
        PermissionError: a file may not be read by this user.
    """
    path = Path(path)
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
    present = [part for part in plan_parts(store.root["splits"]) if _is_there(store, part, report)]
    for part in present:
        _verify_part(store, part, report)
    _verify_totals(store, report)
    _verify_strangers(store, present, report)
    return report


def _is_there(store: Store, part: PlannedPart, report: VerifyReport) -> bool:
    folder = store.path / part.split / part.id
    if (folder / "zarr.json").is_file():
        return True
    if folder.exists() or store.complete:
        report.add(folder / "zarr.json", "missing")
    report.missing_parts += 1
    return False


def _verify_decoder(store: Store, report: VerifyReport) -> None:
    folder = store.path / "decoder"
    if not _verify_seal(folder, report) or not _verify_files(folder, read_group(folder)["files"], report):
        return
    try:
        report.arrays += len(store.decoder.arrays())
    except (DamagedStoreError, KeyError, TypeError) as error:
        report.add(folder, str(error))


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
    """Compare the files below a group with their recorded sizes and hashes, and look for others."""
    before = len(report.problems)
    for name, expected in recorded.items():
        file = folder / name
        report.files += 1
        try:
            if not file.is_file():
                report.add(file, "missing")
            elif file.stat().st_size != expected["bytes"]:
                report.add(file, f"{file.stat().st_size} bytes, expected {expected['bytes']}")
            elif file_sha256(file) != expected["sha256"]:
                report.add(file, "its bytes are not those that were written")
            else:
                report.bytes += file.stat().st_size
        except PermissionError:  # a question for whoever owns the store, no damage
            raise
        except OSError as error:  # a failing disk: the others are still looked at
            report.add(file, f"cannot be read: {error.strerror}")
    known = {*recorded, "zarr.json"}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.relative_to(folder).as_posix() not in known:
            report.add(file, "does not belong to the store")
    return len(report.problems) == before


def _verify_part(store: Store, planned: PlannedPart, report: VerifyReport) -> None:
    folder = store.path / planned.split / planned.id
    if not _verify_seal(folder, report):
        return
    try:
        part = Part(folder)
    except DamagedStoreError as error:  # whole, and yet not what a part has to say
        report.add(folder / "zarr.json", "; ".join(error.details))
        return
    own = part.attributes
    if (own.get("split"), own.get("part")) != (planned.split, planned.id):
        report.add(folder, f"it is the part {own.get('split')}/{own.get('part')}, in the wrong place")
    if own.get("fingerprint") != store.fingerprint:
        report.add(folder, "it belongs to another store (its fingerprint differs)")
    whole = _verify_files(folder, own["files"], report)
    report.parts += 1
    report.clouds += part.n_clouds
    report.failed += len(own["failures"])
    if own["samples"] != planned.n_samples:
        report.add(folder, f"{own['samples']} samples, {planned.n_samples} are planned")
    if _verify_arrays(store, part, report, say=whole) and whole:
        _verify_content(store, part, report)


def _verify_arrays(store: Store, part: Part, report: VerifyReport, *, say: bool) -> bool:
    """Decode every chunk by itself, so that a damaged one is named; `say`: its file is not in the report yet."""
    names = array_names(store.dtype, store.root["neighbours_cache"])
    shapes = expected_shapes(part.attributes, store.latent_dim, store.n_neighbours, names)
    sound = True
    for name in sorted(names):
        report.arrays += 1
        try:
            array = part.array(name)
        except DamagedStoreError as error:
            sound = False
            if say:
                report.add(part.folder / name, "; ".join(error.details))
            continue
        if array.shape != shapes.get(name, array.shape):
            sound = False
            report.add(part.folder / name, f"shape {array.shape}, expected {shapes[name]}")
        if name == "latents" and str(array.dtype) != store.dtype:
            report.add(part.folder / name, f"{array.dtype}, the store says {store.dtype}")
        step = array.chunks[0]
        for i in range(-(-array.shape[0] // step)):
            report.chunks += 1
            try:
                read_rows(array, i * step, min((i + 1) * step, array.shape[0]), part.folder / name)
            except DamagedStoreError as error:
                sound = False
                report.add(part.folder / name, f"chunk {i}: {'; '.join(error.details)}")
    return sound


def _verify_content(store: Store, part: Part, report: VerifyReport) -> None:
    try:
        clouds = part.clouds(0, part.n_clouds, neighbours=store.has_neighbours)
    except (ArcpipeError, ValueError, IndexError) as error:
        report.add(part.folder, str(error))
        return
    for name, what in batch_problems(
        clouds, n_classes=len(store.classes), latent_dim=store.latent_dim, n_neighbours=store.n_neighbours
    ):
        report.add(part.folder / name, what)
    for what in sample_problems(clouds, part.failures(), part.attributes["samples"]):
        report.add(part.folder, what)
    sums, recorded = latent_sums(clouds.latents), part.attributes["latent_sums"]
    if not np.allclose(sums["sum"], recorded["sum"], rtol=1e-9, atol=1e-6) or sums["count"] != recorded["count"]:
        report.add(part.folder / "zarr.json", "latent_sums are not those of the latents")


def _verify_totals(store: Store, report: VerifyReport) -> None:
    if not store.complete or report.problems:
        return
    for split, totals in store.totals["splits"].items():
        infos = store.parts(split)
        counted = {
            "samples": sum(info.n_samples for info in infos),
            "clouds": sum(info.n_clouds for info in infos),
            "points": sum(info.n_points for info in infos),
            "failed": sum(info.n_failures for info in infos),
        }
        for name, value in counted.items():
            if totals[name] != value:
                report.add("zarr.json", f"totals of {split}: {totals[name]} {name}, counted {value}")


def _verify_strangers(store: Store, present: Iterable[PlannedPart], report: VerifyReport) -> None:
    """Name files that are neither the store's nor of an attempt at work."""
    groups = [store.path / "decoder", *(store.path / part.split / part.id for part in plan_parts(store.root["splits"]))]
    known = {store.path / "zarr.json", *(store.path / split / "zarr.json" for split in store.splits)}
    for file in sorted(store.path.rglob("*")):
        if file.is_file() and file not in known and not any(group in file.parents for group in groups):
            if ATTEMPTS in file.relative_to(store.path).parts and not store.complete:
                continue
            report.add(file, "does not belong to the store")
