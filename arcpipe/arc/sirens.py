"""Sine networks as clouds of one point, so that whatever reads, fits and renders clouds does so with them too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.of_record import OfRecord
from arcpipe.arc.problem import FittedCloud, learning_rates
from arcpipe.cloud import SirenRecord
from arcpipe.config import FitSection
from arcpipe.siren import fit_sirens
from arcpipe.threads import compute_threads


@dataclass(frozen=True, slots=True)
class Sirens(OfRecord):
    """What the networks of a store have in common, in the place of a decoder."""

    record: SirenRecord

    def to(self, device: Any) -> Sirens:
        """The same: networks are fitted on the CPU."""
        return self


def fit_siren_clouds(
    images: Sequence[NDArray[np.float32]], sirens: Sirens, fit: FitSection, seeds: Sequence[int]
) -> list[FittedCloud]:
    """Fit a network to each image; its point is the middle of the image."""
    fitted = fit_sirens(images, sirens.record, fit, seeds, learning_rates(fit), compute_threads())
    return [
        FittedCloud(
            positions=np.array([[image.shape[0] // 2, image.shape[1] // 2]], np.int64),
            latents=one.values[None],
            neighbours=np.zeros((image.shape[0] * image.shape[1], 1), np.int32),
            relative=(0.0, 1.0),
            losses=one.losses,
        )
        for image, one in zip(images, fitted, strict=True)
    ]
