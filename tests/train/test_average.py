"""The moving average of weights: its formula, and that it is a model of its own."""

from __future__ import annotations

import torch
from torch import nn

from arcpipe.train.average import Average


def test_the_average_follows_its_formula_for_weights_and_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = Average(model, decay=0.7)
    expected = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for step in range(40):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(6, 3))
        average.update(step)
        keep = min(0.7, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            expected[name] = keep * expected[name] + (1 - keep) * tensor
    for name, tensor in average.model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
        else:
            assert tensor == 40
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_first_weights_are_soon_forgotten() -> None:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, 100.0)
    average = Average(model, decay=0.999)
    nn.init.zeros_(model.weight)
    for step in range(100):
        average.update(step)
    assert average.model.weight.abs().max() < 1e-6  # a plain average would still be at 90
