"""What must hold inside one part: the writer refuses a batch that breaks it, `verify` names it in a store."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import CloudBatch, FailedSample, morton_codes

Problems = list[tuple[str, str]]  # array, what is wrong with it


def batch_problems(batch: CloudBatch, *, n_classes: int, latent_dim: int, n_neighbours: int) -> Problems:
    """Name everything that is wrong with the clouds of one part: (array, problem) pairs, empty if it is sound."""
    problems = _offset_problems(batch)
    if problems:
        return problems  # nothing below can be computed
    owner = np.repeat(np.arange(len(batch)), np.diff(batch.offsets))
    problems += _position_problems(batch, owner)
    if batch.latents.shape[1] != latent_dim:
        problems.append(("latents", f"{batch.latents.shape[1]} values each, expected {latent_dim}"))
    finite = np.isfinite(batch.latents).all(axis=1)
    if not finite.all():
        problems.append(("latents", f"not finite in cloud {owner[np.argmin(finite)]}"))
    if len(batch) and not (batch.labels.min() >= 0 and batch.labels.max() < n_classes):
        problems.append(("labels", f"{batch.labels.min()} to {batch.labels.max()}, expected 0 to {n_classes - 1}"))
    if not (np.isfinite(batch.relative).all() and (batch.relative[:, 1] > 0).all()):
        problems.append(("relative", "not finite, or a standard deviation that is not positive"))
    if np.isinf(batch.psnr).any():
        problems.append(("psnr", "infinite"))
    if batch.neighbours is not None:
        problems += _neighbour_problems(batch, n_neighbours)
    return problems


def sample_problems(batch: CloudBatch, failures: Sequence[FailedSample], n_samples: int) -> list[str]:
    """Samples = converted + failed: each of `n_samples` has clouds, with different repeats, or one failure."""
    problems = []
    converted, failed = set(batch.sample_ids.tolist()), [failure.sample_id for failure in failures]
    if len(converted) + len(failed) != n_samples:
        problems.append(f"{len(converted)} samples with clouds and {len(failed)} failures, planned are {n_samples}")
    if len(set(failed)) != len(failed) or converted & set(failed):
        problems.append("a failed sample is there twice")
    if len(set(zip(batch.sample_ids.tolist(), batch.repeats.tolist(), strict=True))) != len(batch):
        problems.append("a sample is there twice with the same repeat")
    return problems


def _offset_problems(batch: CloudBatch) -> Problems:
    problems: Problems = []
    if len(batch.offsets) == 0 or not _rises(batch.offsets, len(batch.positions)):
        problems.append(("offsets", f"not rising from 0 to {len(batch.positions)}"))
    if len(batch.latents) != len(batch.positions):
        problems.append(("latents", f"{len(batch.latents)} rows for {len(batch.positions)} positions"))
    for name in ("sizes", "relative", "labels", "psnr", "repeats", "sample_ids", "paths"):
        if len(getattr(batch, name)) != len(batch):
            problems.append((name, f"{len(getattr(batch, name))} rows for {len(batch)} clouds"))
    if not problems and len(batch) and batch.sizes.min() < 1:
        problems.append(("sizes", "an image without pixels"))
    if problems or batch.neighbours is None:
        return problems
    pixels = np.prod(np.asarray(batch.sizes, np.int64), axis=1)
    ends = batch.pixel_offsets
    if ends is None or not _rises(ends, len(batch.neighbours)) or not np.array_equal(np.diff(ends), pixels):
        problems.append(("pixel_offsets", "not the running sum of height x width"))
    return problems


def _rises(offsets: NDArray[np.int64], end: int) -> bool:
    return bool(offsets[0] == 0 and offsets[-1] == end and (np.diff(offsets) >= 0).all())


def _position_problems(batch: CloudBatch, owner: NDArray[np.int64]) -> Problems:
    problems: Problems = []
    inside = ((batch.positions >= 0) & (batch.positions < batch.sizes[owner])).all(axis=1)
    if not inside.all():
        return [("positions", f"outside of the image in cloud {owner[np.argmin(inside)]}")]
    codes = morton_codes(batch.positions)
    sorted_ = (codes[1:] >= codes[:-1]) | (owner[1:] != owner[:-1])
    if not sorted_.all():
        problems.append(("positions", f"not in Morton order in cloud {owner[1:][np.argmin(sorted_)]}"))
    return problems


def _neighbour_problems(batch: CloudBatch, n_neighbours: int) -> Problems:
    neighbours, pixel_offsets = batch.neighbours, batch.pixel_offsets
    if neighbours is None or pixel_offsets is None:
        return []
    if neighbours.shape[1] != n_neighbours:
        return [("neighbours", f"{neighbours.shape[1]} a pixel, expected {n_neighbours}")]
    if not len(batch):
        return []
    largest = np.maximum.reduceat(neighbours.max(axis=1), pixel_offsets[:-1])
    smallest = np.minimum.reduceat(neighbours.min(axis=1), pixel_offsets[:-1])
    wrong = (largest >= np.diff(batch.offsets)) | (smallest < 0)
    return [("neighbours", f"rows that cloud {np.argmax(wrong)} does not have")] if wrong.any() else []
