"""The decoder: its record, its first weights, and the split of its first layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arcpipe.arc.decoder import Decoder
from arcpipe.config import FitSection


@pytest.mark.parametrize("channels", [1, 3])
def test_the_thesis_decoder_has_its_sizes(channels: int) -> None:
    decoder = Decoder.initial(FitSection(), channels, 0)
    assert [tuple(weight.shape) for weight in decoder.weights] == [(136, 136), (channels, 136)]
    assert (decoder.hidden, decoder.channels) == ((136,), channels)
    n_parameters = sum(tensor.numel() for tensor in (*decoder.weights, *decoder.biases))
    assert n_parameters == 136 * 137 + channels * 137  # 19,043 for RGB


def test_a_record_brings_the_decoder_back() -> None:
    decoder = Decoder.initial(FitSection(hidden=(20, 30), neighbours=3, latent_dim=8), 3, 1)
    record = decoder.to_record()
    again = Decoder.from_record(record)
    assert again.to_record().sha256 == record.sha256
    assert (again.n_neighbours, again.latent_dim, again.hidden) == (3, 8, (20, 30))


def test_a_record_does_not_share_memory() -> None:
    decoder = Decoder.initial(FitSection(), 3, 1)
    record = decoder.to_record()
    before = record.sha256
    Decoder.from_record(record).weights[0].zero_()
    decoder.weights[0].zero_()
    assert record.sha256 == before


def test_first_weights_follow_the_seed_and_the_bounds_of_torch() -> None:
    first, again, other = (Decoder.initial(FitSection(), 3, seed) for seed in (1, 1, 2))
    assert torch.equal(first.weights[0], again.weights[0])
    assert not torch.equal(first.weights[0], other.weights[0])
    for tensor in (*first.weights, *first.biases):
        assert tensor.abs().max() <= 136**-0.5
    assert first.weights[0].std().item() == pytest.approx((136 * 3) ** -0.5, rel=0.02)


def test_the_split_first_layer_computes_the_same_sum() -> None:
    decoder = Decoder.initial(FitSection(neighbours=3, latent_dim=5), 3, 4)
    rng = np.random.default_rng(0)
    latents = torch.from_numpy(rng.random((7, 3, 5), np.float32))  # pixels, slots, z
    relative = torch.from_numpy(rng.random((7, 6), np.float32))
    latent_part, relative_part = decoder.split_first()
    slots = latent_part.view(5, 3, -1)
    factorised = torch.einsum("psz,zsh->ph", latents, slots) + relative @ relative_part
    whole = torch.cat([latents.flatten(1), relative], dim=1) @ decoder.weights[0].T
    torch.testing.assert_close(factorised, whole)
    assert torch.equal(decoder.join_first(latent_part, relative_part), decoder.weights[0])
