"""What a conversion to sine networks has in place of a decoder: nothing is pretrained."""

from __future__ import annotations

from arcpipe.cloud import SirenRecord
from arcpipe.config import FitSection
from arcpipe.seeds import derive_seed


def with_network_size(fit: FitSection, channels: int) -> FitSection:
    """The settings with the number of a network's parameters, which depends on the images' channels."""
    if fit.decoder_kind != "siren":
        return fit
    record = _record(fit, channels, 0)
    return fit.model_copy(update={"latent_dim": record.latent_dim})


def shared_network(fit: FitSection, channels: int, seed: int) -> SirenRecord | None:
    """What all networks of a new store have in common; None for other recipes."""
    return _record(fit, channels, seed) if fit.decoder_kind == "siren" else None


def _record(fit: FitSection, channels: int, seed: int) -> SirenRecord:
    from arcpipe.siren import new_record

    return new_record(fit, channels, derive_seed(seed, "decoder"))
