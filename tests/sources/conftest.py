"""Small datasets made in a temporary folder."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def png(height: int = 5, width: int = 4, *, seed: int = 0, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(name="png")
def png_fixture() -> Callable[..., bytes]:
    """Bytes of a random PNG of a height and a width."""
    return png


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """Bytes of a Pillow image in a format."""

    def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    return encode


@pytest.fixture
def make_tar() -> Callable[..., Path]:
    """Write a tar of names and contents; `mode` as `tarfile.open` takes it."""

    def make(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
        with tarfile.open(path, mode) as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return path

    return make


@pytest.fixture
def make_folder() -> Callable[..., Path]:
    """Write a folder of names and contents."""

    def make(root: Path, files: Mapping[str, bytes]) -> Path:
        for name, data in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return root

    return make


@pytest.fixture
def pets() -> dict[str, bytes]:
    """Two splits, two classes, six images of different sizes, and three files that are no images."""
    files = {
        f"{split}/{name}/{number}.png": png(4 + number, 6, seed=number)
        for split, numbers in {"train": (1, 2), "val": (3,)}.items()
        for name in ("cats", "dogs")
        for number in numbers
    }
    return {**files, "train/.DS_Store": b"x", "train/cats/._1.png": b"x", "labels.txt": b"cats dogs"}
