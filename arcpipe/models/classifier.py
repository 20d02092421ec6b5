"""What all classifiers share: how a ragged batch becomes logits, whatever encodes its clouds."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from arcpipe.models.share import Draw, Share


class Classifier(nn.Module):
    """An encoder of clouds, `_encode`, and `head`, which turns what it gives into logits; a kind of it has both."""

    head: nn.Module

    def forward(
        self,
        latents: Tensor,
        positions: Tensor,
        offsets: Tensor,
        generator: torch.Generator | None = None,
        share: Share | None = None,
        plan: Any = None,
    ) -> Tensor:
        """Logits (s, classes) of s clouds.

        Args:
            latents: (m, z) float.
            positions: (m, 2) float, (row, column), pixels.
            offsets: (s + 1,) int64; cloud i owns points `offsets[i]:offsets[i + 1]`. An empty cloud gets the logits of
                a zero vector.
            generator: draws the curves and the dropped branches; needed in training, unused in evaluation.
            share: in training, which clouds of the whole batch these are, where several processes train on it together;
                every process then needs a point at least.
            plan: what `plan` made of the same clouds, `generator` and `share`, moved to the device of the latents.

        Raises:
            ValueError: shapes disagree, or there is no generator in training.
            ConfigError: a cloud is wider than 2**16 voxels, or a position is not finite.
        """
        if plan is None and (positions.shape != (len(latents), 2) or int(offsets[-1]) != len(latents)):
            shapes = f"latents {tuple(latents.shape)}, positions {tuple(positions.shape)}"
            raise ValueError(f"{shapes}, offsets end at {int(offsets[-1])}")
        if self.training and generator is None and plan is None:
            raise ValueError(
                f"in training, {type(self).__name__} needs a torch.Generator: it draws what differs from step to step"
            )
        draw = Draw(generator, share) if self.training else Draw()
        return self.head(self._encode(latents, positions, offsets, draw, plan))

    def plan(self, positions: Tensor, offsets: Tensor, draw: Draw) -> Any:
        """All that `forward` works out from places alone, and all that it draws; None where it does so itself.

        Sizes in it depend on the places, so that a CPU makes it in time for a GPU that need not be asked.
        """
        return None

    @abstractmethod
    def _encode(self, latents: Tensor, positions: Tensor, offsets: Tensor, draw: Draw, plan: Any) -> Tensor:
        """What the head is given of every cloud (s, channels)."""
