"""What can be set of each classifier: its presets, and a section that is filled in from one of them and checked."""

from __future__ import annotations

from typing import Any

from arcpipe.config import WEIGHT_MODELS, ModelSection
from arcpipe.errors import ConfigError
from arcpipe.models.backends import check_backend

PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    # The published Fashion-MNIST configuration of the ARC thesis, for clouds of 10 to 100 points.
    ("ptv3", "small"): {
        "channels": (64, 64, 64, 64),
        "depths": (1, 1, 2, 1),
        "heads": (8, 16, 32, 32),
        "patch": 25,
        "grid_px": 2.0,
        "mlp_ratio": 2.0,
        "drop_path": 0.3,
        "bias": "table",
        "convs": True,
    },
    # For the same clouds: all points attend to each other, and a network of their distances alone tells where they are.
    # Points of one block of 2 x 2 pixels become one halfway.
    ("ptv3", "plain"): {
        "channels": (96, 96),
        "depths": (3, 3),
        "heads": (8, 8),
        "patch": 64,
        "grid_px": 1.0,
        "mlp_ratio": 2.0,
        "drop_path": 0.1,
        "bias": "network",
        "convs": False,
    },
    # The same for thousands of points, whose number falls fast: few channels for all of them, many for the last fifty.
    ("ptv3", "photo"): {
        "channels": (48, 96, 144, 192),
        "depths": (1, 2, 3, 2),
        "heads": (8, 8, 8, 8),
        "patch": 128,
        "grid_px": 4.0,
        "mlp_ratio": 2.0,
        "drop_path": 0.2,
        "bias": "network",
        "convs": False,
    },
    # Stages of 51, 13 and 4 points; 4 pixels are about the distance of neighbours at 5 % of the pixels.
    ("ptv1", "small"): {
        "channels": (32, 64, 128),
        "depths": (1, 1, 2),
        "neighbours": 16,
        "grid_px": 4.0,
        "drop_path": 0.1,
    },
    # The paper's widths and number of stages.
    ("ptv1", "large"): {
        "channels": (32, 64, 128, 256, 512),
        "depths": (1, 1, 2, 2, 1),
        "neighbours": 16,
        "grid_px": 4.0,
        "drop_path": 0.1,
    },
    # Of sine networks, `full` is as published, and `small` has every mechanism at a cost for two cores.
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
BESIDE = {
    "ptv3": ("grid_origin", "backend"),
    "dws": ("start",),
    "ng-gnn": ("norm", "start"),
    "ng-t": ("start",),
    "scalegmn": ("direction", "phases"),
}
"""Settings that a model reads beside those of its presets."""
MOST_PARAMETERS = 2**28


def resolve(section: ModelSection) -> ModelSection:
    """Fill what `section` leaves open from its preset; what its model does not have stays as it is.

    Raises:
        ConfigError: the model has no such preset or setting, stages disagree in number, a stage's channels are not a
            multiple of its heads, or the backend cannot be used here.
    """
    if section.model not in WEIGHT_MODELS:
        check_backend(section.backend)
    if (section.model, section.size) not in PRESETS:
        known = [f"--preset {preset}" for model, preset in PRESETS if model == section.model]
        raise ConfigError(f"{section.model} has no preset {section.size}.", fix=known)
    preset = PRESETS[section.model, section.size]
    has, fields = (*preset, *BESIDE.get(section.model, ())), ModelSection.model_fields
    set_here = [name for name in fields if getattr(section, name) != fields[name].default]
    foreign = sorted(set(set_here) - {"model", "preset", *has})
    if foreign:
        raise ConfigError(
            f"{section.model} has no {', '.join(foreign)}.",
            details=[f"it has {', '.join(has)}"],
            fix=[f"the same without model.{name}" for name in foreign],
        )
    given = section.model_dump(include=set(preset), exclude_none=True)
    full = section.model_copy(update={"preset": section.size, **preset, **given})
    _check_stages(full)
    return full


def _check_stages(full: ModelSection) -> None:
    """Refuse stages that disagree or are too large; classifiers of sine networks have none."""
    staged = {"channels": full.channels, "depths": full.depths, "heads": full.heads}
    lengths = {name: len(stages) for name, stages in staged.items() if stages is not None}
    if len(set(lengths.values())) > 1:
        raise ConfigError(
            "the model's stages disagree in number.",
            details=[f"model.{name} has {n}" for name, n in lengths.items()],
            fix=[f"give {', '.join(lengths)} one number per stage"],
        )
    ratio = 13 + 2 * (full.mlp_ratio or 0)  # 9 c² of the planar kernel, 4 c² of attention, 2 r c² of the MLP
    numbers = sum(depth * ratio * c**2 for depth, c in zip(full.depths or (), full.channels or (), strict=True))
    if numbers > MOST_PARAMETERS:
        raise ConfigError(
            "the model is too large.",
            details=[f"expected at most {MOST_PARAMETERS:,} parameters, found about {int(numbers):,}"],
            fix=["smaller model.channels or model.depths"],
        )
    for channels, heads in zip(full.channels or (), full.heads or (), strict=False):
        if channels % heads:
            raise ConfigError(
                "a stage's channels must be a multiple of its heads.",
                details=[f"found model.channels {full.channels}, model.heads {full.heads}"],
                fix=[f"{channels // heads * heads or heads} channels for {heads} heads"],
            )
