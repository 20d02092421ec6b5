"""ScaleGMN (Kalogeropoulos et al., NeurIPS 2024) for sine networks: no change of a hidden neuron's sign is seen.

The sine is odd: with the signs of a hidden neuron's incoming weights, bias and outgoing weights flipped, the network is
the same. Values of hidden nodes and edges flip with them, x_v -> q_v x_v and e_uv -> q_u q_v e_uv with q = 1 or -1, and
every map here commutes with that. Nodes are (s, d_i, c) of every layer, edges (s, d_i, d_{i+1}, c).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from arcpipe.models.weights.base import Draw, WeightClassifier
from arcpipe.models.weights.graphs import by_layer, n_places

Place = Literal["input", "hidden", "output"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the published configurations differ in; those here are the forward model's for MNIST.

    `both`: messages go along both directions. `skip`: node updates add a map of the node. `edge_places`: edges are
    multiplied by learned vectors. `node_places`: messages and updates see the nodes' learned vectors. `io_maps`: input
    and output nodes go through one map for each kind, instead of one that scales them. `absolute`: |x| instead of
    rho(x) + rho(-x). `norm`: layer norms inside of the maps.
    """

    both: bool = False
    skip: bool = True
    edge_places: bool = True
    node_places: bool = False
    io_maps: bool = False
    absolute: bool = False
    norm: bool = True


FORWARD = Settings()
BOTH = Settings(both=True, skip=False, edge_places=False, node_places=True)
"""The published settings for MNIST in both directions."""


class Map(nn.Module):
    """Two linear maps, with a layer norm and SiLU between them, of several inputs side by side.

    Inputs may broadcast against each other: what belongs to a node is not multiplied again for all its edges.
    """

    def __init__(self, n_in: int, width: int, n_out: int, norm: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(n_in, width), nn.Linear(width, n_out)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()

    def forward(self, *inputs: Tensor) -> Tensor:
        weights = self.first.weight.split([x.shape[-1] for x in inputs], dim=1)
        x = nn.functional.linear(inputs[0], weights[0], self.first.bias)
        for other, weight in zip(inputs[1:], weights[1:], strict=True):
            x = x + nn.functional.linear(other, weight)
        made: Tensor = self.second(nn.functional.silu(self.norm(x)))
        return made


class Even(nn.Module):
    """What does not change with the sign of x: rho(x) + rho(-x), or |x|."""

    def __init__(self, n_in: int, width: int, settings: Settings) -> None:
        super().__init__()
        self.rho = None if settings.absolute else Map(n_in, width, n_in, settings.norm)

    def forward(self, x: Tensor) -> Tensor:
        return x.abs() if self.rho is None else self.rho(x) + self.rho(-x)


class Equivariant(nn.Module):
    """(Gamma x) * phi(even(x), p) at hidden nodes; input and output nodes, which have no sign, go through psi."""

    def __init__(self, n_in: int, width: int, settings: Settings) -> None:
        super().__init__()
        wide = n_in + (width if settings.node_places else 0)
        self.settings = settings
        self.gamma = nn.Linear(n_in, width, bias=False)
        self.even, self.phi = Even(n_in, width, settings), Map(wide, width, width, settings.norm)
        self.psi = nn.ModuleList(Map(wide, width, width, settings.norm) for _ in range(2 if settings.io_maps else 1))

    def forward(self, x: Tensor, place: Place, p: Tensor) -> Tensor:
        beside = (p,) if self.settings.node_places else ()
        if place == "hidden":
            made: Tensor = self.gamma(x) * self.phi(self.even(x), *beside)
            return made
        psi = self.psi[-1 if place == "output" else 0]
        return psi(x, *beside) if self.settings.io_maps else self.gamma(x) * psi(x, *beside)


class Messages(nn.Module):
    """The sum of the messages of a layer's neighbours along one direction."""

    def __init__(self, width: int, settings: Settings) -> None:
        super().__init__()
        self.edge, self.node = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.combine = Equivariant(width, width, settings)

    def forward(self, edges: Tensor, sources: Tensor, place: Place, p: Tensor) -> Tensor:
        """(s, targets, c) from edges (s, sources, targets, c) and sources (s, sources, c)."""
        return self.combine(self.edge(edges) * self.node(sources).unsqueeze(2), place, p).sum(1)


class Layer(nn.Module):
    """Messages, update of the nodes, and of the edges. The last layer makes those nodes alone that are read."""

    def __init__(self, width: int, settings: Settings, last: bool) -> None:
        super().__init__()
        self.settings, self.last = settings, last
        self.forth = Messages(width, settings)
        self.back = Messages(width, settings) if settings.both else None
        self.update = Equivariant((3 if settings.both else 2) * width, width, settings)
        self.skip = nn.Linear(width, width, bias=False) if settings.skip else None
        if not last:
            self.edge, self.even = nn.Linear(width, width, bias=False), Even(width, width, settings)
            self.phi = Map(2 * width, width, width, settings.norm)

    def forward(
        self, nodes: list[Tensor], edges: list[Tensor], first_edges: list[Tensor], places: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        made, last = [], len(nodes) - 1
        read = ([0, last] if self.settings.both else [last]) if self.last else range(last + 1)
        for i in read:
            x = nodes[i]
            place: Place = "input" if i == 0 else "output" if i == last else "hidden"
            parts = [x, torch.zeros_like(x)]
            if i > 0:
                # In both directions, published messages see the learned vector of where they come from.
                p = places[i - 1].unsqueeze(1) if self.settings.both else places[i]
                parts[1] = self.forth(edges[i - 1], nodes[i - 1], place, p)
            if self.back is not None:
                came = torch.zeros_like(x)
                if i < last:  # along edges as they were at first, as published
                    came = self.back(first_edges[i].transpose(1, 2), nodes[i + 1], place, places[i + 1].unsqueeze(1))
                parts.append(came)
            updated = self.update(torch.cat(parts, dim=-1), place, places[i])
            made.append(updated if self.skip is None else updated + self.skip(x))
        if not self.last:
            even = [self.even(x) for x in nodes]
            edges = [
                self.edge(e) * self.phi(a.unsqueeze(2), b.unsqueeze(1))
                for e, (a, b) in zip(edges, pairwise(even), strict=True)
            ]
        return made, edges


class ScaleGmn(WeightClassifier):
    """ScaleGMN with the symmetry of signs.

    `width`: channels. `omega`: of the networks. `canonical`: phases are brought into a quarter turn first, which the
    published code means to do and does not.
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_classes: int,
        width: int,
        layers: int,
        dropout: float,
        settings: Settings = FORWARD,
        omega: float = 30.0,
        canonical: bool = False,
    ) -> None:
        super().__init__(widths, dropout)
        self.settings, self.omega, self.canonical = settings, omega, canonical
        self.lift_node, self.lift_edge = (nn.Linear(1, width, bias=False) for _ in range(2))
        self.places = nn.Parameter(torch.randn(n_places(widths), width))
        n_edges = widths[0] + len(widths) - 3 + widths[-1]
        self.edge_places = nn.Parameter(torch.randn(n_edges, width)) if settings.edge_places else None
        self.layers = nn.ModuleList(Layer(width, settings, last=i == layers - 1) for i in range(layers))
        n_out = widths[-1] * width
        if settings.both:
            self.outputs, self.inputs = nn.Linear(n_out, width), nn.Linear(widths[0] * width, width)
            n_out = 2 * width
        self.head = Map(n_out, width, n_classes, settings.norm)

    def logits(self, weights: list[Tensor], biases: list[Tensor], draw: Draw) -> Tensor:
        if self.canonical:
            weights, biases = canonical_phases(weights, biases, self.omega)
        places = by_layer(self.places, self.widths)
        nodes = self._first_nodes(biases, places)
        first = edges = self._first_edges(weights)
        for layer in self.layers:
            nodes, edges = layer(nodes, edges, first, places)
            nodes = [draw.dropout(x, self.dropout) for x in nodes]
        ends = [nodes[-1].flatten(1)]
        if self.settings.both:
            ends = [self.outputs(ends[0]), self.inputs(nodes[0].flatten(1))]
        logits: Tensor = self.head(torch.cat(ends, dim=1))
        return logits

    def _first_nodes(self, biases: list[Tensor], places: list[Tensor]) -> list[Tensor]:
        inputs = biases[0].new_ones(len(biases[0]), self.widths[0])
        lifted = [self.lift_node(b.unsqueeze(-1)) for b in (inputs, *biases)]
        hidden = [x * p for x, p in zip(lifted[1:-1], places[1:-1], strict=True)]
        return [lifted[0] + places[0], *hidden, lifted[-1] + places[-1]]

    def _first_edges(self, weights: list[Tensor]) -> list[Tensor]:
        lifted = [self.lift_edge(w.unsqueeze(-1)) for w in weights]
        if self.edge_places is None:
            return lifted
        first, *middle = self.edge_places.split([self.widths[0], *[1] * (len(weights) - 2), self.widths[-1]])
        return [lifted[0] * first.unsqueeze(1), *(x * p for x, p in zip(lifted[1:], middle, strict=True))]


def canonical_phases(weights: list[Tensor], biases: list[Tensor], omega: float) -> tuple[list[Tensor], list[Tensor]]:
    """The same networks with the phase omega b of every sine within a quarter turn either way.

    A turn changes nothing, and sin(z) = sin(pi - z): the incoming weights change their sign where the phase is moved
    by the second. Weights (s, d_i, d_{i+1}); the last layer has no sines and stays.
    """
    made_weights, made_biases = [], []
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        phase = omega * b
        phase = phase - 2 * math.pi * torch.round(phase / (2 * math.pi))
        beyond = phase.abs() > math.pi / 2
        phase = torch.where(beyond, phase.sign() * math.pi - phase, phase)
        made_weights.append(torch.where(beyond.unsqueeze(1), -w, w))
        made_biases.append(phase / omega)
    return [*made_weights, weights[-1]], [*made_biases, biases[-1]]
