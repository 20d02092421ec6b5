"""A sine network as a vector of numbers: its shape and variant, its first values, and the picture that it is.

The vector holds W_0, b_0, W_1, b_1, ... of the layers, W_l of shape (outputs, inputs) in row order, as state
dictionaries of `torch.nn.Linear` do. All layers but the last are sin(omega (W x + b)); the last is linear.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import SirenRecord
from arcpipe.config import FitSection
from arcpipe.seeds import generator

PIXELS = 2**16
"""Rendered at once: of a network of width 32, 8 MB a layer."""
Layer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Weights (..., out, in) and biases (..., out)."""
Bound = Literal["inverse", "wave", "root", "zero"]
"""Numbers of a layer start uniform within 1/in, sqrt(6/in)/omega, 1/sqrt(in), or at zero."""


@dataclass(frozen=True, slots=True)
class Variant:
    """What differs between the sine networks that are in circulation.

    `weights` and `biases`: bounds of the first, of the hidden and of the last layer. `offset`: added to the output.
    `column_first`: coordinates are (column, row). `low`, `high`: the outputs that mean black and white.
    """

    weights: tuple[Bound, Bound, Bound]
    biases: tuple[Bound, Bound, Bound]
    offset: float = 0.0
    column_first: bool = False
    low: float = 0.0
    high: float = 1.0


VARIANTS = {
    # The thesis's appendix C: the initialisation of Sitzmann et al. 2020, biases as their layer's weights.
    "siren": Variant(("inverse", "wave", "wave"), ("inverse", "wave", "wave")),
    # The public sets of Zhou et al. (NFN): pixels in [-1, 1] and PyTorch's biases.
    "siren-nfn": Variant(("inverse", "wave", "wave"), ("root", "root", "root"), low=-1.0),
    # The public sets of Navon et al. (DWSNets), with the three faults that the thesis names: the first layer starts as
    # a hidden one, biases start at zero, and 0.5 is added to the output.
    "siren-dws": Variant(("wave", "wave", "root"), ("zero", "zero", "root"), offset=0.5, column_first=True),
}
"""By the name in `fit.variant`."""


def layer_sizes(widths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Of every layer: where its weights begin in the vector, inputs, outputs."""
    sizes, at = [], 0
    for n_in, n_out in pairwise(widths):
        sizes.append((at, n_in, n_out))
        at += (n_in + 1) * n_out
    return sizes


def split_layers(values: NDArray[np.float32], widths: Sequence[int]) -> list[Layer]:
    """Weights (..., out, in) and biases (..., out) of every layer, as views of vectors (..., P)."""
    layers = []
    for at, n_in, n_out in layer_sizes(widths):
        middle = at + n_in * n_out
        weights = values[..., at:middle].reshape(*values.shape[:-1], n_out, n_in)
        layers.append((weights, values[..., middle : middle + n_out]))
    return layers


def new_record(fit: FitSection, channels: int, seed: int) -> SirenRecord:
    """The record of the networks that these settings describe; with a shared start, the seed draws it."""
    variant = VARIANTS[fit.variant]
    widths = (2, *fit.hidden_widths, channels)
    form = (fit.omega, variant.offset, float(variant.column_first), variant.low, variant.high)
    start = first_values(fit.variant, widths, fit.omega, seed) if fit.start == "shared" else np.zeros(0, np.float32)
    return SirenRecord(np.array(widths, np.float32), np.array(form, np.float32), start)


def first_values(variant: str, widths: Sequence[int], omega: float, seed: int) -> NDArray[np.float32]:
    """Draw the vector (P,) of a network that has learned nothing yet (thesis appendix C and, for the others, the
    released code that made the public sets)."""
    how, rng = VARIANTS[variant], generator(seed, "siren", variant)
    drawn = []
    sizes = layer_sizes(widths)
    for i, (_, n_in, n_out) in enumerate(sizes):
        place = 0 if i == 0 else 2 if i == len(sizes) - 1 else 1
        bounds = {"inverse": 1 / n_in, "wave": math.sqrt(6 / n_in) / omega, "root": 1 / math.sqrt(n_in), "zero": 0.0}
        for bound, count in ((how.weights[place], n_in * n_out), (how.biases[place], n_out)):
            drawn.append(rng.uniform(-bounds[bound], bounds[bound], count))
    return np.concatenate(drawn).astype(np.float32)


def coordinates(size: tuple[int, int], record: SirenRecord, scale: int = 1) -> NDArray[np.float32]:
    """(2, height * width * scale^2) coordinates of the pixels in raster order; -1 and 1 are the outer pixels' centres.

    With `scale`, places lie evenly between and around the pixel centres, those at the rim half a pixel beyond them.
    """
    axes = []
    for length in size:
        places = (np.arange(length * scale) + 0.5) / scale - 0.5
        axes.append((2 * places / max(length - 1, 1) - (length > 1)).astype(np.float32))
    rows, columns = np.meshgrid(*axes, indexing="ij")
    order = (columns, rows) if record.column_first else (rows, columns)
    return np.stack([axis.ravel() for axis in order])


def render(
    record: SirenRecord, values: NDArray[np.floating], size: tuple[int, int], scale: int = 1
) -> NDArray[np.float32]:
    """The picture (height * scale, width * scale, channels) of a network's vector (P,), in [0, 1] but not clamped."""
    places = coordinates(size, record, scale)
    layers = split_layers(np.asarray(values, np.float32), record.widths_tuple)
    picture = np.empty((places.shape[1], record.channels), np.float32)
    for begin in range(0, places.shape[1], PIXELS):
        made = places[:, begin : begin + PIXELS]
        for weights, biases in layers[:-1]:
            made = np.sin(np.float32(record.omega) * (weights @ made + biases[:, None]))
        weights, biases = layers[-1]
        picture[begin : begin + PIXELS] = (weights @ made + biases[:, None]).T
    span = np.float32(record.high - record.low)
    return ((picture + np.float32(record.offset - record.low)) / span).reshape(size[0] * scale, size[1] * scale, -1)
