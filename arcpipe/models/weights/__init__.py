"""Classifiers of sine networks by their parameters: those that the thesis compares with, and a plain floor.

`width`, `layers`, `dropout` and `rows` of `ModelSection` replace those of a preset. Sources, counts and where we differ
from the published code: docs/baselines.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from arcpipe.cloud import SirenRecord
from arcpipe.config import WEIGHT_MODELS, ModelSection
from arcpipe.errors import ConfigError
from arcpipe.models.weights.base import Mlp, WeightClassifier
from arcpipe.models.weights.dws import DwsNet
from arcpipe.models.weights.graphs import NgGnn, NgT
from arcpipe.models.weights.scalegmn import BOTH, FORWARD, ScaleGmn

__all__ = ["PRESETS", "WEIGHT_MODELS", "WeightClassifier", "build_weight_model", "resolve_weight_model"]

PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    # `full`: as published. `small`: every mechanism, at a cost for two cores.
    ("mlp", "full"): {"width": 512, "layers": 3, "dropout": 0.2},
    ("mlp", "small"): {"width": 256, "layers": 2, "dropout": 0.2},
    ("dws", "full"): {"width": 32, "layers": 4, "dropout": 0.0},
    ("dws", "small"): {"width": 16, "layers": 2, "dropout": 0.0},
    ("ng-gnn", "full"): {"width": 32, "layers": 4, "dropout": 0.2, "rows": 128},
    ("ng-gnn", "small"): {"width": 16, "layers": 4, "dropout": 0.2, "rows": 32},
    ("ng-t", "full"): {"width": 64, "layers": 4, "dropout": 0.2, "rows": 128},
    ("ng-t", "small"): {"width": 32, "layers": 3, "dropout": 0.2, "rows": 32},
    ("scalegmn", "full"): {"width": 128, "layers": 4, "dropout": 0.2},
    ("scalegmn", "small"): {"width": 32, "layers": 4, "dropout": 0.2},
}
OWN = {"dws": ("start",), "ng-gnn": ("norm", "start"), "ng-t": ("start",), "scalegmn": ("direction", "phases")}
"""Settings of `ModelSection` beside those of the presets, by the models that read them."""
CLASSES: dict[str, Any] = {"mlp": Mlp, "dws": DwsNet, "ng-gnn": NgGnn, "ng-t": NgT, "scalegmn": ScaleGmn}


def resolve_weight_model(section: ModelSection) -> ModelSection:
    """Fill what `section` leaves open from its preset.

    Raises:
        ConfigError: the model has no such preset or setting.
    """
    if (section.model, section.size) not in PRESETS:
        raise ConfigError(f"{section.model} has no preset {section.size}.", fix=["--preset full", "--preset small"])
    preset = PRESETS[section.model, section.size]
    fields = type(section).model_fields
    known = {"model", "preset", *preset, *OWN.get(section.model, ())}
    foreign = [name for name in fields if name not in known and getattr(section, name) != fields[name].default]
    if foreign:
        raise ConfigError(
            f"{section.model} has no {', '.join(foreign)}.",
            details=[f"it has {', '.join([*preset, *OWN.get(section.model, ())])}"],
            fix=[f"the same without model.{name}" for name in foreign],
        )
    given = section.model_dump(include=set(preset), exclude_none=True)
    return section.model_copy(update={**preset, **given})


def build_weight_model(section: ModelSection, record: SirenRecord, n_classes: int) -> nn.Module:
    """Make the classifier that `section` describes for networks of this shape, from torch's random state."""
    full = resolve_weight_model(section)
    settings = full.model_dump(include=set(PRESETS[full.model, full.size]))
    widths = record.widths_tuple
    if full.start:
        settings["start"] = _start_of(record)
    if full.model == "ng-gnn":
        settings["whole_batch"] = full.norm == "batch"
    if full.model == "scalegmn":
        settings |= {
            "settings": BOTH if full.direction == "both" else FORWARD,
            "omega": record.omega,
            "canonical": full.phases == "canonical",
        }
    _check_shape(full, widths)
    model: nn.Module = CLASSES[full.model](widths, n_classes, **settings)
    return model


def _start_of(record: SirenRecord) -> torch.Tensor:
    if not len(record.start):
        raise ConfigError(
            "the networks of this store did not begin alike: there is no start to show.",
            fix=["leave model.start out", "arcpipe convert SOURCE --recipe siren --out OTHER.zarr"],
        )
    return torch.from_numpy(record.start)


def _check_shape(section: ModelSection, widths: tuple[int, ...]) -> None:
    """DWSNets is defined for two hidden layers and more, and its heads divide its channels."""
    if section.model == "dws" and len(widths) < 4:
        raise ConfigError(
            "dws reads networks of two hidden layers and more.",
            details=[f"those of the store are {'-'.join(map(str, widths))}"],
            fix=["--set fit.hidden=[32,32]   (of arcpipe convert)", "--model ng-gnn"],
        )
    if section.model in ("dws", "ng-t") and section.width is not None and section.width % 8:
        raise ConfigError(f"model.width of {section.model} is a multiple of its 8 heads.", fix=["model.width=32"])
