"""The decoder of the kind `blend`, forward and backward by hand: any device, no autograd, no atomics.

Every near latent is decoded by itself and the results are averaged, so layer 1 multiplies a latent once, whatever its
place among a pixel's neighbours. The interface is that of `factorised.Factorised`; a row is a pixel and a slot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from arcpipe.arc.decoder import Decoder, shares
from arcpipe.arc.factorised import (
    DecoderGradient,
    Factorised,
    WorkMemory,
    backward_later,
    forward_later,
    sum_rows,
)
from arcpipe.arc.tiles import Tile


class Blended:
    """A decoder that is applied to whole tiles; keeps its work memory from call to call."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.take = WorkMemory(decoder.device)
        self.refresh()

    def refresh(self) -> None:
        """Read the decoder's tensors again, after they changed in place."""
        self._latent_part, self._relative_part = self.decoder.split_first()

    def forward(self, near: Tensor, index: Tensor, index_offsets: Tensor, relative: Tensor) -> list[Tensor]:
        """Decode every near latent of every pixel by itself.

        Args:
            near: (m, z) latents.
            index: (t * n,) int32, for each pixel and slot `latent * n + slot`.
            index_offsets: (t + 1,) int32, multiples of n; not needed.
            relative: (t, 2 n) standardised relative positions.

        Returns:
            Every layer after its ReLU, (t * n, width) each, the last one linear: (t * n, channels). Overwritten by the
            next call.
        """
        decoder, rows = self.decoder, index.numel()
        width = decoder.hidden[0] if decoder.hidden else decoder.channels
        projected = self.take("projected", len(near), width)
        torch.addmm(decoder.biases[0], near, self._latent_part, out=projected)
        values = self.take("layer 0", rows, width)
        torch.index_select(projected, 0, index // decoder.n_neighbours, out=values)
        values.addmm_(relative.view(rows, 2), self._relative_part)
        return forward_later(decoder, values.clamp_(min=0) if decoder.hidden else values, self.take)

    def output(self, layers: list[Tensor], relative: Tensor) -> Tensor:
        """The pixels (t, channels) of what `forward` gave."""
        share = shares(relative)
        return (layers[-1].view(*share.shape, -1) * share[:, :, None]).sum(1)

    def errors(self, layers: list[Tensor], tile: Tile, alone: float) -> tuple[Tensor, Tensor]:
        """The weighted loss of each pixel (t, 1), and its gradient (t * n, channels) by the last of `layers`.

        With f the outputs of a pixel's latents, a their shares and y the pixel, it is the weight times
        `(1 - alone) |sum a f - y|^2 + alone sum a |f - y|^2`.
        """
        share = shares(tile.relative)[:, :, None]
        each = layers[-1].view(*share.shape[:2], -1) - tile.target[:, None]
        together = (share * each).sum(1, keepdim=True)
        squares = (1 - alone) * together.square().sum(2)
        if alone:
            squares += alone * (share * each.square()).sum((1, 2))[:, None]
        slope = each.mul_(alone).add_(together, alpha=1 - alone).mul_(share).mul_(2 * tile.weight[:, None])
        return squares * tile.weight, slope.view(len(layers[-1]), -1)

    def backward(
        self, gradient: Tensor, layers: list[Tensor], near: Tensor, tile: Tile, into: DecoderGradient | None
    ) -> Tensor:
        """Carry the gradient of the last of `layers` back to the latents (m, z) of a tile.

        `layers` and `near` are those of `forward`. The decoder's gradients are added to `into`, where it is given.
        """
        decoder = self.decoder
        gradient = backward_later(decoder, gradient, layers, into, self.take)
        sums = sum_rows(gradient, *_rows_of_latents(tile, decoder.n_neighbours))
        if into is not None:
            into.latent_part.addmm_(near.T, sums)
            into.relative_part.addmm_(tile.relative.view(-1, 2).T, gradient)
            into.biases[0].add_(gradient.sum(0))
        return torch.mm(sums, self._latent_part.T, out=self.take("near", *near.shape))


def network_of(decoder: Decoder) -> Factorised | Blended:
    """What applies a decoder of either kind to tiles."""
    return Factorised(decoder) if decoder.kind == "concat" else Blended(decoder)


def _rows_of_latents(tile: Tile, n: int) -> tuple[Tensor, Tensor]:
    """The rows `pixel * n + slot` of each latent of a tile, and where a latent's begin."""
    counts = tile.user_offsets.diff()
    slots = torch.arange(n, dtype=torch.int32, device=counts.device).repeat(len(counts) // n)
    return tile.users * n + slots.repeat_interleave(counts), tile.user_offsets[::n].contiguous()
