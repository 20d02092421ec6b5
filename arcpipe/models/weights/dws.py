"""DWSNets (Navon et al., ICML 2023): linear maps between all weights and biases that commute with any order of neurons.

One rule makes all maps. A tensor has *axes* whose order means nothing (the hidden layers that it touches) and channels;
the coordinates and the colours, whose order does mean something, are folded into the channels. From one tensor to
another: axes that the target lacks are pooled (max), an axis that both have is processed by a layer for sets, two by a
layer for matrices, and axes that the source lacks are broadcast. The contributions to a target are summed and divided
by the number of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from arcpipe.models.share import Draw, batch_norm
from arcpipe.models.weights.base import WeightClassifier

HEADS = 8


@dataclass(frozen=True, slots=True)
class Kind:
    """Axes of a tensor, by the number of their layer, and how many channels stand for each of its own."""

    axes: tuple[int, ...]
    fold: int


def kinds_of(widths: Sequence[int]) -> list[Kind]:
    """Return the kinds of all weights, then of all biases."""
    last = len(widths) - 1
    weights = []
    for i in range(last):
        fold = (widths[0] if i == 0 else 1) * (widths[last] if i + 1 == last else 1)
        weights.append(Kind(tuple(axis for axis in (i, i + 1) if 0 < axis < last), fold))
    biases = [Kind((i,), 1) if i < last else Kind((), widths[last]) for i in range(1, last + 1)]
    return weights + biases


def linear(n_in: int, n_out: int) -> nn.Linear:
    """Xavier's normal numbers times sqrt(2 in / out), biases within 1e-4."""
    layer = nn.Linear(n_in, n_out)
    nn.init.xavier_normal_(layer.weight, gain=math.sqrt(2 * n_in / n_out))
    nn.init.uniform_(layer.bias, -1e-4, 1e-4)
    return layer


class SetLayer(nn.Module):
    """Attention among the elements (s, n, in) of a set: y = O + relu(L O), O = q + softmax(q k / sqrt(out)) v."""

    def __init__(self, n_in: int, n_out: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (linear(n_in, n_out) for _ in range(3))
        self.out = linear(n_out, n_out)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scale = 1 / math.sqrt(self.out.in_features)  # of the full width, not of a head's
        attended = q + nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
        attended = attended.transpose(1, 2).flatten(2)
        return attended + torch.relu(self.out(attended))


class MatrixLayer(nn.Module):
    """The mean of four maps: of the entry, of the largest of its column, of its row, and of all; (s, n, m, in)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.entry, self.rows, self.columns, self.all = (linear(n_in, n_out) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.amax(1, keepdim=True), x.amax(2, keepdim=True)
        return (self.entry(x) + self.rows(rows) + self.columns(columns) + self.all(rows.amax(2, keepdim=True))) / 4


class DwsLayer(nn.Module):
    """All maps from all tensors to all tensors: channels `n_in` become `n_out`."""

    def __init__(self, kinds: Sequence[Kind], n_in: int, n_out: int, heads: int) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        self.maps = nn.ModuleList(
            nn.ModuleList(_map(source, target, n_in, n_out, heads) for source in kinds) for target in kinds
        )

    def forward(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        pooled: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        made = []
        for target, maps in zip(self.kinds, self.maps, strict=True):
            assert isinstance(maps, nn.ModuleList)
            sums: dict[tuple[int, ...], Tensor] = {}  # by their axes: broadcast only once
            for i, (source, layer) in enumerate(zip(self.kinds, maps, strict=True)):
                shared = tuple(axis for axis in source.axes if axis in target.axes)
                if (i, shared) not in pooled:
                    gone = [1 + k for k, axis in enumerate(source.axes) if axis not in shared]
                    pooled[i, shared] = tensors[i].amax(gone) if gone else tensors[i]
                found = layer(pooled[i, shared])
                sums[shared] = sums[shared] + found if shared in sums else found
            spread = [_spread(found, axes, target.axes) for axes, found in sums.items()]
            made.append(reduce(torch.add, spread) / len(self.kinds))
        return made


def _map(source: Kind, target: Kind, n_in: int, n_out: int, heads: int) -> nn.Module:
    shared = len(set(source.axes) & set(target.axes))
    sizes = source.fold * n_in, target.fold * n_out
    if shared == 2:
        return MatrixLayer(*sizes)
    return SetLayer(*sizes, heads) if shared else linear(*sizes)


def _spread(values: Tensor, axes: tuple[int, ...], target: tuple[int, ...]) -> Tensor:
    """Give (s, axes..., channels) an axis of length 1 for each of `target` that it lacks."""
    for k, axis in enumerate(target):
        if axis not in axes:
            values = values.unsqueeze(1 + k)
    return values


class DwsNet(WeightClassifier):
    """Equivariant layers with batch norms and ReLU between them, then the largest of every channel and one linear map.

    `width`: channels; `layers`: after the first one, which takes the parameters as they are.
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_classes: int,
        width: int,
        layers: int,
        dropout: float,
        start: Tensor | None = None,
    ) -> None:
        super().__init__(widths, dropout, start)
        self.kinds = kinds_of(widths)
        heads = [HEADS] * layers + [1]
        inputs = [self.numbers] + [width] * layers
        self.layers = nn.ModuleList(DwsLayer(self.kinds, n, width, h) for n, h in zip(inputs, heads, strict=True))
        self.norms = nn.ModuleList(nn.ModuleList(nn.BatchNorm1d(width) for _ in self.kinds) for _ in range(layers))
        self.head = nn.Linear(sum(kind.fold for kind in self.kinds) * width, n_classes)

    def encode(self, weights: list[Tensor], biases: list[Tensor], draw: Draw) -> Tensor:
        tensors = self.layers[0](self._begin(weights, biases))
        for layer, norms in zip(list(self.layers)[1:], self.norms, strict=True):
            assert isinstance(norms, nn.ModuleList)
            tensors = [self._activate(norm, x, draw) for norm, x in zip(norms, tensors, strict=True)]
            tensors = layer(tensors)
        tensors = [draw.dropout(torch.relu(x), self.dropout) for x in tensors]
        return torch.cat([x.flatten(1, -2).amax(1) if x.ndim > 2 else x for x in tensors], dim=1)

    def _begin(self, weights: list[Tensor], biases: list[Tensor]) -> list[Tensor]:
        """Parameters as tensors (s, axes..., fold * numbers)."""
        weights, biases = self.with_start(weights, biases)
        first, *middle, last = weights
        made = [first.transpose(1, 2).flatten(2), *middle, last.flatten(2)]
        return [*made, *biases[:-1], biases[-1].flatten(1)]

    def _activate(self, norm: nn.Module, x: Tensor, draw: Draw) -> Tensor:
        """Batch norm over networks, positions and what is folded; ReLU; dropout."""
        assert isinstance(norm, nn.BatchNorm1d)
        flat = batch_norm(norm, x.reshape(-1, norm.num_features), draw.share)
        return draw.dropout(torch.relu(flat).reshape(x.shape), self.dropout)
