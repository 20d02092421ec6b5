"""How much memory a fit needs: a model by which images are grouped, and refused before they are read.

Bytes are added up array by array, with what is alive at the same time, for `n` neighbours, `z` numbers in a latent and
k latents. A test measures that the peak of a process stays below.
"""

from __future__ import annotations

from collections.abc import Sequence

from arcpipe.arc.anchors import count_anchors
from arcpipe.config import FitSection

PIECE = 192
"""Pixels a side of the piece of an image that is kept while a basis is learned."""


def cloud_bytes(shape: Sequence[int], fit: FitSection) -> int:
    """What a fitted image leaves: positions, latents and neighbours."""
    n_pixels = shape[0] * shape[1]
    return count_anchors(n_pixels, fit) * (16 + 4 * fit.latent_dim) + 4 * fit.neighbours * n_pixels


def fit_bytes(shape: Sequence[int], fit: FitSection) -> int:
    """The most that fitting one image takes at any time, its cloud included, without the image (4 bytes a value)."""
    n_pixels, n = shape[0] * shape[1], fit.neighbours
    k = count_anchors(n_pixels, fit)
    if fit.decoder_kind == "siren":  # coordinates, colours and weights of the pixels, twice while they are laid out
        return n_pixels * (28 + 8 * shape[2]) + 24 * fit.latent_dim + 2**22
    if fit.decoder_kind == "basis":
        # Target, shares, weight, neighbours and users of the pixels; of the anchors, with numbers padded to a
        # register of 16, six arrays and the preconditioner in half precision.
        width = -(-fit.latent_dim // 16) * 16
        return n_pixels * (16 + 12 * n) + k * (96 + 24 * width + 2 * width**2) + 2**23
    # Tiles: number, rows and users of each pixel; latent and users of each row. A row is a latent, a slot and a
    # mini-batch that meet, at most one for each pixel and slot; their padding is the third part on top.
    rows = min(n * n_pixels, 1.33 * n * k / fit.pixel_share)
    tiles = n_pixels * (4 + 2 * max(4, n) + 2 * n) + 8 * rows
    laid = 17 * k + tiles + 4 * (4 * fit.latent_dim) * k * 1.15  # latents, gradient (with ghosts) and Adam's memory
    cutting = n_pixels * (4 * n + 1) + 17 * k + tiles + 4 * n * n_pixels / 4
    ending = laid + 4 * n * n_pixels - 2 * (4 * fit.latent_dim) * k
    return int(max(laid, cutting, ending)) + 2**22


def joint_bytes(shapes: Sequence[Sequence[int]], fit: FitSection) -> int:
    """The most that the joint stage takes with its images: all of them stay, laid out, until it ends."""
    if fit.decoder_kind == "basis":
        return sum(4 * min(shape[0], PIECE) * min(shape[1], PIECE) * shape[2] for shape in shapes) + 2**26
    images = sum(4 * shape[0] * shape[1] * shape[2] for shape in shapes)
    laid = sum(fit_bytes(shape, fit) - 2**22 for shape in shapes)
    return 2 * images + laid + 2**24
