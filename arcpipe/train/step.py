"""One optimisation step, and the learning rate at any moment."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from inspect import unwrap

import torch
from torch import Tensor, nn
from torch.nn import functional

from arcpipe.config import OptimSection
from arcpipe.errors import DivergedError
from arcpipe.stream.loader import Batch
from arcpipe.train.muon import Muon, Uncompiled, inner_matrices
from arcpipe.train.ranks import ALONE, Ranks


class AdamW(Uncompiled, torch.optim.AdamW):
    """PyTorch's AdamW, see `Uncompiled`."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


def make_optimiser(model: nn.Module, optim: OptimSection, device: torch.device) -> torch.optim.Optimizer:
    """Muon, or AdamW over all parameters, as published for the thesis's classifier."""
    # Not fused, it is a third of the loop's time on a CPU, and dozens of small kernels on a GPU.
    fused = True if device.type in ("cpu", "cuda") else None
    adamw = partial(AdamW, lr=optim.lr, weight_decay=optim.weight_decay, amsgrad=optim.amsgrad, fused=fused)
    matrices = inner_matrices(model) if optim.optimiser == "muon" else {}
    if not matrices:
        return adamw(model.parameters())
    taken = {id(matrix) for held in matrices.values() for matrix in held}
    others = adamw(parameter for parameter in model.parameters() if id(parameter) not in taken)
    return Muon(matrices, optim.lr, optim.weight_decay, others)


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
    share, device = ranks.share(batch), batch.latents.device
    # Of bfloat16 are the products only: weights and sums are float32.
    half = optim.precision == "bfloat16" or (optim.precision == "auto" and device.type == "cuda")
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        logits = model(batch.latents, batch.positions, batch.offsets, generator=generator, share=share, plan=batch.plan)
        loss = functional.cross_entropy(logits, batch.labels, label_smoothing=optim.label_smoothing)
    if ranks.world > 1:
        loss = loss * (len(batch) / (batch.total * ranks.replicas(batch)))
    right = (logits.argmax(1) == batch.labels.argmax(1)).sum()
    numbers = _told(torch.stack([loss.detach().double(), right.double()]))
    optimiser.zero_grad()
    loss.backward()
    own_loss, own_right = numbers()
    value, n_right = ranks.totals(own_loss, own_right / ranks.replicas(batch))
    if not math.isfinite(value):
        finite = bool(torch.isfinite(batch.latents).all())
        smaller = f"a smaller rate: the same command with --lr {min(optim.lr / 10, 3e-4):g} --overwrite"
        raise DivergedError(
            f"the training loss became {value}.",
            details=[f"learning rate {rate:g}", f"latents finite: {finite}"],
            fix=[smaller if finite else "arcpipe verify STORE"],
        )
    ranks.add_gradients(model)
    if optim.clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
    optimiser.step()
    return value, round(n_right)


def _told(values: Tensor) -> Callable[[], list[float]]:
    """Begin to bring a few numbers from a device, and return what waits for them.

    A GPU tells them between its pieces of work, not after the last.
    """
    if values.device.type != "cuda":
        return values.tolist
    told = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()

    def numbers() -> list[float]:
        ready.synchronize()
        return told.tolist()

    return numbers
