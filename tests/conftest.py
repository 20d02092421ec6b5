"""Fixtures that every room's tests may use: the development images, where they are present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep: tests share their cores


@pytest.fixture(scope="session")
def development_images() -> Path:
    """Folder of real images (cifar10-10k.tar, odd-images.tar, ...); the test is skipped where there is none."""
    here = Path(__file__).resolve().parents[1]
    for folder in (os.environ.get("ARCPIPE_TEST_DATA"), here.parent / "shared" / "data"):
        if folder and (Path(folder) / "MANIFEST.md").is_file():
            return Path(folder)
    pytest.skip("no development images: set ARCPIPE_TEST_DATA to their folder")
