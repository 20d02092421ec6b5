"""Neural Graphs (Kofinas et al., ICLR 2024): a network as a graph whose nodes carry biases and whose edges weights.

The graph is the same for all networks of a store, so layers of neurons are blocks of dense tensors: nodes (s, d_i, c),
edges (s, d_i, d_{i+1}, c). Two classifiers: messages with modulation (`NgGnn`) and relational attention (`NgT`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from arcpipe.models.share import Draw
from arcpipe.models.weights.base import WeightClassifier

EPS = 1e-5


WITH_START = (0.1, 1.0)
"""Frequencies, in place of the published ones, where the start of a parameter stands beside it: slow waves show how far
the parameter has come, fast ones at which value it began."""


class Lift(nn.Module):
    """Numbers (..., n) to `width` channels: cosines and sines of `rows` fixed random projections, then two maps.

    `sigmas`: the deviation of the frequencies of each of the n numbers.
    """

    waves: Tensor

    def __init__(self, sigmas: Sequence[float], rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("waves", torch.tensor(sigmas).unsqueeze(1) * torch.randn(len(sigmas), rows))
        self.lift, self.project = nn.Linear(2 * rows, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        angles = 2 * math.pi * (x @ self.waves)
        return self.project(self.lift(torch.cat([angles.cos(), angles.sin()], dim=-1)))


class Nodes(nn.Module):
    """Biases to nodes: lifted, and a learned vector added for every input, hidden layer and output."""

    def __init__(self, widths: Sequence[int], sigmas: Sequence[float], rows: int, width: int) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.lift = Lift(sigmas, rows, width)
        self.places = nn.Parameter(torch.randn(sum(place_counts(widths)), width))

    def forward(self, biases: Sequence[Tensor]) -> list[Tensor]:
        """Nodes of every layer from biases (s, d_i, numbers)."""
        inputs = biases[0].new_zeros(len(biases[0]), self.widths[0], biases[0].shape[-1])
        lifted = [self.lift(b) for b in (inputs, *biases)]
        return [x + p for x, p in zip(lifted, self.places.split(place_counts(self.widths)), strict=True)]


def place_counts(widths: Sequence[int]) -> list[int]:
    """Learned vectors of every layer of neurons: one for each input, for each hidden layer, for each output."""
    return [widths[0], *[1] * (len(widths) - 2), widths[-1]]


class GraphNorm(nn.Module):
    """Layer norm over all nodes and channels of a graph. `whole_batch`: of all graphs of the batch, as published; a
    prediction then depends on what else is predicted."""

    def __init__(self, width: int, whole_batch: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.whole_batch = whole_batch

    def forward(self, layers: Sequence[Tensor]) -> list[Tensor]:
        x = torch.cat(list(layers), dim=1)
        over = (0, 1, 2) if self.whole_batch else (1, 2)
        x = x - x.mean(over, keepdim=True)
        x = x / (x.square().mean(over, keepdim=True).sqrt() + EPS) * self.weight + self.bias
        return list(x.split([layer.shape[1] for layer in layers], dim=1))


class MessageLayer(nn.Module):
    """Messages along both directions of every edge, four ways to aggregate, and two scalers by the number of edges."""

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.modulate, self.message = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gather, self.out = nn.Linear(9 * width, width), nn.Linear(width, width)
        degrees = [0, *widths[:-1]]  # of the forward graph, as published, though edges go both ways
        nodes = sum(widths)
        self.mean_log = sum(n * math.log(degree + 1) for n, degree in zip(widths, degrees, strict=True)) / nodes

    def forward(
        self, nodes: list[Tensor], forward: list[Tensor], backward: list[Tensor], *, outputs_only: bool = False
    ) -> list[Tensor]:
        """The nodes of every layer, or those of the outputs alone, anew."""
        width = self.out.in_features
        own, other = self.message.weight.split(width, dim=1)
        targets = [nn.functional.linear(x, own, self.message.bias) for x in nodes]
        sources = [nn.functional.linear(x, other) for x in nodes]
        made = []
        for i in range(len(nodes) - 1 if outputs_only else 0, len(nodes)):
            messages = []
            for j, edges in ((i - 1, forward), (i + 1, backward)):
                if 0 <= j < len(nodes):
                    scale, shift = self.modulate(edges[min(i, j)]).chunk(2, dim=-1)
                    messages.append(scale * (targets[i].unsqueeze(1) + sources[j].unsqueeze(2)) + shift)
            gathered = _gathered(torch.cat(messages, dim=1), self.mean_log)
            made.append(self.out(self.gather(torch.cat([nodes[i], gathered], dim=-1))))
        return made


def _gathered(messages: Tensor, mean_log: float) -> Tensor:
    """Mean, least, most and deviation over the sources (s, sources, targets, c), as they are and scaled: (..., 8 c)."""
    mean = messages.mean(1)
    variance = (messages - mean.unsqueeze(1)).square().mean(1)  # torch's own along such an axis is 5 times as slow
    found = [mean, messages.amin(1), messages.amax(1), (variance + EPS).sqrt()]
    plain = torch.cat(found, dim=-1)
    return torch.cat([plain, plain * (math.log(messages.shape[1] + 1) / mean_log)], dim=-1)


class EdgeUpdate(nn.Module):
    """Edges (s, sources, targets, c) from themselves and their two nodes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.edge, self.source, self.target, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, edges: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        x = self.edge(edges) + self.source(sources).unsqueeze(2) + self.target(targets).unsqueeze(1)
        return self.out(nn.functional.silu(x))


class NgGnn(WeightClassifier):
    """Neural Graphs with message passing. The published network adds nothing to what was there before; ours, which sees
    the start, does, and learns faster by it.

    `width`: channels. `rows`: of the fixed projections. `whole_batch`: the published norm.
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_classes: int,
        width: int,
        layers: int,
        dropout: float,
        rows: int,
        whole_batch: bool = False,
        start: Tensor | None = None,
    ) -> None:
        super().__init__(widths, dropout, start)
        sigmas = WITH_START if self.numbers == 2 else (3.0,)
        self.nodes = Nodes(widths, sigmas, rows, width)
        self.edges = Lift(3 * sigmas, rows, width)
        self.layers = nn.ModuleList(MessageLayer(widths, width) for _ in range(layers))
        self.norms = nn.ModuleList(GraphNorm(width, whole_batch) for _ in range(layers - 1))
        self.updates = nn.ModuleList(EdgeUpdate(width) for _ in range(layers - 1))
        sizes = [widths[-1] * width, width, width, n_classes]
        head = [module for a, b in pairwise(sizes) for module in (nn.Linear(a, b), nn.ReLU())]
        self.head = nn.Sequential(*head[:-1])

    def encode(self, weights: list[Tensor], biases: list[Tensor], draw: Draw) -> Tensor:
        weights, biases = self.with_start(weights, biases)
        nodes = self.nodes(biases)
        none = [torch.zeros_like(w) for w in weights]
        forward = [self.edges(torch.cat([w, z, w], -1)) for w, z in zip(weights, none, strict=True)]
        backward = [self.edges(torch.cat([z, w, w], -1)).transpose(1, 2) for w, z in zip(weights, none, strict=True)]
        *layers, last = self.layers
        for layer, norm, update in zip(layers, self.norms, self.updates, strict=True):
            nodes = self._added(nodes, layer(nodes, forward, backward))
            nodes = [draw.dropout(nn.functional.silu(x), self.dropout) for x in norm(nodes)]
            there = [update(e, a, b) for e, (a, b) in zip(forward, pairwise(nodes), strict=True)]
            back = [update(e, b, a) for e, (a, b) in zip(backward, pairwise(nodes), strict=True)]
            forward, backward = self._added(forward, there), self._added(backward, back)
        (outputs,) = self._added(nodes[-1:], last(nodes, forward, backward, outputs_only=True))
        return outputs.flatten(1)

    def _added(self, before: list[Tensor], made: list[Tensor]) -> list[Tensor]:
        """What a layer made; where the start is seen, added to what was there before."""
        return [a + b for a, b in zip(before, made, strict=True)] if self.numbers == 2 else made


class Mixer(nn.Module):
    """norm(x + MLP(x)), the hidden layer twice as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(width, 2 * width, bias=False), nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, dropout: float, draw: Draw) -> Tensor:
        made = draw.dropout(self.narrow(nn.functional.gelu(self.wide(x))), dropout)
        return self.norm(x + made)


class RelationalLayer(nn.Module):
    """Attention among all neurons, in which queries, keys and values depend on the edge between two of them."""

    def __init__(self, nodes: int, edges: int, width: int, heads: int, last: bool) -> None:
        super().__init__()
        self.heads, self.last = heads, last
        self.from_nodes = nn.Linear(nodes, 3 * width, bias=False)
        self.from_edges = nn.Linear(edges, 4 * width, bias=False)
        self.project, self.again, self.norm = nn.Linear(width, nodes), nn.Linear(nodes, nodes), nn.LayerNorm(nodes)
        self.mixer = Mixer(nodes)
        if not last:
            self.pair = nn.Linear(2 * edges, nodes)
            self.source, self.target = nn.Linear(nodes, nodes), nn.Linear(nodes, nodes)
            self.edge_out, self.edge_norm, self.edge_mixer = nn.Linear(nodes, edges), nn.LayerNorm(edges), Mixer(edges)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, e: Tensor, dropout: float, draw: Draw, n_outputs: int) -> tuple[Tensor, Tensor]:
        """Nodes (s, n, c) and edges (s, n, n, c'); the last layer makes the `n_outputs` last nodes alone."""
        q, k, v = self.from_nodes(x).chunk(3, dim=-1)
        if self.last:
            q, x, e = q[:, -n_outputs:], x[:, -n_outputs:], e[:, -n_outputs:]
        e_q, e_k, e_v, e_scale = self.from_edges(e).chunk(4, dim=-1)
        products = (q.unsqueeze(2) + e_q) * (k.unsqueeze(1) + e_k)
        logits = products.unflatten(-1, (self.heads, -1)).sum(-1) / math.sqrt(q.shape[-1])
        values = (v.unsqueeze(1) * e_scale + e_v).unflatten(-1, (self.heads, -1))
        attended = (logits.softmax(2).unsqueeze(-1) * values).sum(2).flatten(2)
        x = self.norm(x + draw.dropout(self.again(self.project(attended)), dropout))
        x = self.mixer(x, dropout, draw)
        if not self.last:
            there, back = self.pair.weight.chunk(2, dim=1)  # each half on e as it lies: no transposed copy is made
            both = nn.functional.linear(e, there, self.pair.bias) + nn.functional.linear(e, back).transpose(1, 2)
            both = both + self.source(x).unsqueeze(2) + self.target(x).unsqueeze(1)
            made = draw.dropout(self.edge_out(nn.functional.gelu(both)), dropout)
            e = self.edge_mixer(self.edge_norm(e + made), dropout, draw)
        return x, e


class NgT(WeightClassifier):
    """Neural Graphs with a relational transformer over all pairs of neurons; an edge that is absent has weight 0.

    `width`: of the nodes; edges have half of it, attention twice.
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_classes: int,
        width: int,
        layers: int,
        dropout: float,
        rows: int,
        start: Tensor | None = None,
    ) -> None:
        super().__init__(widths, dropout, start)
        sigmas = WITH_START if self.numbers == 2 else (1.0,)
        self.nodes = Nodes(widths, sigmas, rows, width)
        self.edges = Lift(sigmas, rows, width // 2)
        self.layers = nn.ModuleList(
            RelationalLayer(width, width // 2, 2 * width, 8, last=i == layers - 1) for i in range(layers)
        )
        sizes = widths[-1] * width, 2 * width
        self.head = nn.Sequential(nn.Linear(*sizes), nn.ReLU(), nn.Linear(sizes[1], n_classes))

    def encode(self, weights: list[Tensor], biases: list[Tensor], draw: Draw) -> Tensor:
        weights, biases = self.with_start(weights, biases)
        x, e = torch.cat(self.nodes(biases), dim=1), self._all_edges(weights)
        for layer in self.layers:
            x, e = layer(x, e, self.dropout, draw, self.widths[-1])
        return x.flatten(1)

    def _all_edges(self, weights: list[Tensor]) -> Tensor:
        """(s, n, n, c) for all n neurons: that of i and j is the weight from i to j, lifted."""
        starts, n = [0, *accumulate(self.widths)], sum(self.widths)
        lifted = [self.edges(w) for w in (weights[0].new_zeros(self.numbers), *weights)]
        edges = lifted[0].expand(len(weights[0]), n, n, -1).clone()
        for i, block in enumerate(lifted[1:]):
            edges[:, starts[i] : starts[i + 1], starts[i + 1] : starts[i + 2]] = block
        return edges
