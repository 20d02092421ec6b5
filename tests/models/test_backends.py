"""Other packages compute the same network where they are installed, and are refused by name where they are not."""

from __future__ import annotations

import sys

import pytest
import torch

from arcpipe.config import ModelSection
from arcpipe.errors import ConfigError
from arcpipe.models import build_model
from arcpipe.models.backends import PACKAGES, available


@pytest.mark.parametrize("backend", PACKAGES)
@pytest.mark.parametrize("sizes", [[51, 107, 0, 30], [1, 2]])
def test_values_and_gradients_are_those_of_plain_torch(make_batch, backend, sizes):
    if backend not in available():
        pytest.skip(f"{PACKAGES[backend]} is not installed")
    batch, found = make_batch(sizes), []
    for name in (backend, "torch"):
        torch.manual_seed(0)
        net = build_model(ModelSection(backend=name), 32, 10).train()
        logits = net(*batch, torch.Generator().manual_seed(0))
        logits.square().sum().backward()
        found.append([logits, *(p.grad for p in net.parameters())])
    largest = max(theirs.abs().max().item() for theirs in found[1])  # some gradients are 0 but for rounding
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * largest, rtol=1e-3)


@pytest.mark.parametrize("backend", PACKAGES)
def test_a_package_that_is_not_there_is_named_with_those_that_are(monkeypatch, backend):
    monkeypatch.setitem(sys.modules, f"arcpipe.models.backends.{PACKAGES[backend]}", None)
    with pytest.raises(ConfigError, match=rf"backend {backend} cannot be used here[\s\S]*found: auto, torch"):
        build_model(ModelSection(backend=backend), 32, 10)


def test_what_needs_no_package_is_always_available():
    assert available()[:2] == ["auto", "torch"]
