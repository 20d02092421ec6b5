"""A plan made ahead of time is what the network would have worked out, and with it a GPU need not be asked anything."""

from __future__ import annotations

import pytest
import torch

from arcpipe.config import ModelSection
from arcpipe.models import build_model
from arcpipe.models.moving import ALIGNED, moved
from arcpipe.models.share import Draw

SIZES = [51, 1, 0, 36, 107, 2, 25]


@pytest.fixture(params=["small", "plain"])
def model(request):
    torch.manual_seed(0)
    return build_model(ModelSection(preset=request.param), 32, 10)


def drawn():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sizes", [SIZES, [51], [300, 40]])
def test_logits_and_gradients_are_those_without_a_plan(model, make_batch, sizes, training):
    batch = make_batch(sizes)
    model.train(training)
    generator = drawn() if training else None
    plan = moved(model.plan(*batch[1:], Draw(generator)), torch.device("cpu"))
    results = []
    for more in ({"plan": plan}, {"generator": drawn()}):
        model.zero_grad()
        logits = model(*batch, **more)
        logits.square().sum().backward()
        results.append([logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def test_with_a_plan_no_number_is_asked_for(model, make_batch, monkeypatch):
    """Every one of these calls would wait for all that a GPU has been given; the backward pass is torch's own."""
    batch = make_batch(SIZES)
    for module in model.modules():  # what a GPU would use; on a CPU, compiled loops read lengths as they please
        if hasattr(module, "backend"):
            module.backend = "torch"
    plan = moved(model.plan(*batch[1:], Draw(drawn())), torch.device("cpu"))

    def refuse(self, *_):
        raise AssertionError("a tensor was read")

    for name in ("item", "__bool__", "__int__", "__float__", "__index__", "tolist", "nonzero", "unique", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    for name in ("bincount", "nonzero", "unique_consecutive", "repeat_interleave"):
        monkeypatch.setattr(torch, name, refuse)
    with pytest.raises(AssertionError):
        model(*batch, generator=drawn())
    model(*batch, plan=plan)


def test_tensors_travel_once_and_keep_type_shape_and_number():
    shared = torch.arange(5)
    held = {
        "a": [shared, torch.tensor(2.5), torch.zeros(0, 3)],
        "b": (shared, torch.tensor([True, False]), None, "text", 3),
        "c": torch.arange(6, dtype=torch.int32).view(2, 3).T,
    }
    made = moved(held, torch.device("cpu"))
    assert made["a"][0] is made["b"][0]
    assert made["b"][2:] == (None, "text", 3)
    tensors = [made["a"][0], made["a"][1], made["a"][2], made["b"][1], made["c"]]
    expected = [shared, torch.tensor(2.5), torch.zeros(0, 3), torch.tensor([True, False]), held["c"]]
    for ours, theirs in zip(tensors, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.storage_offset() * ours.element_size() % ALIGNED == 0
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}) == 1
