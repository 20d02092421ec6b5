"""The arrays of a part: from a `CloudBatch` to what lies on disk and back."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe import cloud
from arcpipe.cloud import CloudBatch, DecoderKind
from arcpipe.store.arrays import SMALL_NUMBERS, Packing
from arcpipe.store.arrivals import Geometry, encode_arrivals
from arcpipe.store.position_codec import encode_gaps
from arcpipe.store.quantise import Rounding, scale_codes

PER_CLOUD = {"repeat" if name == "repeats" else name: name for name in cloud.PER_CLOUD}
"""Names on disk and in `CloudBatch` of what has a row for each cloud."""
SMALL = ("offsets", "pixel_offsets", "latent_scale", *PER_CLOUD, "path_offsets", "arrival_offsets")
"""One row per cloud; offsets have one more."""
UNSIGNED, SIGNED = ({f"{kind}{bits}" for bits in (8, 16, 32, 64)} for kind in ("uint", "int"))
DTYPES: dict[str, set[str]] = {
    "offsets": {"int64"},
    "positions": {"uint16", "uint32"},
    "position_gaps": UNSIGNED,
    "latents": {"float16", "float32", "int8"},
    "latent_scale": {"float32"},
    "scales": {"uint8"},
    "neighbours": {"uint16", "uint32"},
    "arrivals": SIGNED,
    "arrival_counts": UNSIGNED,
    "arrival_offsets": {"int64"},
    "pixel_offsets": {"int64"},
    "labels": {"int64"},
    "sizes": {"int64"},
    "relative": {"float32"},
    "psnr": {"float32"},
    "repeat": {"int64"},
    "sample_ids": {"int64"},
    "paths": {"uint8"},
    "path_offsets": {"int64"},
}


def part_arrays(batch: CloudBatch, rounding: Rounding, cache: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Lay a batch out as it lies on disk. The second value are the attributes that say how to read it."""
    latents, scale = rounding.quantise(batch.latents, batch.offsets)
    paths, path_offsets = encode_paths(batch.paths)
    arrays: dict[str, NDArray[Any]] = {
        "offsets": batch.offsets.astype(np.int64),
        "position_gaps": encode_gaps(batch.positions, batch.offsets),
        "latents": latents,
        **{ours: getattr(batch, theirs).astype(*DTYPES[ours]) for ours, theirs in PER_CLOUD.items()},
        "paths": paths,
        "path_offsets": path_offsets,
    }
    about: dict[str, Any] = {"positions_coding": "gaps", "neighbours_coding": None}
    if scale is not None:
        arrays["latent_scale"] = scale
    if rounding.steps is not None:
        about["latent_steps"] = list(rounding.steps)
    if batch.scales is not None:
        arrays["scales"] = scale_codes(batch.scales)
    if cache == "none":
        return arrays, about
    if batch.neighbours is None or batch.pixel_offsets is None:
        raise ValueError("the store keeps a neighbour cache, and the clouds have none")
    arrays["pixel_offsets"] = batch.pixel_offsets.astype(np.int64)
    coded = encode_arrivals(
        batch.neighbours, Geometry(batch.positions, batch.offsets, batch.pixel_offsets, batch.sizes)
    )
    if coded is None:
        arrays["neighbours"] = batch.neighbours.astype(np.uint16 if _below(batch.neighbours, 2**16) else np.uint32)
        return arrays, {**about, "neighbours_coding": "plain"}
    arrays |= {"arrivals": coded.places, "arrival_counts": coded.counts, "arrival_offsets": coded.offsets}
    return arrays, {**about, "neighbours_coding": "arrivals", "n_neighbours": batch.neighbours.shape[1]}


def packing(name: str, values: NDArray[Any]) -> Packing | None:
    """How an array is compressed; None: as its type is."""
    if name == "neighbours":
        return Packing(columns_first=values.ndim == 2)
    if name == "arrivals" or (name == "latents" and values.dtype == np.int8):
        return replace(SMALL_NUMBERS, columns_first=values.ndim == 2)
    return SMALL_NUMBERS if name in ("position_gaps", "arrival_counts", "scales") else None


def expected_shapes(counts: Mapping[str, int], latent_dim: int, n_neighbours: int, names: set[str]) -> dict[str, Any]:
    """Shape of every array of a part with `counts` clouds, points, pixels; paths and arrivals may have any length."""
    clouds, points, pixels = counts["clouds"], counts["points"], counts["pixels"]
    shapes: dict[str, tuple[int, ...]] = {
        "offsets": (clouds + 1,),
        "positions": (points, 2),
        "position_gaps": (points,),
        "latents": (points, latent_dim),
        "latent_scale": (clouds, latent_dim),
        "scales": (points,),
        "neighbours": (pixels, n_neighbours),
        "arrival_counts": (points,),
        "arrival_offsets": (clouds + 1,),
        "pixel_offsets": (clouds + 1,),
        "labels": (clouds,),
        "sizes": (clouds, 2),
        "relative": (clouds, 2),
        "psnr": (clouds,),
        "repeat": (clouds,),
        "sample_ids": (clouds,),
        "path_offsets": (clouds + 1,),
    }
    return {name: shape for name, shape in shapes.items() if name in names}


def array_names(dtype: str, cache: str, kind: DecoderKind, own: Mapping[str, Any]) -> set[str]:
    """The arrays that a part with the attributes `own` has, in a store with such settings and such a decoder."""
    names = {"offsets", "latents", *PER_CLOUD, "paths", "path_offsets"}
    names.add("position_gaps" if own.get("positions_coding") == "gaps" else "positions")
    if dtype == "int8" and own.get("latent_steps") is None:
        names.add("latent_scale")
    if kind == "basis":
        names.add("scales")
    if cache == "none":
        return names
    arrivals = {"arrivals", "arrival_counts", "arrival_offsets"}
    return names | {"pixel_offsets"} | (arrivals if own["neighbours_coding"] == "arrivals" else {"neighbours"})


def encode_paths(paths: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts end to end as UTF-8 bytes, and where each begins (s + 1). File names that are no UTF-8 survive."""
    texts = [path.encode("utf-8", "surrogateescape") for path in paths]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)]).astype(np.int64)
    return np.frombuffer(b"".join(texts), np.uint8), offsets


def decode_paths(text: NDArray[np.uint8], offsets: NDArray[np.int64]) -> tuple[str, ...]:
    """Undo `encode_paths` for the texts at `offsets` (which may begin anywhere in `text`)."""
    data = text.tobytes()
    return tuple(
        data[start:stop].decode("utf-8", "surrogateescape") for start, stop in itertools.pairwise(offsets.tolist())
    )


def _below(values: NDArray[Any], limit: int) -> bool:
    return values.size == 0 or int(values.max()) < limit
