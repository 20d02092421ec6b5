"""Clouds back to images, and images beside the samples they came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import Cloud, DecoderRecord, SirenRecord
from arcpipe.config import SourceSection, build
from arcpipe.errors import ArcpipeError
from arcpipe.sources import Sample, Source, open_source

PLACES = 2**14
"""Places decoded at once."""


def render_cloud(
    cloud: Cloud, decoder: DecoderRecord, *, scale: int = 1, use_cache: bool = True
) -> NDArray[np.float32]:
    """Decode a cloud (thesis eq. 3-8, 5) into an image (height * scale, width * scale, C) within [0, 1].

    Args:
        scale: sample points on each pixel's side; they lie between the pixels, evenly.
        use_cache: take the neighbours that the cloud brings along, if any; the picture is the same without.
    """
    from arcpipe.arc.engine import decode, decoder_of  # imports torch

    neighbours = cloud.neighbours if use_cache and scale == 1 else None
    image = decode(
        np.asarray(cloud.latents, np.float32),
        cloud.positions,
        cloud.size,
        decoder_of(decoder, "cpu"),
        cloud.relative,
        neighbours,
        scale=scale,
        scales=cloud.scales,
    )
    return np.clip(np.asarray(image, np.float32), 0.0, 1.0)


def render_places(cloud: Cloud, decoder: DecoderRecord, places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Decode a cloud at any places (p, 2): colours (p, C), not clamped."""
    import torch

    from arcpipe.arc import engine  # imports torch
    from arcpipe.arc.basis import Basis
    from arcpipe.arc.factorised import Factorised
    from arcpipe.arc.kernels import basis_kernel
    from arcpipe.arc.neighbours import Finder
    from arcpipe.arc.problem import standardised_gaps
    from arcpipe.arc.sirens import Sirens

    ready, find = engine.decoder_of(decoder), Finder(cloud.positions, decoder.n_neighbours)
    if isinstance(ready, Sirens):
        raise ValueError("a sine network is rendered whole")
    latents, found = np.asarray(cloud.latents, np.float32), []
    for start in range(0, len(places), PLACES):
        some = places[start : start + PLACES]
        near = find(some)
        if isinstance(ready, Basis):
            if cloud.scales is None:
                raise ValueError("a cloud of the kind basis is decoded with the scales of its anchors")
            found.append(basis_kernel.render_places(ready, latents, cloud.positions, cloud.scales, some, near))
            continue
        gaps = standardised_gaps(cloud.positions, near, some, cloud.relative)
        found.append(engine.decode_pixels(Factorised(ready), torch.from_numpy(latents), near, gaps))
    return np.concatenate(found)


def render_window(
    cloud: Cloud, decoder: DecoderRecord, window: tuple[int, int, int, int], *, scale: int = 1
) -> NDArray[np.float32]:
    """Decode only the pixels of `window` (top, left, height, width): what `render_cloud` has there.

    Where two anchors are equally far, rounding may choose the other one if `scale` is no power of two.
    """
    top, left, height, width = window
    if isinstance(decoder, SirenRecord):  # a network's coordinates are those of the whole image
        whole = render_cloud(cloud, decoder, scale=scale)
        return whole[top * scale : (top + height) * scale, left * scale : (left + width) * scale]
    moved = np.asarray(cloud.positions, np.int64 if cloud.positions.dtype.kind in "ui" else np.float64) - (top, left)
    return render_cloud(replace(cloud, positions=moved, size=(height, width), neighbours=None), decoder, scale=scale)


@dataclass(frozen=True, slots=True)
class Originals:
    """The images a store was made from, where they can still be read; `note` says why not."""

    source: Source | None
    samples: dict[tuple[str, str], Sample]
    channels: int
    note: str = ""

    def read(self, split: str, path: str) -> NDArray[np.float32] | None:
        """The image (H, W, C) as it was fitted, or None if it is gone or cannot be decoded."""
        sample = self.samples.get((split, path))
        if self.source is None or sample is None:
            return None
        try:
            return self.source.read(sample, self.channels)
        except (ArcpipeError, OSError):  # a picture that has gone bad since: the sheet says so
            return None


def open_originals(config: dict[str, Any], channels: int) -> Originals:
    """Find the source of a store's resolved config. Nothing is downloaded; nothing is raised if it is gone."""
    try:
        section = build(SourceSection, config["source"], "the store's config")
        source = open_source(section, seed=int(config.get("seed", 0)), download=False)
        found = source.inventory().samples
    except KeyError:
        return Originals(None, {}, channels, "Reconstructions only, the store does not say where its images are.")
    except (ArcpipeError, OSError) as error:
        why = error.what if isinstance(error, ArcpipeError) else str(error)
        return Originals(None, {}, channels, f"Reconstructions only, the source images cannot be opened: {why}")
    samples = {(split, sample.path): sample for split, rows in found.items() for sample in rows}
    return Originals(source, samples, channels)
