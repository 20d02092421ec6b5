"""A store of made-up clouds, written as `arcpipe convert` writes it: as many and as large as a measurement needs."""

from __future__ import annotations

import numpy as np

from arcpipe.cloud import CloudBatch, NetworkRecord, ends_from, morton_codes
from arcpipe.errors import ConfigError
from arcpipe.storage import Place
from arcpipe.store import Store, StoreHeader, create_or_open, fingerprint, open_store

CLASSES = 10
NEIGHBOURS = 4


def require_clouds(store: Store) -> Store:
    """Refuse a store of sine networks: what is measured are networks that read clouds."""
    if store.decoder_kind == "siren":
        raise ConfigError(
            "arcpipe bench measures networks that read clouds, and the store holds sine networks.",
            details=[f"{store.storage} is of the kind siren"],
            fix=["--store with a store of clouds", "or leave --store out"],
        )
    return store


def write_clouds(
    place: Place, n: int, *, points: int = 51, latent_dim: int = 32, side: int = 32, part_samples: int = 512
) -> Store:
    """Write a finished store with a split `train` of `n` clouds of `points` points in pictures of `side` pixels."""
    sizes = [min(part_samples, n - start) for start in range(0, n, part_samples)]
    header = StoreHeader(
        config={"source": {"source": "made-up"}, "seed": 0},
        fingerprint=fingerprint({"clouds": n, "points": points, "latent_dim": latent_dim, "side": side}),
        classes=tuple(f"class-{i}" for i in range(CLASSES)),
        channels=3,
        splits={"train": {"samples": n, "parts": len(sizes)}},
        neighbours_cache="none",
    )
    weights, biases = np.zeros((3, NEIGHBOURS * (latent_dim + 2)), np.float32), np.zeros(3, np.float32)
    writer = create_or_open(place, header, NetworkRecord((weights,), (biases,), NEIGHBOURS, latent_dim))
    first = 0
    for part in writer.planned():
        writer.commit_part(part.split, part.id, _clouds(first, part.n_samples, points, latent_dim, side))
        first += part.n_samples
    writer.finish()
    return open_store(place)


def _clouds(first: int, n: int, points: int, latent_dim: int, side: int) -> CloudBatch:
    generator = np.random.default_rng(first)
    pixels = np.stack([generator.permutation(side * side)[:points] for _ in range(n)]).ravel()
    positions = np.stack([pixels // side, pixels % side], axis=1).astype(np.uint16)
    cloud = np.repeat(np.arange(n), points)
    positions = positions[np.lexsort((morton_codes(positions), cloud))]
    return CloudBatch(
        offsets=ends_from([points] * n),
        positions=positions,
        latents=generator.standard_normal((n * points, latent_dim), np.float32).astype(np.float16),
        sizes=np.full((n, 2), side, np.int64),
        relative=np.tile(np.array([0, 1], np.float32), (n, 1)),
        labels=generator.integers(0, CLASSES, n),
        psnr=np.full(n, 30, np.float32),
        repeats=np.zeros(n, np.int64),
        sample_ids=np.arange(first, first + n),
        paths=tuple(f"{i:08d}.png" for i in range(first, first + n)),
    )
