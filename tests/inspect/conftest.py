"""A small store with the folder of images that it was made from. Nothing is fitted: latents are random."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from arcpipe.arc.anchors import morton_order
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.engine import decode
from arcpipe.arc.metrics import psnr
from arcpipe.arc.neighbours import nearest_anchors, relative_statistics
from arcpipe.cloud import Cloud, CloudBatch, DecoderRecord
from arcpipe.config import ConvertConfig, FitSection, SourceSection, StoreSection
from arcpipe.sources import Sample, open_source
from arcpipe.store import StoreHeader, create_or_open

SIZES = {
    "train/cat/a 1.png": (12, 17),
    "train/cat/ünï.png": (12, 17),
    "train/dog/b.png": (12, 17),
    "train/dog/c.png": (20, 9),
    "test/cat/d.png": (12, 17),
    "test/dog/e.png": (31, 33),
}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store for all who only look at it."""
    folder = tmp_path_factory.mktemp("looked-at")
    return write_store(folder / "small.zarr", make_images(folder / "images"), ("test", "train"), cache=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The images of the stores of `make_store`, to be changed."""
    return make_images(tmp_path / "images")


def make_images(folder: Path) -> Path:
    """Folder `split/class/file` of six noisy colour images."""
    rng = np.random.default_rng(1)
    for name, (height, width) in SIZES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(file)
    return folder


@pytest.fixture
def make_store(tmp_path: Path, images: Path) -> Callable[..., Path]:
    """A function that writes the store; `splits` says which are committed, `cache` whether neighbours are kept."""

    def make(name: str = "small.zarr", *, splits: tuple[str, ...] = ("test", "train"), cache: bool = True) -> Path:
        return write_store(tmp_path / name, images, splits, cache)

    return make


def write_store(path: Path, images: Path, splits: tuple[str, ...], cache: bool) -> Path:
    fit = FitSection(latent_dim=5, hidden=(16,))
    config = ConvertConfig(
        source=SourceSection(source=str(images)),
        out=path,
        fit=fit,
        store=StoreSection(neighbours_cache="pixels" if cache else "none"),
    )
    source = open_source(config.source, seed=0)
    inventory = source.inventory()
    header = StoreHeader(
        config=config.model_dump(mode="json"),
        fingerprint="f" * 64,
        classes=inventory.classes,
        channels=3,
        splits={split: {"samples": len(rows), "parts": 1} for split, rows in inventory.samples.items()},
        neighbours_cache=config.store.neighbours_cache,
    )
    decoder = Decoder.initial(fit, 3, seed=0).to_record()
    writer = create_or_open(path, header, decoder)
    for split in splits:
        clouds = [cloud_of(source.read(s, 3), s, decoder, cache) for s in inventory.samples[split]]
        writer.commit_part(split, "0000", CloudBatch.join(clouds), [], {})
    if set(splits) == set(inventory.samples):
        writer.finish({})
    return path


def cloud_of(image: NDArray[np.float32], sample: Sample, record: DecoderRecord, cache: bool) -> Cloud:
    """Random latents at random anchors, with the PSNR that they really have."""
    size = (image.shape[0], image.shape[1])
    rng = np.random.default_rng(len(sample.path) + sample.sample_id)
    flat = rng.choice(size[0] * size[1], max(4, size[0] * size[1] // 20), replace=False)
    positions = np.stack(np.divmod(flat, size[1]), axis=1).astype(np.uint16)
    positions = positions[morton_order(positions)]
    latents = rng.normal(0, 2, (len(positions), 5)).astype(np.float16)
    neighbours = nearest_anchors(positions, size, 4)
    relative = relative_statistics(positions, neighbours, size)
    decoded = decode(
        latents.astype(np.float32), positions, size, Decoder.from_record(record, "cpu"), relative, neighbours
    )
    return Cloud(
        positions=positions,
        latents=latents,
        size=size,
        relative=relative,
        neighbours=neighbours.astype(np.uint16) if cache else None,
        label=sample.label,
        psnr=psnr(image, np.asarray(decoded)),
        sample_id=sample.sample_id,
        path=sample.path,
    )
