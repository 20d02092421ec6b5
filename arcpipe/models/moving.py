"""Everything that a batch is made of, moved to a device in one piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from arcpipe.models.attention import Patches

T = TypeVar("T")
ALIGNED = 64
"""Bytes at whose multiples a tensor begins: what vector loads of a GPU need, and more."""


def moved(held: T, device: torch.device) -> T:
    """The same tuples, lists, dictionaries and dataclasses with their tensors on the device.

    All tensors travel in one buffer (for a GPU in memory that it can read while the CPU goes on): a hundred small ones
    would take longer to start than to copy. A tensor that is held twice travels once.
    """
    found: dict[int, Tensor] = {}
    _changed(held, lambda tensor: found.setdefault(id(tensor), tensor))
    tensors = list(found.values())
    ends = [0]
    for tensor in tensors:
        ends.append(ends[-1] + -(-tensor.nbytes // ALIGNED) * ALIGNED)
    buffer = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    for tensor, start in zip(tensors, ends, strict=False):
        _view(buffer, start, tensor).copy_(tensor)
    there = buffer.to(device, non_blocking=True)
    known = {id(tensor): _view(there, start, tensor) for tensor, start in zip(tensors, ends, strict=False)}
    return _changed(held, lambda tensor: known[id(tensor)])


def _view(buffer: Tensor, start: int, like: Tensor) -> Tensor:
    return buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)


def _changed(held: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy with another tensor in the place of each."""
    if isinstance(held, Tensor):
        return change(held)
    if isinstance(held, Patches):
        made = Patches(change(held.order), change(held.starts))
        made.__dict__["padded"] = _changed(held.padded, change)  # what the cached property would ask the device for
        return made
    if isinstance(held, dict):
        return {key: _changed(part, change) for key, part in held.items()}
    if isinstance(held, list | tuple):
        return type(held)(_changed(part, change) for part in held)
    if is_dataclass(held) and not isinstance(held, type):
        return replace(held, **{field.name: _changed(getattr(held, field.name), change) for field in fields(held)})
    return held
