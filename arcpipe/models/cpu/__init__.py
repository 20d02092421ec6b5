"""Compiled loops for the parts of a network whose shapes leave torch no room on a CPU; float32 only."""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor


@functools.cache
def has_numba() -> bool:
    """Whether the loops can be compiled here."""
    return importlib.util.find_spec("numba") is not None


def compilable(features: Tensor) -> bool:
    """Whether the compiled loops can work on these features; else plain torch does the same."""
    if features.device.type != "cpu" or features.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    return has_numba()
