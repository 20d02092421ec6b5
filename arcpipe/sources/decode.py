"""Safe decoding of one image file by Pillow. docs/images.md has the rule for every kind of image.

Every decoded image is upright and has one of three modes: `L` or `RGB` (8 bits a channel), or `F` (one channel of
float32 in [0, 1], for 16-bit greyscale).
"""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from arcpipe.errors import ImageError
from arcpipe.sources.headers import MAX_DECODED_PIXELS, Header

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_FILE_BYTES = 2**30
"""Larger files are refused before they are read."""

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = frozenset(TURNS[orientation] for orientation in (5, 6, 7, 8))
"""The turns that swap height and width."""
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"})
ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})


class _Silence:
    """No warnings while anybody decodes.

    `warnings.catch_warnings` changes the whole process, and is undone in the wrong order if two threads overlap: the
    first one in changes the filters, the last one out brings them back, and all of them decode at the same time.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


_SILENCE = _Silence()


def read_header(stream: BinaryIO, name: str) -> Header:
    """Read size and mode of an image without decoding it.

    Raises:
        ImageError: not an image of `FORMATS` (`unreadable`), or more than `MAX_DECODED_PIXELS` (`too-large`).
    """
    with _pillow(name):
        image = _open(stream, name)
        return Header(_upright(image, _turn(image)), image.mode in GREY_MODES)


def decode(data: bytes, name: str, accept: Callable[[tuple[int, int]], object] | None = None) -> Image.Image:
    """Decode the first frame of an image file into mode `L`, `RGB` or `F` ([0, 1]), upright.

    Args:
        data: the whole file.
        name: how messages call it.
        accept: called with the upright (height, width) before any pixel is decoded; raises for what is not wanted.

    Raises:
        ImageError: `unreadable`, `truncated` or `too-large`. Nothing else leaves Pillow, and no warning does.
    """
    check_bytes(len(data), name)
    with _pillow(name):
        return canonical(_open(BytesIO(data), name), name, accept)


def canonical(image: Image.Image, name: str, accept: Callable[[tuple[int, int]], object] | None = None) -> Image.Image:
    """An image that Pillow has opened as `decode` gives it; arguments and errors are those of `decode`."""
    with _pillow(name):
        turn = _turn(image)  # before load(): asking a broken PNG for its EXIF can make a later load() succeed
        if accept:
            accept(_upright(image, turn))
        image.load()
        image = _canonical(image, name)
        return image if turn is None else image.transpose(turn)


def check_bytes(nbytes: int, name: str) -> None:
    """Refuse empty files, and files too large to be an image of a dataset."""
    if nbytes == 0:
        raise ImageError(f"{name} is empty.")
    if nbytes > MAX_FILE_BYTES:
        raise ImageError(f"{name} has {nbytes:,} bytes, more than {MAX_FILE_BYTES:,}.", reason="too-large")


def _silence_libtiff() -> None:
    """Keep libtiff from printing on stderr: what it complains about is in the image's record, or harmless."""
    with suppress(OSError, AttributeError):
        loaded = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        for line in [line for line in loaded if "libtiff" in line][:1]:  # the library that Pillow has loaded
            library = ctypes.CDLL("/" + line.partition("/")[2])
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)


_silence_libtiff()


@contextmanager
def _pillow(name: str) -> Iterator[None]:
    """Silence Pillow's warnings, and turn whatever it raises into an `ImageError`."""
    try:
        with _SILENCE:
            yield
    except ImageError:
        raise
    except UnidentifiedImageError:  # its own message holds a memory address, another one in every run
        raise ImageError(f"{name} is no image that can be read.", details=[f"known: {', '.join(FORMATS)}"]) from None
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ImageError(f"{name} is too large to decode.", reason="too-large", details=[str(error)]) from None
    except Exception as error:  # broken files make Pillow raise OSError, ValueError, SyntaxError, struct.error, ...
        cut_off = isinstance(error, EOFError) or "truncated" in str(error).lower()
        what = f"{name} is cut off." if cut_off else f"{name} cannot be decoded."
        reason = "truncated" if cut_off else "unreadable"
        raise ImageError(what, reason=reason, details=[str(error) or type(error).__name__]) from None


def _open(stream: BinaryIO, name: str) -> Image.Image:
    """Open by content, and refuse by the header what would not fit."""
    image = Image.open(stream, formats=FORMATS)
    width, height = image.size
    if width * height > MAX_DECODED_PIXELS:
        raise ImageError(
            f"{name} is too large to decode: {height} x {width} pixels.",
            reason="too-large",
            details=[f"at most {MAX_DECODED_PIXELS:,} pixels are decoded"],
        )
    return image


def _upright(image: Image.Image, turn: Image.Transpose | None) -> tuple[int, int]:
    """Height and width after the turn."""
    return (image.width, image.height) if turn in SIDEWAYS else (image.height, image.width)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The transpose that brings an opened image upright; None for none and for bad EXIF.

    Pillow turns TIFF itself: such images have no `exif` here, and their size is already that of the turned image.
    """
    block = image.info.get("exif")
    if not isinstance(block, bytes):
        return None
    exif = Image.Exif()
    try:
        exif.load(block)
        return TURNS.get(exif.get(ORIENTATION, 1))
    except Exception:  # a corrupt EXIF block says nothing about the pixels, and raises as many types as Pillow has
        return None


def _canonical(image: Image.Image, name: str) -> Image.Image:
    """One of the modes `L`, `RGB` and `F` ([0, 1]); transparency is laid over white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _from_16_bits(image)
    if image.mode in ("I", "F"):
        raise ImageError(f"{name} has 32-bit pixels, for which no white is defined.", fix=["save it with 8 or 16 bits"])
    grey = image.mode in GREY_MODES
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if grey else "RGB"
    return image if image.mode == mode else image.convert(mode)  # to its own mode it would be copied


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Scale by 1/65535 in float; Pillow's own conversion to 8 bits clips everything above 255 to white."""
    values = np.asarray(image).astype(np.float32)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values[values == transparent] = 65535
    return Image.fromarray(np.minimum(values / np.float32(65535), np.float32(1)))
