"""The content of one part: written into a folder, read back and compared, and summed up in a small record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import CloudBatch, FailedSample
from arcpipe.files import file_hashes, write_file
from arcpipe.storage import LocalStorage
from arcpipe.store.arrays import write_array
from arcpipe.store.layout import packing, part_arrays
from arcpipe.store.part import Part
from arcpipe.store.quantise import Rounding
from arcpipe.store.schema import PartRecord, PlannedPart, group_document
from arcpipe.store.statistics import latent_sums, psnr_sum

PIECE_BYTES = 2**24
"""Read back at once: some chunks."""


@dataclass(frozen=True)
class PartContent:
    """What goes into one part."""

    planned: PlannedPart
    clouds: CloudBatch
    failures: Sequence[FailedSample]
    provenance: Mapping[str, Any]


def write_part(folder: Path, content: PartContent, fingerprint: str, rounding: Rounding, cache: str) -> None:
    """Write the arrays, then the group's `zarr.json`, then decode everything again and compare.

    Raises:
        DamagedStoreError: what was read back is not what was written.
    """
    planned, clouds = content.planned, content.clouds
    arrays, about = part_arrays(clouds, rounding, cache)
    for name, values in arrays.items():
        write_array(folder, name, values, packing(name, values))
    attributes = {
        "split": planned.split,
        "part": planned.id,
        "fingerprint": fingerprint,
        "samples": planned.n_samples,
        "clouds": len(clouds),
        "points": len(clouds.positions),
        "pixels": int(clouds.pixel_counts().sum()),
        "failures": [asdict(failure) for failure in content.failures],
        "psnr": psnr_sum(clouds),
        "latent_sums": latent_sums(rounding.dequantise(arrays["latents"], arrays.get("latent_scale"), clouds.offsets)),
        **about,
        "files": file_hashes(folder),
        "provenance": dict(content.provenance),
    }
    write_file(folder / "zarr.json", group_document(attributes))
    _read_back(Part(LocalStorage(folder), ""), arrays)


def part_record(part: Part) -> PartRecord:
    """The small record of a committed part."""
    own = part.attributes
    sizes: dict[str, int] = {}
    for name, file in own["files"].items():
        array = name.split("/")[0]
        sizes[array] = sizes.get(array, 0) + file["bytes"]
    seconds = own["provenance"].get("seconds", 0.0)  # a number, or one for each stage with their total
    return PartRecord(
        split=own["split"],
        part_id=own["part"],
        samples=own["samples"],
        clouds=own["clouds"],
        points=own["points"],
        failed=len(own["failures"]),
        psnr_sum=own["psnr"]["sum"],
        psnr_count=own["psnr"]["count"],
        seconds=float(seconds.get("total", 0.0) if isinstance(seconds, Mapping) else seconds),
        bytes=sizes,
        stages={name: float(s) for name, s in seconds.items() if name != "total"} if isinstance(seconds, dict) else {},
    )


def add_up(parts: Sequence[Part]) -> dict[str, dict[str, Any]]:
    """Per split: samples, clouds, failed, points, pixels, bytes of the arrays, and the mean PSNR (None if unknown)."""
    totals: dict[str, dict[str, Any]] = {}
    for split in dict.fromkeys(part.attributes["split"] for part in parts):
        own = [part for part in parts if part.attributes["split"] == split]
        records = [part_record(part) for part in own]
        n_psnr = sum(record.psnr_count for record in records)
        totals[split] = {
            **{
                key: sum(getattr(record, key) for record in records)
                for key in ("samples", "clouds", "failed", "points")
            },
            "pixels": sum(part.attributes["pixels"] for part in own),
            "bytes": sum(sum(record.bytes.values()) for record in records),
            "psnr_mean": sum(record.psnr_sum for record in records) / n_psnr if n_psnr else None,
        }
    return totals


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
