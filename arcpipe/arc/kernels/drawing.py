"""Compiled loops behind `arcpipe.arc.anchors`: the gradient of an image, and the codes by which pixels are sorted.

Every sum has the order that NumPy gave it in the first stores, so that the same seed still draws the same anchors.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np

from arcpipe.compiled import compiled


@compiled
def measure_gradient(image, norm):
    """Fill `norm` (height, width) float32 with the gradient norm of an image (height, width, channels)."""
    height, width, channels = image.shape
    for row in range(height):
        above, below = max(row - 1, 0), min(row + 1, height - 1)
        for column in range(width):
            left, right = max(column - 1, 0), min(column + 1, width - 1)
            total = 0.0
            for channel in range(channels):
                a, b = np.float64(image[above, left, channel]), np.float64(image[above, column, channel])
                c, d = np.float64(image[above, right, channel]), np.float64(image[row, left, channel])
                e, f = np.float64(image[row, right, channel]), np.float64(image[below, left, channel])
                g, h = np.float64(image[below, column, channel]), np.float64(image[below, right, channel])
                down = (f - a) + 2 * (g - b) + (h - c)
                aside = (c - a) + 2 * (e - d) + (h - f)
                total += down * down + aside * aside
            norm[row, column] = math.sqrt(total)


@compiled
def spread_bits(value):
    """Put a zero before every bit of a 32-bit number."""
    value = (value | (value << np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    value = (value | (value << np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    value = (value | (value << np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    value = (value | (value << np.uint64(2))) & np.uint64(0x3333333333333333)
    return (value | (value << np.uint64(1))) & np.uint64(0x5555555555555555)


@compiled
def gather_bits(value):
    """Undo `spread_bits`, whatever the bits between are."""
    value &= np.uint64(0x5555555555555555)
    value = (value | (value >> np.uint64(1))) & np.uint64(0x3333333333333333)
    value = (value | (value >> np.uint64(2))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    value = (value | (value >> np.uint64(4))) & np.uint64(0x00FF00FF00FF00FF)
    value = (value | (value >> np.uint64(8))) & np.uint64(0x0000FFFF0000FFFF)
    return (value | (value >> np.uint64(16))) & np.uint64(0x00000000FFFFFFFF)


@compiled
def codes_of(pixels, width):
    """Morton codes of pixels (k,), numbered in raster order."""
    codes = np.empty(len(pixels), np.uint64)
    for i in range(len(pixels)):
        row, column = np.uint64(pixels[i] // width), np.uint64(pixels[i] % width)
        codes[i] = (spread_bits(row) << np.uint64(1)) | spread_bits(column)
    return codes


@compiled
def places_of(codes):
    """Rows and columns (k, 2) int64 of Morton codes."""
    places = np.empty((len(codes), 2), np.int64)
    for i in range(len(codes)):
        places[i, 0] = gather_bits(codes[i] >> np.uint64(1))
        places[i, 1] = gather_bits(codes[i])
    return places
