"""Compiled loops for the parts of a network whose shapes leave torch no room on a CPU; float32 only."""

from __future__ import annotations

import torch
from torch import Tensor


def compilable(features: Tensor) -> bool:
    """Whether the compiled loops can work on these features; else plain torch does the same."""
    plain = features.device.type == "cpu" and features.dtype == torch.float32
    return plain and not torch.is_autocast_enabled("cpu")
