"""What every model checks of a batch before it works on it."""

from __future__ import annotations

from torch import Tensor


def check_batch(latents: Tensor, positions: Tensor, offsets: Tensor) -> None:
    """Latents (m, z), positions (m, 2) and offsets (s + 1,) that end at m.

    Raises:
        ValueError: they disagree.
    """
    points, last = len(latents), int(offsets[-1])
    if positions.shape != (points, 2) or last != points:
        raise ValueError(f"latents {tuple(latents.shape)}, positions {tuple(positions.shape)}, offsets end at {last}")
