"""Every setting of arcpipe: one pydantic model per room. Flags, TOML keys and stored configs share these names."""

from __future__ import annotations

from arcpipe.config.building import build, differences, read_toml, sectioned
from arcpipe.config.converting import (
    ConvertConfig,
    FitSection,
    RunSection,
    SourceSection,
    StoreSection,
    kind_of,
    unread,
)
from arcpipe.config.section import Count, Section, Seed
from arcpipe.config.stored import with_later, without_later
from arcpipe.config.training import (
    OF_NETWORKS,
    WEIGHT_MODELS,
    Augmentation,
    AugmentSection,
    EvaluateConfig,
    EvaluateSection,
    ModelSection,
    OptimSection,
    StreamSection,
    TrainConfig,
)

__all__ = [
    "OF_NETWORKS",
    "WEIGHT_MODELS",
    "AugmentSection",
    "Augmentation",
    "ConvertConfig",
    "Count",
    "EvaluateConfig",
    "EvaluateSection",
    "FitSection",
    "ModelSection",
    "OptimSection",
    "RunSection",
    "Section",
    "Seed",
    "SourceSection",
    "StoreSection",
    "StreamSection",
    "TrainConfig",
    "build",
    "differences",
    "kind_of",
    "read_toml",
    "sectioned",
    "unread",
    "with_later",
    "without_later",
]
