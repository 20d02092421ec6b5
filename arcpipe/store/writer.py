"""Writing a store: create or continue it, commit parts, sweep up after killed attempts, finish."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import CloudBatch, DecoderRecord, FailedSample
from arcpipe.errors import UnfinishedStoreError
from arcpipe.store.arrays import write_array
from arcpipe.store.check import batch_problems
from arcpipe.store.files import (
    attempt_folder,
    file_hashes,
    publish,
    remove_stale,
    replace_file,
    sync_folder,
    sync_tree,
    write_file,
)
from arcpipe.store.group import read_group
from arcpipe.store.layout import COLUMNS_FIRST, part_arrays
from arcpipe.store.part import Part
from arcpipe.store.quantise import dequantise
from arcpipe.store.schema import (
    PartRecord,
    PlannedPart,
    failures_to_json,
    group_document,
    plan_parts,
)
from arcpipe.store.statistics import combine_statistics, latent_sums

ATTEMPTS = ".attempts"
"""Folder inside an unfinished store where parts are written before they are renamed into place."""


@dataclass(frozen=True)
class StoreWriter:
    """A handle on a store that is being written: a path and a few settings, so that tasks can carry it to workers."""

    path: Path
    splits: Mapping[str, Mapping[str, int]]
    fingerprint: str
    dtype: str
    neighbours_cache: str
    n_classes: int
    latent_dim: int
    n_neighbours: int

    def planned(self) -> tuple[PlannedPart, ...]:
        """Every part of the plan."""
        return plan_parts(self.splits)

    def committed(self) -> dict[str, set[str]]:
        """Split -> ids of the parts that exist, which is those whose group has a `zarr.json`."""
        return {
            split: {file.parent.name for file in (self.path / split).glob("*/zarr.json")} for split in self.splits
        }

    def remaining(self) -> tuple[PlannedPart, ...]:
        """The plan minus what is committed: all that resuming needs to know."""
        done = self.committed()
        return tuple(part for part in self.planned() if part.id not in done[part.split])

    def commit_part(
        self,
        split: str,
        part_id: str,
        clouds: CloudBatch,
        failures: Sequence[FailedSample] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> PartRecord:
        """Write one part under a temporary name, sync it, read it back, and rename it into place: all or nothing.

        Latents are rounded to the store's type (no change where `round_latents` did it before). A part that exists
        already is left alone and its record returned, so a task may run twice, even at the same time.

        Args:
            clouds: What was fitted, anchors in Morton order, with neighbours unless the store keeps none.
            failures: The samples of this part that could not be fitted.
            attributes: How it was made (times, host, ...), kept under `provenance`; `seconds` goes into the record.

        Raises:
            ValueError: The clouds break a rule of the format, or are not as many as planned.
            ImageError: A latent does not fit the stored type.
            NoSpaceError: The disk is full; what was written of this part is gone again.
            DamagedStoreError: What was read back is not what was written.
        """
        final = self.path / split / part_id
        if not (final / "zarr.json").is_file():
            self._require_sound(split, part_id, clouds, failures)
            with attempt_folder(self.path / ATTEMPTS, f"{split}-{part_id}") as attempt:
                self._write_part(attempt, split, part_id, clouds, failures, attributes or {})
                sync_tree(attempt)
                publish(attempt, final)
        return part_record(Part(final))

    def failed_parts(self) -> tuple[tuple[str, str], ...]:
        """(split, id) of the committed parts that record a failure: what `--retry-failed` makes again."""
        return tuple(
            (split, part_id)
            for split, ids in self.committed().items()
            for part_id in sorted(ids)
            if read_group(self.path / split / part_id)["failures"]
        )

    def drop_part(self, split: str, part_id: str) -> None:
        """Take a part back, so that the next run makes it again. The store is unfinished from here on."""
        root = read_group(self.path)
        if root["complete"]:
            self._write_root({**root, "complete": False, "totals": {}, "latent_statistics": {}})
        with attempt_folder(self.path / ATTEMPTS, f"dropped-{split}-{part_id}") as aside:
            os.rename(self.path / split / part_id, aside / part_id)
            sync_folder(self.path / split)

    def sweep(self) -> int:
        """Remove what killed attempts left, and nothing that a living process on this machine works on.

        Returns how many were removed. Every attempt is a folder locked by its process; the lock ends with the process.
        """
        removed = remove_stale(self.path / ATTEMPTS)
        removed += remove_stale(self.path, ".zarr.json.*")
        removed += remove_stale(self.path.parent, f".{self.path.name}.new.*")
        self._remove_empty_attempts()
        return removed

    def finish(self, totals: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Add up all parts into the root's attributes and declare the store complete. Safe to repeat.

        `totals` (e.g. wall seconds) is kept beside the sums counted here. Returns the totals.

        Raises:
            UnfinishedStoreError: planned parts are missing.
        """
        missing = self.remaining()
        if missing:
            raise UnfinishedStoreError(
                f"{self.path} lacks {len(missing)} of {len(self.planned())} parts.",
                details=[f"first missing: {missing[0].split}/{missing[0].id}"],
                fix=["run the same arcpipe convert command again: it continues"],
            )
        parts = [Part(self.path / part.split / part.id) for part in self.planned()]
        summed = {**(totals or {}), **_totals(parts)}
        root = read_group(self.path)
        statistics = combine_statistics(parts, tuple(self.splits))
        self._write_root({**root, "totals": summed, "latent_statistics": statistics, "complete": True})
        self._remove_empty_attempts()
        return summed

    def discard_replaced(self) -> None:
        """Delete the older store that `overwrite` moved aside. To be called once the new one is finished."""
        root = read_group(self.path)
        if root.get("replaces"):
            shutil.rmtree(self.path.with_name(root["replaces"]), ignore_errors=True)
            self._write_root({key: value for key, value in root.items() if key != "replaces"})

    def _require_sound(
        self, split: str, part_id: str, clouds: CloudBatch, failures: Sequence[FailedSample]
    ) -> None:
        planned = {(part.split, part.id): part.n_samples for part in self.planned()}
        if (split, part_id) not in planned:
            raise ValueError(f"{split}/{part_id} is not in the plan")
        if len(clouds) + len(failures) != planned[split, part_id]:
            raise ValueError(
                f"{split}/{part_id}: {len(clouds)} clouds and {len(failures)} failures, "
                f"but {planned[split, part_id]} samples are planned"
            )
        problems = batch_problems(
            clouds, n_classes=self.n_classes, latent_dim=self.latent_dim, n_neighbours=self.n_neighbours
        )
        if problems:
            raise ValueError(f"{split}/{part_id}: " + "; ".join(f"{name}: {what}" for name, what in problems))

    def _write_part(
        self,
        folder: Path,
        split: str,
        part_id: str,
        clouds: CloudBatch,
        failures: Sequence[FailedSample],
        provenance: Mapping[str, Any],
    ) -> None:
        arrays, coding = part_arrays(clouds, self.dtype, self.neighbours_cache)
        for name, values in arrays.items():
            write_array(folder, name, values, columns_first=name in COLUMNS_FIRST)
        known = clouds.psnr[np.isfinite(clouds.psnr)].astype(np.float64)
        attributes = {
            "split": split,
            "part": part_id,
            "fingerprint": self.fingerprint,
            "samples": len(clouds) + len(failures),
            "clouds": len(clouds),
            "points": len(clouds.positions),
            "pixels": int(np.prod(np.asarray(clouds.sizes, np.int64), axis=1).sum()),
            "failures": failures_to_json(failures),
            "psnr": {"sum": float(known.sum()), "count": len(known)},
            "latent_sums": latent_sums(dequantise(arrays["latents"], arrays.get("latent_scale"), clouds.offsets)),
            "neighbours_coding": coding,
            "files": file_hashes(folder),
            "provenance": dict(provenance),
        }
        write_file(folder / "zarr.json", group_document(attributes))
        _read_back(folder, arrays, clouds.neighbours if coding else None)

    def _write_root(self, attributes: Mapping[str, Any]) -> None:
        replace_file(self.path / "zarr.json", group_document(attributes))

    def _remove_empty_attempts(self) -> None:
        place = self.path / ATTEMPTS
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def part_record(part: Part) -> PartRecord:
    """The small record of a committed part."""
    own = part.attributes
    sizes: dict[str, int] = {}
    for name, file in own["files"].items():
        array = name.split("/")[0]
        sizes[array] = sizes.get(array, 0) + file["bytes"]
    return PartRecord(
        split=own["split"],
        part_id=own["part"],
        samples=own["samples"],
        clouds=own["clouds"],
        points=own["points"],
        failed=len(own["failures"]),
        psnr_sum=own["psnr"]["sum"],
        psnr_count=own["psnr"]["count"],
        seconds=float(own["provenance"].get("seconds", 0.0)),
        bytes=sizes,
    )


def _read_back(folder: Path, written: Mapping[str, NDArray[Any]], neighbours: NDArray[Any] | None) -> None:
    """Compare every array with what is on disk, decoded."""
    part = Part(folder)
    for name, values in written.items():
        if not np.array_equal(part.raw(name), values, equal_nan=values.dtype.kind == "f"):
            raise part.damaged(name, "what was read back is not what was written")
    if neighbours is not None and not np.array_equal(part.neighbours(0, part.n_clouds), neighbours):
        raise part.damaged("neighbours", "the neighbours that were read back are not those that were written")


def _totals(parts: Sequence[Part]) -> dict[str, Any]:
    totals: dict[str, Any] = {}
    for part in parts:
        record = part_record(part)
        sums = totals.setdefault(
            record.split,
            {"samples": 0, "clouds": 0, "failed": 0, "points": 0, "pixels": 0, "bytes": 0, "psnr_mean": None},
        )
        for key in ("samples", "clouds", "failed", "points"):
            sums[key] += getattr(record, key)
        sums["pixels"] += part.attributes["pixels"]
        sums["bytes"] += sum(record.bytes.values())
        sums["psnr_sum"] = sums.get("psnr_sum", 0.0) + record.psnr_sum
        sums["psnr_count"] = sums.get("psnr_count", 0) + record.psnr_count
    for sums in totals.values():
        psnr_sum, count = sums.pop("psnr_sum"), sums.pop("psnr_count")
        sums["psnr_mean"] = psnr_sum / count if count else None
    return {"splits": totals}
