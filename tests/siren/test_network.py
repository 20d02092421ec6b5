"""Sine networks: how they begin in every variant, and the pictures that they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arcpipe.cloud import SirenRecord
from arcpipe.config import FitSection
from arcpipe.siren import new_record, render, split_layers
from arcpipe.siren.network import first_values

# The bounds of the uniform numbers: weights, then biases, of the first, the hidden and the last layer (32 wide).
WAVE, ROOT_2, ROOT_32 = np.sqrt(6 / 32) / 30, 1 / np.sqrt(2), 1 / np.sqrt(32)
BOUNDS = {
    "siren": [(0.5, 0.5), (WAVE, WAVE), (WAVE, WAVE)],
    "siren-nfn": [(0.5, ROOT_2), (WAVE, ROOT_32), (WAVE, ROOT_32)],
    "siren-dws": [(np.sqrt(3) / 30, 0), (WAVE, 0), (ROOT_32, ROOT_32)],
}


def record_of(variant: str, channels: int = 1) -> SirenRecord:
    return new_record(FitSection.model_validate({"recipe": "siren", "variant": variant}), channels, seed=0)


@pytest.mark.parametrize("variant", BOUNDS)
def test_numbers_start_within_the_bounds_of_the_variant(variant: str) -> None:
    many = np.stack([first_values(variant, (2, 32, 32, 3), 30.0, seed) for seed in range(200)])
    for found, expected in zip(split_layers(many, (2, 32, 32, 3)), BOUNDS[variant], strict=True):
        for numbers, bound in zip(found, expected, strict=True):
            assert np.abs(numbers).max() <= bound * 1.0001
            assert numbers.std() == pytest.approx(bound / np.sqrt(3), rel=0.06)


@pytest.mark.parametrize("variant", BOUNDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_what_torch_makes_of_the_network(variant: str, channels: int) -> None:
    record = record_of(variant, channels)
    layers = [torch.nn.Linear(a, b) for a, b in ((2, 32), (32, 32), (32, channels))]
    with torch.no_grad():
        for layer, (weights, biases) in zip(layers, split_layers(record.start, record.widths_tuple), strict=True):
            layer.weight.copy_(torch.from_numpy(weights))
            layer.bias.copy_(torch.from_numpy(biases))
        rows, columns = torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 8)
        made = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
        made = made.flip(-1) if variant == "siren-dws" else made
        for layer in layers[:-1]:
            made = torch.sin(30 * layer(made))
        made = layers[-1](made)
    made = {"siren": made, "siren-nfn": (made + 1) / 2, "siren-dws": made + 0.5}[variant]
    np.testing.assert_allclose(render(record, record.start, (5, 8)), made.numpy(), atol=2e-5)


def test_a_vector_has_as_many_numbers_as_the_record_says() -> None:
    assert record_of("siren").latent_dim == 1185
    assert record_of("siren", 3).latent_dim == 1251
    fit = FitSection.model_validate({"recipe": "siren", "hidden": [128, 128, 128]})
    assert new_record(fit, 1, 0).latent_dim == 33537


def test_a_finer_picture_passes_through_the_pixels() -> None:
    record = record_of("siren")
    plain, fine = render(record, record.start, (6, 9)), render(record, record.start, (6, 9), scale=3)
    np.testing.assert_allclose(fine[1::3, 1::3], plain, atol=2e-5)


def test_an_independent_start_is_in_no_record_and_a_shared_one_is() -> None:
    fit = FitSection.model_validate({"recipe": "siren", "start": "independent"})
    assert len(new_record(fit, 1, 0).start) == 0
    assert len(record_of("siren").start) == 1185
    arrays = record_of("siren").arrays()
    assert SirenRecord.from_arrays(arrays).sha256 == record_of("siren").sha256
