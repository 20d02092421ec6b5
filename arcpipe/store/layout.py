"""The arrays of a part: from a `CloudBatch` to what lies on disk and back."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import CloudBatch
from arcpipe.store.neighbour_codec import encode_neighbours
from arcpipe.store.quantise import quantise_latents

# Name on disk -> name in CloudBatch, one row per cloud.
PER_CLOUD = {
    "labels": "labels",
    "sizes": "sizes",
    "relative": "relative",
    "psnr": "psnr",
    "repeat": "repeats",
    "sample_ids": "sample_ids",
}
SMALL = ("offsets", "pixel_offsets", "latent_scale", *PER_CLOUD, "path_offsets")
"""One row per cloud; offsets have one more."""
COLUMNS_FIRST = {"neighbours"}
DTYPES: dict[str, set[str]] = {
    "offsets": {"int64"},
    "positions": {"uint16", "uint32"},
    "latents": {"float16", "float32", "int8"},
    "latent_scale": {"float32"},
    "neighbours": {"uint16", "uint32"},
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


def part_arrays(batch: CloudBatch, dtype: str, cache: str) -> tuple[dict[str, NDArray[Any]], str | None]:
    """Lay a batch out as it lies on disk. The second value names how `neighbours` is coded, None without a cache."""
    latents, scale = quantise_latents(batch.latents, dtype, batch.offsets)
    paths, path_offsets = encode_paths(batch.paths)
    arrays: dict[str, NDArray[Any]] = {
        "offsets": batch.offsets.astype(np.int64),
        "positions": batch.positions.astype(np.uint16 if _below(batch.positions, 2**16) else np.uint32),
        "latents": latents,
        "labels": batch.labels.astype(np.int64),
        "sizes": batch.sizes.astype(np.int64),
        "relative": batch.relative.astype(np.float32),
        "psnr": batch.psnr.astype(np.float32),
        "repeat": batch.repeats.astype(np.int64),
        "sample_ids": batch.sample_ids.astype(np.int64),
        "paths": paths,
        "path_offsets": path_offsets,
    }
    if scale is not None:
        arrays["latent_scale"] = scale
    if cache == "none":
        return arrays, None
    if batch.neighbours is None or batch.pixel_offsets is None:
        raise ValueError("the store keeps a neighbour cache, and the clouds have none")
    narrow = batch.neighbours.astype(np.uint16 if _below(batch.neighbours, 2**16) else np.uint32, copy=False)
    arrays["neighbours"], coding = encode_neighbours(
        narrow, batch.positions, batch.offsets, batch.pixel_offsets, batch.sizes
    )
    arrays["pixel_offsets"] = batch.pixel_offsets.astype(np.int64)
    return arrays, coding


def expected_shapes(counts: Mapping[str, int], latent_dim: int, n_neighbours: int, names: set[str]) -> dict[str, Any]:
    """Shape of every array of a part with `counts` clouds, points, pixels; the text of paths may have any length."""
    clouds, points, pixels = counts["clouds"], counts["points"], counts["pixels"]
    shapes: dict[str, tuple[int, ...]] = {
        "offsets": (clouds + 1,),
        "positions": (points, 2),
        "latents": (points, latent_dim),
        "latent_scale": (clouds, latent_dim),
        "neighbours": (pixels, n_neighbours),
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


def array_names(dtype: str, cache: str) -> set[str]:
    """The arrays that a part of such a store has."""
    absent = set() if dtype == "int8" else {"latent_scale"}
    return set(DTYPES) - absent - ({"neighbours", "pixel_offsets"} if cache == "none" else set())


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
