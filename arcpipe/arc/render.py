"""Clouds back to images: whole, finer, a window of them, any places; and how far they are from the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.basis import Basis
from arcpipe.arc.engine import AnyDecoder, colours_at, decode, decoder_of
from arcpipe.arc.metrics import psnr
from arcpipe.arc.neighbours import Finder
from arcpipe.cloud import Cloud, DecoderRecord, SirenRecord
from arcpipe.threads import each

PLACES = 2**14
"""Places decoded at once."""


def render_cloud(
    cloud: Cloud,
    decoder: DecoderRecord | AnyDecoder | None = None,
    *,
    scale: int = 1,
    window: tuple[int, int, int, int] | None = None,
    use_cache: bool = True,
) -> NDArray[np.float32]:
    """Decode a cloud (thesis eq. 3-8, 5) into an image (height * scale, width * scale, C) float32 within [0, 1].

    >>> import arcpipe as ap
    >>> store = ap.open_store("store/digits.zarr")
    >>> ap.decode(store["train/17"], store.decoder, scale=4).shape
    (128, 128, 1)
    >>> ap.decode(store["train/17"], window=(8, 8, 4, 6)).shape  # top, left, height, width
    (4, 6, 1)

    Args:
        cloud: As it was fitted, or edited.
        decoder: The one that the cloud was fitted under; by default the one that it brings along.
        scale: Sample points on each pixel's side; they lie between the pixels, evenly.
        window: (top, left, height, width): decode only these pixels. The result is what the whole image has there;
            where two anchors are equally far, rounding may choose the other one if `scale` is no power of two.
        use_cache: Take the neighbours that the cloud brings along, if any; the picture is the same without.

    Raises:
        ValueError: the cloud brings no decoder along, and none is given, or another than the one that it brings along;
            or nothing would be drawn.
        TypeError: what is given is no cloud, or no decoder.
    """
    if scale < 1 or (window is not None and min(window[2:]) < 1):
        raise ValueError(f"nothing would be drawn: scale {scale}, window (top, left, height, width) {window}")
    ready = _ready(cloud, decoder)
    if window is not None and isinstance(ready, SirenRecord):  # a network's coordinates are those of the whole image
        top, left, height, width = (scale * edge for edge in window)
        return render_cloud(cloud, ready, scale=scale)[top : top + height, left : left + width]
    if window is not None:
        top, left, height, width = window
        integers = cloud.positions.dtype.kind in "ui"
        moved = np.asarray(cloud.positions, np.int64 if integers else np.float64) - (top, left)
        cloud = replace(cloud, positions=moved, size=(height, width), neighbours=None)
    image = decode(
        np.asarray(cloud.latents, np.float32),
        cloud.positions,
        cloud.size,
        ready,
        cloud.relative,
        cloud.neighbours if use_cache and scale == 1 else None,
        scale=scale,
        scales=cloud.scales,
    )
    return np.clip(image, 0.0, 1.0, out=image)


def render_places(cloud: Cloud, decoder: DecoderRecord, places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Decode a cloud at any places (p, 2): colours (p, C), not clamped. A sine network is only rendered whole."""
    ready, find = decoder_of(decoder), Finder(cloud.positions, decoder.n_neighbours)
    if isinstance(ready, SirenRecord):
        raise ValueError("a sine network is rendered whole")
    colours = colours_at(ready, cloud.latents, cloud.positions, cloud.relative, cloud.scales)
    pieces = (places[start : start + PLACES] for start in range(0, len(places), PLACES))
    return np.concatenate([colours(some, find(some)) for some in pieces])


def render_and_compare(
    cloud: Cloud, decoder: DecoderRecord | AnyDecoder, original: NDArray[Any] | None
) -> tuple[NDArray[np.float32], float]:
    """Decode a cloud, and measure the PSNR (dB) against its original: NaN where that is missing or of another shape."""
    image = render_cloud(cloud, decoder)
    if original is None or original.shape != image.shape:
        return image, float("nan")
    return image, psnr(original, image)


def measure(
    clouds: Sequence[Cloud], decoder: AnyDecoder, images: Sequence[NDArray[Any]], *, threads: int = 1
) -> list[float]:
    """The PSNR (dB) of clouds, as they are fitted, against their images: on the decoder's device."""
    if isinstance(decoder, Basis) and decoder.device != "cpu":
        from arcpipe.arc.kernels.batch_kernel import BatchKernel

        return BatchKernel(decoder).measure(clouds, images)
    if not isinstance(decoder, Basis) and (isinstance(decoder, SirenRecord) or str(decoder.device) == "cpu"):
        threads = 1  # torch has threads of its own for a network; what compiled loops or a GPU decode is spread here
    return each(lambda i: render_and_compare(clouds[i], decoder, images[i])[1], range(len(clouds)), threads)


def _ready(cloud: Cloud, decoder: DecoderRecord | AnyDecoder | None) -> AnyDecoder:
    if not isinstance(cloud, Cloud):
        raise TypeError(f"what is decoded is a cloud, as store['train/0'] gives one, not {type(cloud).__name__}")
    record = decoder or cloud.decoder
    if record is None:
        raise ValueError("the cloud brings no decoder along: give that of its store")
    if not isinstance(record, DecoderRecord):
        if hasattr(record, "to_record"):
            return record
        raise TypeError(f"a decoder is what store.decoder gives, not {type(record).__name__}")
    own = cloud.decoder
    if own is not None and own is not record and own.sha256 != record.sha256:
        raise ValueError(f"the cloud was fitted under the decoder {own.sha256[:8]}, and this is {record.sha256[:8]}")
    return decoder_of(record)
