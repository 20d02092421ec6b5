"""The fit in plain torch: any device, no autograd in the loop, the same bits in every run on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from arcpipe.arc.adam import Adam
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.factorised import DecoderGradient, Factorised, sum_rows
from arcpipe.arc.problem import Problem
from arcpipe.arc.tiles import Tile
from arcpipe.config import FitSection


class TorchKernel:
    """See `arcpipe.arc.kernels.Kernel`. `accumulate` also serves pretraining, which needs the decoder's gradients."""

    def __init__(self, decoder: Decoder) -> None:
        self.network = Factorised(decoder)

    @torch.no_grad()
    def run(self, problem: Problem, latents: Tensor, fit: FitSection) -> Tensor:
        adam = Adam([latents], fit)
        gradient = torch.zeros_like(latents)
        losses = torch.zeros(fit.steps, len(problem.images), device=latents.device)
        for step in range(fit.steps):
            gradient.zero_()
            for tile in problem.tiles(step):
                self.accumulate(tile, latents, gradient, losses[step])
            adam.update([gradient])
        return losses

    @torch.no_grad()
    def accumulate(
        self, tile: Tile, latents: Tensor, gradient: Tensor, loss: Tensor, into: DecoderGradient | None = None
    ) -> None:
        """Add a tile's share of each image's loss to `loss` (images,), its gradients to `gradient` (m, z) and
        `into`."""
        near = latents if tile.rows is None else latents.index_select(0, tile.rows)
        layers = self.network.forward(near, tile.index, tile.index_offsets, tile.relative)
        error = layers[-1].sub_(tile.target)
        weighted = error * tile.weight
        per_pixel = (error * weighted).sum(1, keepdim=True)
        loss += sum_rows(per_pixel, tile.order, tile.image_offsets).squeeze(1)
        near_gradient = self.network.backward(weighted.mul_(2), layers, near, tile, into)
        if tile.rows is None:
            gradient += near_gradient
        else:
            gradient.index_add_(0, tile.rows, near_gradient)
