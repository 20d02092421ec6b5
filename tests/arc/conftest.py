"""Small images and settings for the numeric core."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from arcpipe.config import FitSection

Image = np.ndarray


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_image() -> Callable[..., Image]:
    """Seeded noise (height, width, channels) over a ramp."""

    def make(height: int, width: int, channels: int = 3, seed: int = 0) -> Image:
        rng = np.random.default_rng([seed, height, width, channels])
        ramp = np.linspace(0, 0.5, height * width * channels).reshape(height, width, channels)
        return (ramp + rng.random((height, width, channels)) / 2).astype(np.float32)

    return make


@pytest.fixture
def fit() -> FitSection:
    """The thesis's recipe, but 50 steps and an `eps` so large that Adam does not blow up rounding differences."""
    return FitSection(steps=50, pretrain_steps=20, eps=1e-3)
