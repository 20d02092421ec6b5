"""Everything that a batch is made of, moved to a device in one piece."""

from __future__ import annotations

from collections.abc import Iterator
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
    tensors = list({id(tensor): tensor for tensor in _tensors(held)}.values())
    ends = [0]
    for tensor in tensors:
        ends.append(ends[-1] + -(-tensor.nbytes // ALIGNED) * ALIGNED)
    buffer = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    for tensor, start in zip(tensors, ends, strict=False):
        _view(buffer, start, tensor).copy_(tensor)
    there = buffer.to(device, non_blocking=True)
    known = {id(tensor): _view(there, start, tensor) for tensor, start in zip(tensors, ends, strict=False)}
    out: T = _rebuilt(held, known)
    return out


def _view(buffer: Tensor, start: int, like: Tensor) -> Tensor:
    return buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)


def _tensors(held: Any) -> Iterator[Tensor]:
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, Patches):
        yield from _tensors((held.order, held.starts, held.padded))
    elif isinstance(held, dict):
        yield from _tensors(list(held.values()))
    elif isinstance(held, list | tuple):
        for part in held:
            yield from _tensors(part)
    elif is_dataclass(held) and not isinstance(held, type):
        yield from _tensors([getattr(held, field.name) for field in fields(held)])


def _rebuilt(held: Any, known: dict[int, Any]) -> Any:
    """A copy with the known tensors; what is held twice is made once."""
    if id(held) in known:
        return known[id(held)]
    made = held
    if isinstance(held, Patches):
        made = Patches(_rebuilt(held.order, known), _rebuilt(held.starts, known))
        made.__dict__["padded"] = _rebuilt(held.padded, known)  # what the cached property would ask the device for
        known[id(held)] = made
    elif isinstance(held, dict):
        made = {key: _rebuilt(part, known) for key, part in held.items()}
    elif isinstance(held, list | tuple):
        made = type(held)(_rebuilt(part, known) for part in held)
    elif is_dataclass(held) and not isinstance(held, type):
        made = replace(held, **{field.name: _rebuilt(getattr(held, field.name), known) for field in fields(held)})
    return made
