"""What a GPU's training does otherwise than a CPU's, on a CPU: batches made ready ahead of time, and bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from arcpipe.config import ModelSection, OptimSection, StreamSection
from arcpipe.models import build_model
from arcpipe.models.share import Draw
from arcpipe.store import open_store
from arcpipe.stream.loader import Batch, StreamLoader
from arcpipe.stream.split import Split, normalisation
from arcpipe.train import ahead
from arcpipe.train.evaluate import predict_all
from arcpipe.train.step import make_optimiser, train_step

CPU = torch.device("cpu")


def loader_of(path: Path, epoch: int = 0) -> StreamLoader:
    store = open_store(path)
    split = Split(store, "train")
    return StreamLoader(split, normalisation(split, "per-dim"), 16, section=StreamSection(), epoch=epoch)


def losses(path: Path, *, planned: bool, optim: OptimSection, epochs: int) -> tuple[list[float], torch.nn.Module]:
    torch.manual_seed(0)
    model = build_model(ModelSection(), 4, 3)
    optimiser, found, step = make_optimiser(model, optim, CPU), [], 0
    for epoch in range(epochs):
        batches: Iterator[Batch] = iter(loader_of(path, epoch))
        if planned:

            def plan(batch: Batch, step: int) -> object:
                return ahead.plan_of(model, batch, Draw(torch.Generator().manual_seed(step)))

            batches = ahead.made_ready(batches, CPU, plan, step)
        for batch in batches:
            assert (batch.plan is not None) == planned
            found.append(train_step(model, optimiser, batch, optim, 5e-4, step)[0])
            step += 1
    return found, model


def test_batches_made_ready_ahead_train_the_same(store_path: Path) -> None:
    optim = OptimSection()
    (ours, one), (theirs, other) = (losses(store_path, planned=planned, optim=optim, epochs=2) for planned in (1, 0))
    assert ours == theirs
    assert len(ours) == 8
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its, atol=0, rtol=0)


def test_an_error_of_the_plan_is_raised_where_the_batch_is_asked_for(store_path: Path) -> None:
    def plan(batch: Batch, step: int) -> None:
        if step == 7:
            raise ValueError("no plan")

    batches = ahead.made_ready(loader_of(store_path), CPU, plan, 5)
    assert [next(batches).index, next(batches).index] == [0, 1]
    with pytest.raises(ValueError, match="no plan"):
        next(batches)


def test_bfloat16_has_the_losses_of_float32_within_its_rounding(store_path: Path) -> None:
    whole, half = (
        losses(store_path, planned=True, optim=OptimSection(precision=name), epochs=2)[0]
        for name in ("float32", "bfloat16")
    )
    assert whole != half, "bfloat16 was not used"
    np.testing.assert_allclose(half, whole, rtol=0.03, atol=0.03)
    assert np.mean(half[-4:]) < 0.8 * half[0]


def test_evaluation_ahead_gives_the_same_probabilities(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(ModelSection(), 4, 3)
    expected = predict_all(model, loader_of(store_path), CPU)
    monkeypatch.setattr("arcpipe.train.evaluate.on_device", ahead.made_ready)
    found = predict_all(model, loader_of(store_path), CPU)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
