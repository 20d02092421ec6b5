"""Loops over all pixels for `arrivals`, compiled. Each is one function: calls inside of them took most of the time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.compiled import compiled

ROW_BITS = 26
"""Of a key, (squared distance, row): what is left of 62 bits holds the distances of images of 2**17 pixels a side."""
NONE = 2**62
"""A key above all others."""


@compiled
def find_arrivals(
    neighbours: NDArray[Any],
    offsets: NDArray[np.int64],
    pixel_offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    pixels: NDArray[np.int64],
    anchors: NDArray[np.int64],
) -> int:
    """Find the neighbours of each pixel that neither the pixel to the left, above nor above to the right has.

    Their pixels and anchors, both counted from the first cloud on, are written into `pixels` and `anchors` as far as
    these reach. Returns how many there are.
    """
    n, found = neighbours.shape[1], 0
    for cloud in range(len(sizes)):
        height, width = sizes[cloud, 0], sizes[cloud, 1]
        for y in range(height):
            for x in range(width):
                pixel = pixel_offsets[cloud] + y * width + x
                for k in range(n):
                    anchor, known = neighbours[pixel, k], False
                    if x > 0:
                        for j in range(n):
                            known |= neighbours[pixel - 1, j] == anchor
                    if y > 0 and not known:
                        for j in range(n):
                            known |= neighbours[pixel - width, j] == anchor
                    if y > 0 and x < width - 1 and not known:
                        for j in range(n):
                            known |= neighbours[pixel - width + 1, j] == anchor
                    if not known:
                        if found < len(pixels):
                            pixels[found], anchors[found] = pixel, offsets[cloud] + anchor
                        found += 1
    return found


@compiled
def follow_arrivals(
    positions: NDArray[np.int64],
    offsets: NDArray[np.int64],
    pixel_offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    pixels: NDArray[np.int64],
    anchors: NDArray[np.int64],
    lists: NDArray[Any],
) -> int:
    """Write the list of every pixel into `lists`: the nearest among its arrivals and those of the three pixels before.

    `pixels` rise, everything lies inside its image and cloud, and keys hold it: nothing is checked here. Returns -1, or
    the first pixel that has too few to choose from; the lists from there on are not written.
    """
    n, arrived = lists.shape[1], 0
    keys = np.empty(n, np.int64)  # of the nearest so far, rising
    for cloud in range(len(sizes)):
        height, width, first = sizes[cloud, 0], sizes[cloud, 1], offsets[cloud]
        for y in range(height):
            for x in range(width):
                pixel = pixel_offsets[cloud] + y * width + x
                keys[:] = NONE
                for source in range(4):
                    before, count = pixel, 0
                    if source == 0 and x > 0:
                        before, count = pixel - 1, n
                    elif source == 1 and y > 0:
                        before, count = pixel - width, n
                    elif source == 2 and y > 0 and x < width - 1:
                        before, count = pixel - width + 1, n
                    elif source == 3:
                        while arrived + count < len(pixels) and pixels[arrived + count] == pixel:
                            count += 1
                    for k in range(count):
                        row = anchors[arrived + k] - first if source == 3 else np.int64(lists[before, k])
                        down, right = positions[first + row, 0] - y, positions[first + row, 1] - x
                        key = ((down * down + right * right) << ROW_BITS) | row
                        useless = key >= keys[n - 1]
                        for j in range(n):
                            useless |= key == keys[j]
                        if useless:
                            continue
                        at = n - 1
                        while at > 0 and key < keys[at - 1]:
                            keys[at] = keys[at - 1]
                            at -= 1
                        keys[at] = key
                    if source == 3:
                        arrived += count
                if keys[n - 1] == NONE:
                    return int(pixel)
                for k in range(n):
                    lists[pixel, k] = keys[k] & ((1 << ROW_BITS) - 1)
    return -1
