"""Classifiers of latent clouds: latents (m, z), positions (m, 2), offsets (s + 1) -> logits (s, classes)."""

from __future__ import annotations

from torch import nn

from arcpipe.cloud import DecoderKind, DecoderRecord, SirenRecord
from arcpipe.config import WEIGHT_MODELS, ModelSection
from arcpipe.errors import ConfigError
from arcpipe.models.backends import check_backend, use_backend
from arcpipe.models.ptv3 import PTv3
from arcpipe.models.weights import build_weight_model, resolve_weight_model

__all__ = ["PRESETS", "PTv3", "build_model", "check_kind", "describe", "n_parameters", "resolve"]

PRESETS = {
    # The published Fashion-MNIST configuration of the ARC thesis, for clouds of 10 to 100 points.
    ("ptv3", "small"): ModelSection(
        model="ptv3",
        preset="small",
        channels=(64, 64, 64, 64),
        depths=(1, 1, 2, 1),
        heads=(8, 16, 32, 32),
        patch=25,
        grid_px=2.0,
        mlp_ratio=2.0,
        drop_path=0.3,
        bias="table",
        convs=True,
    ),
    # For the same clouds: all points attend to each other, and a network of their distances alone tells where they are.
    # Points of one block of 2 x 2 pixels become one halfway.
    ("ptv3", "plain"): ModelSection(
        model="ptv3",
        preset="plain",
        channels=(96, 96),
        depths=(3, 3),
        heads=(8, 8),
        patch=64,
        grid_px=1.0,
        mlp_ratio=2.0,
        drop_path=0.1,
        bias="network",
        convs=False,
    ),
    # The same for thousands of points, whose number falls fast: few channels for all of them, many for the last fifty.
    ("ptv3", "photo"): ModelSection(
        model="ptv3",
        preset="photo",
        channels=(48, 96, 144, 192),
        depths=(1, 2, 3, 2),
        heads=(8, 8, 8, 8),
        patch=128,
        grid_px=4.0,
        mlp_ratio=2.0,
        drop_path=0.2,
        bias="network",
        convs=False,
    ),
    # Stages of 51, 13 and 4 points; 4 pixels are about the distance of neighbours at 5 % of the pixels.
    ("ptv1", "small"): ModelSection(
        model="ptv1",
        preset="small",
        channels=(32, 64, 128),
        depths=(1, 1, 2),
        neighbours=16,
        grid_px=4.0,
        drop_path=0.1,
    ),
    # The paper's widths and number of stages.
    ("ptv1", "large"): ModelSection(
        model="ptv1",
        preset="large",
        channels=(32, 64, 128, 256, 512),
        depths=(1, 1, 2, 2, 1),
        neighbours=16,
        grid_px=4.0,
        drop_path=0.1,
    ),
}
OPEN = {
    "ptv3": ("channels", "depths", "heads", "patch", "grid_px", "mlp_ratio", "drop_path", "bias", "convs"),
    "ptv1": ("channels", "depths", "neighbours", "grid_px", "drop_path"),
}
"""What a model takes of the settings that only some models have."""


MOST_PARAMETERS = 2**28
OF_WEIGHTS = ("width", "layers", "dropout", "rows", "norm", "start", "direction", "phases")
"""What only classifiers of sine networks have."""


def check_kind(section: ModelSection, kind: DecoderKind | None) -> None:
    """Refuse a classifier that cannot read the store's samples; `kind`: of its decoder.

    Raises:
        ConfigError: a classifier of networks for clouds or of clouds for networks.
    """
    if (section.model in WEIGHT_MODELS) == (kind == "siren"):
        return
    if kind == "siren":
        models = [f"--model {name}" for name in WEIGHT_MODELS]
        raise ConfigError(f"{section.model} reads clouds, and the store holds sine networks.", fix=models)
    raise ConfigError(
        f"{section.model} reads sine networks, and the store holds clouds.",
        details=[f"its decoder is of the kind {kind}"] if kind else [],
        fix=["--model ptv3", "arcpipe convert SOURCE --recipe siren --out OTHER.zarr"],
    )


def resolve(section: ModelSection) -> ModelSection:
    """Fill what `section` leaves open from its preset; what its model does not have stays None.

    Raises:
        ConfigError: the model has no such setting, stages disagree in number, or a stage's channels are not a multiple
            of its heads; the backend cannot be used here.
    """
    if section.model in WEIGHT_MODELS:
        return resolve_weight_model(section)
    check_backend(section.backend)
    given = section.model_dump(exclude_none=True)
    if (section.model, section.size) not in PRESETS:
        known = [f"--preset {preset}" for model, preset in PRESETS if model == section.model]
        raise ConfigError(f"{section.model} has no preset {section.size}.", fix=known)
    foreign = set(given) & set().union(*OPEN.values()) - set(OPEN[section.model])
    fields = ModelSection.model_fields
    foreign |= {name for name in OF_WEIGHTS if getattr(section, name) != fields[name].default}
    if section.model != "ptv3" and section.grid_origin != "cloud":
        foreign.add("grid_origin")
    if section.model != "ptv3" and section.backend != "auto":
        foreign.add("backend")
    if foreign:
        raise ConfigError(
            f"{section.model} has no {', '.join(sorted(foreign))}.",
            details=[f"it has {', '.join(OPEN[section.model])}"],
            fix=[f"the same without model.{name}" for name in sorted(foreign)],
        )
    full = PRESETS[section.model, section.size].model_copy(update=given)
    staged = [name for name in ("channels", "depths", "heads") if name in OPEN[section.model]]
    lengths = {name: len(getattr(full, name)) for name in staged}
    if len(set(lengths.values())) > 1:
        raise ConfigError(
            "the model's stages disagree in number.",
            details=[f"model.{name} has {n}" for name, n in lengths.items()],
            fix=[f"give {', '.join(staged)} one number per stage"],
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
    return full


def build_model(
    section: ModelSection, latent_dim: int, n_classes: int, decoder: DecoderRecord | None = None
) -> nn.Module:
    """Make the classifier that `section` describes, with weights drawn from torch's current random state.

    `decoder`: of the store, for classifiers of sine networks: it says how their parameters are laid out.

    Raises:
        ConfigError: as `resolve`, or a classifier of networks for clouds or of clouds for networks.
    """
    check_kind(section, None if decoder is None else decoder.kind)
    if section.model in WEIGHT_MODELS and isinstance(decoder, SirenRecord):
        return build_weight_model(section, decoder, n_classes)
    full = resolve(section)
    settings = full.model_dump(include=set(OPEN[full.model]))
    if full.model == "ptv1":
        from arcpipe.models.ptv1 import PTv1

        return PTv1(latent_dim, n_classes, **settings)
    model = PTv3(latent_dim, n_classes, **settings, grid_origin=full.grid_origin)
    use_backend(model, full.backend)
    return model


def n_parameters(model: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def describe(model: nn.Module) -> str:
    """One line for logs: `PTv3, 0.45 M parameters`."""
    return f"{type(model).__name__}, {n_parameters(model) / 1e6:.2f} M parameters"
