"""Batches on the device of the model, with what the model needs to know of their places."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch import nn

from arcpipe.models.classifier import Classifier
from arcpipe.models.share import Draw
from arcpipe.stream.loader import Batch

AHEAD = 2
"""Batches that wait on a GPU."""


def on_device(
    batches: Iterable[Batch], device: torch.device, plan: Callable[[Batch, int], Any], first_step: int = 0
) -> Iterator[Batch]:
    """Bring batches to a device.

    For a GPU, a thread of the CPU makes each batch's plan and moves both, `AHEAD` batches before they are needed: the
    integer side of a network (voxels, pairs, patches) has sizes that depend on its numbers, and a GPU would have to be
    waited for to tell them. On a CPU the network makes its plan when it needs it.

    Args:
        plan: Makes what `Classifier.plan` makes, of a batch and the number of its step.
        first_step: Number of the first batch's step.
    """
    return iter(batches) if device.type == "cpu" else made_ready(batches, device, plan, first_step)


def plan_of(model: nn.Module, batch: Batch, draw: Draw) -> Any:
    """Let a model plan from a batch's places; None where it does so itself, or where there are no points."""
    if not isinstance(model, Classifier) or not len(batch.latents):
        return None
    return model.plan(batch.positions, batch.offsets, draw)


def made_ready(
    batches: Iterable[Batch], device: torch.device, plan: Callable[[Batch, int], Any], first_step: int = 0
) -> Iterator[Batch]:
    def ready(batch: Batch, step: int) -> Batch:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():  # a thread begins on the first GPU
            return replace(batch, plan=plan(batch, step)).to(device)

    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(1) as thread:
        for batch, step in zip(batches, count(first_step), strict=False):
            waiting.append(thread.submit(ready, batch, step))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
