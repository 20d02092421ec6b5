"""What parts add up to, from the sums that every part keeps: no array is read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import CloudBatch
from arcpipe.store.part import Part
from arcpipe.store.schema import PartRecord

TRAINING_SPLIT = "train"


def latent_sums(latents: NDArray[Any]) -> dict[str, Any]:
    """Count, sum and sum of squares (float64) of each dimension of latents (m, z), as JSON."""
    total, squares = np.zeros(latents.shape[1]), np.zeros(latents.shape[1])
    for start in range(0, len(latents), 2**16):  # float64 copies of a block, not of the part
        block = latents[start : start + 2**16].astype(np.float64)
        total += block.sum(axis=0)
        squares += (block**2).sum(axis=0)
    return {"count": len(latents), "sum": total.tolist(), "sum_squares": squares.tolist()}


def psnr_sum(clouds: CloudBatch) -> dict[str, Any]:
    """Sum (dB) and count of the PSNR of those clouds where it is known, as JSON."""
    known = clouds.psnr[np.isfinite(clouds.psnr)].astype(np.float64)
    return {"sum": float(known.sum()), "count": len(known)}


def part_record(part: Part) -> PartRecord:
    """What a committed part says about itself."""
    own = part.attributes
    sizes: dict[str, int] = {}
    for name, file in own["files"].items():
        array = name.split("/")[0]
        sizes[array] = sizes.get(array, 0) + file["bytes"]
    seconds = own["provenance"].get("seconds", 0.0)  # a number, or one for each stage with their total
    stages = dict(seconds) if isinstance(seconds, Mapping) else {"total": seconds}
    total = stages.pop("total", 0.0)
    return PartRecord(
        split=own["split"],
        id=own["part"],
        n_samples=own["samples"],
        n_clouds=own["clouds"],
        n_points=own["points"],
        n_pixels=own["pixels"],
        n_failures=len(own["failures"]),
        psnr_sum=own["psnr"]["sum"],
        psnr_count=own["psnr"]["count"],
        seconds=float(total),
        bytes=sizes,
        stages={name: float(s) for name, s in stages.items()},
    )


def add_up(records: Sequence[PartRecord]) -> dict[str, dict[str, Any]]:
    """Per split: samples, clouds, failed, points, pixels, bytes of the arrays, and the mean PSNR (None if unknown)."""
    totals: dict[str, dict[str, Any]] = {}
    for split in dict.fromkeys(record.split for record in records):
        own = [record for record in records if record.split == split]
        n_psnr = sum(record.psnr_count for record in own)
        totals[split] = {
            "samples": sum(record.n_samples for record in own),
            "clouds": sum(record.n_clouds for record in own),
            "failed": sum(record.n_failures for record in own),
            "points": sum(record.n_points for record in own),
            "pixels": sum(record.n_pixels for record in own),
            "bytes": sum(sum(record.bytes.values()) for record in own),
            "psnr_mean": sum(record.psnr_sum for record in own) / n_psnr if n_psnr else None,
        }
    return totals


def combine_statistics(parts: Sequence[Part], splits: Sequence[str]) -> dict[str, Any]:
    """Statistics of the stored latents of the training split, or of the first split where none is named `train`.

    Returns:
        `split`, `count` (points), `mean` and `std` (z), `whole_mean` and `whole_std` over all values. Population
        standard deviations. Empty if the split has no points.
    """
    if not splits:
        return {}
    split = TRAINING_SPLIT if TRAINING_SPLIT in splits else splits[0]
    sums = [part.attributes["latent_sums"] for part in parts if part.attributes["split"] == split]
    count = sum(own["count"] for own in sums)
    if not count:
        return {}
    mean = np.sum([own["sum"] for own in sums], axis=0) / count
    square = np.sum([own["sum_squares"] for own in sums], axis=0) / count
    whole = float(mean.mean())
    return {
        "split": split,
        "count": count,
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(square - mean**2, 0)).tolist(),
        "whole_mean": whole,
        "whole_std": float(np.sqrt(max(float(square.mean()) - whole**2, 0.0))),
    }
