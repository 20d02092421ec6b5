"""Augmentations of sine networks: random changes of their parameters, as DWSNets (Navon et al., 2023, section 6) and
Neural Graphs have them.

A change of the place x of a pixel is exact in the first layer: f(R x + t) has the weights W_0 R and the biases
W_0 t + b_0. Order: translate, rotate, jitter, drop, stretch, permute. What was published with faults has names of its
own; `translate-published` and `noise-published` stand where `translate` and `jitter` do. A network's random numbers
come from its key (see `draws`), so they are the same in any batch, on any rank and after resuming.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import SirenRecord
from arcpipe.config import AugmentSection
from arcpipe.siren import split_layers
from arcpipe.stream.draws import Keys, normal, uniform

Layers = list[tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Weights (s, out, in) and biases (s, out), views of the parameters that are changed."""


def change_networks(
    values: NDArray[np.floating], keys: Keys, section: AugmentSection, record: SirenRecord
) -> NDArray[np.float32]:
    """Apply what `section.apply` names to networks (s, P) with keys (s,); they come back as a new array."""
    made = np.array(values, np.float32)
    layers = split_layers(made, record.widths_tuple)
    apply = set(section.apply)
    if apply & {"translate", "translate-published"}:
        _translate(layers, keys, section.translate, deep="translate-published" in apply)
    if "rotate" in apply:
        angle = np.deg2rad(section.rotate) * (2 * uniform(keys, "rotate") - 1)
        turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
        layers[0][0][:] = layers[0][0] @ turn.astype(np.float32)
    if "jitter" in apply:
        _jitter(made, keys, section.jitter, record)
    if "noise-published" in apply:
        for tensor in _tensors(layers):
            if tensor[0].size > 1:
                tensor += np.float32(section.jitter) * _spread(tensor)
    if "drop" in apply:
        stays = uniform(keys[:, None], "drop", np.arange(made.shape[1])) >= section.drop
        made *= stays / np.float32(1 - section.drop)
    if "stretch" in apply:
        low, high = section.stretch
        layers[0][0][:] *= (low + (high - low) * uniform(keys, "stretch")).astype(np.float32)[:, None, None]
    if "permute" in apply:
        _permute(layers, keys)
    return made


def _translate(layers: Layers, keys: Keys, reach: float, *, deep: bool) -> None:
    """Move the pictures by up to `reach` of half their side on each axis.

    `deep`: as published, by the biases of a layer that is drawn for each network: t through all weights before it, as
    if there were no sines between them. This is exact for the first layer alone.
    """
    count = len(layers) - 1  # the linear last layer has no phase to move
    depth = np.floor(uniform(keys, "translate depth") * count).astype(int) if deep else np.zeros(len(keys), int)
    moved = (reach * (2 * uniform(keys[:, None], "translate", np.arange(2)) - 1)).astype(np.float32)[:, :, None]
    for i, (weights, biases) in enumerate(layers[:-1]):
        moved = weights @ moved
        biases += np.where(depth[:, None] == i, moved[:, :, 0], np.float32(0))


def _jitter(values: NDArray[np.float32], keys: Keys, share: float, record: SirenRecord) -> None:
    """Add Gaussian numbers of `share` of a tensor's standard deviation, or of its size where it is one number.

    Where all networks began alike, it is that of the tensor's way from its start: the start is no part of the image,
    and for the weights of a first layer it is 20 times as large.
    """
    way = values - record.start if len(record.start) else values
    noise = normal(keys[:, None], "jitter", np.arange(values.shape[1]))
    pairs = zip(*(_tensors(split_layers(array, record.widths_tuple)) for array in (way, noise)), strict=True)
    for tensor, own in pairs:
        own *= np.float32(share) * (_spread(tensor) if tensor[0].size > 1 else np.abs(tensor))
    values += noise


def _permute(layers: Layers, keys: Keys) -> None:
    """Give the neurons of every hidden layer another order, which changes no picture."""
    for i, ((weights, biases), (after, _)) in enumerate(pairwise(layers)):
        order = np.argsort(uniform(keys[:, None], f"permute {i}", np.arange(biases.shape[1])), axis=1)
        weights[:] = np.take_along_axis(weights, order[:, :, None], 1)
        biases[:] = np.take_along_axis(biases, order, 1)
        after[:] = np.take_along_axis(after, order[:, None, :], 2)


def _tensors(layers: Layers) -> list[NDArray[np.float32]]:
    return [tensor for layer in layers for tensor in layer]


def _spread(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation of each network's tensor (s, ...), with axes of length 1."""
    return tensor.std(axis=tuple(range(1, tensor.ndim)), keepdims=True)
