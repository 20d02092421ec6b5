"""The decoder of a store that needs no pretraining: one that is given, or what sine networks have in common."""

from __future__ import annotations

from pathlib import Path

from arcpipe.cloud import DecoderRecord, SirenRecord
from arcpipe.config import FitSection
from arcpipe.errors import ConfigError
from arcpipe.seeds import derive_seed
from arcpipe.storage import storage_at


def load_decoder(name: str) -> DecoderRecord:
    """Read the decoder of a store (finished or not), or one saved as safetensors.

    A file holds `weight_0`, `bias_0`, ... and the metadata `n_neighbours` and `latent_dim`; a run folder of
    `arcpipe train` keeps one as `decoder.safetensors`.
    """
    from arcpipe.store import load_decoder_file, open_store

    storage = storage_at(name)
    if not storage.is_taken():
        raise ConfigError(
            f"--decoder {name}: there is no such store or file.",
            fix=["--decoder STORE.zarr", "or leave --decoder out: a new one is pretrained"],
        )
    if not storage.is_folder():
        return load_decoder_file(Path(name))
    return open_store(storage, allow_unfinished=True).decoder


def check_decoder(decoder: DecoderRecord, fit: FitSection, channels: int, name: str) -> None:
    """Raise `ConfigError` unless the decoder has the shapes that the settings ask for."""
    wanted = {
        "--neighbours": (fit.neighbours, decoder.n_neighbours),
        "--latent-dim": (fit.latent_dim, decoder.latent_dim),
        "decoder kind": (fit.decoder_kind, decoder.kind),
        "channels": (channels, decoder.channels),
        "fit.hidden": (fit.hidden_widths, decoder.hidden),
    }
    wrong = {key: pair for key, pair in wanted.items() if pair[0] != pair[1]}
    if not wrong:
        return
    if decoder.kind != fit.decoder_kind:
        wrong = {"decoder kind": wanted["decoder kind"]}
    fix = [f"{key} {found}" for key, (_, found) in wrong.items() if key.startswith("--")]
    if "decoder kind" in wrong:
        fix.append("--recipe thesis" if decoder.kind == "concat" else f"--recipe {decoder.kind}")
    if "channels" in wrong:
        fix.append("--grey (one channel)" if decoder.channels == 1 else "a decoder made from greyscale images")
    raise ConfigError(
        f"the decoder {decoder.sha256[:8]} of {name} does not fit these settings.",
        details=[f"{key}: expected {expected}, found {found}" for key, (expected, found) in wrong.items()],
        fix=[*fix, "leave --decoder out: a new one is pretrained"],
    )


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
