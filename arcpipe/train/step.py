"""One optimisation step, and the learning rate at any moment."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from arcpipe.config import OptimSection
from arcpipe.errors import DivergedError
from arcpipe.train.loader import Batch
from arcpipe.train.ranks import ALONE, Ranks


def make_optimiser(model: nn.Module, optim: OptimSection, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over all parameters, as published for the thesis's classifier."""
    # The fused form is a third of the loop's time on a CPU; on a GPU torch chooses well by itself.
    fused = True if device.type == "cpu" else None
    return torch.optim.AdamW(
        model.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, amsgrad=optim.amsgrad, fused=fused
    )


def learning_rate(optim: OptimSection, share: float, step: float = 0.0) -> float:
    """The rate of the next step, when `share` (0 to 1) of the training is done.

    A rise over `warmup`, then constant or a cosine to 0. `step`: the share of one step, by which the rise is ahead:
    the first step, too, moves something.
    """
    if share < optim.warmup:
        return optim.lr * min(1.0, (share + step) / optim.warmup)
    if optim.schedule == "constant":
        return optim.lr
    return optim.lr * 0.5 * (1 + math.cos(math.pi * (share - optim.warmup) / (1 - optim.warmup)))


def train_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    optim: OptimSection,
    rate: float,
    seed: int,
    ranks: Ranks = ALONE,
) -> tuple[float, int]:
    """Make one step; randomness inside the model comes from `seed` alone, so that a resumed run repeats it.

    Several ranks make the step of one process on the whole batch: every cloud weighs the same, whoever has it.

    Returns:
        Loss, and how many clouds got the class of their larger label share, of the whole batch.

    Raises:
        DivergedError: the loss is not finite; the weights were not changed.
    """
    for group in optimiser.param_groups:
        group["lr"] = rate
    generator = torch.Generator().manual_seed(seed)
    share = ranks.share(batch)
    logits = model(batch.latents, batch.positions, batch.offsets, generator=generator, share=share)
    loss = functional.cross_entropy(logits, batch.labels, label_smoothing=optim.label_smoothing)
    if ranks.world > 1:
        loss = loss * (len(batch) / (batch.total * ranks.replicas(batch)))
    right = int((logits.argmax(1) == batch.labels.argmax(1)).sum())
    value, n_right = ranks.totals(loss.item(), right / ranks.replicas(batch))
    if not math.isfinite(value):
        raise _diverged(value, rate, optim, bool(torch.isfinite(batch.latents).all()))
    optimiser.zero_grad()
    loss.backward()
    ranks.add_gradients(model)
    if optim.clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
    optimiser.step()
    return value, round(n_right)


def _diverged(value: float, rate: float, optim: OptimSection, finite: bool) -> DivergedError:
    smaller = f"a smaller rate: the same command with --lr {min(optim.lr / 10, 3e-4):g} --overwrite"
    return DivergedError(
        f"the training loss became {value}.",
        details=[f"learning rate {rate:g}", f"latents finite: {finite}"],
        fix=[smaller if finite else "arcpipe verify STORE"],
    )
