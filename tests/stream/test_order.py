"""The order of an epoch: a permutation that depends on names and numbers only."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcpipe.stream.order import (
    EpochOrder,
    Manifest,
    cut_batches,
    epoch_order,
    natural_order,
    rank_share,
    shuffle_quality,
)


def make_manifest(sizes: list[int], points: int = 5) -> Manifest:
    counts = tuple(np.full(n, points, np.int64) for n in sizes)
    labels = tuple(np.arange(n) * 4 // max(n, 1) for n in sizes)  # sorted by class inside a part: the worst case
    return Manifest(tuple(f"{i:04d}" for i in range(len(sizes))), counts, labels)


def visited(order: EpochOrder) -> list[tuple[int, int]]:
    return list(zip(order.part.tolist(), order.row.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 70), max_size=9),
    block=st.integers(1, 40),
    window=st.integers(1, 5),
    pool=st.integers(1, 100),
    seed=st.integers(0, 3),
)
def test_every_cloud_is_visited_once_whatever_the_settings(
    sizes: list[int], block: int, window: int, pool: int, seed: int
) -> None:
    manifest = make_manifest(sizes)
    order = epoch_order(manifest, seed, 1, block=block, window=window, pool=pool)
    assert sorted(visited(order)) == [(i, row) for i, n in enumerate(sizes) for row in range(n)]
    assert sorted(visited(natural_order(manifest, block=block, pool=pool))) == sorted(visited(order))


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 70), max_size=9), block=st.integers(1, 40), pool=st.integers(1, 100))
def test_a_pool_holds_exactly_the_clouds_of_its_blocks(sizes: list[int], block: int, pool: int) -> None:
    # what lets the loader read whole blocks, each for one pool only
    order = epoch_order(make_manifest(sizes), 0, 0, block=block, pool=pool)
    for number in range(len(order.pools) - 1):
        own = visited(order)[order.pools[number] : order.pools[number + 1]]
        blocks = order.pool_blocks(number).tolist()
        assert sorted(own) == sorted((part, row) for part, start, stop in blocks for row in range(start, stop))
        assert all(start % block == 0 and stop - start <= block for _, start, stop in blocks)
        assert len(own) <= max(pool, block)


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    manifest = make_manifest([50, 50, 50])
    first = visited(epoch_order(manifest, 0, 0))
    np.random.default_rng().random()  # no global state has a say
    assert visited(epoch_order(make_manifest([50, 50, 50]), 0, 0)) == first
    assert visited(epoch_order(manifest, 0, 1)) != first
    assert visited(epoch_order(manifest, 1, 0)) != first


def test_the_order_of_seed_0_is_fixed_for_ever() -> None:
    # a resumed run of another version must see the same remaining clouds
    order = epoch_order(make_manifest([4, 3]), 0, 0, block=2, window=2, pool=4)
    assert visited(order) == [(0, 3), (0, 1), (0, 0), (0, 2), (1, 2), (1, 1), (1, 0)]


def test_a_split_without_clouds_has_no_batches() -> None:
    for sizes in ([], [0, 0]):
        manifest = make_manifest(sizes)
        order = epoch_order(manifest, 0, 0)
        assert len(order) == 0
        assert cut_batches(order, manifest, 8, 100).tolist() == [0]


@pytest.mark.parametrize(
    ("n", "ends"), [(1, [0, 1]), (8, [0, 8]), (9, [0, 9]), (10, [0, 8, 10]), (17, [0, 8, 17]), (24, [0, 8, 16, 24])]
)
def test_a_single_cloud_left_over_joins_the_batch_before(n: int, ends: list[int]) -> None:
    manifest = make_manifest([n])
    assert cut_batches(epoch_order(manifest, 0, 0), manifest, 8).tolist() == ends


@settings(max_examples=60, deadline=None)
@given(points=st.lists(st.integers(0, 30), min_size=1, max_size=60), bound=st.integers(1, 80), size=st.integers(2, 9))
def test_batches_are_bounded_in_clouds_and_points(points: list[int], bound: int, size: int) -> None:
    manifest = Manifest(("0000",), (np.array(points),))
    order = epoch_order(manifest, 0, 0, block=4)
    ends = cut_batches(order, manifest, size, bound).tolist()
    assert ends[0] == 0
    assert ends[-1] == len(points)
    batches = [[points[row] for row in order.row[a:b]] for a, b in pairwise(ends)]
    for batch in batches[:-1]:
        assert 1 <= len(batch) <= size
        assert len(batch) == 1 or sum(batch) <= bound
    last = batches[-1]
    assert len(last) <= 2 or (len(last) <= size + 1 and sum(last[:-1]) <= bound)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_ranks_share_every_batch_without_gap_or_overlap(world: int) -> None:
    # the same global order on 1, 2, 4 or 8 processes
    for start, stop in [(0, 16), (16, 27), (27, 28)]:
        shares = [range(*rank_share(start, stop, rank, world)) for rank in range(world)]
        assert [place for share in shares for place in share] == list(range(start, stop))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_large_clouds_make_smaller_pools() -> None:
    # 4096 clouds of 20,000 points would be 5 GB; the bound is 2**22 points
    manifest = make_manifest([300] * 10, points=20_000)
    order = epoch_order(manifest, 0, 0, block=32)
    assert max(np.diff(order.pools)) * 20_000 <= 2**22


def test_the_default_shuffle_is_nearly_perfect_and_no_shuffle_is_told_apart() -> None:
    manifest = make_manifest([500] * 16)
    epochs = [shuffle_quality(epoch_order(manifest, 0, epoch), manifest) for epoch in range(20)]
    plain = shuffle_quality(natural_order(manifest), manifest)
    assert 0.9 < np.mean([mixed["displacement"] for mixed in epochs]) < 1.1
    assert all(0.95 < mixed["run_length"] < 1.05 for mixed in epochs)
    assert plain["displacement"] == 0
    assert plain["run_length"] > 50


def test_a_manifest_is_named_by_its_content() -> None:
    assert make_manifest([3, 4]).digest == make_manifest([3, 4]).digest
    assert len({make_manifest(sizes).digest for sizes in ([3, 4], [4, 3], [7], [3, 4, 0])}) == 4
