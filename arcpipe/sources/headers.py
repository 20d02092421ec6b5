"""The headers of plain JPEG and PNG files, read at a tenth of Pillow's price.

What is not entirely plain is left to Pillow, which decides: EXIF, colour profiles, 16 bits, animation, transparency,
and whatever is damaged. Where this file gives an answer, Pillow gives the same one (`tests/sources/test_headers.py`).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

MAX_DECODED_PIXELS = 89_478_485
"""Larger images are refused by their header: a quarter GiB of RGB, where Pillow too begins to warn of bombs."""
PNG = b"\x89PNG\r\n\x1a\n"
GREY_OF_PNG = {0: True, 2: False, 3: False, 6: False}
"""Colour types of 8 bits, and whether such an image is greyscale."""
PLAIN_CHUNKS = {b"sRGB": 1, b"gAMA": 4, b"pHYs": 9}
"""Chunks between the header and the pixels that change nothing here, and their bytes."""
SOF, TABLES, SCAN = (0xC0, 0xC1, 0xC2), (0xC4, 0xDD), 0xDA
"""Markers of a JPEG: frames that are coded as usual, tables that Pillow passes over, and where the pixels begin."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an image before its pixels are read: upright (height, width), and whether it has no colour."""

    size: tuple[int, int]
    grey: bool


def plain_header(head: bytes) -> Header | None:
    """The header of a plain image that begins with these bytes; None of all others, and of those that are too large."""
    found = None
    try:
        if head.startswith(b"\xff\xd8\xff"):
            found = _jpeg(head)
        elif head.startswith(PNG):
            found = _png(head)
    except IndexError:  # the header is longer than what was read
        pass
    if found is None or found[0] * found[1] > MAX_DECODED_PIXELS:
        return None
    return Header(found[:2], found[2])


def _jpeg(head: bytes) -> tuple[int, int, bool] | None:
    at, found = 2, None
    while head[at] == 0xFF:
        marker, length = head[at + 1], head[at + 2] << 8 | head[at + 3]
        content = head[at + 4 : at + 2 + length]
        if length < 2 or len(content) != length - 2:
            return None
        if marker == SCAN:
            return found
        if marker in SOF:
            layers = content[5]
            if found or content[0] != 8 or layers not in (1, 3) or len(content) != 6 + 3 * layers:
                return None
            found = content[1] << 8 | content[2], content[3] << 8 | content[4], layers == 1
            if 0 in found[:2]:
                return None
        elif marker == 0xDB:  # quantisation, of which Pillow reads each table
            if len(content) not in (65, 130) or any(content[start] > 15 for start in range(0, len(content), 65)):
                return None
        elif marker == 0xE0:
            if not content.startswith(b"JFIF\0") or len(content) != 14:
                return None
        elif marker not in TABLES:
            return None
        at += 2 + length
    return None


def _png(head: bytes) -> tuple[int, int, bool] | None:
    at, found = len(PNG), None
    while True:
        length, kind = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        if kind == b"IDAT":
            return found
        end = at + 8 + length
        if len(head) < end + 4 or zlib.crc32(head[at + 4 : end]) != int.from_bytes(head[end : end + 4], "big"):
            return None
        content = head[at + 8 : end]
        if kind == b"IHDR" and found is None and length == 13:
            depth, colour, packing, filtering, _ = content[8:]
            if depth != 8 or colour not in GREY_OF_PNG or packing or filtering:
                return None
            width, height = int.from_bytes(content[:4], "big"), int.from_bytes(content[4:8], "big")
            if not (width and height):
                return None
            found = height, width, GREY_OF_PNG[colour]
        elif found is None or (PLAIN_CHUNKS.get(kind) != length and kind != b"PLTE"):
            return None
        at = end + 4
