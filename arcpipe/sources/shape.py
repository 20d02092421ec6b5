"""The shape that images take before they are fitted: channels, resize, crop, pad. Sizes are (height, width)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from arcpipe.config import FitSection, SourceSection
from arcpipe.errors import ImageError
from arcpipe.seeds import generator
from arcpipe.sources.headers import MAX_DECODED_PIXELS

VIEW_MARGIN = 1 / 8
"""Share of a side by which a view may lie beside the image: 4 pixels of 32, as is usual for CIFAR-10."""


def shaped_size(size: tuple[int, int], section: SourceSection, name: str) -> tuple[int, int]:
    """Height and width of an image of `size` after `shape_image`, without any pixels.

    Raises:
        ImageError: `too-small` for the crop, or `too-large` for the pad, for `max_pixels` or to be resized.
    """
    height, width = _resized(size, section, name)
    if section.center_crop:
        if min(height, width) < section.center_crop:
            raise ImageError(
                f"{name} is smaller than --center-crop {section.center_crop}: {height} x {width} pixels.",
                reason="too-small",
                fix=[f"--shorter {section.center_crop} --center-crop {section.center_crop}"],
            )
        height = width = section.center_crop
    if section.pad:
        if max(height, width) > section.pad:
            raise ImageError(
                f"{name} is larger than --pad {section.pad}: {height} x {width} pixels.",
                reason="too-large",
                fix=[f"--size {section.pad}", f"or --pad {max(height, width)}"],
            )
        height = width = section.pad
    if height * width > section.max_pixels:
        raise ImageError(
            f"{name} is too large to fit: {height} x {width} = {height * width:,} pixels.",
            reason="too-large",
            details=[f"at most {section.max_pixels:,}"],
            fix=["--shorter 1024", f"or --max-pixels {height * width}"],
        )
    return height, width


def shape_image(
    image: Image.Image, section: SourceSection, channels: int, name: str, seed: int = 0
) -> NDArray[np.float32]:
    """Bring a decoded image (mode `L`, `RGB` or `F` in [0, 1]) to its channels and size.

    In this order: channels (1: ITU-R 601 luma of `RGB`; 3: greyscale repeated), `size` or `shorter` (bicubic, over as
    many pixels as one new pixel covers, so without aliasing; clipped to [0, 1]), `center_crop`, `pad` with zeros (the
    picture in the middle; with `displace` anywhere inside, every place equally likely, by `seed` and `name`).

    Returns:
        (height, width, channels) float32 in [0, 1]; height and width as `shaped_size` says.

    Raises:
        ImageError: as `shaped_size`.
    """
    size = (image.height, image.width)
    shaped_size(size, section, name)  # refuses before any work
    if channels == 1 and image.mode == "RGB":
        image = image.convert("L")
    height, width = resized = _resized(size, section, name)
    if resized != size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    if section.center_crop:
        crop = section.center_crop
        left, top = (width - crop) // 2, (height - crop) // 2
        image = image.crop((left, top, left + crop, top + crop))
    pixels = _to_floats(image, channels)
    return _padded(pixels, section, name, seed) if section.pad else pixels


def view_of(pixels: NDArray[np.float32], number: int, fit: FitSection, name: str, seed: int = 0) -> NDArray[np.float32]:
    """A view of an image for `--views`: number 0 is the image.

    The others are cut out, at random places, of the image mirrored at its edges by `VIEW_MARGIN` of its sides; half of
    them are then mirrored left to right, if `fit.view_flip`. What is drawn follows from seed, name and number.

    Args:
        pixels: (height, width, channels).

    Returns:
        The same shape.
    """
    if number == 0:
        return pixels
    rng = generator("view", seed, name, number)
    height, width = pixels.shape[:2]
    rows, columns = round(height * VIEW_MARGIN), round(width * VIEW_MARGIN)
    wider = np.pad(pixels, ((rows, rows), (columns, columns), (0, 0)), "symmetric")
    top, left = int(rng.integers(2 * rows + 1)), int(rng.integers(2 * columns + 1))
    cut = wider[top : top + height, left : left + width]
    mirrored = fit.view_flip and rng.random() < 0.5
    return np.ascontiguousarray(cut[:, ::-1] if mirrored else cut)


def _resized(size: tuple[int, int], section: SourceSection, name: str) -> tuple[int, int]:
    height, width = size
    if section.size:
        height = width = section.size
    elif section.shorter:
        short = min(size)  # whole numbers only, halves up: the same on every machine
        height, width = ((2 * side * section.shorter + short) // (2 * short) for side in size)
    if height * width > MAX_DECODED_PIXELS:
        raise ImageError(
            f"{name} would be resized to {height} x {width} pixels.",
            reason="too-large",
            details=[f"at most {MAX_DECODED_PIXELS:,} pixels are held"],
        )
    return height, width


def _to_floats(image: Image.Image, channels: int) -> NDArray[np.float32]:
    if image.mode == "F":  # bicubic overshoots at edges: Pillow clips 8-bit images itself, floats it does not
        pixels = np.clip(np.asarray(image), 0, 1)
    else:
        from arcpipe.sources.floats import fill_floats

        data = image.tobytes()
        pixels = np.empty((image.height, image.width, len(data) // (image.height * image.width)), np.float32)
        fill_floats(np.frombuffer(data, np.uint8), pixels.reshape(-1))
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] != channels:
        pixels = np.repeat(pixels, channels, axis=2)
    return np.ascontiguousarray(pixels)


def _padded(pixels: NDArray[np.float32], section: SourceSection, name: str, seed: int) -> NDArray[np.float32]:
    side = section.pad or 0
    height, width, channels = pixels.shape
    top, left = (side - height) // 2, (side - width) // 2
    if section.displace:
        rng = generator("displace", seed, name)
        top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
    canvas = np.zeros((side, side, channels), np.float32)
    canvas[top : top + height, left : left + width] = pixels
    return canvas
