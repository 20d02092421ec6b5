"""The decoder that `--decoder` names: that of another store, or a safetensors file."""

from __future__ import annotations

from pathlib import Path

from arcpipe.cloud import DecoderRecord
from arcpipe.config import FitSection
from arcpipe.errors import ConfigError
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
