"""Seeded batches of clouds like those of real images: whole pixels, several points in some voxels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    def make(sizes: list[int], *, side: int = 32, latent_dim: int = 32, seed: int = 0) -> Batch:
        """Clouds of so many points at distinct pixels of a square image, Gaussian latents."""
        drawn = torch.Generator().manual_seed(seed)
        pixels = torch.cat([torch.randperm(side * side, generator=drawn)[:size] for size in [*sizes, 0]])
        positions = torch.stack([pixels // side, pixels % side], 1).float()
        latents = torch.randn(len(pixels), latent_dim, generator=drawn)
        return latents, positions, torch.tensor([0, *sizes]).cumsum(0)

    return make
