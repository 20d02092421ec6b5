"""What `config` and the command line share without pydantic: choices by name, default paths, and `--set KEY=VALUE`."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from arcpipe.errors import ConfigError
from arcpipe.storage import Storage

Dtype = Literal["float16", "float32", "int8"]
Cache = Literal["pixels", "none"]
Recipe = Literal["basis", "thesis", "siren"]
Normalise = Literal["per-dim", "whole", "per-layer", "none"]
Schedule = Literal["constant", "cosine"]
Model = Literal["ptv3", "ptv1", "dws", "ng-gnn", "ng-t", "scalegmn", "mlp"]
Preset = Literal["plain", "photo", "small", "large", "full"]
Weights = Literal["last", "best"]
Edit = Literal[
    "push",
    "rotate",
    "flip",
    "zoom",
    "crop",
    "shear",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "mask",
    "noise",
    "mix",
]

SEEDS = range(-(2**63), 2**63)
"""What every generator of random numbers takes."""


def given(options: Mapping[str, Any], besides: Collection[str]) -> dict[str, Any]:
    """The options of a command that are settings and were given: the others are left to the settings' defaults.

    Options have the names of their settings, but for those `besides`.
    """
    return {name: option for name, option in options.items() if option is not None and name not in besides}


def with_expert(values: dict[str, Any], expert: list[str] | None) -> dict[str, Any]:
    """Lay `--set section.key=value` over the options; values are TOML, bare words are text."""
    example = "--set optim.clip_norm=1" if "optim" in values else "--set fit.lr=0.01"
    for entry in expert or []:
        key, sign, text = entry.partition("=")
        if not sign or not key:
            raise ConfigError(f"--set {entry} is not KEY=VALUE.", fix=[example])
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        target = values
        *sections, name = key.strip().split(".")
        for section in sections:
            inner = target.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {entry}: {section} has no settings inside.", fix=[example])
            target = inner
        target[name] = value
    return values


def default_store(source: str) -> Path:
    """`store/NAME.zarr` for a source's name, folder or archive; `.` and `..` have the name of the folder they mean."""
    name = Path(source).name
    if name in ("", ".."):
        name = Path(source).resolve().name
    for ending in (".tar.gz", ".tgz", ".tar", ".zip"):
        name = name.removesuffix(ending)
    return Path("store") / f"{name or 'images'}.zarr"


def default_run(store: Storage) -> Path:
    """`runs/NAME` for a store."""
    return Path("runs") / store.name.removesuffix(".zarr")


def words(text: str | None) -> list[str]:
    """`mask, arcmix` as its words."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def augmentations(text: str) -> list[str]:
    """What `--augment mask,arcmix` or `--augment none` names."""
    named = words(text)
    others = [name for name in named if name != "none"]
    if "none" in named and len(named) > 1:
        fix = ["--augment none", f"--augment {','.join(others or ['mask'])}"]
        raise ConfigError(f"--augment {text}: none stands alone.", fix=fix)
    return others


def seeds_of(text: str | None) -> list[int]:
    """What `--seeds 0,1,2` names."""
    try:
        found = [int(word) for word in words(text)]
        if not all(number in SEEDS for number in found):
            raise ValueError
        return found
    except ValueError:
        raise ConfigError(
            f"--seeds {text}: expected whole numbers of at most 63 bits.", fix=["--seeds 0,1,2"]
        ) from None
