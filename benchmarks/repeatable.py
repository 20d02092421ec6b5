"""How repeatable the latents of a recipe are, beside its PSNR.

    python benchmarks/repeatable.py STORE [SOURCE]

Fits some images of a source (by default pieces of photographs) twice under the decoder of a store: with the same
anchors, but other first latents and other mini-batches. Prints for each recipe the mean PSNR, the mean square length
of a latent, and the correlation of the two fits (mean over latent dimensions). What differs between two fits is noise
to whoever learns from them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc import problem
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.engine import decode, fit_clouds
from arcpipe.arc.metrics import psnr
from arcpipe.arc.problem import FittedCloud
from arcpipe.bench.photographs import photographs
from arcpipe.cloud import NetworkRecord
from arcpipe.config import FitSection, SourceSection
from arcpipe.seeds import generator
from arcpipe.sources import open_source
from arcpipe.store import open_store

VARIANTS: list[dict[str, Any]] = [
    {},
    {"recipe": "fast"},
    {"recipe": "fast", "betas": (0.8, 0.95)},
    {"recipe": "fast", "betas": (0.8, 0.9), "steps": 300},
    {"recipe": "fast", "lr": 0.02, "betas": (0.9, 0.95)},
    {"recipe": "fast", "pixel_share": 0.5, "steps": 150},
]


def main() -> None:
    """Print a line for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("source", nargs="?")
    parser.add_argument("--images", type=int, default=48)
    given = parser.parse_args()
    record = open_store(given.store).decoder
    assert isinstance(record, NetworkRecord), "a store of the recipe thesis or fast"
    decoder = Decoder.from_record(record)
    images = load(given.source, given.images) if given.source else photographs((32, 32), given.images)
    print(f"{'recipe':70}    PSNR  mean |w|^2  correlation")
    for variant in VARIANTS:
        fit = FitSection.model_validate(variant)
        first, second = (fit_again(images, decoder, fit, salt) for salt in (0, 1))
        quality = np.mean(
            [
                psnr(image, decode(cloud.latents, cloud.positions, image.shape[:2], decoder, cloud.relative))
                for image, cloud in zip(images, first, strict=True)
            ]
        )
        one, two = (np.concatenate([cloud.latents for cloud in clouds]) for clouds in (first, second))
        same = np.mean([np.corrcoef(one[:, i], two[:, i])[0, 1] for i in range(one.shape[1])])
        name = " ".join(f"{key}={value}" for key, value in variant.items()) or "recipe=thesis"
        print(f"{name:70} {quality:7.2f} {np.square(one).sum(1).mean():11.3f} {same:12.3f}", flush=True)


def load(name: str, count: int) -> list[NDArray[np.float32]]:
    """Images of a source, evenly over its samples."""
    source = open_source(SourceSection(source=name))
    inventory = source.inventory()
    samples = inventory.samples.get("train") or next(iter(inventory.samples.values()))
    chosen = islice(samples, 0, None, max(1, len(samples) // count))
    return [source.read(sample, inventory.channels) for sample in chosen][:count]


def fit_again(images: Sequence[NDArray[np.float32]], decoder: Decoder, fit: FitSection, salt: int) -> list[FittedCloud]:
    """Fit with anchors that depend on the image alone, and everything else drawn by `salt`."""

    def salted(seed: int, use: str) -> np.random.Generator:
        return generator(seed if use == "anchors" else 2 * seed + salt, use)

    with patch.object(problem, "generator", salted):
        return fit_clouds(images, decoder, fit, list(range(len(images))))


if __name__ == "__main__":
    main()
