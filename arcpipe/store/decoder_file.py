"""A decoder in a file of its own, as safetensors: weights and biases by name, two numbers and its kind as metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import safetensors
from safetensors.numpy import save

from arcpipe.cloud import BasisRecord, DecoderKind, DecoderRecord, SirenRecord, record_from_arrays
from arcpipe.errors import NotAStoreError
from arcpipe.files import replace_file

MOST_ORDER = 64
"""Of a basis: no decoder comes near it, and a file that says more is damaged."""
MOST_LAYERS, MOST_WIDTH = 32, 2**12
"""Of sine networks."""
MOST_REACH_PX = 64
"""Of a basis at its least scale: 8 in those that are learned. The tables that are made for it grow with its square."""


def save_decoder_file(path: Path, decoder: DecoderRecord) -> None:
    """Write a decoder, replacing an older file atomically."""
    about = {name: str(value) for name, value in describe(decoder).items()}
    replace_file(path, save(decoder.arrays(), metadata=about))


def load_decoder_file(path: Path) -> DecoderRecord:
    """Read a decoder.

    Raises:
        NotAStoreError: no such file, not safetensors, not a decoder, layers whose shapes do not fit each other, or a
            kind that is gone.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        kind = decoder_kind(about, path)
        record = record_from_arrays(arrays, int(about["n_neighbours"]), int(about["latent_dim"]), kind)
        problem = misfit(record)
    except (OSError, KeyError, ValueError, IndexError, safetensors.SafetensorError) as error:
        missing = isinstance(error, KeyError)
        problem = f"it does not say {error}" if missing else f"{type(error).__name__}: {error}"
    if problem:
        raise NotAStoreError(
            f"{path} holds no decoder.",
            details=[problem],
            fix=["--decoder STORE.zarr", "or a decoder.safetensors that arcpipe wrote"],
        )
    return record


def describe(decoder: DecoderRecord) -> dict[str, Any]:
    """Say what a store or a file keeps of its decoder beside the arrays. A kind that is not named is `concat`."""
    about = {"n_neighbours": decoder.n_neighbours, "latent_dim": decoder.latent_dim, "sha256": decoder.sha256}
    return about if decoder.kind == "concat" else {**about, "kind": decoder.kind}


def decoder_kind(about: Mapping[str, Any], path: object) -> DecoderKind:
    """The kind in what `describe` gave to the store, run or file at `path`.

    Raises:
        NotAStoreError: a kind of older versions.
        ValueError: this version knows no such kind.
    """
    kind: DecoderKind | Literal["blend"] = about.get("kind", "concat")
    if kind == "blend":
        raise NotAStoreError(
            f"{path} was made by an older arcpipe with the decoder kind blend, which is gone.",
            fix=["convert again: arcpipe convert SOURCE --out NEW.zarr"],
        )
    if kind not in get_args(DecoderKind):
        raise ValueError(f"a decoder of the kind {kind!r}: known kinds are {', '.join(get_args(DecoderKind))}")
    return kind


def misfit(record: DecoderRecord) -> str | None:
    """Say which shapes of a decoder's arrays do not fit each other, or None."""
    if isinstance(record, BasisRecord):
        return basis_misfit(record)
    if isinstance(record, SirenRecord):
        return siren_misfit(record)
    width = record.n_neighbours * (record.latent_dim + 2)
    for i, (weight, bias) in enumerate(zip(record.weights, record.biases, strict=True)):
        if weight.shape != (*bias.shape, width):
            return f"layer {i} has weights {weight.shape} and biases {bias.shape}, expected {width} inputs"
        width = bias.shape[0]
    return None if record.weights else "it has no layers"


def siren_misfit(record: SirenRecord) -> str | None:
    """Say what is wrong with the arrays of a decoder of the kind `siren`, or None."""
    widths = record.widths
    if widths.ndim != 1 or not 3 <= len(widths) <= MOST_LAYERS or not np.isfinite(widths).all():
        return f"it has widths {widths.shape}, expected 2 coordinates, hidden widths and channels"
    if widths[0] != 2 or (widths != np.round(widths)).any() or widths.min() < 1 or widths.max() > MOST_WIDTH:
        return f"its widths are {widths.tolist()}, expected 2 and then whole numbers up to {MOST_WIDTH}"
    if (
        record.form.shape != (5,)
        or not np.isfinite(record.form).all()
        or record.omega <= 0
        or record.low >= record.high
    ):
        return f"its form is {record.form.tolist()}"
    if record.start.shape not in ((0,), (record.latent_dim,)) or not np.isfinite(record.start).all():
        return f"it has {record.start.shape} first values for {record.latent_dim} parameters"
    return None


def basis_misfit(record: BasisRecord) -> str | None:
    """Say what is wrong with the arrays of a decoder of the kind `basis`, or None."""
    if record.profiles.ndim != 3 or len(record.profiles) < 2 or min(record.profiles.shape) < 1:
        return f"it has profiles {record.profiles.shape}, expected (knots, channels, units)"
    if record.orders.shape != record.profiles.shape[2:]:
        return f"it has {record.orders.shape} orders for {record.profiles.shape[2]} profiles"
    orders = record.orders
    if not (np.isfinite(orders).all() and (orders == np.round(orders)).all() and (np.diff(orders) >= 0).all()):
        return "its orders are not rising whole numbers"
    if orders.min() < 0 or orders.max() > MOST_ORDER:
        return f"its orders reach from {orders.min():g} to {orders.max():g}, expected 0 to {MOST_ORDER}"
    width = (record.latent_dim,)
    if record.costs.shape != width or record.ranges.shape != width or record.scale_rule.shape != (3,):
        return f"costs {record.costs.shape}, ranges {record.ranges.shape} or scale_rule {record.scale_rule.shape}"
    numbers = (record.spacing, record.sharpness, *record.scale_rule)
    if not all(math.isfinite(value) and value > 0 for value in numbers):
        return f"its spacing, sharpness and scale_rule must be above 0, found {numbers}"
    if not 0 <= record.floor < 1:
        return f"its floor is {record.floor}, expected at least 0 and less than 1"
    reach = (len(record.profiles) - 1) * record.spacing * float(record.scale_rule[1])
    if reach > MOST_REACH_PX or record.scale_rule[1] > record.scale_rule[2]:
        return f"its scale_rule is {record.scale_rule}, of which the least reaches {reach:g} px of {MOST_REACH_PX}"
    return None
