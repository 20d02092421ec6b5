"""What is measured on a labelled split: accuracy, loss, calibration, confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 15  # the usual number, Guo et al. 2017


@dataclass(frozen=True, slots=True)
class Measures:
    """How well a classifier does on `n` images.

    `loss`: mean of -log p of the true class. `calibration`: for each of 15 equal bins of confidence the images, their
    mean confidence and the share right. `calibration_error` (the expected one): |share right - mean confidence| of the
    bins, averaged over the images. `clouds`: how many were averaged into the images' answers. `per_class`: share of
    each class that was recognised (None for a class without images); `confusion[i][j]`: images of class i that were
    taken for class j.
    """

    n: int
    accuracy: float
    loss: float
    calibration_error: float
    per_class: Mapping[str, float | None]
    confusion: Sequence[Sequence[int]]
    calibration: Sequence[tuple[int, float, float]] = ()
    clouds: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], classes: Sequence[str], clouds: int | None = None
) -> Measures:
    """Measure predictions of images. `probabilities` (n, classes), rows sum to 1; `labels` (n,).

    `clouds`: how many were averaged into them; one each if not given.
    """
    predicted = probabilities.argmax(1)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    truth = probabilities[np.arange(len(labels)), labels]
    totals, bins = confusion.sum(1), calibration_bins(probabilities, labels)
    return Measures(
        n=len(labels),
        accuracy=float((predicted == labels).mean()),
        loss=float(-np.log(np.maximum(truth, 1e-12)).mean()),
        calibration_error=sum(n * abs(share - mean) for n, mean, share in bins) / len(labels),
        per_class={name: float(confusion[i, i] / totals[i]) if totals[i] else None for i, name in enumerate(classes)},
        confusion=confusion.tolist(),
        calibration=bins,
        clouds=len(labels) if clouds is None else clouds,
    )


def calibration_bins(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> list[tuple[int, float, float]]:
    """Images, mean confidence and share right of 15 equal bins of confidence; 0, 0, 0 where nothing fell."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    means = [
        np.bincount(bins, weights=values, minlength=CALIBRATION_BINS) / np.maximum(counts, 1)
        for values in (confidence, right)
    ]
    return [(int(n), float(mean), float(share)) for n, mean, share in zip(counts, *means, strict=True)]


def first_repeats(sample_ids: NDArray[np.int64], repeats: int) -> NDArray[np.bool_]:
    """True for the first `repeats` clouds of each image."""
    order = np.argsort(sample_ids, kind="stable")
    _, first, counts = np.unique(sample_ids[order], return_index=True, return_counts=True)
    kept = np.empty(len(order), np.bool_)
    kept[order] = np.arange(len(order)) - np.repeat(first, counts) < repeats
    return kept


def average_repeats(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], sample_ids: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """One row per image: the mean over the clouds of the same sample id. Images in the order of their ids."""
    _, first, image, count = np.unique(sample_ids, return_index=True, return_inverse=True, return_counts=True)
    total = np.zeros((len(count), probabilities.shape[1]))
    np.add.at(total, image, probabilities)
    return total / count[:, None], labels[first]
