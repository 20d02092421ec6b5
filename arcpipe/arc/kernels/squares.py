"""Cuts the mini-batches of an image into tiles: the pixels that lie in one square of the image."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.problem import PreparedImage
from arcpipe.compiled import compiled
from arcpipe.vectors import ROWS

BUILT_ON_SHA256 = "4e7d95d5854297219ff37ab5b1b3570abb48c5b371d02bd0dff7d7007b58f935"
"""See `arcpipe.compiled`: of `vectors.py`."""

MOST_BANDS, BAND_SQUARES = 16, 8
"""A large image is cut into bands of at least `BAND_SQUARES` squares that may be worked on at the same time. Their
number depends on the image alone, and sums are taken band by band, so that threads change no bit."""
LEAST_SLOTS = 4
"""The kernel adds up 4 rows for every pixel, and more in a loop; fewer neighbours are filled up with rows of zeros."""


class Cut(NamedTuple):
    """An image cut into tiles, ordered by mini-batch, then by square. Some tiles may have no pixel.

    A tile multiplies each latent that its pixels need once for every slot in which they need it: that is a *row*.

    `pixels` (pixels,) int32: the pixels in the order of the tiles; tile t owns `tile_pixels[t]:tile_pixels[t + 1]`.
    `rows` (pixels * slots,) uint16: the row, in its tile, of each pixel and slot.
    `row_latents`: the latent of each row; tile t owns `tile_rows[t]:tile_rows[t + 1]`.
    `slot_rows` (tiles * (n + 1),): where, in a tile, the rows of each slot begin and end.
    `users`: the pixels of each row, as numbers in the tile; row r owns `row_users[r]:row_users[r + 1]`.
    `origins` (tiles * 2,) float32: the middle pixel of each tile's square.
    `bands` (bands + 1,): where the squares of each band begin.
    `ghosts` (ghosts,): a latent that several bands use has a *ghost* in each of them, so that no two bands add to the
    same gradient. Ghost g is row `latents + 1 + g`, which `row_latents` names, and stands for the latent `ghosts[g]`.
    """

    pixels: NDArray[np.int32]
    tile_pixels: NDArray[np.int64]
    rows: NDArray[np.uint16]
    row_latents: NDArray[np.int32]
    tile_rows: NDArray[np.int64]
    slot_rows: NDArray[np.int32]
    users: NDArray[np.uint16]
    row_users: NDArray[np.int64]
    origins: NDArray[np.float32]
    bands: NDArray[np.int64]
    ghosts: NDArray[np.int32]


def cut_image(image: PreparedImage, tile_pixels: int) -> Cut:
    """Cut an image into tiles of about `tile_pixels` supervised pixels."""
    n = image.neighbours.shape[1]
    slots = max(LEAST_SLOTS, n)
    # A tile's rows are numbered in 16 bits: at most one for each pixel of its square and slot, and the padding.
    area = min(tile_pixels * image.n_batches, (2**16 - ROWS * (n + 1)) // n)
    sides = square_sides(image.size, area)
    pixels, ends = sort_pixels(image.batch_of, image.n_batches, *image.size, *sides)
    n_latents = len(image.positions)
    rows, latents, tile_rows, slot_rows = number_rows(pixels, ends, image.neighbours, n_latents, slots)
    users, row_users = list_users(rows, ends, tile_rows, n, slots)
    middles = origins(image.size, sides, image.n_batches).ravel()
    bands = band_ends((len(ends) - 1) // image.n_batches)
    ghosts = raise_ghosts(latents, tile_rows, bands, image.n_batches, n_latents)
    return Cut(pixels, ends, rows, latents, tile_rows, slot_rows, users, row_users, middles, bands, ghosts)


def band_ends(n_squares: int) -> NDArray[np.int64]:
    """Where the squares of each band begin, (bands + 1,)."""
    n_bands = min(MOST_BANDS, max(1, n_squares // BAND_SQUARES))
    return np.arange(n_bands + 1, dtype=np.int64) * n_squares // n_bands


@compiled
def raise_ghosts(latents, tile_rows, bands, n_batches, n_latents):
    """Give the latents (rows,) that several bands use a ghost in each; changes `latents`, returns the ghosts."""
    n_bands, n_squares = len(bands) - 1, bands[-1]
    if n_bands == 1:
        return np.empty(0, np.int32)
    owner = np.full(n_latents + 1, -1, np.int32)
    for band in range(n_bands):
        for batch in range(n_batches):
            first = batch * n_squares
            for row in range(tile_rows[first + bands[band]], tile_rows[first + bands[band + 1]]):
                latent = latents[row]
                if owner[latent] == -1:
                    owner[latent] = band
                elif owner[latent] != band:
                    owner[latent] = -2
    place, seen = np.empty(n_latents + 1, np.int32), np.full(n_latents + 1, -1, np.int32)
    ghosts, n_ghosts = np.empty(n_bands * np.sum(owner == -2), np.int32), 0
    for band in range(n_bands):
        for batch in range(n_batches):
            first = batch * n_squares
            for row in range(tile_rows[first + bands[band]], tile_rows[first + bands[band + 1]]):
                latent = latents[row]
                if owner[latent] != -2:
                    continue
                if seen[latent] != band:
                    seen[latent] = band
                    place[latent] = n_latents + 1 + n_ghosts
                    ghosts[n_ghosts] = latent
                    n_ghosts += 1
                latents[row] = place[latent]
    return ghosts[:n_ghosts].copy()


@compiled
def restore_neighbours(cut, n_latents, n, slots):
    """The neighbours (pixels, n) int32 that an image was cut by, in raster order."""
    neighbours = np.empty((len(cut.pixels), n), np.int32)
    for t in range(len(cut.tile_pixels) - 1):
        for i in range(cut.tile_pixels[t], cut.tile_pixels[t + 1]):
            for s in range(n):
                latent = cut.row_latents[cut.tile_rows[t] + cut.rows[i * slots + s]]
                neighbours[cut.pixels[i], s] = latent if latent < n_latents else cut.ghosts[latent - n_latents - 1]
    return neighbours


@compiled
def sort_pixels(batches, n_batches, height, width, side_rows, side_columns):
    """Order the pixels by mini-batch, then square, then raster.

    Args:
        batches: (pixels,) int32, the mini-batch of each pixel in raster order.

    Returns:
        Pixels (pixels,) int32, and where each tile begins, (n_batches * squares + 1,) int64.
    """
    down, across = -(-height // side_rows), -(-width // side_columns)
    n_squares = down * across
    ends = np.zeros(n_batches * n_squares + 1, np.int64)
    for row in range(height):
        for column in range(width):
            square = row // side_rows * across + column // side_columns
            ends[batches[row * width + column] * n_squares + square + 1] += 1
    ends = np.cumsum(ends)
    filled = ends[:-1].copy()
    order = np.empty(height * width, np.int32)
    for row in range(height):
        for column in range(width):
            square = row // side_rows * across + column // side_columns
            tile = batches[row * width + column] * n_squares + square
            order[filled[tile]] = row * width + column
            filled[tile] += 1
    return order, ends


@compiled
def number_rows(order, ends, neighbours, n_latents, slots):
    """Give each (latent, slot) pair of a tile a row, slot by slot, rows of a slot padded to a multiple of `ROWS`.

    The first `ROWS` rows of a tile belong to nobody: they stand for the slots that fewer than 4 neighbours leave.

    Returns:
        Of each pixel in order and slot its row in the tile, (pixels * slots,) uint16; the latent of each row, padding
        having `n_latents`, (rows,) int32; where a tile's rows begin, (tiles + 1,) int64; and of each tile where its
        slots' rows begin and end in it, (tiles * (n + 1),) int32.
    """
    n, n_tiles = neighbours.shape[1], len(ends) - 1
    rows = np.zeros(len(order) * slots, np.uint16)
    latents = np.empty(len(order) * n + n_tiles * ROWS * (n + 1), np.int32)
    tile_rows, slot_rows = np.zeros(n_tiles + 1, np.int64), np.zeros(n_tiles * (n + 1), np.int32)
    seen, row_of = np.full(n_latents, -1, np.int64), np.empty(n_latents, np.int32)
    end = 0
    for t in range(n_tiles):
        first = end
        if ends[t] < ends[t + 1]:
            latents[end : end + ROWS] = n_latents
            end += ROWS
        for s in range(n):
            slot_rows[t * (n + 1) + s] = end - first
            for i in range(ends[t], ends[t + 1]):
                latent = neighbours[order[i], s]
                if seen[latent] != t * n + s:
                    seen[latent] = t * n + s
                    row_of[latent] = end - first
                    latents[end] = latent
                    end += 1
                rows[i * slots + s] = row_of[latent]
            while (end - first) % ROWS:
                latents[end] = n_latents
                end += 1
        slot_rows[t * (n + 1) + n] = end - first
        tile_rows[t + 1] = end
    return rows, latents[:end].copy(), tile_rows, slot_rows


@compiled
def list_users(rows, ends, tile_rows, n, slots):
    """List the pixels of each row: their numbers in the tile, rising, (pixels * n,) uint16, and where those of a row
    begin, (rows + 1,) int32."""
    starts = np.zeros(tile_rows[-1] + 2, np.int32)
    for t in range(len(ends) - 1):
        for i in range(ends[t], ends[t + 1]):
            for s in range(n):
                starts[tile_rows[t] + rows[i * slots + s] + 2] += 1
    for row in range(1, len(starts)):
        starts[row] += starts[row - 1]
    users = np.empty(len(rows) // slots * n, np.uint16)
    for t in range(len(ends) - 1):
        for i in range(ends[t], ends[t + 1]):
            for s in range(n):
                row = tile_rows[t] + rows[i * slots + s] + 1
                users[starts[row]] = i - ends[t]
                starts[row] += 1
    return users, starts[:-1]


def square_sides(size: tuple[int, int], tile_pixels: float) -> tuple[int, int]:
    """Height and width of the squares that hold about `tile_pixels` pixels; longer where an image is narrow."""
    height, width = size
    side = max(1, round(tile_pixels**0.5))
    down = min(height, max(side, round(tile_pixels / width)))
    across = min(width, max(side, round(tile_pixels / height)))
    return max(1, down), max(1, across)


def origins(size: tuple[int, int], sides: tuple[int, int], n_batches: int) -> NDArray[np.float32]:
    """(n_batches * squares, 2) float32: the middle pixel of each tile's square."""
    down, across = (-(-length // side) for length, side in zip(size, sides, strict=True))
    corner = np.stack(np.divmod(np.arange(down * across), across), axis=1) * sides
    return np.tile((corner + np.array(sides) // 2).astype(np.float32), (n_batches, 1))
