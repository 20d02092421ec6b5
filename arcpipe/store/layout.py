"""The arrays of a part: from a `CloudBatch` to what lies on disk and back."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe import cloud
from arcpipe.cloud import CloudBatch, ends_from, morton_codes
from arcpipe.store.arrays import SMALL_NUMBERS, Packing
from arcpipe.store.arrivals import Geometry, encode_arrivals
from arcpipe.store.quantise import Rounding, scale_codes

PER_CLOUD = {"repeat" if name == "repeats" else name: name for name in cloud.PER_CLOUD}
"""Names on disk and in `CloudBatch` of what has a row for each cloud."""
UNSIGNED, SIGNED = ({f"{kind}{bits}" for bits in (8, 16, 32, 64)} for kind in ("uint", "int"))
ARRAYS: dict[str, tuple[set[str], tuple[str | int, ...] | None]] = {
    "offsets": ({"int64"}, ("ends",)),
    "positions": ({"uint16", "uint32"}, ("points", 2)),
    "position_gaps": (UNSIGNED, ("points",)),
    "latents": ({"float16", "float32", "int8"}, ("points", "latent_dim")),
    "latent_scale": ({"float32"}, ("clouds", "latent_dim")),
    "scales": ({"uint8"}, ("points",)),
    "neighbours": ({"uint16", "uint32"}, ("pixels", "n_neighbours")),
    "arrivals": (SIGNED, None),
    "arrival_counts": (UNSIGNED, ("points",)),
    "arrival_offsets": ({"int64"}, ("ends",)),
    "pixel_offsets": ({"int64"}, ("ends",)),
    "labels": ({"int64"}, ("clouds",)),
    "sizes": ({"int64"}, ("clouds", 2)),
    "relative": ({"float32"}, ("clouds", 2)),
    "psnr": ({"float32"}, ("clouds",)),
    "repeat": ({"int64"}, ("clouds",)),
    "sample_ids": ({"int64"}, ("clouds",)),
    "paths": ({"uint8"}, None),
    "path_offsets": ({"int64"}, ("ends",)),
}
"""Data types that each array may have, and its shape; `ends` are clouds + 1. Those without a shape may be of any."""


def part_arrays(batch: CloudBatch, rounding: Rounding, cache: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Lay a batch out as it lies on disk. The second value are the attributes that say how to read it."""
    latents, scale = rounding.quantise(batch.latents, batch.offsets)
    paths, path_offsets = encode_paths(batch.paths)
    arrays: dict[str, NDArray[Any]] = {
        "offsets": batch.offsets.astype(np.int64),
        "position_gaps": encode_gaps(batch.positions, batch.offsets),
        "latents": latents,
        **{ours: getattr(batch, theirs).astype(*ARRAYS[ours][0]) for ours, theirs in PER_CLOUD.items()},
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
    where = Geometry(batch.positions, batch.offsets, batch.pixel_offsets, batch.sizes)
    coded = encode_arrivals(batch.neighbours, where)
    if coded is None:
        narrow = int(batch.neighbours.max(initial=0)) < 2**16
        arrays["neighbours"] = batch.neighbours.astype(np.uint16 if narrow else np.uint32)
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


def array_names(root: Mapping[str, Any], own: Mapping[str, Any]) -> set[str]:
    """The arrays that a part with the attributes `own` has, in a store with the attributes `root`."""
    names = {"offsets", "latents", *PER_CLOUD, "paths", "path_offsets"}
    names.add("position_gaps" if own.get("positions_coding") == "gaps" else "positions")
    if root["dtype"] == "int8" and own.get("latent_steps") is None:
        names.add("latent_scale")
    if root["decoder"].get("kind") == "basis":
        names.add("scales")
    if root["neighbours_cache"] == "none":
        return names
    arrivals = {"arrivals", "arrival_counts", "arrival_offsets"}
    return names | {"pixel_offsets"} | (arrivals if own["neighbours_coding"] == "arrivals" else {"neighbours"})


def encode_gaps(positions: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[Any]:
    """Gaps (m,) between the Morton codes of positions (m, 2); the first of each cloud is a code itself.

    In the narrowest unsigned type that holds them all. Codes rise inside a cloud, which is in Morton order, so that the
    gaps are small numbers: 0.3 bytes a point less than rows and columns take (docs/store-format.md).
    """
    codes = morton_codes(positions)
    gaps = np.diff(codes, prepend=np.uint64(0))
    first = offsets[:-1][np.diff(offsets) > 0]
    gaps[first] = codes[first]
    return gaps.astype(np.min_scalar_type(int(gaps.max(initial=0))))


def decode_gaps(gaps: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[Any]:
    """Positions (m, 2) of the points at `offsets`: uint16, or uint32 where one is above 65,535."""
    codes = np.cumsum(gaps, dtype=np.uint64)  # sums of many clouds may overflow, and their differences are right again
    before = np.concatenate([np.zeros(1, np.uint64), codes])[offsets[:-1]]
    codes -= np.repeat(before, np.diff(offsets))
    positions = np.stack([_without_gaps(codes >> np.uint64(1)), _without_gaps(codes)], axis=1)
    return positions.astype(np.uint16 if int(positions.max(initial=0)) < 2**16 else np.uint32)


def _without_gaps(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The number that every second bit of the codes makes, from the lowest on."""
    values = codes & np.uint64(0x5555555555555555)
    for shift, mask in (
        (1, 0x3333333333333333),
        (2, 0x0F0F0F0F0F0F0F0F),
        (4, 0x00FF00FF00FF00FF),
        (8, 0x0000FFFF0000FFFF),
        (16, 0x00000000FFFFFFFF),
    ):
        values = (values | (values >> np.uint64(shift))) & np.uint64(mask)
    return values


def encode_paths(paths: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts end to end as UTF-8 bytes, and where each begins (s + 1). File names that are no UTF-8 survive."""
    texts = [path.encode("utf-8", "surrogateescape") for path in paths]
    return np.frombuffer(b"".join(texts), np.uint8), ends_from([len(text) for text in texts])


def decode_paths(text: NDArray[np.uint8], offsets: NDArray[np.int64]) -> tuple[str, ...]:
    """Undo `encode_paths` for the texts at `offsets` (which may begin anywhere in `text`)."""
    data = text.tobytes()
    return tuple(
        data[start:stop].decode("utf-8", "surrogateescape") for start, stop in itertools.pairwise(offsets.tolist())
    )
