"""Writing a store: commit parts, sweep up after killed attempts, finish. `create_or_open` makes the writer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import CloudBatch, DecoderRecord, FailedSample
from arcpipe.errors import UnfinishedStoreError
from arcpipe.files import file_hashes, write_file
from arcpipe.storage import LocalStorage, Storage
from arcpipe.store.arrays import write_array
from arcpipe.store.check import batch_problems, sample_problems
from arcpipe.store.layout import packing, part_arrays
from arcpipe.store.part import Part
from arcpipe.store.quantise import Rounding
from arcpipe.store.root import read_decoder, read_root
from arcpipe.store.schema import PartRecord, PlannedPart, group_document, plan_parts
from arcpipe.store.statistics import add_up, combine_statistics, latent_sums, part_record, psnr_sum

PIECE_BYTES = 2**24
"""Read back at once: some chunks."""


def committed_parts(storage: Storage, splits: Iterable[str]) -> dict[str, set[str]]:
    """Split -> ids of the parts that exist in a store, which need not exist."""
    return {split: storage.groups(split) for split in splits}


@dataclass(frozen=True)
class StoreWriter:
    """A handle on a store that is being written, which tasks carry to workers.

    `root`: the attributes of its root when it was opened. Those that change, such as `complete`, are read anew.
    """

    storage: Storage
    root: Mapping[str, Any]

    @property
    def splits(self) -> Mapping[str, Mapping[str, int]]:
        """Samples and parts of each split."""
        splits: Mapping[str, Mapping[str, int]] = self.root["splits"]
        return splits

    @property
    def rounding(self) -> Rounding:
        """How the latents of this store are rounded."""
        steps = self.root.get("latent_steps")
        return Rounding(self.root["dtype"], self.root.get("bits", 8), None if steps is None else tuple(steps))

    def decoder(self) -> DecoderRecord:
        """The store's decoder. Raises DamagedStoreError where its bytes were changed."""
        return read_decoder(self.storage, self.root)

    def planned(self) -> tuple[PlannedPart, ...]:
        """Every part of the plan."""
        return plan_parts(self.splits)

    def committed(self) -> dict[str, set[str]]:
        """Split -> ids of the parts that exist, which is those whose group has a `zarr.json`."""
        return committed_parts(self.storage, self.splits)

    def remaining(self) -> tuple[PlannedPart, ...]:
        """The plan minus what is committed: all that resuming needs to know."""
        done = self.committed()
        return tuple(part for part in self.planned() if part.id not in done[part.split])

    def record(self, split: str, part_id: str) -> PartRecord:
        """The record of a committed part, as `commit_part` returned it. Raises DamagedStoreError."""
        return part_record(Part(self.storage, f"{split}/{part_id}"))

    def commit_part(
        self,
        split: str,
        part_id: str,
        clouds: CloudBatch,
        failures: Sequence[FailedSample] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> PartRecord:
        """Write one part under a temporary name, sync it, read it back, and rename it into place: all or nothing.

        Latents and scales are rounded (no change where that was done before). A part that exists
        already is left alone and its record returned, so a task may run twice, even at the same time.

        Args:
            clouds: What was fitted, anchors in Morton order, with neighbours unless the store keeps none. All repeats
                of a sample are in one part.
            failures: The samples of this part that could not be fitted, each once.
            attributes: How it was made (times, host, ...), kept under `provenance`; `seconds` goes into the record.

        Raises:
            ValueError: The clouds break a rule of the format, or are not those of as many samples as planned.
            ImageError: A latent does not fit the stored type.
            NoSpaceError: The disk is full; what was written of this part is gone again.
            DamagedStoreError: What was read back is not what was written.
        """
        group = f"{split}/{part_id}"
        if not self.storage.is_file(f"{group}/zarr.json"):
            planned = self._require_sound(split, part_id, clouds, failures)
            if self.root["decoder"].get("kind") == "basis" and not len(clouds):
                clouds = replace(clouds, scales=np.zeros(0, np.float32))
            with self.storage.attempt(group) as attempt:
                self._write_part(attempt, planned, clouds, failures, attributes or {})
                self.storage.publish(attempt, group)  # taken: the same part, by another process
        return self.record(split, part_id)

    def drop_part(self, split: str, part_id: str) -> None:
        """Take a part back, so that the next run makes it again. The store is unfinished from here on."""
        declare_unfinished(self.storage)
        self.storage.drop(f"{split}/{part_id}")

    def drop_failed(self) -> int:
        """Take back every part that records a failure (`--retry-failed`). Returns how many."""
        committed = [(split, part_id) for split, ids in self.committed().items() for part_id in sorted(ids)]
        failed = [where for where in committed if self.record(*where).n_failures]
        for split, part_id in failed:
            self.drop_part(split, part_id)
        return len(failed)

    def finish(self, totals: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Add up all parts into the root's attributes, declare the store complete, delete the one it replaces.

        Safe to repeat. `totals` (e.g. wall seconds) is kept beside what is counted here; None keeps those of before.
        Returns the totals.

        Raises:
            UnfinishedStoreError: planned parts are missing.
            DamagedStoreError: a part's metadata was changed.
        """
        missing = self.remaining()
        if missing:
            raise UnfinishedStoreError(
                f"{self.storage} lacks {len(missing)} of {len(self.planned())} parts.",
                details=[f"first missing: {missing[0].split}/{missing[0].id}"],
                fix=["run the same arcpipe convert command again: it continues"],
            )
        parts = [Part(self.storage, f"{part.split}/{part.id}") for part in self.planned()]
        records = [part_record(part) for part in parts]
        root = read_root(self.storage)
        summed = {**(root["totals"] if totals is None else totals), "splits": add_up(records)}
        statistics = combine_statistics(parts, tuple(self.splits))
        root |= {"totals": summed, "latent_statistics": statistics, "complete": True}
        write_root(self.storage, root)
        self.storage.sweep(finished=True)  # also what a worker left that was killed in this run
        if "replaces" in root:
            self.storage.delete_aside(root.pop("replaces"))
            write_root(self.storage, root)
        return summed

    def _require_sound(
        self, split: str, part_id: str, clouds: CloudBatch, failures: Sequence[FailedSample]
    ) -> PlannedPart:
        planned = next((part for part in self.planned() if (part.split, part.id) == (split, part_id)), None)
        if planned is None:
            raise ValueError(f"{split}/{part_id} is not in the plan")
        problems = [f"{name}: {what}" for name, what in batch_problems(clouds, self.root)]
        problems += sample_problems(clouds, failures, planned.n_samples) if not problems else []
        if problems:
            raise ValueError(f"{split}/{part_id}: {'; '.join(problems)}")
        return planned

    def _write_part(
        self,
        folder: Path,
        planned: PlannedPart,
        clouds: CloudBatch,
        failures: Sequence[FailedSample],
        provenance: Mapping[str, Any],
    ) -> None:
        """Write the arrays, then the group's `zarr.json`, then decode everything again and compare."""
        rounding = self.rounding
        arrays, about = part_arrays(clouds, rounding, self.root["neighbours_cache"])
        for name, values in arrays.items():
            write_array(folder, name, values, packing(name, values))
        latents = rounding.dequantise(arrays["latents"], arrays.get("latent_scale"), clouds.offsets)
        attributes = {
            "split": planned.split,
            "part": planned.id,
            "fingerprint": self.root["fingerprint"],
            "samples": planned.n_samples,
            "clouds": len(clouds),
            "points": len(clouds.positions),
            "pixels": int(clouds.pixel_counts().sum()),
            "failures": [asdict(failure) for failure in failures],
            "psnr": psnr_sum(clouds),
            "latent_sums": latent_sums(latents),
            **about,
            "files": file_hashes(folder),
            "provenance": dict(provenance),
        }
        write_file(folder / "zarr.json", group_document(attributes))
        _read_back(Part(LocalStorage(folder), ""), arrays)


def write_root(storage: Storage, attributes: Mapping[str, Any]) -> None:
    """Replace the attributes of the root."""
    storage.replace("zarr.json", group_document(attributes))


def declare_unfinished(storage: Storage) -> None:
    """Take back what a finished store says about all its parts, before one of them goes."""
    root = read_root(storage)
    if root["complete"]:
        write_root(storage, {**root, "complete": False, "totals": {}, "latent_statistics": {}})


def _read_back(part: Part, written: Mapping[str, NDArray[Any]]) -> None:
    """Compare what was written, piece by piece, so that a large part is not in memory twice.

    That neighbours follow from what is stored was seen when they were encoded.
    """
    for name, values in written.items():
        rows = max(1, PIECE_BYTES // max(1, values[:1].nbytes))
        whole = part.array(name).shape == values.shape
        for start in range(0, len(values), rows):
            piece = values[start : start + rows]
            found = part.rows(name, start, start + len(piece))
            whole = whole and np.array_equal(found, piece, equal_nan=values.dtype.kind == "f")
        if not whole:
            raise part.damaged(name, "what was read back is not what was written")
