"""A tile: pixels that are worked on together, with their neighbours as flat index tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcpipe.cloud import ends_from

LEAST_ROWS = 16
"""Matrices of fewer rows are padded to so many. MKL gives a row the same bits whatever the other rows are, except where
a thread has 3 rows or fewer (measured, MKL 2024.2): padded, even a tiny image does not depend on its batch mates."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """The pixels of a tile as NumPy arrays, those of several images end to end.

    `near` (t, n): rows of the problem's latents. `relative` (t, 2 n) float32, standardised. `target` (t, channels)
    float32. `weight` (t, 1) float32: 1 / (supervised values of the pixel's image in this step). `counts`: pixels of
    each image.
    """

    near: NDArray[np.int32]
    relative: NDArray[np.float32]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """Pixels that are worked on together, t of them near m latents; all tensors on one device.

    `rows` (m,) int64: which latents of the problem these are; None: all, in order. `index` (t * n,) int32: for each
    pixel and slot its row `latent * n + slot` of the projected latents; `index_offsets` (t + 1,) int32. `users` (real
    pixels * n,) int32 with `user_offsets` (m * n + 1,) int32 is its transpose: the pixels of each row, rising.
    `relative` (t, 2 n), `target` (t, channels), `weight` (t, 1) as in `Pixels`, with weight 0 for padding.
    `image_offsets` (images + 1,) int32 cuts the pixels, whose numbers 0, 1, 2... are `order`, into images.
    """

    rows: Tensor | None
    index: Tensor
    index_offsets: Tensor
    users: Tensor
    user_offsets: Tensor
    relative: Tensor
    target: Tensor
    weight: Tensor
    order: Tensor
    image_offsets: Tensor


def build_tile(pixels: Pixels, n_latents: int | None, device: torch.device) -> Tile:
    """Lay out a tile. `n_latents` says that it is to see all latents of the problem; None: only those it needs."""
    rows, index = index_rows(pixels.near, n_latents)
    n = index.shape[1]
    n_pixels, n_rows = len(index), (len(rows) if rows is not None else n_latents or 0) * n
    index = padded(index)

    def move(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    if device.type == "cpu":
        users, user_offsets = (torch.from_numpy(part) for part in transpose(index[:n_pixels], n_rows))
    else:
        users, user_offsets = transpose_there(move(index[:n_pixels]), n_rows)
    return Tile(
        rows=None if rows is None else move(rows),
        index=move(index.ravel()),
        index_offsets=move(np.arange(0, index.size + 1, n, dtype=np.int32)),
        users=users,
        user_offsets=user_offsets,
        relative=move(padded(pixels.relative)),
        target=move(padded(pixels.target)),
        weight=move(padded(pixels.weight)),
        order=move(np.arange(n_pixels, dtype=np.int32)),
        image_offsets=move(ends_from(pixels.counts).astype(np.int32)),
    )


def index_rows(near: NDArray[Any], n_latents: int | None) -> tuple[NDArray[np.int64] | None, NDArray[np.int32]]:
    """Name the latents of a tile and, for each pixel and slot, its row among their products.

    Args:
        near: (t, n) latents of each pixel, nearest first.
        n_latents: Take all of so many latents; None: only those in `near`.

    Returns:
        The latents (m,), m >= LEAST_ROWS, or None for all in order; and (t, n) `place in that list * n + slot`.
    """
    n = near.shape[1]
    touched: NDArray[Any]
    places: NDArray[Any]
    if n_latents is None:
        touched, places = np.unique(near, return_inverse=True)
        places = places.reshape(near.shape)
    else:
        touched, places = np.arange(n_latents), near
    everything = n_latents is not None and n_latents >= LEAST_ROWS
    index = (places * n + np.arange(n)).astype(np.int32)
    return None if everything else padded(touched.astype(np.int64)), index


def transpose(index: NDArray[np.int32], n_rows: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """List the pixels of every row: (pixels * n,) rising within a row, and (n_rows + 1,) offsets."""
    users = np.argsort(index.ravel(), kind="stable") // index.shape[1]
    counts = np.bincount(index.ravel(), minlength=n_rows)
    return users.astype(np.int32), np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def transpose_there(index: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """What `transpose` gives, on the device of `index` (pixels, n) int32, which has a fast sort."""
    rows, order = torch.sort(index.flatten(), stable=True)
    offsets = torch.searchsorted(rows, torch.arange(n_rows + 1, device=rows.device, dtype=rows.dtype), out_int32=True)
    return (order // index.shape[1]).int(), offsets


def padded(array: NDArray[Any]) -> NDArray[Any]:
    """Add rows of zeros up to `LEAST_ROWS`."""
    missing = LEAST_ROWS - len(array)
    if missing <= 0:
        return array
    return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
