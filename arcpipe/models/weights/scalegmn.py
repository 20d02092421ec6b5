"""ScaleGMN (Kalogeropoulos et al., NeurIPS 2024) for sine networks: no change of a hidden neuron's sign is seen.

The sine is odd: with the signs of a hidden neuron's incoming weights, bias and outgoing weights flipped, the network is
the same. Values of hidden nodes and edges flip with them, x_v -> q_v x_v and e_uv -> q_u q_v e_uv with q = 1 or -1, and
every map here commutes with that. Nodes are (s, d_i, c) of every layer, edges (s, d_i, d_{i+1}, c).

There are two networks, each as published for MNIST. Where messages go along both directions (`both`), messages and
updates see the nodes' learned vectors. Where they go forward only, edges are multiplied by learned vectors, and the
update of a node adds a map of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from arcpipe.models.share import Draw
from arcpipe.models.weights.base import WeightClassifier
from arcpipe.models.weights.graphs import place_counts


class Map(nn.Module):
    """Two linear maps, with a layer norm and SiLU between them, of several inputs side by side.

    Inputs may broadcast against each other: what belongs to a node is not multiplied again for all its edges.
    """

    def __init__(self, n_in: int, width: int, n_out: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(n_in, width), nn.Linear(width, n_out)
        self.norm = nn.LayerNorm(width)

    def forward(self, *inputs: Tensor) -> Tensor:
        weights = self.first.weight.split([x.shape[-1] for x in inputs], dim=1)
        x = nn.functional.linear(inputs[0], weights[0], self.first.bias)
        for other, weight in zip(inputs[1:], weights[1:], strict=True):
            x = x + nn.functional.linear(other, weight)
        return self.second(nn.functional.silu(self.norm(x)))


class Even(nn.Module):
    """What does not change with the sign of x: rho(x) + rho(-x)."""

    def __init__(self, n_in: int, width: int) -> None:
        super().__init__()
        self.rho = Map(n_in, width, n_in)

    def forward(self, x: Tensor) -> Tensor:
        return self.rho(x) + self.rho(-x)


class Equivariant(nn.Module):
    """(Gamma x) * phi(even(x), p) at hidden nodes; at the others, which have no sign, (Gamma x) * psi(x, p)."""

    def __init__(self, n_in: int, width: int, both: bool) -> None:
        super().__init__()
        wide = n_in + (width if both else 0)
        self.both = both
        self.gamma = nn.Linear(n_in, width, bias=False)
        self.even, self.phi = Even(n_in, width), Map(wide, width, width)
        self.psi = nn.ModuleList([Map(wide, width, width)])  # a list, as checkpoints name it

    def forward(self, x: Tensor, hidden: bool, p: Tensor) -> Tensor:
        beside = (p,) if self.both else ()
        return self.gamma(x) * (self.phi(self.even(x), *beside) if hidden else self.psi[0](x, *beside))


class Messages(nn.Module):
    """The sum of the messages of a layer's neighbours along one direction."""

    def __init__(self, width: int, both: bool) -> None:
        super().__init__()
        self.edge, self.node = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.combine = Equivariant(width, width, both)

    def forward(self, edges: Tensor, sources: Tensor, hidden: bool, p: Tensor) -> Tensor:
        """(s, targets, c) from edges (s, sources, targets, c) and sources (s, sources, c)."""
        return self.combine(self.edge(edges) * self.node(sources).unsqueeze(2), hidden, p).sum(1)


class Layer(nn.Module):
    """Messages, update of the nodes, and of the edges. The last layer makes those nodes alone that are read."""

    def __init__(self, width: int, both: bool, last: bool) -> None:
        super().__init__()
        self.both, self.last = both, last
        self.forth = Messages(width, both)
        self.back = Messages(width, both) if both else None
        self.update = Equivariant((3 if both else 2) * width, width, both)
        self.skip = None if both else nn.Linear(width, width, bias=False)
        if not last:
            self.edge, self.even = nn.Linear(width, width, bias=False), Even(width, width)
            self.phi = Map(2 * width, width, width)

    def forward(
        self, nodes: list[Tensor], edges: list[Tensor], first_edges: list[Tensor], places: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        made, last = [], len(nodes) - 1
        read = ([0, last] if self.both else [last]) if self.last else range(last + 1)
        for i in read:
            x, hidden = nodes[i], 0 < i < last
            parts = [x, torch.zeros_like(x)]
            if i > 0:
                # In both directions, published messages see the learned vector of where they come from.
                p = places[i - 1].unsqueeze(1) if self.both else places[i]
                parts[1] = self.forth(edges[i - 1], nodes[i - 1], hidden, p)
            if self.back is not None:
                came = torch.zeros_like(x)
                if i < last:  # along edges as they were at first, as published
                    came = self.back(first_edges[i].transpose(1, 2), nodes[i + 1], hidden, places[i + 1].unsqueeze(1))
                parts.append(came)
            updated = self.update(torch.cat(parts, dim=-1), hidden, places[i])
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

    `width`: channels. `both`: messages go along both directions of the edges. `omega`: of the networks. `canonical`:
    phases are brought into a quarter turn first, which the published code means to do and does not.
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_classes: int,
        width: int,
        layers: int,
        dropout: float,
        both: bool,
        omega: float,
        canonical: bool,
    ) -> None:
        super().__init__(widths, dropout)
        self.both, self.omega, self.canonical = both, omega, canonical
        self.lift_node, self.lift_edge = (nn.Linear(1, width, bias=False) for _ in range(2))
        self.places = nn.Parameter(torch.randn(sum(place_counts(widths)), width))
        n_edges = widths[0] + len(widths) - 3 + widths[-1]
        self.edge_places = None if both else nn.Parameter(torch.randn(n_edges, width))
        self.layers = nn.ModuleList(Layer(width, both, last=i == layers - 1) for i in range(layers))
        n_out = widths[-1] * width
        if both:
            self.outputs, self.inputs = nn.Linear(n_out, width), nn.Linear(widths[0] * width, width)
            n_out = 2 * width
        self.head = Map(n_out, width, n_classes)

    def encode(self, weights: list[Tensor], biases: list[Tensor], draw: Draw) -> Tensor:
        if self.canonical:
            weights, biases = canonical_phases(weights, biases, self.omega)
        places = list(self.places.split(place_counts(self.widths)))
        nodes = self._first_nodes(biases, places)
        first = edges = self._first_edges(weights)
        for layer in self.layers:
            nodes, edges = layer(nodes, edges, first, places)
            nodes = [draw.dropout(x, self.dropout) for x in nodes]
        ends = [nodes[-1].flatten(1)]
        if self.both:
            ends = [self.outputs(ends[0]), self.inputs(nodes[0].flatten(1))]
        return torch.cat(ends, dim=1)

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
