"""Batches from a store: complete, the same every time, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from arcpipe.cloud import CloudBatch
from arcpipe.config import AugmentSection, StreamSection
from arcpipe.errors import DamagedStoreError, MissingSplitError
from arcpipe.store import open_store
from arcpipe.stream.loader import Batch, StreamLoader
from arcpipe.stream.split import Normalisation, Split, normalisation

SMALL = StreamSection(block=4, window=2, pool=12, readers=2, prefetch=2)
ALL = AugmentSection(apply=("noise", "mask", "push", "rotate", "flip", "arcmix"))
PLAIN = Normalisation(np.zeros(4, np.float32), np.ones(4, np.float32))


@pytest.fixture
def split(store_path: Path) -> Split:
    return Split(open_store(store_path), "train")


def load(split: Split, **settings: object) -> list[Batch]:
    values = {"section": SMALL, **settings}
    return list(StreamLoader(split, PLAIN, 16, **values))  # type: ignore[arg-type]


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert [batch.index for batch in first] == [batch.index for batch in second]
    for a, b in zip(first, second, strict=True):
        for name in ("latents", "positions", "offsets", "labels"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        np.testing.assert_array_equal(a.sample_ids, b.sample_ids)


def interrupted_loop(loader: StreamLoader) -> None:
    for _ in loader:
        raise KeyboardInterrupt


def reader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("arcpipe-")]


def test_an_epoch_holds_every_cloud_once_as_the_store_has_it(split: Split, store_path: Path) -> None:
    stored = {}
    store = open_store(store_path)
    for part in store.parts("train"):
        for cloud in store.read_part("train", part.id):
            stored[cloud.sample_id] = cloud
    seen = []
    for batch in load(split):
        assert batch.latents.dtype == batch.positions.dtype == batch.labels.dtype == torch.float32
        for i, sample_id in enumerate(batch.sample_ids.tolist()):
            rows = slice(int(batch.offsets[i]), int(batch.offsets[i + 1]))
            cloud = stored[sample_id]
            np.testing.assert_array_equal(batch.latents[rows].numpy(), cloud.latents.astype(np.float32))
            np.testing.assert_array_equal(batch.positions[rows].numpy(), cloud.positions)
            assert batch.labels[i].tolist() == [float(j == cloud.label) for j in range(3)]
            seen.append(sample_id)
    assert sorted(seen) == sorted(stored)
    assert seen != sorted(seen)


def test_batches_do_not_depend_on_threads_prefetch_or_memory(split: Split, store_path: Path) -> None:
    expected = load(split, augment=ALL, seed=3, epoch=2)
    for change in ({"readers": 1, "prefetch": 1}, {"readers": 4, "prefetch": 9}):
        assert_same(expected, load(split, augment=ALL, seed=3, epoch=2, section=SMALL.model_copy(update=change)))
    in_memory = Split(open_store(store_path), "train", cache_mb=100)
    assert in_memory.in_memory
    assert not split.in_memory
    assert_same(expected, load(in_memory, augment=ALL, seed=3, epoch=2))


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4])
def test_resuming_at_any_batch_gives_the_same_remaining_batches(split: Split, stop: int) -> None:
    # bit for bit, augmentation included
    whole = load(split, augment=ALL, epoch=1)
    assert len(whole) == 4
    assert_same(whole[stop:], load(split, augment=ALL, epoch=1, start_batch=stop))


@pytest.mark.parametrize("world", [2, 4, 8])
def test_ranks_together_make_the_batches_of_one_process(split: Split, world: int) -> None:
    whole = load(split, augment=ALL)
    shares = [load(split, augment=ALL, rank=rank, world=world) for rank in range(world)]
    assert {len(share) for share in shares} == {len(whole)}  # uneven counts would hang a collective
    for i, batch in enumerate(whole):
        parts = [share[i] for share in shares]
        assert torch.equal(torch.cat([part.latents for part in parts]), batch.latents)
        assert torch.equal(torch.cat([part.positions for part in parts]), batch.positions)
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)


def test_augmentation_of_a_cloud_does_not_depend_on_its_batch(split: Split) -> None:
    section = AugmentSection(apply=ALL.apply[:-1])
    found: list[dict[int, torch.Tensor]] = []
    for batch_size in (16, 7):
        loader = StreamLoader(split, PLAIN, batch_size, section=SMALL, augment=section)
        found.append(
            {
                sample_id: batch.latents[int(batch.offsets[i]) : int(batch.offsets[i + 1])]
                for batch in loader
                for i, sample_id in enumerate(batch.sample_ids.tolist())
            }
        )
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_epochs_differ_in_order_and_augmentation(split: Split) -> None:
    first, second = load(split, augment=ALL, epoch=0), load(split, augment=ALL, epoch=1)
    assert first[0].sample_ids.tolist() != second[0].sample_ids.tolist()


def test_soft_labels_of_arcmix_sum_to_one(split: Split) -> None:
    labels = torch.cat([batch.labels for batch in load(split, augment=AugmentSection(apply=("arcmix",)))])
    torch.testing.assert_close(labels.sum(1), torch.ones(60))
    assert (labels.max(1).values < 0.99).any()


def test_unshuffled_batches_come_in_the_order_of_the_store(split: Split) -> None:
    ids = np.concatenate([batch.sample_ids for batch in load(split, shuffle=False)])
    np.testing.assert_array_equal(ids, split.store.column("train", "sample_ids"))


def test_points_bound_a_batch(split: Split) -> None:
    section = SMALL.model_copy(update={"batch_points": 40})
    batches = load(split, section=section)
    assert max(len(batch.latents) for batch in batches[:-1]) <= 40  # a single cloud left over joins the last one
    assert len(batches) > 60 * 6 / 40
    assert sum(len(batch) for batch in batches) == 60


def test_an_error_in_a_reader_is_raised_where_the_batch_is_asked_for(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(part: int, start: int, stop: int) -> CloudBatch:
        calls.append(part)
        if len(calls) == 9:
            raise DamagedStoreError("a byte flipped")
        return split.store.read_block("train", split.manifest.parts[part], start, stop)

    monkeypatch.setattr(split, "read", fail)
    with pytest.raises(DamagedStoreError, match="a byte flipped"):
        load(split)
    assert reader_threads() == []


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_leaving_the_loop_ends_all_threads(split: Split, taken: int) -> None:
    batches = iter(StreamLoader(split, PLAIN, 8, section=SMALL))
    for _ in range(taken):
        next(batches)
    batches.close()  # what Python does at a break, an exception or Ctrl-C
    assert reader_threads() == []


def test_ctrl_c_while_reading_is_slow_ends_promptly(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = split.read

    def slow(part: int, start: int, stop: int) -> CloudBatch:
        time.sleep(0.05)
        return plain(part, start, stop)

    monkeypatch.setattr(split, "read", slow)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted_loop(StreamLoader(split, PLAIN, 4, section=SMALL))
    assert reader_threads() == []
    assert time.monotonic() - started < 5


def test_memory_is_bounded_by_pools_not_by_the_split(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    # of 16 blocks, a consumer at batch 0 has caused at most the pools of its prefetched batches and one more to be read
    read = []
    plain = split.read

    def count(part: int, start: int, stop: int) -> CloudBatch:
        read.append((part, start))
        return plain(part, start, stop)

    monkeypatch.setattr(split, "read", count)
    section = StreamSection(block=4, window=2, pool=4, readers=2, prefetch=1)
    batches = iter(StreamLoader(split, PLAIN, 4, section=section))
    next(batches)
    time.sleep(0.2)
    assert len(set(read)) <= 4
    list(batches)
    assert len(read) == len(set(read)) == 15  # every block is read once


def test_statistics_are_those_of_the_training_latents(split: Split) -> None:
    latents = torch.cat([batch.latents for batch in load(split)]).double()
    per_dim = normalisation(split, "per-dim")
    np.testing.assert_allclose(per_dim.mean, latents.mean(0), atol=1e-5)
    np.testing.assert_allclose(per_dim.std, latents.std(0, correction=0), rtol=1e-5)
    whole = normalisation(split, "whole")
    np.testing.assert_allclose(whole.mean, np.full(4, latents.mean()), atol=1e-5)
    np.testing.assert_allclose(whole.std, np.full(4, latents.std(correction=0)), rtol=1e-5)
    normalised = per_dim(latents.numpy())
    np.testing.assert_allclose(normalised.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.std(0), 1, atol=1e-5)
    none = normalisation(split, "none")
    np.testing.assert_array_equal(none(latents.numpy()), latents.float().numpy())


def test_statistics_of_a_split_of_another_name_are_computed(new_store: Callable[..., Path]) -> None:
    other = Split(open_store(new_store(splits={"train": 20, "extra": 30})), "extra")
    latents = np.concatenate([other.read(i, 0, 99).latents for i in range(2)]).astype(np.float64)
    np.testing.assert_allclose(normalisation(other, "per-dim").mean, latents.mean(0), atol=1e-6)
    np.testing.assert_allclose(normalisation(other, "whole").std, latents.std(), rtol=1e-5)


def test_a_constant_dimension_becomes_zero_not_nan() -> None:
    split = Split.__new__(Split)
    split.name, split._cache, split.whole = "train", None, True
    statistics = {"split": "train", "mean": [1.0, 2.0], "std": [0.0, 2.0], "whole_mean": 1.5, "whole_std": 1.0}
    split.store = type("Store", (), {"latent_dim": 2, "latent_statistics": statistics, "decoder": None})()
    np.testing.assert_array_equal(normalisation(split, "per-dim")(np.array([[1.0, 4.0]])), [[0, 1]])


def test_a_missing_split_is_named(store_path: Path) -> None:
    with pytest.raises(MissingSplitError, match="train, test"):
        Split(open_store(store_path), "validation")
