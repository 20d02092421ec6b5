"""The neighbour cache as `arrivals`: which anchors become neighbours where, from which all lists follow.

Neighbours change little from pixel to pixel. Go through an image in raster order: nearly always the nearest anchors of
a pixel are among those of the pixel to the left, the pixel above and the one above to the right, and positions tell
which of them. Only an anchor that none of the three has must be stored: it arrives. An anchor does so about twice, near
itself, so that its place relative to the anchor is a small number (docs/store-format.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import ends_from

MAX_SIDE, MAX_ANCHORS = 2**17, 2**26
"""Of one image: distance and row of an anchor fit into one integer of 64 bits."""
SET_ROW_BITS = 31
"""Of a key of a set, (squared distance, row). A distance has the other 33: images had at most 2**16 pixels a side."""
SET_PIXELS = 2**17
"""Pixels of sets decoded at once, to bound the work memory."""


@dataclass(frozen=True)
class Geometry:
    """Where the anchors and pixels of some clouds lie: as the fields of `CloudBatch` of these names."""

    positions: NDArray[Any]
    offsets: NDArray[np.int64]
    pixel_offsets: NDArray[np.int64]
    sizes: NDArray[Any]


@dataclass(frozen=True)
class Arrivals:
    """Where anchors become neighbours.

    `places` (e, 2) signed integers: row and column of a pixel minus those of the anchor that arrives there; anchor
    after anchor, pixels in raster order. `counts` (m,): arrivals of each anchor. `offsets` (s + 1,): where those of
    each cloud begin.
    """

    places: NDArray[Any]
    counts: NDArray[Any]
    offsets: NDArray[np.int64]


def encode_arrivals(neighbours: NDArray[Any], where: Geometry) -> Arrivals | None:
    """Code the neighbours (pixels, n) of some clouds; None where they are not what would be read.

    That is where they are not the nearest of what the pixels before them have, nearest first, equal distances by lower
    row; where anchors are fewer than n; and where an image is larger than the limits above.
    """
    sizes, most = np.ascontiguousarray(where.sizes, np.int64), int(np.diff(where.offsets).max(initial=0))
    if int(sizes.max(initial=0)) > MAX_SIDE or most > MAX_ANCHORS:
        return None
    if neighbours.size and not (neighbours.min() >= 0 and neighbours.max() < most):
        return None
    neighbours = np.ascontiguousarray(neighbours, _list_type(most))
    pixels, anchors = _find(neighbours, where, sizes)
    order = np.argsort(anchors, kind="stable")  # pixels rise already
    pixels, anchors = pixels[order], anchors[order]
    cloud = np.searchsorted(where.pixel_offsets, pixels, side="right") - 1
    rows_columns = np.stack(np.divmod(pixels - where.pixel_offsets[cloud], sizes[cloud, 1]), axis=1)
    places = rows_columns - where.positions[anchors].astype(np.int64)
    low, high = int(places.min(initial=0)), int(places.max(initial=0))
    counts = np.bincount(anchors, minlength=len(where.positions))
    coded = Arrivals(
        places=places.astype(np.min_scalar_type(min(low, -1 - high))),  # the narrowest signed type for both
        counts=counts.astype(np.min_scalar_type(int(counts.max(initial=0)))),
        offsets=ends_from(counts)[where.offsets],
    )
    try:
        same = np.array_equal(decode_arrivals(coded, where, neighbours.shape[1]), neighbours)
    except ValueError:
        return None
    return coded if same else None


def _find(
    neighbours: NDArray[Any], where: Geometry, sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixel and anchor of every arrival, pixels rising."""
    from arcpipe.store.arrival_loops import find_arrivals

    room, count = len(neighbours) // 4 + 64, 0  # most images have one for every 10 pixels
    while True:
        pixels, anchors = np.empty(room, np.int64), np.empty(room, np.int64)
        count = find_arrivals(neighbours, where.offsets, where.pixel_offsets, sizes, pixels, anchors)
        if count <= room:
            return pixels[:count], anchors[:count]
        room = count


def decode_arrivals(coded: Arrivals, where: Geometry, n_neighbours: int) -> NDArray[Any]:
    """Undo `encode_arrivals`, given the positions.

    Returns:
        (pixels, n) uint16, or uint32 where a cloud has more than 65,536 anchors: rows of its own cloud, pixels in
        raster order, nearest first, equal distances by lower row.

    Raises:
        ValueError: the numbers contradict each other.
    """
    from arcpipe.store.arrival_loops import follow_arrivals

    sizes = np.ascontiguousarray(where.sizes, np.int64)
    if sizes.size and not (sizes.min() >= 1 and sizes.max() <= MAX_SIDE):
        raise ValueError(f"images of {sizes.min()} to {sizes.max()} pixels a side")
    ends = where.pixel_offsets
    if len(ends) != len(sizes) + 1 or not np.array_equal(np.diff(ends), sizes[:, 0] * sizes[:, 1]):
        raise ValueError("images have other numbers of pixels than their sizes say")
    n_points = np.diff(where.offsets)
    if n_points.max(initial=0) > MAX_ANCHORS:
        raise ValueError(f"a cloud of {n_points.max()} anchors")
    positions = np.ascontiguousarray(where.positions, np.int64)
    owner = np.repeat(np.arange(len(sizes)), n_points)
    if len(positions) != len(owner) or _outside(positions, sizes[owner]):
        raise ValueError("an anchor is outside of its image")
    if coded.places.ndim != 2 or coded.places.shape[1] != 2 or coded.counts.ndim != 1:
        raise ValueError(f"arrivals of shape {coded.places.shape}")
    counts = coded.counts.astype(np.int64)
    n_arrivals = len(coded.places)
    counted = len(counts) == len(positions) and ((counts >= 0) & (counts <= n_arrivals)).all()
    if not counted or int(counts.sum()) != n_arrivals:
        raise ValueError("there are not as many arrivals as the anchors say")
    anchors = np.repeat(np.arange(len(positions)), counts)
    cloud = owner[anchors]
    places = positions[anchors] + coded.places.astype(np.int64)
    if _outside(places, sizes[cloud]):
        raise ValueError("an anchor arrives outside of its image")
    pixels = where.pixel_offsets[cloud] + places[:, 0] * sizes[cloud, 1] + places[:, 1]
    order = np.argsort(pixels, kind="stable")
    lists = np.empty((int(ends[-1]), n_neighbours), _list_type(int(n_points.max(initial=0))))
    lost = follow_arrivals(positions, where.offsets, where.pixel_offsets, sizes, pixels[order], anchors[order], lists)
    if lost >= 0:
        raise ValueError(f"pixel {lost} has fewer than {n_neighbours} anchors to choose from")
    return lists


def decode_neighbours(stored: NDArray[Any], coding: str, where: Geometry) -> NDArray[Any]:
    """The lists (pixels, n) of some clouds, nearest first, from what `neighbours` has: them, or a set for each pixel.

    Sets, in any order, are those of format version 1. Positions and pixels are integers, so that "nearest first, equal
    distances by lower row" follows exactly from the positions.

    Raises:
        ValueError: an unknown coding, or a row that no cloud has.
    """
    if coding == "plain":
        return stored
    if coding != "sets":
        raise ValueError(f"unknown coding of neighbours: {coding!r}")
    decoded = np.empty_like(stored)
    places = where.positions.astype(np.int64)
    for start in range(0, len(stored), SET_PIXELS):
        rows = stored[start : start + SET_PIXELS].astype(np.int64)
        pixels = np.arange(start, start + len(rows))
        cloud = np.searchsorted(where.pixel_offsets, pixels, side="right") - 1
        counts = np.diff(where.offsets)[cloud]
        if rows.size and (rows.min() < 0 or (rows.max(axis=1) >= counts).any()):
            raise ValueError("a neighbour is a row that its cloud does not have")
        y, x = np.divmod(pixels - where.pixel_offsets[cloud], where.sizes[cloud, 1])
        gaps = places[where.offsets[cloud, None] + rows] - np.stack([y, x], axis=1)[:, None]
        keys = ((gaps * gaps).sum(axis=2).view(np.uint64) << SET_ROW_BITS) | rows.view(np.uint64)
        keys.sort(axis=1)
        decoded[start : start + SET_PIXELS] = keys & (2**SET_ROW_BITS - 1)
    return decoded


def _list_type(most: int) -> type[np.unsignedinteger[Any]]:
    """The type of rows of clouds with up to so many anchors."""
    return np.uint16 if most <= 2**16 else np.uint32


def _outside(places: NDArray[np.int64], sizes: NDArray[np.int64]) -> bool:
    return bool(((places < 0) | (places >= sizes)).any())
