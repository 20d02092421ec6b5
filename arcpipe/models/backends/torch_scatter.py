"""Pooling by torch-scatter."""

from __future__ import annotations

import torch_scatter
from torch import Tensor


def segment_max(values: Tensor, segment: Tensor, n: int) -> Tensor:
    """`pooling.segment_max`; which of several equal maxima gets the gradient is the package's choice."""
    return torch_scatter.scatter_max(values, segment, dim=0, dim_size=n)[0]
