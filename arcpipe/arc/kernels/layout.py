"""The arrays that the fused kernel is given: all flat, their rows padded with zeros to a multiple of `simd.LANES`.

`z` latent dimension, `h` hidden width, `n` neighbours; `zp`, `hp` padded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.kernels.simd import ROWS, padded_length
from arcpipe.arc.kernels.squares import LEAST_SLOTS, Cut
from arcpipe.arc.problem import PreparedImage
from arcpipe.cloud import ends_from

Floats = NDArray[np.float32]
MOST_CHANNELS = 3


class Network(NamedTuple):
    """A decoder; `output` belongs to its last hidden layer, `hp` and all else that is not `deep` to the first.

    `forward` (n, z + 2, hp): of each slot what multiplies a latent and its anchor's place; `start` (n, hp): the first
    bias on slot 0, else 0; `place` (2, hp): what multiplies a pixel's place; `backward` (n, hp, zp): the latents'
    part of `forward`, transposed; `output` (3, last width) and `output_bias` (3,), 0 beyond the channels. `first_rows`:
    z + 2 padded to a multiple of `simd.ROWS`. `widths` of all hidden layers, padded. Layer i, from the second one on,
    multiplies by `deep[deep_at[i]:]` (width before, width) and adds `deep_bias[bias_at[i]:]`; `deep_back` is `deep`
    transposed, layer by layer.
    """

    n: int
    z: int
    h: int
    zp: int
    hp: int
    channels: int
    first_rows: int
    forward: Floats
    start: Floats
    place: Floats
    backward: Floats
    output: Floats
    output_bias: Floats
    widths: NDArray[np.int64]
    deep_at: NDArray[np.int64]
    bias_at: NDArray[np.int64]
    deep: Floats
    deep_back: Floats
    deep_bias: Floats


class Learned(NamedTuple):
    """Sums of the gradients of a decoder: `forward` (n, first_rows, hp), `bias` (hp,), the rest as in `Network`."""

    forward: Floats
    place: Floats
    bias: Floats
    output: Floats
    output_bias: Floats
    deep: Floats
    deep_bias: Floats


class Scene(NamedTuple):
    """Images as tiles, ordered by image, then by mini-batch, then by square.

    `cut` has the tiles of all images: pixels are numbered within their image, latents and squares through all of them.
    `tile_image` names the image of each tile. `target` (pixels, channels) lies in raster order.
    Arrays of images: the tiles of an image begin at `image_tiles`, its pixels in `target` at `image_pixels`, its bands
    at `image_bands`. Each image has its `n_batches`, `n_squares`, `widths`, and the `mean` and `std` of its relative
    positions.
    Arrays of latents: `positions` (latents + 1, 2). All images together have `n_latents` latents. Behind them lies a
    row of zeros, and the rows behind that are ghosts.
    """

    slots: int
    cut: Cut
    tile_image: NDArray[np.int32]
    image_tiles: NDArray[np.int64]
    image_pixels: NDArray[np.int64]
    n_batches: NDArray[np.int64]
    n_squares: NDArray[np.int64]
    widths: NDArray[np.int32]
    mean: Floats
    std: Floats
    positions: Floats
    target: Floats
    n_latents: int
    image_bands: NDArray[np.int64]


class Work(NamedTuple):
    """The memory in which a thread works on one tile.

    `projected` and `sums` (rows, hp): products and sums of the rows. `near` (rows, near_step): latents and places.
    `hidden` (pixels, hp): values of the first hidden layer. `deep`: those of deeper layers, one layer after the other,
    each (`deep_rows`, width). `back` and `carried`: gradients on their way back. `errors` (pixels, 5): gradients of the
    outputs and of the places.
    """

    near_step: int
    projected: Floats
    sums: Floats
    near: Floats
    back: Floats
    zeros: Floats
    hidden: Floats
    errors: Floats
    deep_rows: int
    deep: Floats
    carried: Floats


def fits(decoder: Decoder) -> bool:
    """Whether the fused kernel can work with a decoder: on a CPU, with hidden layers and few channels."""
    return decoder.device.type == "cpu" and len(decoder.hidden) > 0 and decoder.channels <= MOST_CHANNELS


def lay_network(decoder: Decoder) -> Network:
    """Copy a decoder of at most `MOST_CHANNELS` channels into the arrays of a `Network`."""
    n, z, h, channels = decoder.n_neighbours, decoder.latent_dim, decoder.hidden[0], decoder.channels
    zp, hp = padded_length(z), padded_length(h)
    weights, biases = ([part.numpy() for part in parts] for parts in (decoder.weights, decoder.biases))
    latent_part = weights[0][:, : n * z].reshape(h, n, z)
    place_part = weights[0][:, n * z :].reshape(h, n, 2)
    forward = padded(np.concatenate([latent_part, place_part], axis=2).transpose(1, 2, 0), n, z + 2, hp)
    widths = [padded_length(width) for width in decoder.hidden]
    deep_at = ends_from([0, *(before * after for before, after in pairwise(widths))])
    bias_at = ends_from([0, *widths[1:]])
    deep, deep_back, deep_bias = zeros(int(deep_at[-1])), zeros(int(deep_at[-1])), zeros(int(bias_at[-1]))
    for i, (before, after) in enumerate(pairwise(widths), start=1):
        deep[deep_at[i] : deep_at[i + 1]] = padded(weights[i].T, before, after)
        deep_back[deep_at[i] : deep_at[i + 1]] = padded(weights[i], after, before)
        deep_bias[bias_at[i] : bias_at[i + 1]] = padded(biases[i], after)
    return Network(
        n=n, z=z, h=h, zp=zp, hp=hp, channels=channels, first_rows=-(-(z + 2) // ROWS) * ROWS,
        forward=forward, start=padded(biases[0][None], n, hp),
        place=padded(-forward.reshape(n, z + 2, hp)[:, z:].sum(0), 2, hp),
        backward=padded(latent_part.transpose(1, 0, 2), n, hp, zp),
        output=padded(weights[-1], MOST_CHANNELS, widths[-1]), output_bias=padded(biases[-1], MOST_CHANNELS),
        widths=np.array(widths), deep_at=deep_at, bias_at=bias_at,
        deep=deep, deep_back=deep_back, deep_bias=deep_bias,
    )  # fmt: skip


def no_gradients(network: Network) -> Learned:
    return Learned(
        forward=zeros(network.n * network.first_rows * network.hp),
        place=zeros(2 * network.hp),
        bias=zeros(network.hp),
        output=zeros(network.output.size),
        output_bias=zeros(MOST_CHANNELS),
        deep=zeros(network.deep.size),
        deep_bias=zeros(network.deep_bias.size),
    )


def decoder_gradients(learned: Learned, network: Network, decoder: Decoder) -> list[Floats]:
    """Gradients of a decoder's weights, then biases, in the shapes of `Decoder`."""
    n, z, h, hp, channels, widths = network.n, network.z, network.h, network.hp, network.channels, network.widths
    forward = learned.forward.reshape(n, network.first_rows, hp)[:, :, :h]
    latent_part = forward[:, :z].transpose(2, 0, 1).reshape(h, n * z)
    place_part = forward[:, z : z + 2] - learned.place.reshape(2, hp)[:, :h]
    weights = [np.concatenate([latent_part, place_part.transpose(2, 0, 1).reshape(h, 2 * n)], axis=1)]
    biases = [learned.bias[:h].copy()]
    for i, (before, after) in enumerate(pairwise(decoder.hidden), start=1):
        deep = learned.deep[network.deep_at[i] : network.deep_at[i + 1]].reshape(widths[i - 1], widths[i])
        weights.append(deep[:before, :after].T.copy())
        biases.append(learned.deep_bias[network.bias_at[i] : network.bias_at[i] + after].copy())
    output = learned.output.reshape(MOST_CHANNELS, -1)[:channels, : decoder.hidden[-1]]
    return [*weights, output.copy(), *biases, learned.output_bias[:channels].copy()]


def join_scene(images: Sequence[PreparedImage], cuts: Sequence[Cut]) -> Scene:
    """Lay images that are cut end to end; a single one without a copy. Only a single one keeps its bands."""
    n_tiles = [len(cut.tile_pixels) - 1 for cut in cuts]
    n_squares = [count // image.n_batches for count, image in zip(n_tiles, images, strict=True)]
    latent_ends = ends_from([len(image.positions) for image in images])
    if len(images) == 1:
        cut, image_bands = cuts[0], np.array([0, len(cuts[0].bands) - 1])
    else:
        image_bands = np.arange(len(images) + 1)
        cut = Cut(
            pixels=np.concatenate([cut.pixels for cut in cuts]),
            tile_pixels=_chain([cut.tile_pixels for cut in cuts]),
            rows=np.concatenate([cut.rows for cut in cuts]),
            row_latents=np.concatenate(_moved_latents(images, cuts, latent_ends)),
            tile_rows=_chain([cut.tile_rows for cut in cuts]),
            slot_rows=np.concatenate([cut.slot_rows for cut in cuts]),
            users=np.concatenate([cut.users for cut in cuts]),
            row_users=_chain([cut.row_users for cut in cuts]),
            origins=np.concatenate([cut.origins for cut in cuts]),
            bands=ends_from(n_squares),
            ghosts=np.empty(0, np.int32),
        )
    targets = [image.target.ravel() for image in images]
    return Scene(
        slots=max(LEAST_SLOTS, images[0].neighbours.shape[1]),
        cut=cut,
        tile_image=np.repeat(np.arange(len(images), dtype=np.int32), n_tiles),
        image_tiles=ends_from(n_tiles),
        image_pixels=ends_from([len(image.target) for image in images]),
        n_batches=np.array([image.n_batches for image in images]),
        n_squares=np.array(n_squares),
        widths=np.array([image.size[1] for image in images], np.int32),
        mean=np.array([image.relative[0] for image in images], np.float32),
        std=np.array([image.relative[1] for image in images], np.float32),
        positions=np.concatenate([*(image.positions.ravel() for image in images), [0, 0]]).astype(np.float32),
        target=targets[0] if len(targets) == 1 else np.concatenate(targets),
        n_latents=int(latent_ends[-1]),
        image_bands=image_bands,
    )


def _moved_latents(
    images: Sequence[PreparedImage], cuts: Sequence[Cut], ends: NDArray[np.int64]
) -> list[NDArray[np.int32]]:
    """Of each image the latents of its rows, counted through all images, and without ghosts."""
    moved = []
    for image, cut, first in zip(images, cuts, ends[:-1], strict=True):
        own = len(image.positions)
        known = np.concatenate([np.arange(own), [-1], cut.ghosts]) + first
        known[own + 1 :][cut.ghosts == own] = known[own] = ends[-1]
        moved.append(known[cut.row_latents].astype(np.int32))
    return moved


def lay_work(network: Network, scenes: Sequence[Scene]) -> Work:
    """Make memory that suffices for the largest tile of the scenes."""
    n_rows = max(int(np.diff(scene.cut.tile_rows).max()) for scene in scenes)
    n_pixels = max(int(np.diff(scene.cut.tile_pixels).max()) for scene in scenes)
    near_step = -(-(network.zp + 2) // ROWS) * ROWS
    deep_rows = -(-n_pixels // ROWS) * ROWS if len(network.widths) > 1 else 0
    return Work(
        near_step=near_step,
        projected=zeros(n_rows * network.hp),
        sums=zeros(n_rows * network.hp),
        near=zeros(n_rows * near_step),
        back=zeros(ROWS * network.zp),
        zeros=zeros(max(network.zp, int(network.widths.max()))),
        hidden=zeros(max(n_pixels, deep_rows) * network.hp),
        errors=zeros(n_pixels * 5),
        deep_rows=deep_rows,
        deep=zeros(deep_rows * int(network.widths[1:].sum())),
        carried=zeros(deep_rows * int(network.widths.max())),
    )


def zeros(count: int) -> Floats:
    """Float32 that begin on a cache line: vectors that lie across two lines cost a quarter of the speed."""
    memory = np.zeros(4 * count + 63, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + 4 * count].view(np.float32)


def padded(array: NDArray[Any], *shape: int) -> Floats:
    """A flat copy in `zeros` of an array with zeros behind it on every axis, up to this shape."""
    copy = zeros(math.prod(shape))
    copy.reshape(shape)[tuple(map(slice, array.shape))] = array
    return copy


def _chain(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Put offsets of several arrays behind one another: the first of each is where the last one ended."""
    starts = ends_from([int(part[-1]) for part in parts])
    joined = [[0], *(part[1:] + start for part, start in zip(parts, starts[:-1], strict=True))]
    return np.concatenate(joined).astype(parts[0].dtype)


def lay_latents(images: Sequence[PreparedImage], network: Network) -> NDArray[np.float32]:
    """The first latents of all images, rows padded, and a row of zeros: (latents + 1, zp), flat."""
    count = sum(len(image.positions) for image in images)
    latents = zeros((count + 1) * network.zp)
    rows, start = latents.reshape(-1, network.zp), 0
    for image in images:
        rows[start : start + len(image.positions), : network.z] = image.first_latents()
        start += len(image.positions)
    return latents
