"""One rule for every kind of image (docs/images.md, from file to pixels)."""

from __future__ import annotations

import io
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from arcpipe.errors import ImageError
from arcpipe.sources import decode as decoding
from arcpipe.sources.decode import MAX_DECODED_PIXELS, decode, read_header

Encode = Callable[..., bytes]
RED, GREEN = (255, 0, 0), (0, 255, 0)


def picture(height: int = 6, width: int = 9, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def bare_png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one-bit grey whose chunks are free to choose."""
    all_chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), *chunks]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in all_chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_turns_the_image_and_its_header_size(orientation: int, kind: str, encoded: Encode) -> None:
    image = Image.new("RGB", (32, 16))
    image.paste(RED, (0, 0, 16, 8))  # the upper left quarter
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif)
    upright = decode(data, "x")
    turned = np.asarray(upright)[:, :, 0] > 128
    corner = {2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}.get(orientation, (0, 0))
    assert upright.size == ((16, 32) if orientation in (5, 6, 7, 8) else (32, 16))
    middle = turned[upright.height // 4 :: upright.height // 2, upright.width // 4 :: upright.width // 2]
    assert {tuple(spot) for spot in np.argwhere(middle)} == {corner}
    # the header alone gives the upright size
    assert read_header(io.BytesIO(data), "x").size == (upright.height, upright.width)


def test_corrupt_exif_does_not_lose_the_image(encoded: Encode) -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert decode(data, "x").size == (9, 6)
    assert read_header(io.BytesIO(data), "x").size == (6, 9)


def test_transparency_is_laid_over_white(encoded: Encode) -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 255, 255))
    for kind in ("PNG", "WEBP"):
        pixels = np.asarray(decode(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})), "x"))
        assert pixels.tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_half_transparent_grey_stays_grey(encoded: Encode) -> None:
    image = Image.new("LA", (1, 1), (0, 128))
    found = decode(encoded(image), "x")
    assert found.mode == "L"
    assert found.getpixel((0, 0)) == 127


def test_transparent_colour_and_palette_entry_become_white(encoded: Encode) -> None:
    rgb = Image.new("RGB", (2, 1), RED)
    rgb.putpixel((1, 0), GREEN)
    assert np.asarray(decode(encoded(rgb, transparency=RED), "x")).tolist() == [[[255, 255, 255], list(GREEN)]]
    palette = rgb.quantize(2)
    index = palette.getpixel((0, 0))
    assert np.asarray(decode(encoded(palette, transparency=index), "x")).tolist() == [[[255, 255, 255], list(GREEN)]]
    grey = Image.new("L", (1, 1), 7)
    assert decode(encoded(grey, transparency=7), "x").getpixel((0, 0)) == 255


def test_opaque_palette_gives_its_colours_and_one_bit_black_and_white(encoded: Encode) -> None:
    assert decode(encoded(Image.new("RGB", (1, 1), GREEN).quantize(2)), "x").getpixel((0, 0)) == GREEN
    bits = decode(encoded(Image.new("1", (2, 1), 1)), "x")
    assert bits.mode == "L"
    assert bits.getpixel((0, 0)) == 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str, encoded: Encode) -> None:
    values = np.array([[0, 255, 256, 30000, 65535]], np.uint16)
    found = decode(encoded(Image.fromarray(values), kind), "x")
    assert found.mode == "F"
    np.testing.assert_allclose(np.asarray(found), values / 65535, rtol=1e-6)


def test_sixteen_bits_with_a_transparent_value(encoded: Encode) -> None:
    values = np.array([[100, 200]], np.uint16)
    found = np.asarray(decode(encoded(Image.fromarray(values), transparency=100), "x"))
    np.testing.assert_allclose(found, [[1.0, 200 / 65535]], rtol=1e-6)


def test_cmyk_becomes_rgb(encoded: Encode) -> None:
    found = decode(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "TIFF"), "x")
    assert found.mode == "RGB"
    assert found.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_defined_white_are_refused(mode: str, encoded: Encode) -> None:
    with pytest.raises(ImageError, match="no white is defined"):
        decode(encoded(Image.new(mode, (2, 2), 1), "TIFF"), "x")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames_is_taken(kind: str, encoded: Encode) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    red, green, _ = decode(data, "x").getpixel((4, 4))
    assert red > 200
    assert green < 50


def test_content_decides_not_the_name(encoded: Encode) -> None:
    assert decode(encoded(picture(), "JPEG"), "x.png").size == (9, 6)


@pytest.mark.parametrize(
    ("mode", "grey"), [("1", True), ("L", True), ("LA", True), ("I;16", True), ("RGB", False), ("P", False)]
)
def test_the_header_tells_greyscale(mode: str, grey: bool, encoded: Encode) -> None:
    assert read_header(io.BytesIO(encoded(Image.new(mode, (4, 3)))), "x").grey is grey


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_a_truncated_file_fails(kind: str, encoded: Encode) -> None:
    data = encoded(picture(64, 64), kind)
    with pytest.raises(ImageError) as caught:
        decode(data[: len(data) // 2], "train/cats/1.jpg")
    assert caught.value.reason in ("truncated", "unreadable")
    assert "train/cats/1.jpg" in str(caught.value)


def test_a_cut_jpeg_is_called_truncated(encoded: Encode) -> None:
    data = encoded(picture(64, 64), "JPEG")
    with pytest.raises(ImageError, match="cut off") as caught:
        decode(data[: len(data) // 2], "x")
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", b"\xff\xd8\xff\xe0", bytes(range(256)) * 8])
def test_what_is_no_image_is_unreadable(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data, "x")
    assert caught.value.reason == "unreadable"
    assert "0x" not in str(caught.value)  # no memory address: the message is the same in every run


def test_every_damaged_byte_gives_an_image_or_an_image_error(encoded: Encode) -> None:
    """Whatever Pillow raises or warns, only `ImageError` comes out, with a known reason."""
    rng = np.random.default_rng(5)
    reasons = set()
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        whole = encoded(picture(16, 16), kind)
        for _ in range(60):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 3):
                data[at] = rng.integers(256)
            reasons |= {reason_of(decode, bytes(data)), reason_of(read_header, io.BytesIO(data))}
    assert reasons == {None, "unreadable", "truncated", "too-large"}


def reason_of(attempt: Callable[..., object], data: object) -> str | None:
    try:
        attempt(data, "x")
    except ImageError as error:
        return error.reason
    return None


def test_bombs_are_refused_by_their_header() -> None:
    side = int(MAX_DECODED_PIXELS**0.5)
    fits = bare_png(side, side, (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    assert read_header(io.BytesIO(fits), "x").size == (side, side)
    for beyond in (side + 1, 30_000, 2**31 - 1):  # where Pillow says nothing, warns, and raises
        data = bare_png(beyond, beyond, (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
        for attempt in (lambda data=data: decode(data, "x"), lambda data=data: read_header(io.BytesIO(data), "x")):
            with pytest.raises(ImageError, match="too large to decode") as caught:
                attempt()
            assert caught.value.reason == "too-large"


def test_asking_for_exif_does_not_repair_a_broken_png(encoded: Encode) -> None:
    data = bytearray(encoded(picture(64, 64)))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ImageError):
        decode(bytes(data), "x")


def test_a_file_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch, encoded: Encode) -> None:
    monkeypatch.setattr(decoding, "MAX_FILE_BYTES", 10)
    with pytest.raises(ImageError, match="more than 10") as caught:
        decode(encoded(picture()), "x")
    assert caught.value.reason == "too-large"


def test_threads_leave_the_warning_filters_as_they_were(encoded: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    """They decode at the same time, and the last one out restores what the first one in found."""
    inside, most = 0, 0
    opening = decoding._open

    def watched(*args: Any) -> Image.Image:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.005)
        inside -= 1
        return opening(*args)

    monkeypatch.setattr(decoding, "_open", watched)
    data, before = encoded(picture(), "JPEG"), list(warnings.filters)
    threads = [threading.Thread(target=decode, args=(data, "x")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most > 1
    assert list(warnings.filters) == before
