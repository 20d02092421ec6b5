"""What the command line adds to `config`: the choices of its options, its default paths, and `--set KEY=VALUE`."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any

from arcpipe.errors import ConfigError


class Dtype(StrEnum):
    float16 = "float16"
    float32 = "float32"
    int8 = "int8"


class Cache(StrEnum):
    pixels = "pixels"
    none = "none"


class Recipe(StrEnum):
    basis = "basis"
    thesis = "thesis"
    fast = "fast"
    siren = "siren"


class Features(StrEnum):
    latents = "latents"
    decoded = "decoded"
    both = "both"


class Normalise(StrEnum):
    per_dim = "per-dim"
    whole = "whole"
    per_layer = "per-layer"
    none = "none"


class Schedule(StrEnum):
    constant = "constant"
    cosine = "cosine"


class Model(StrEnum):
    ptv3 = "ptv3"
    ptv1 = "ptv1"
    dws = "dws"
    ng_gnn = "ng-gnn"
    ng_t = "ng-t"
    scalegmn = "scalegmn"
    mlp = "mlp"


class Preset(StrEnum):
    small = "small"
    large = "large"
    full = "full"


class Weights(StrEnum):
    last = "last"
    best = "best"


class Edit(StrEnum):
    push = "push"
    rotate = "rotate"
    flip = "flip"
    zoom = "zoom"
    crop = "crop"
    shear = "shear"
    brightness = "brightness"
    contrast = "contrast"
    saturation = "saturation"
    hue = "hue"
    mask = "mask"
    noise = "noise"
    mix = "mix"


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: the others are left to the defaults of the settings."""
    values = {name: option.value if isinstance(option, StrEnum) else option for name, option in options.items()}
    return {name: value for name, value in values.items() if value is not None}


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


def default_run(store: Path) -> Path:
    """`runs/NAME` for a store's path."""
    return Path("runs") / store.name.removesuffix(".zarr")


def words(text: str | None) -> list[str]:
    """`mask, arcmix` as its words."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def numbers(text: str | None, option: str) -> list[int]:
    """`0,1,2` as numbers; `option` is named where they are none."""
    try:
        return [int(word) for word in words(text)]
    except ValueError:
        raise ConfigError(f"{option} {text}: expected whole numbers.", fix=[f"{option} 0,1,2"]) from None
