"""The decoder with its first layer factorised, forward and backward by hand: any device, no autograd, no atomics.

Layer 1 is linear, so `W1 concat(w_1..w_n, dp) + b1 = sum over slots of A[slot]^T w_slot + V^T dp + b1`. A latent is
multiplied once per slot instead of once for every pixel that it is near to; a pixel then only adds n rows of the
products. The way back mirrors it: each (latent, slot) sums the gradients of its pixels, then one product per latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.problem import standardised_gaps
from arcpipe.arc.tiles import Tile, index_rows, padded


@dataclass(frozen=True, slots=True)
class DecoderGradient:
    """Sums of the gradients of a decoder: layer 1 as `Decoder.split_first` gives it, then `weights` of the others."""

    latent_part: Tensor
    relative_part: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    @classmethod
    def zeros(cls, decoder: Decoder) -> DecoderGradient:
        latent_part, relative_part = decoder.split_first()
        return cls(
            latent_part=torch.zeros_like(latent_part),
            relative_part=torch.zeros_like(relative_part),
            weights=tuple(torch.zeros_like(weight) for weight in decoder.weights[1:]),
            biases=tuple(torch.zeros_like(bias) for bias in decoder.biases),
        )


class Factorised:
    """A decoder that is applied to whole tiles; keeps its work memory from call to call."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._memory: dict[str, Tensor] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the decoder's tensors again, after they changed in place."""
        self._latent_part, self._relative_part = self.decoder.split_first()
        # The bias of layer 1 rides on slot 0, of which every pixel adds exactly one row.
        self._first_bias = torch.zeros(self._latent_part.shape[1], device=self.decoder.device)
        self._first_bias[: self.decoder.hidden[0]] = self.decoder.biases[0]

    def forward(self, near: Tensor, index: Tensor, index_offsets: Tensor, relative: Tensor) -> list[Tensor]:
        """Decode pixels.

        Args:
            near: (m, z) latents.
            index: (t * n,) int32, for each pixel and slot its row `latent * n + slot`.
            index_offsets: (t + 1,) int32, multiples of n.
            relative: (t, 2 n) standardised relative positions.

        Returns:
            Every layer after its ReLU, (t, width) each, the last one linear: (t, channels). Overwritten by the next
            call.
        """
        decoder, t = self.decoder, len(relative)
        projected = torch.addmm(
            self._first_bias, near, self._latent_part, out=self._take("projected", len(near), len(self._first_bias))
        )
        hidden = sum_rows(projected.view(-1, decoder.hidden[0]), index, index_offsets)
        layers = [hidden.addmm_(relative, self._relative_part).clamp_(min=0)]
        last = len(decoder.weights) - 1
        for i, (weight, bias) in enumerate(zip(decoder.weights[1:], decoder.biases[1:], strict=True), start=1):
            values = torch.addmm(bias, layers[-1], weight.T, out=self._take(f"layer {i}", t, len(bias)))
            layers.append(values if i == last else values.clamp_(min=0))
        return layers

    def backward(
        self, gradient: Tensor, layers: list[Tensor], near: Tensor, tile: Tile, into: DecoderGradient | None
    ) -> Tensor:
        """Carry the gradient of the output (t, channels) back to the latents (m, z) of a tile.

        `layers` and `near` are those of `forward`. The decoder's gradients are added to `into`, where it is given.
        """
        decoder = self.decoder
        for i in range(len(decoder.weights) - 1, 0, -1):
            if into is not None:
                into.weights[i - 1].addmm_(gradient.T, layers[i - 1])
                into.biases[i].add_(gradient.sum(0))
            width = decoder.weights[i].shape[1]
            gradient = torch.mm(gradient, decoder.weights[i], out=self._take(f"gradient {i}", len(gradient), width))
            # ReLU in one pass: zero where the layer's value is not above 0.
            torch.ops.aten.threshold_backward.grad_input(gradient, layers[i - 1], 0, grad_input=gradient)
        sums = sum_rows(gradient, tile.users, tile.user_offsets).view(len(near), -1)
        if into is not None:
            into.latent_part.addmm_(near.T, sums)
            into.relative_part.addmm_(tile.relative.T, gradient)
            into.biases[0].add_(gradient.sum(0))
        return torch.mm(sums, self._latent_part.T, out=self._take("near", *near.shape))

    def _take(self, name: str, rows: int, columns: int) -> Tensor:
        """A contiguous piece of kept memory: fresh memory costs page faults in every step."""
        memory = self._memory.get(name)
        if memory is None or memory.numel() < rows * columns:
            memory = self._memory[name] = torch.empty(rows * columns, device=self.decoder.device)
        return memory[: rows * columns].view(rows, columns)


def sum_rows(table: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """Sum the `rows` of `table` (r, h) in segments `offsets` (segments + 1,), in order: (segments, h)."""
    return F.embedding_bag(rows, table, offsets, mode="sum", include_last_offset=True)


def network_colours(
    decoder: Decoder, latents: NDArray[Any], positions: NDArray[Any], relative: tuple[float, float]
) -> Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float32]]:
    """See `engine.colours_at`."""
    network, device = Factorised(decoder), decoder.device
    source = torch.tensor(np.asarray(latents, np.float32), device=device)

    @torch.no_grad()
    def decode_places(places: NDArray[Any], near: NDArray[Any]) -> NDArray[np.float32]:
        touched, index = index_rows(near, None)
        index, gaps = padded(index), padded(standardised_gaps(positions, near, places, relative))
        layers = network.forward(
            source.index_select(0, torch.from_numpy(touched).to(device)),
            torch.from_numpy(index.ravel()).to(device),
            torch.arange(0, index.size + 1, index.shape[1], dtype=torch.int32, device=device),
            torch.from_numpy(gaps).to(device),
        )
        return layers[-1][: len(near)].cpu().numpy()

    return decode_places
