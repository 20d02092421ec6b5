"""What must hold inside one part: the writer refuses a batch that breaks it, `verify` names it in a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import PER_CLOUD, CloudBatch, FailedSample, morton_codes

Problems = list[tuple[str, str]]  # array, what is wrong with it
SAMPLED_PIXELS = 16
"""Pixels of each cloud whose neighbours are compared with brute force."""
BRUTE_FORCE = 2**18  # distances held at once
SORTED_WHOLE = 256  # anchors, above which choosing before sorting is quicker


def batch_problems(batch: CloudBatch, root: Mapping[str, Any]) -> Problems:
    """Name everything that is wrong with the clouds of one part: (array, problem) pairs, empty if it is sound.

    `root`: the attributes of the store's root. A part without clouds may lack scales, whatever the decoder.
    """
    n_classes, latent_dim = len(root["classes"]), root["decoder"]["latent_dim"]
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
    problems += _scale_problems(batch, root["decoder"].get("kind") == "basis")
    if batch.neighbours is not None:
        problems += _neighbour_problems(batch, root["decoder"]["n_neighbours"])
    return problems


def sample_problems(batch: CloudBatch, failures: Sequence[FailedSample], n_samples: int) -> list[str]:
    """Samples = converted + failed: each of `n_samples` has clouds, with different repeats, or one failure."""
    problems = []
    converted, failed = set(batch.sample_ids.tolist()), [failure.sample_id for failure in failures]
    if len(converted) + len(failed) != n_samples:
        problems.append(f"{len(converted)} samples with clouds and {len(failed)} failures, planned are {n_samples}")
    if len(set(failed)) != len(failed) or converted & set(failed):
        problems.append("a failed sample is there twice")
    pairs = set(zip(batch.sample_ids.tolist(), batch.repeats.tolist(), strict=True))
    if len(pairs) != len(batch):
        problems.append("a sample is there twice with the same repeat")
    elif pairs != {(sample, repeat) for sample in converted for repeat in range(len(batch) // max(len(converted), 1))}:
        problems.append("the samples do not all have the same repeats")
    return problems


def nearest_problems(batch: CloudBatch, rng: np.random.Generator) -> Problems:
    """Compare the neighbours of `SAMPLED_PIXELS` pixels of every cloud with a search through all its anchors.

    Nearest first by squared distance, equal distances by lower row: exact, for positions are integers. The corners of
    each image are always among the pixels, the others are random. The batch has passed `batch_problems`.
    """
    if batch.neighbours is None or batch.pixel_offsets is None:
        return []
    n = batch.neighbours.shape[1]
    for i in range(len(batch)):
        height, width = (int(side) for side in batch.sizes[i])
        corners = [0, width - 1, (height - 1) * width, height * width - 1]
        pixels = np.unique([*corners, *rng.integers(height * width, size=SAMPLED_PIXELS - len(corners))])
        positions = batch.positions[batch.offsets[i] : batch.offsets[i + 1]].astype(np.int64)
        stored = batch.neighbours[batch.pixel_offsets[i] + pixels]
        nearest = _nearest(positions, np.stack(np.divmod(pixels, width), axis=1), n)
        wrong = (stored != nearest).any(axis=1)
        if wrong.any():
            k = int(np.argmax(wrong))
            where = f"pixel ({pixels[k] // width}, {pixels[k] % width}) of cloud {i}"
            return [("neighbours", f"{where} has {stored[k].tolist()}, the nearest are {nearest[k].tolist()}")]
    return []


def _nearest(positions: NDArray[np.int64], pixels: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Rows of the n nearest of `positions` (k, 2) for each of `pixels` (q, 2): all distances, a stable sort."""
    found = np.empty((len(pixels), n), np.int64)
    step = max(1, BRUTE_FORCE // len(positions))
    for start in range(0, len(pixels), step):
        gaps = pixels[start : start + step, None] - positions
        distances = (gaps * gaps).sum(axis=2)
        if len(positions) <= SORTED_WHOLE:
            found[start : start + step] = np.argsort(distances, axis=1, kind="stable")[:, :n]
            continue
        for row, own in enumerate(distances, start):  # sort only what can be among the nearest
            candidates = np.flatnonzero(own <= np.partition(own, n - 1)[n - 1])
            found[row] = candidates[np.argsort(own[candidates], kind="stable")][:n]
    return found


def _offset_problems(batch: CloudBatch) -> Problems:
    problems: Problems = []
    if len(batch.offsets) == 0 or not _rises(batch.offsets, len(batch.positions)):
        problems.append(("offsets", f"not rising from 0 to {len(batch.positions)}"))
    if len(batch.latents) != len(batch.positions):
        problems.append(("latents", f"{len(batch.latents)} rows for {len(batch.positions)} positions"))
    for name in (*PER_CLOUD, "paths"):
        if len(getattr(batch, name)) != len(batch):
            problems.append((name, f"{len(getattr(batch, name))} rows for {len(batch)} clouds"))
    if not problems and len(batch) and batch.sizes.min() < 1:
        problems.append(("sizes", "an image without pixels"))
    if problems or batch.neighbours is None:
        return problems
    ends, pixels = batch.pixel_offsets, batch.pixel_counts()
    if ends is None or not _rises(ends, len(batch.neighbours)) or not np.array_equal(np.diff(ends), pixels):
        problems.append(("pixel_offsets", "not the running sum of height x width"))
    return problems


def _rises(offsets: NDArray[np.int64], end: int) -> bool:
    return bool(offsets[0] == 0 and offsets[-1] == end and (np.diff(offsets) >= 0).all())


def _position_problems(batch: CloudBatch, owner: NDArray[np.int64]) -> Problems:
    inside = ((batch.positions >= 0) & (batch.positions < batch.sizes[owner])).all(axis=1)
    if not inside.all():
        return [("positions", f"outside of the image in cloud {owner[np.argmin(inside)]}")]
    codes = morton_codes(batch.positions)
    sorted_ = (codes[1:] >= codes[:-1]) | (owner[1:] != owner[:-1])
    return [] if sorted_.all() else [("positions", f"not in Morton order in cloud {owner[1:][np.argmin(sorted_)]}")]


def _scale_problems(batch: CloudBatch, with_scales: bool) -> Problems:
    if batch.scales is None:
        return [("scales", "missing: the decoder needs those of all anchors")] if with_scales and len(batch) else []
    if not with_scales:
        return [("scales", "there, and the decoder takes none")]
    if batch.scales.shape != (len(batch.positions),):
        return [("scales", f"shape {batch.scales.shape} for {len(batch.positions)} positions")]
    sound = bool((np.isfinite(batch.scales) & (batch.scales > 0)).all())
    return [] if sound else [("scales", "not all are finite and above 0")]


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
