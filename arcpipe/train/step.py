"""One optimisation step, and the learning rate at any moment."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from arcpipe.config import OptimSection
from arcpipe.errors import DivergedError
from arcpipe.train.loader import Batch


def make_optimiser(model: nn.Module, optim: OptimSection, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over all parameters, as published for the thesis's classifier."""
    # The fused form is a third of the loop's time on a CPU; on a GPU torch chooses well by itself.
    fused = True if device.type == "cpu" else None
    return torch.optim.AdamW(model.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, fused=fused)


def learning_rate(optim: OptimSection, share: float) -> float:
    """The rate when `share` (0 to 1) of the training is done: a rise from 0 over `warmup`, then constant or a cosine to
    0."""
    if share < optim.warmup:
        return optim.lr * share / optim.warmup
    if optim.schedule == "constant":
        return optim.lr
    return optim.lr * 0.5 * (1 + math.cos(math.pi * (share - optim.warmup) / (1 - optim.warmup)))


def train_step(
    model: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch, optim: OptimSection, rate: float, seed: int
) -> tuple[float, int]:
    """Make one step; randomness inside the model comes from `seed` alone, so that a resumed run repeats it.

    Returns:
        Loss, and how many clouds got the class of their larger label share.

    Raises:
        DivergedError: the loss is not finite; the weights were not changed.
    """
    for group in optimiser.param_groups:
        group["lr"] = rate
    generator = torch.Generator().manual_seed(seed)
    logits = model(batch.latents, batch.positions, batch.offsets, generator=generator)
    loss = functional.cross_entropy(logits, batch.labels, label_smoothing=optim.label_smoothing)
    value = loss.item()
    if not math.isfinite(value):
        finite = bool(torch.isfinite(batch.latents).all())
        smaller = f"a smaller rate: the same command with --lr {min(optim.lr / 10, 3e-4):g} --overwrite"
        raise DivergedError(
            f"the training loss became {value}.",
            details=[f"learning rate {rate:g}", f"latents finite: {finite}"],
            fix=[smaller if finite else "arcpipe verify STORE"],
        )
    optimiser.zero_grad()
    loss.backward()
    if optim.clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
    optimiser.step()
    return value, int((logits.argmax(1) == batch.labels.argmax(1)).sum())
