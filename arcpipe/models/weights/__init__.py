"""Classifiers of sine networks by their parameters: those that the thesis compares with, and a plain floor.

`width`, `layers`, `dropout` and `rows` of `ModelSection` replace those of a preset. Sources, counts and where we differ
from the published code: docs/baselines.md.
"""

from __future__ import annotations

from typing import Any

import torch

from arcpipe.cloud import SirenRecord
from arcpipe.config import ModelSection
from arcpipe.errors import ConfigError
from arcpipe.models.weights.base import Mlp, WeightClassifier
from arcpipe.models.weights.dws import DwsNet
from arcpipe.models.weights.graphs import NgGnn, NgT
from arcpipe.models.weights.scalegmn import ScaleGmn

CLASSES: dict[str, Any] = {"mlp": Mlp, "dws": DwsNet, "ng-gnn": NgGnn, "ng-t": NgT, "scalegmn": ScaleGmn}


def build_weight_model(
    full: ModelSection, settings: dict[str, Any], record: SirenRecord, n_classes: int
) -> WeightClassifier:
    """Make the classifier that a resolved section describes for networks of this shape, from torch's random state.

    `settings`: what its presets have.
    """
    widths = record.widths_tuple
    if full.start:
        if not len(record.start):
            raise ConfigError(
                "the networks of this store did not begin alike: there is no start to show.",
                fix=["leave model.start out", "arcpipe convert SOURCE --recipe siren --out OTHER.zarr"],
            )
        settings["start"] = torch.from_numpy(record.start)
    if full.model == "dws" and len(widths) < 4:  # it is not defined for fewer
        raise ConfigError(
            "dws reads networks of two hidden layers and more.",
            details=[f"those of the store are {'-'.join(map(str, widths))}"],
            fix=["--set fit.hidden=[32,32]   (of arcpipe convert)", "--model ng-gnn"],
        )
    if full.model in ("dws", "ng-t") and full.width is not None and full.width % 8:
        raise ConfigError(f"model.width of {full.model} is a multiple of its 8 heads.", fix=["model.width=32"])
    if full.model == "ng-gnn":
        settings["whole_batch"] = full.norm == "batch"
    if full.model == "scalegmn":
        settings |= {
            "both": full.direction == "both",
            "omega": record.omega,
            "canonical": full.phases == "canonical",
        }
    return CLASSES[full.model](widths, n_classes, **settings)
