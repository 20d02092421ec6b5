"""Small stores of made-up clouds, written by the real writer, with classes that a small model can tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from arcpipe.arc import edit
from arcpipe.cloud import BasisRecord, Cloud, CloudBatch, DecoderRecord, NetworkRecord
from arcpipe.config import AugmentSection
from arcpipe.store import StoreHeader, create_or_open, fingerprint
from arcpipe.stream.augment import Columns, augment

LATENT_DIM = 4
SIDE = 16


def make_cloud(label: int, sample_id: int, *, seed: int = 0, repeat: int = 0, n: int | None = None) -> Cloud:
    """A cloud of 6 to 12 points whose first latents say its class, with noise."""
    generator = np.random.default_rng([seed, label, sample_id, repeat])
    n = int(generator.integers(6, 13)) if n is None else n
    cells = np.sort(generator.permutation(SIDE * SIDE)[:n])  # Morton codes: sorted cells are in the store's order
    latents = 0.4 * generator.standard_normal((n, LATENT_DIM))
    latents[:, label % LATENT_DIM] += 1
    return Cloud(
        positions=np.stack([_every_other_bit(cells >> 1), _every_other_bit(cells)], axis=1).astype(np.uint16),
        latents=latents.astype(np.float16),
        size=(SIDE, SIDE),
        label=label,
        psnr=30.0,
        repeat=repeat,
        sample_id=sample_id,
        path=f"{label}/{sample_id:04d}.png",
    )


def make_decoder(seed: int = 0) -> DecoderRecord:
    generator = np.random.default_rng(seed)
    widths = (4 * (LATENT_DIM + 2), 8, 1)
    return NetworkRecord(
        weights=tuple(generator.standard_normal((b, a)).astype(np.float32) for a, b in pairwise(widths)),
        biases=tuple(np.zeros(b, np.float32) for b in widths[1:]),
        n_neighbours=4,
        latent_dim=LATENT_DIM,
    )


def make_basis(channels: int) -> BasisRecord:
    """A basis of four numbers: two of order 0, a pair of order 1."""
    profiles = np.random.default_rng(0).standard_normal((17, channels, 3)).astype(np.float32)
    profiles[0, :, 2] = 0
    orders, ones = np.array([0, 0, 1], np.float32), np.ones(LATENT_DIM, np.float32)
    return BasisRecord(profiles, orders, 0.25, 1.0, 0.5, np.array([0.4, 2, 40], np.float32), ones, ones, 4)


def write_store(
    path: Path,
    splits: Mapping[str, int] | None = None,
    *,
    n_classes: int = 3,
    part_samples: int = 20,
    repeats: int = 1,
    finish: bool = True,
    decoder_seed: int = 0,
    seed: int = 0,
    only_label: int | None = None,
    basis: bool = False,
    channels: int = 1,
) -> Path:
    """Write a store of `splits` (name -> images), of the kind `basis` if asked."""
    splits = {"train": 60, "test": 30} if splits is None else splits
    numbers = {name: {"samples": n, "parts": -(-n // part_samples)} for name, n in splits.items()}
    classes = tuple(f"class-{i}" for i in range(n_classes))
    config = {"source": {"source": "made-up"}, "seed": seed}
    header = StoreHeader(
        config=config,
        fingerprint=fingerprint(
            {**config, "splits": numbers, "decoder": decoder_seed, "label": only_label, "basis": basis}
        ),
        classes=classes,
        channels=channels,
        splits=numbers,
        neighbours_cache="none",
    )
    writer = create_or_open(path, header, make_basis(channels) if basis else make_decoder(decoder_seed))
    for split_number, (split, n) in enumerate(splits.items()):
        images = np.random.default_rng(split_number).permutation(n).tolist()
        parts = [part for part in writer.planned() if part.split == split]
        for part in parts if finish else parts[:-1]:
            own, images = images[: part.n_samples], images[part.n_samples :]
            clouds = [
                make_cloud(i % n_classes if only_label is None else only_label, i, seed=seed + split_number, repeat=r)
                for i in own
                for r in range(repeats)
            ]
            if basis:
                clouds = [replace(cloud, scales=np.exp2(np.arange(len(cloud)) % 9 / 8 + 1)) for cloud in clouds]
            writer.commit_part(split, part.id, CloudBatch.join(clouds))
    if finish:
        writer.finish()
    return path


def _every_other_bit(codes: np.ndarray) -> np.ndarray:
    return sum(((codes >> (2 * bit)) & 1) << bit for bit in range(4))


def augment_cloud(cloud: Cloud, key: int, section: AugmentSection, columns: Columns | None = None) -> Cloud:
    """Apply what `section.apply` names to one cloud, except ARCMix. `key` names the random numbers."""
    alone = section.model_copy(update={"apply": tuple(name for name in section.apply if name != "arcmix")})
    batch = CloudBatch.join([cloud], latent_dim=cloud.latents.shape[1])
    made = augment(batch, np.ones((1, 1), np.float32), np.array([key], np.uint64), alone, columns)
    return edit.changed(cloud, positions=made.positions, latents=made.latents, scales=None)
