"""Several processes on one batch compute what one does: threads stand for processes here, and wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from arcpipe.models import PTv3
from arcpipe.models.share import Share, batch_norm


class Meeting:
    """Adds tensors of several threads, as an all-reduce does."""

    def __init__(self, n: int) -> None:
        self.barrier = threading.Barrier(n, timeout=60)
        self.tensors: dict[int, Tensor] = {}

    def adder(self, rank: int) -> Callable[[Tensor], None]:
        def add(tensor: Tensor) -> None:
            self.tensors[rank] = tensor.clone()
            self.barrier.wait()
            tensor.copy_(sum(self.tensors[i] for i in sorted(self.tensors)))
            self.barrier.wait()

        return add


def together(cuts: list[int], work: Callable[[Share], Tensor]) -> list[Tensor]:
    """Call `work` with every share of clouds between `cuts` at once."""
    meeting = Meeting(len(cuts) - 1)
    shares = [Share(low, high, cuts[-1], meeting.adder(i)) for i, (low, high) in enumerate(pairwise(cuts))]
    with ThreadPoolExecutor(len(shares)) as pool:
        return list(pool.map(work, shares))


@pytest.mark.parametrize("cuts", [[0, 5, 9], [0, 1, 2, 9], [0, 9]])
def test_batch_norm_over_processes_is_that_over_all_rows(cuts: list[int]) -> None:
    torch.manual_seed(0)
    rows, upstream = 3 + 5 * torch.randn(9, 4), torch.randn(9, 4)
    norm, expected = (nn.BatchNorm1d(4) for _ in range(2))
    with torch.no_grad():
        expected.weight.uniform_(0.5, 2)
        expected.bias.uniform_(-1, 1)
    whole = rows.clone().requires_grad_()
    normalised = expected(whole)
    normalised.backward(upstream)
    norms = [nn.BatchNorm1d(4) for _ in cuts[1:]]
    for norm in norms:
        norm.weight.data, norm.bias.data = expected.weight.data.clone(), expected.bias.data.clone()

    def work(share: Share) -> Tensor:
        own = rows[share.low : share.high].clone().requires_grad_()
        out = batch_norm(norms[cuts.index(share.low)], own, share)
        torch.testing.assert_close(out, normalised[share.low : share.high])
        out.backward(upstream[share.low : share.high])
        assert own.grad is not None
        return own.grad

    assert whole.grad is not None
    torch.testing.assert_close(torch.cat(together(cuts, work)), whole.grad)
    torch.testing.assert_close(sum(norm.weight.grad for norm in norms), expected.weight.grad)
    torch.testing.assert_close(sum(norm.bias.grad for norm in norms), expected.bias.grad)
    for norm in norms:
        torch.testing.assert_close(norm.running_mean, expected.running_mean)
        torch.testing.assert_close(norm.running_var, expected.running_var)
        assert norm.num_batches_tracked == 1


def test_one_row_in_all_is_normalised_by_the_running_statistics() -> None:
    norm = nn.BatchNorm1d(3)
    rows = torch.ones(1, 3)

    def work(share: Share) -> Tensor:
        return batch_norm(norm, rows[share.low : share.high], share)

    torch.testing.assert_close(torch.cat(together([0, 0, 1], work)), batch_norm(nn.BatchNorm1d(3), rows))
    torch.testing.assert_close(norm.running_mean, torch.zeros(3))


def test_a_step_of_ptv3_in_three_processes_has_the_gradients_of_one() -> None:
    torch.manual_seed(1)
    counts = [7, 1, 12, 4, 9, 3, 20]
    offsets = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()])
    latents, positions = torch.randn(len(counts) * 8, 5), torch.rand(len(counts) * 8, 2) * 20
    labels = torch.arange(len(counts)) % 3

    settings = {"channels": (8, 8), "depths": (1, 2), "heads": (2, 2), "patch": 6, "grid_px": 2.0, "mlp_ratio": 2.0}
    building = threading.Lock()  # weights come from torch's global random state, which threads share
    models: list[PTv3] = []

    def step(share: Share | None) -> Tensor:
        with building:
            torch.manual_seed(2)
            model = PTv3(5, 3, drop_path=0.5, **settings)
            models.append(model)
        low, high = (0, len(counts)) if share is None else (share.low, share.high)
        rows, own = slice(int(offsets[low]), int(offsets[high])), offsets[low : high + 1] - offsets[low]
        logits = model(latents[rows], positions[rows], own, torch.Generator().manual_seed(3), share)
        (nn.functional.cross_entropy(logits, labels[low:high], reduction="sum") / len(counts)).backward()
        return logits.detach()

    expected = step(None)
    found = torch.cat(together([0, 2, 3, 7], step))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    whole, *parts = (dict(model.named_parameters()) for model in models)
    for name, parameter in whole.items():
        total = sum(part[name].grad for part in parts)
        torch.testing.assert_close(total, parameter.grad, atol=1e-5, rtol=1e-4, msg=name)
