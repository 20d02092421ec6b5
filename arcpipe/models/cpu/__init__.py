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
    return features.device.type == "cpu" and features.dtype == torch.float32 and has_numba()
