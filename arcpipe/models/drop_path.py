"""Drop path: in training, whole branches of a residual network are left out, drawn for every cloud by itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from arcpipe.models.share import Share


def draw_branches(
    rates: Sequence[float], n_clouds: int, like: Tensor, generator: torch.Generator | None, share: Share | None = None
) -> list[Tensor | None]:
    """For every block, factors (2, s) that drop a cloud's branch at the block's rate and keep the expectation.

    They have the type and device of `like`. None, for ones, without a generator and where the rate is 0.
    """
    if generator is None:
        return [None] * len(rates)
    total = n_clouds if share is None else share.total
    chance = torch.rand(len(rates), 2, total, generator=generator, device=generator.device)
    chance = (chance if share is None else share.own(chance)).to(like.device)
    return [(chance[i] >= rate).to(like.dtype) / (1 - rate) if rate else None for i, rate in enumerate(rates)]
