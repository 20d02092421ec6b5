"""Tiles: pixels that are worked on together, with their neighbours as flat index tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcpipe.arc.problem import PreparedImage, places, standardised_gaps
from arcpipe.cloud import ends_from

LEAST_ROWS = 16
"""Matrices of fewer rows are padded to so many. MKL gives a row the same bits whatever the other rows are, except where
a thread has 3 rows or fewer (measured, MKL 2024.2): padded, even a tiny image does not depend on its batch mates."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Pixels that are worked on together, t of them near m latents; all tensors on one device.

    `rows` (m,) int64: which latents of the problem these are; None: all, in order. `index` (t * n,) int32: for each
    pixel and slot its row `latent * n + slot` of the projected latents; `index_offsets` (t + 1,) int32. `users` (real
    pixels * n,) int32 with `user_offsets` (m * n + 1,) int32 is its transpose: the pixels of each row, rising.
    `relative` (t, 2 n) standardised, `target` (t, channels), `weight` (t, 1): 1 / (supervised values of the pixel's
    image in this step), 0 for padding; float32.
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


def index_rows(near: NDArray[Any], n_latents: int | None) -> tuple[NDArray[np.int64] | None, NDArray[np.int32]]:
    """Name the latents of a tile and, for each pixel and slot, its row among their products.

    Args:
        near: (t, n) latents of each pixel, nearest first.
        n_latents: Take all of so many latents; None: only those in `near`.

    Returns:
        The latents (m,), m >= LEAST_ROWS, or None for all in order; and (t, n) `place in that list * n + slot`.
    """
    n = near.shape[1]
    touched, places = np.unique(near, return_inverse=True) if n_latents is None else (np.arange(n_latents), near)
    index = (places.reshape(near.shape) * n + np.arange(n)).astype(np.int32)
    everything = n_latents is not None and n_latents >= LEAST_ROWS
    return None if everything else padded(touched.astype(np.int64)), index


def transpose(index: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """List the pixels of every row, on the device of `index` (pixels, n) int32: (pixels * n,) rising within a row, and
    (n_rows + 1,) offsets, int32."""
    rows, order = torch.sort(index.flatten(), stable=True)
    offsets = torch.searchsorted(rows, torch.arange(n_rows + 1, device=rows.device, dtype=rows.dtype), out_int32=True)
    return (order // index.shape[1]).int(), offsets


def padded(array: NDArray[Any]) -> NDArray[Any]:
    """Add rows of zeros up to `LEAST_ROWS`."""
    missing = LEAST_ROWS - len(array)
    if missing <= 0:
        return array
    return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])


class Tiled:
    """Several small images, or one large one, as tiles.

    Args:
        images: All cut into the same number of mini-batches.
        tile_pixels: The mini-batch of a single image is cut into tiles of at most so many pixels.
        device: Where the tensors live.
        keep: Keep the tiles (`kept_bytes`); otherwise build them again in each step, at about half the speed.
    """

    def __init__(
        self,
        images: Sequence[PreparedImage],
        *,
        tile_pixels: int,
        device: str | torch.device = "cpu",
        keep: bool = True,
    ) -> None:
        self.images = tuple(images)
        self.device = torch.device(device)
        self.latent_offsets = ends_from([len(image.positions) for image in images])
        self.n_batches = images[0].n_batches
        self._tile_pixels = tile_pixels
        self.keeps = keep
        self._kept: dict[int, tuple[Tile, ...]] = {}

    def latents(self) -> Tensor:
        """The first latents of all images end to end, on the device."""
        return torch.from_numpy(np.concatenate([image.first_latents() for image in self.images])).to(self.device)

    def tiles(self, step: int) -> tuple[Tile, ...]:
        """The mini-batch of a step, counted from 0."""
        batch = step % self.n_batches
        tiles = self._kept.get(batch) or self._build(batch)
        if self.keeps:
            self._kept[batch] = tiles
        return tiles

    def _build(self, batch: int) -> tuple[Tile, ...]:
        batches = [image.batch(batch) for image in self.images]
        n_pixels = len(batches[0])
        if len(self.images) > 1 or n_pixels <= self._tile_pixels:
            return (self._lay(batches, slice(None), int(self.latent_offsets[-1])),)
        n_tiles = -(-n_pixels // self._tile_pixels)
        cuts = [n_pixels * i // n_tiles for i in range(n_tiles + 1)]
        pieces = [slice(*ends) for ends in pairwise(cuts)]
        return tuple(self._lay(batches, piece, None) for piece in pieces)

    def _lay(self, batches: Sequence[NDArray[np.int64]], piece: slice, n_latents: int | None) -> Tile:
        """Lay a piece of every image's mini-batch end to end.

        `n_latents` says that the tile is to see all latents of the problem; None: only those it needs.
        """
        near, relative, target, weight = [], [], [], []
        for image, batch, first_row in zip(self.images, batches, self.latent_offsets[:-1], strict=True):
            pixels = batch[piece]
            local = image.neighbours[pixels]
            near.append(local + np.int32(first_row))
            relative.append(standardised_gaps(image.positions, local, places(pixels, image.size[1]), image.relative))
            target.append(image.target[pixels])
            share = 1 / (len(batch) * image.target.shape[1])
            weight.append(np.full((len(pixels), 1), share, np.float32))
        rows, index = index_rows(np.concatenate(near), n_latents)
        n_pixels, n = index.shape
        users, user_offsets = transpose(self._move(index), (len(rows) if rows is not None else n_latents or 0) * n)
        index = padded(index)
        return Tile(
            rows=None if rows is None else self._move(rows),
            index=self._move(index.ravel()),
            index_offsets=self._move(np.arange(0, index.size + 1, n, dtype=np.int32)),
            users=users,
            user_offsets=user_offsets,
            relative=self._move(padded(np.concatenate(relative))),
            target=self._move(padded(np.concatenate(target))),
            weight=self._move(padded(np.concatenate(weight))),
            order=self._move(np.arange(n_pixels, dtype=np.int32)),
            image_offsets=self._move(ends_from([len(part) for part in near]).astype(np.int32)),
        )

    def _move(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def kept_bytes(images: Sequence[PreparedImage]) -> int:
    """Memory of the kept tiles: index and its transpose, relative positions, targets, weight and number of each
    pixel."""
    return sum(4 * (4 * image.neighbours.size + image.target.size + 3 * len(image.target)) for image in images)
