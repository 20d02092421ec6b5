"""Settings as stores, runs and results keep them: what came later is left out where it changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LATER: dict[str, dict[str, Any]] = {
    "source": {"splits": None, "held_out": 0.2},
    "fit": {
        "decoder_kind": "concat",
        "damping": 0.01,
        "patch": 0.0,
        "views": 1,
        "view_flip": True,
        "variant": "siren",
        "start": "shared",
        "omega": 30.0,
        "stop_db": 0.0,
    },
    "store": {"bits": 8},
    "augment": {
        "zoom": [0.5, 1.0],
        "crop": 4,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
        "hue": 0.05,
        "exact": True,
        "translate": 0.25,
        "jitter": 0.1,
        "drop": 0.01,
        "stretch": [0.8, 1.2],
    },
    "optim": {"optimiser": "adamw", "ema": 0.0, "precision": "auto", "amsgrad": False},
    "stream": {"validation": 0.0},
    "model": {"start": False},
}
"""Settings that came after stores and runs had been made, with the value that changes nothing."""


def without_later(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sections without those of `LATER` that change nothing, so that what was made before keeps its name and hash.

    For the same reason `fit` says `whiten` and a training its `features`: settings that are gone, but were in the hash.
    """
    kept = {
        section: {key: value for key, value in held.items() if key not in later or value != later[key]}
        if isinstance(held, Mapping) and (later := LATER.get(section))
        else held
        for section, held in values.items()
    }
    if isinstance(kept.get("fit"), Mapping):
        kept["fit"] = {**kept["fit"], "whiten": False}
    if isinstance(kept.get("optim"), Mapping):
        kept["features"] = {"kind": "latents", "windows": [7], "order": 3}
    return kept


def with_later(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same sections with what `without_later` leaves out."""
    return {
        section: {**LATER.get(section, {}), **held} if isinstance(held, Mapping) else held
        for section, held in values.items()
    }
