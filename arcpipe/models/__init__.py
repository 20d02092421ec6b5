"""Classifiers of latent clouds: latents (m, z), positions (m, 2), offsets (s + 1) -> logits (s, classes)."""

from __future__ import annotations

from torch import nn

from arcpipe.cloud import DecoderKind, DecoderRecord, SirenRecord
from arcpipe.config import WEIGHT_MODELS, ModelSection
from arcpipe.errors import ConfigError
from arcpipe.models.backends import use_backend
from arcpipe.models.presets import PRESETS, resolve
from arcpipe.models.ptv3 import PTv3
from arcpipe.models.weights import build_weight_model

__all__ = ["PTv3", "build_model", "check_kind", "describe", "n_parameters", "resolve"]


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


def build_model(
    section: ModelSection, latent_dim: int, n_classes: int, decoder: DecoderRecord | None = None
) -> nn.Module:
    """Make the classifier that `section` describes, with weights drawn from torch's current random state.

    `decoder`: of the store, for classifiers of sine networks: it says how their parameters are laid out.

    Raises:
        ConfigError: as `resolve`, or a classifier of networks for clouds or of clouds for networks.
    """
    check_kind(section, None if decoder is None else decoder.kind)
    full = resolve(section)
    settings = full.model_dump(include=set(PRESETS[full.model, full.size]))
    if isinstance(decoder, SirenRecord):
        return build_weight_model(full, settings, decoder, n_classes)
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
