"""A decoder in a file of its own, as safetensors: weights and biases by name, two numbers as metadata."""

from __future__ import annotations

from pathlib import Path

import safetensors
from safetensors.numpy import save

from arcpipe.cloud import DecoderRecord
from arcpipe.errors import NotAStoreError
from arcpipe.store.files import replace_file


def save_decoder_file(path: Path, decoder: DecoderRecord) -> None:
    """Write a decoder, replacing an older file atomically."""
    numbers = {"n_neighbours": str(decoder.n_neighbours), "latent_dim": str(decoder.latent_dim)}
    replace_file(path, save(decoder.arrays(), metadata={**numbers, "sha256": decoder.sha256}))


def load_decoder_file(path: Path) -> DecoderRecord:
    """Read a decoder.

    Raises:
        NotAStoreError: no such file, not safetensors, not a decoder, or layers whose shapes do not fit each other.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        record = DecoderRecord.from_arrays(arrays, int(about["n_neighbours"]), int(about["latent_dim"]))
        problem = misfit(record)
    except (OSError, KeyError, ValueError, IndexError, safetensors.SafetensorError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise NotAStoreError(
            f"{path} holds no decoder.",
            details=[problem],
            fix=["--decoder STORE.zarr", "or a decoder.safetensors that arcpipe wrote"],
        )
    return record


def misfit(record: DecoderRecord) -> str | None:
    """Say which layer's shapes do not fit the layer before it, or None."""
    width = record.n_neighbours * (record.latent_dim + 2)
    for i, (weight, bias) in enumerate(zip(record.weights, record.biases, strict=True)):
        if weight.shape != (*bias.shape, width):
            return f"layer {i} has weights {weight.shape} and biases {bias.shape}, expected {width} inputs"
        width = bias.shape[0]
    return None if record.weights else "it has no layers"
