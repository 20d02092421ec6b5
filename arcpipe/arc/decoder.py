"""The shared decoder g (thesis eq. 5): an MLP with ReLU between its layers and a linear output."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from arcpipe.cloud import DecoderKind, NetworkRecord
from arcpipe.config import FitSection
from arcpipe.seeds import generator


@dataclass(frozen=True, slots=True)
class Decoder:
    """The tensors of a decoder; layer i computes `x @ weights[i].T + biases[i]`.

    `weights[i]` (out, in) float32, `biases[i]` (out,) float32. Of the kind `concat` the input is the `n_neighbours`
    latents, nearest first, then their standardised relative positions (row, column): `n_neighbours * (latent_dim + 2)`
    values.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    n_neighbours: int
    latent_dim: int

    @property
    def kind(self) -> DecoderKind:
        return "concat"

    @property
    def channels(self) -> int:
        return len(self.biases[-1])

    @property
    def hidden(self) -> tuple[int, ...]:
        return tuple(len(bias) for bias in self.biases[:-1])

    @property
    def device(self) -> torch.device:
        return self.biases[-1].device

    @property
    def dtype(self) -> torch.dtype:
        return self.biases[-1].dtype

    @classmethod
    def initial(cls, fit: FitSection, channels: int, seed: int) -> Decoder:
        """Draw weights as `torch.nn.Linear` does, U(-1/sqrt(in), 1/sqrt(in)); the same on every device."""
        rng = generator(seed, "decoder")
        widths = [fit.neighbours * (fit.latent_dim + 2), *fit.hidden_widths, channels]
        weights, biases = [], []
        for before, after in pairwise(widths):
            bound = 1 / math.sqrt(before)
            weights.append(torch.from_numpy(rng.uniform(-bound, bound, (after, before)).astype(np.float32)))
            biases.append(torch.from_numpy(rng.uniform(-bound, bound, after).astype(np.float32)))
        return cls(tuple(weights), tuple(biases), fit.neighbours, fit.latent_dim)

    @classmethod
    def from_record(cls, record: NetworkRecord, device: str | torch.device = "cpu") -> Decoder:
        """Copy the arrays that a store keeps."""
        return cls(
            weights=tuple(torch.tensor(weight, dtype=torch.float32, device=device) for weight in record.weights),
            biases=tuple(torch.tensor(bias, dtype=torch.float32, device=device) for bias in record.biases),
            n_neighbours=record.n_neighbours,
            latent_dim=record.latent_dim,
        )

    def to_record(self) -> NetworkRecord:
        """Copy into the arrays that a store keeps."""
        return NetworkRecord(
            weights=tuple(weight.detach().cpu().numpy().copy() for weight in self.weights),
            biases=tuple(bias.detach().cpu().numpy().copy() for bias in self.biases),
            n_neighbours=self.n_neighbours,
            latent_dim=self.latent_dim,
        )

    def to(self, device: str | torch.device, dtype: torch.dtype = torch.float32) -> Decoder:
        """The same decoder elsewhere. The engine works in float32 only; the reference in any dtype."""
        return replace(
            self,
            weights=tuple(weight.to(device, dtype) for weight in self.weights),
            biases=tuple(bias.to(device, dtype) for bias in self.biases),
        )

    def split_first(self) -> tuple[Tensor, Tensor]:
        """Split layer 1 into what multiplies latents and what multiplies relative positions.

        `W1 @ concat(w_1..w_n, dp) = sum over slots of A[slot].T @ w_slot + V.T @ dp`: the sum in which the engine
        computes it, since a latent can be multiplied once instead of once for every pixel that it is near to.

        Returns:
            A (latent_dim, n_neighbours * h), slot-major columns, and V (2 * n_neighbours, h); contiguous copies.
        """
        first, n, z = self.weights[0], self.n_neighbours, self.latent_dim
        slots = first[:, : n * z].reshape(-1, n, z).permute(2, 1, 0)
        return slots.reshape(z, -1).contiguous(), first[:, n * z :].T.contiguous()

    def join_first(self, latent_part: Tensor, relative_part: Tensor) -> Tensor:
        """The (h, n_neighbours * (latent_dim + 2)) matrix whose `split_first` gives the two arguments."""
        n, z = self.n_neighbours, self.latent_dim
        slots = latent_part.view(z, n, -1).permute(2, 1, 0).reshape(-1, n * z)
        return torch.cat([slots, relative_part.T], dim=1)
