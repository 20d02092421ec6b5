"""The ways to fit that are compared: from what is usually done to what arcpipe does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from arcpipe.arc.basis import Basis
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.engine import AnyDecoder
from arcpipe.arc.metrics import psnr
from arcpipe.arc.problem import learning_rates
from arcpipe.arc.reference import ReferenceCloud, decode_reference, fit_cloud_reference
from arcpipe.arc.render import render_cloud
from arcpipe.cloud import Cloud, ends_from
from arcpipe.config import FitSection, StoreSection
from arcpipe.errors import ImageError
from arcpipe.fitter import Fitter
from arcpipe.siren import split_layers
from arcpipe.siren.network import first_values

Images = Sequence[NDArray[np.float32]]
Reconstructions = list[NDArray[np.float32]]


class Fitted(NamedTuple):
    """Steps taken for an image (on average), and what renders the images: that is not part of the time."""

    steps: float
    render: Callable[[], Reconstructions]


Method = Callable[[Images, Any, FitSection], Fitted]

BATCH_PIXELS = 8 * 32 * 32
"""Images that autograd is given at once: 8 of 32x32 were its fastest on a CPU; larger ones go alone."""
SIREN_LAYERS, SIREN_WIDTH, SIREN_OMEGA, SIREN_LR, SIREN_STEPS = 3, 64, 30.0, 5e-4, 1000


def loop(images: Images, decoder: Decoder, fit: FitSection) -> Fitted:
    """One image at a time through autograd, as the equations stand."""
    clouds = [fit_cloud_reference(image, decoder, fit, seed)[0] for seed, image in enumerate(images)]
    return Fitted(fit.steps, lambda: [_render(cloud, decoder) for cloud in clouds])


def batch(images: Images, decoder: Decoder, fit: FitSection) -> Fitted:
    """Several images end to end through autograd."""
    clouds = [ReferenceCloud(image, fit, seed) for seed, image in enumerate(images)]
    together = max(1, BATCH_PIXELS // (images[0].shape[0] * images[0].shape[1]))
    for start in range(0, len(clouds), together):
        _fit_together(clouds[start : start + together], decoder, fit)
    return Fitted(fit.steps, lambda: [_render(cloud, decoder) for cloud in clouds])


def engine(images: Images, decoder: AnyDecoder, fit: FitSection) -> Fitted:
    """The engine of arcpipe."""
    fitter = Fitter(decoder, fit, StoreSection(dtype="float32"))
    clouds = fitter.solve(images, range(len(images)))
    return Fitted(fit.steps, lambda: [_picture(cloud, decoder) for cloud in fitter.finish(clouds, images)])


def _picture(cloud: Cloud | ImageError, decoder: AnyDecoder) -> NDArray[np.float32]:
    if isinstance(cloud, ImageError):
        raise cloud
    return render_cloud(cloud, decoder)


def basis(images: Images, decoder: Basis, fit: FitSection) -> Fitted:
    """The engine of arcpipe with the recipe `basis`."""
    return engine(images, decoder, FitSection(recipe="basis").model_copy(update={"steps": steps_of("basis", fit)}))


def siren(images: Images, decoder: Decoder, fit: FitSection, goals: Sequence[float] | None = None) -> Fitted:
    """A sine network for each image (thesis appendix C), full batches, until its PSNR reaches the goal (dB)."""
    steps = steps_of("siren", fit)
    goals = goals or [math.inf] * len(images)
    fits = [fit_siren(image, goal, steps) for image, goal in zip(images, goals, strict=True)]
    return Fitted(sum(taken for _, taken in fits) / len(fits), lambda: [made for made, _ in fits])


def engine_psnr(images: Images, decoder: AnyDecoder, fit: FitSection) -> list[float]:
    """What the engine reaches on each image, dB."""
    return [psnr(image, made) for image, made in zip(images, engine(images, decoder, fit).render(), strict=True)]


def steps_of(method: str, fit: FitSection) -> int:
    """At most so many steps: the method's own, in proportion where `fit` has others than the recipe `thesis`."""
    whole = {"basis": FitSection(recipe="basis").steps, "siren": SIREN_STEPS}[method]
    return max(1, round(whole * fit.steps / FitSection().steps))


METHODS: dict[str, Method] = {
    "loop": loop,
    "batch": batch,
    "thesis": engine,
    "basis": basis,
    "siren": siren,
}


def _fit_together(clouds: Sequence[ReferenceCloud], decoder: Decoder, fit: FitSection) -> None:
    """Adam over the latents of several images, the loss summed over them."""
    ends = ends_from([len(cloud.latents) for cloud in clouds])
    latents = torch.cat([cloud.latents for cloud in clouds]).requires_grad_(True)
    adam = torch.optim.Adam([latents], lr=fit.lr, betas=fit.betas, eps=fit.eps)
    inputs = [_mini_batch(clouds, ends, i) for i in range(len(clouds[0].batches))]
    for step, rate in enumerate(learning_rates(fit)):
        adam.param_groups[0]["lr"] = float(rate)
        near, relative, target, weight = inputs[step % len(inputs)]
        made = decode_reference(decoder, torch.cat([latents[near].flatten(1), relative], dim=1))
        adam.zero_grad()
        ((made - target).square() * weight).sum().backward()
        adam.step()
    for cloud, rows in zip(clouds, latents.detach().split(np.diff(ends).tolist()), strict=True):
        cloud.latents = rows


def _mini_batch(clouds: Sequence[ReferenceCloud], ends: NDArray[np.int64], number: int) -> tuple[Tensor, ...]:
    """Neighbours, relative positions, colours and weights of one mini-batch of all images, end to end."""
    parts = []
    for cloud, first in zip(clouds, ends[:-1], strict=True):
        pixels = torch.from_numpy(cloud.batches[number])
        target = cloud.image[pixels]
        relative = cloud.encode(pixels)[:, cloud.neighbours.shape[1] * cloud.latents.shape[1] :]
        parts.append(
            (cloud.neighbours[pixels] + int(first), relative, target, torch.full_like(target, 1 / target.numel()))
        )
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _render(cloud: ReferenceCloud, decoder: Decoder) -> NDArray[np.float32]:
    with torch.no_grad():
        pixels = torch.arange(len(cloud.image)).split(2**16)
        values = torch.cat([decode_reference(decoder, cloud.encode(part)) for part in pixels])
    return values.reshape(-1, cloud.width, values.shape[1]).numpy()


def fit_siren(image: NDArray[np.float32], goal_db: float, steps: int) -> tuple[NDArray[np.float32], int]:
    """Fit a SIREN to an image: places in [-1, 1], omega 30, weights and biases as prescribed, Adam at 5e-4.

    Returns:
        The reconstruction when it reaches `goal_db`, else after `steps`; and the steps taken.
    """
    height, width, channels = image.shape
    widths = (2, *[SIREN_WIDTH] * SIREN_LAYERS, channels)
    start = split_layers(first_values("siren", widths, SIREN_OMEGA, 0), widths)
    layers = [[torch.tensor(tensor, requires_grad=True) for tensor in layer] for layer in start]
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(-1, 2)
    target = torch.from_numpy(image.reshape(-1, channels))
    adam = torch.optim.Adam([tensor for layer in layers for tensor in layer], lr=SIREN_LR)
    taken = 0
    while taken < steps:
        taken += 1
        made = places
        for weights, biases in layers[:-1]:
            made = torch.sin(SIREN_OMEGA * F.linear(made, weights, biases))
        made = F.linear(made, *layers[-1])
        loss = F.mse_loss(made, target)
        if -10 * math.log10(max(loss.item(), 1e-10)) >= goal_db:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
    return made.detach().reshape(image.shape).numpy(), taken
