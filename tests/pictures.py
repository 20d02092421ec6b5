"""A small folder of pictures of many sizes, and settings that fit them in a second."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from arcpipe.cluster import Cluster
from arcpipe.config import ConvertConfig, build
from arcpipe.convert.report import ConvertReport
from arcpipe.storage import Place, storage_at


def make_pictures(folder: Path, *, grey: bool = False, per_class: int = 6) -> Path:
    """Three classes of blurry blobs, each image at its own size, as split/class/file."""
    rng = np.random.default_rng(7)
    for split, count in (("train", per_class), ("test", 2)):
        for label, name in enumerate(("ants", "bees", "cats")):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                height, width = rng.integers(6, 15, 2)
                noise = rng.integers(0, 255, (height, width) if grey else (height, width, 3))
                noise[: height // 2] //= label + 1
                Image.fromarray(noise.astype(np.uint8)).save(folder / split / name / f"{i}.png")
    return folder


def settings(source: Path, out: Path, /, **changes: Any) -> ConvertConfig:
    """Small and quick; `changes` are laid over a section: `fit={"latents": 0.3}`."""
    values: dict[str, Any] = {
        "source": {"source": str(source)},
        "out": out,
        "fit": {"latents": 0.2, "latent_dim": 4, "pretrain_images": 4, "pretrain_steps": 8},
        "store": {"part_samples": 4},
    }
    for section, change in changes.items():
        values[section] = {**values.get(section, {}), **change} if isinstance(change, dict) else change
    return build(ConvertConfig, values)


def few_parts(source: Path, out: Path, /, **changes: Any) -> ConvertConfig:
    """The same with parts of nine samples: two of training clouds and one of test clouds.

    A part is 18 arrays, which take longer to write than its small images to fit.
    """
    return settings(source, out, **{**changes, "store": {"part_samples": 9, **changes.get("store", {})}})


@dataclass(frozen=True)
class Finished:
    """A finished conversion, for reading only: its images, the store, and what was reported of it."""

    source: Path
    store: Path
    report: ConvertReport


def in_process(executor: Executor) -> Cluster:
    return Cluster(executor, n_workers=1, threads=1, device="cpu", dashboard=None)


@contextmanager
def without_workers() -> Iterator[None]:
    """Conversions in this process start no others: the one task at a time that one worker would have."""
    with ThreadPoolExecutor(1) as executor, pytest.MonkeyPatch.context() as patch:
        patch.setattr("arcpipe.convert.run.open_cluster", lambda *_: nullcontext(in_process(executor)))
        yield


def contents(place: Place) -> dict[str, bytes]:
    """Every byte of every array of a store, by its path."""
    storage = storage_at(place)
    names = (name for name in sorted(storage.files()) if name.rpartition("/")[2] != "zarr.json")
    return {name: storage.read(name) for name in names}
