"""The neighbour cache: exactly reversible for any clouds, and small for real ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc
from store_samples import make_batch, make_cloud, nearest

from arcpipe.cloud import CloudBatch, morton_codes
from arcpipe.store import arrivals
from arcpipe.store.arrivals import Arrivals, Geometry, decode_arrivals, decode_neighbours, encode_arrivals

SHAPES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12)), max_size=5)


def geometry(batch: CloudBatch) -> Geometry:
    assert batch.pixel_offsets is not None
    return Geometry(batch.positions, batch.offsets, batch.pixel_offsets, batch.sizes)


def encoded(batch: CloudBatch) -> Arrivals:
    assert batch.neighbours is not None
    coded = encode_arrivals(batch.neighbours, geometry(batch))
    assert coded is not None
    return coded


@given(SHAPES, st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_nearest_anchors_come_back(shapes: list[tuple[int, int, int]], n: int) -> None:
    """Also of images of one row or column, with fewer pixels than anchors (which then lie on each other)."""
    clouds = [make_cloud(i, size=(h, w), points=max(n, k), n=n) for i, (h, w, k) in enumerate(shapes)]
    batch = CloudBatch.join(clouds, n_neighbours=n)
    assert np.array_equal(decode_arrivals(encoded(batch), geometry(batch), n), batch.neighbours)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_other_lists_are_not_taken_for_the_nearest(seed: int) -> None:
    """They come back, or are left to be stored as they are."""
    batch = make_batch(range(4))
    rng = np.random.default_rng(seed)
    assert batch.neighbours is not None
    for strange in (rng.permuted(batch.neighbours, axis=1), rng.integers(0, 4, batch.neighbours.shape, np.uint16)):
        coded = encode_arrivals(strange, geometry(batch))
        assert coded is None or np.array_equal(decode_arrivals(coded, geometry(batch), 4), strange)


def test_rows_that_no_cloud_has_are_not_coded() -> None:
    batch = make_batch(range(2))
    assert batch.neighbours is not None
    for row in (50, -1):
        strange = batch.neighbours.astype(np.int64)
        strange[3, 0] = row
        assert encode_arrivals(strange, geometry(batch)) is None


def test_what_a_stranger_would_write() -> None:
    """The words of docs/store-format.md, pixel by pixel."""
    batch = make_batch(range(3))
    assert batch.pixel_offsets is not None
    coded = encoded(batch)
    arrivals: dict[tuple[int, ...], list[int]] = {}
    for anchor, place in zip(np.repeat(np.arange(len(coded.counts)), coded.counts), coded.places, strict=True):
        cloud = int(np.searchsorted(batch.offsets, anchor, side="right")) - 1
        y, x = batch.positions[anchor].astype(int) + place
        arrivals.setdefault((cloud, y, x), []).append(int(anchor - batch.offsets[cloud]))
    for i, cloud in enumerate(batch):
        height, width = cloud.size
        lists = np.zeros((height, width, 4), int)
        for y in range(height):
            for x in range(width):
                near = set(arrivals.get((i, y, x), ()))
                near |= set(lists[y, x - 1]) if x > 0 else set()
                near |= set(lists[y - 1, x]) if y > 0 else set()
                near |= set(lists[y - 1, x + 1]) if y > 0 and x < width - 1 else set()
                gaps = ((cloud.positions.astype(int) - (y, x)) ** 2).sum(axis=1)
                lists[y, x] = sorted(near, key=lambda row: (gaps[row], row))[:4]  # called at once
        assert np.array_equal(lists.reshape(-1, 4), cloud.neighbours)


def test_one_cloud_decodes_without_the_others() -> None:
    batch = make_batch(range(6))
    coded = encoded(batch)
    for i, cloud in enumerate(batch):
        arrivals, points = (slice(ends[i], ends[i + 1]) for ends in (coded.offsets, batch.offsets))
        alone = Arrivals(coded.places[arrivals], coded.counts[points], np.array([0, 0]))
        assert np.array_equal(decode_arrivals(alone, geometry(CloudBatch.join([cloud])), 4), cloud.neighbours)


def test_more_anchors_than_16_bits_hold() -> None:
    columns = np.repeat(np.arange(2**16 + 9), 2)
    positions = np.stack([np.zeros_like(columns), columns], axis=1).astype(np.uint32)
    assert (np.diff(morton_codes(positions).astype(np.int64)) >= 0).all()
    size = (1, int(columns[-1]) + 1)
    neighbours = np.stack([2 * np.arange(size[1]), 2 * np.arange(size[1]) + 1], axis=1)  # those on the pixel itself
    where = Geometry(positions, np.array([0, len(columns)]), np.array([0, size[1]]), np.array([size]))
    coded = encode_arrivals(neighbours.astype(np.int32), where)
    assert coded is not None
    found = decode_arrivals(coded, where, 2)
    assert found.dtype == np.uint32
    assert np.array_equal(found, neighbours)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, places=c.places + 100), "arrives outside of its image"),
        (lambda c: replace(c, places=c.places[:-1]), "not as many arrivals"),
        (lambda c: replace(c, places=c.places[:, :1]), "arrivals of shape"),
        (lambda c: replace(c, counts=c.counts[1:]), "not as many arrivals"),
        (lambda c: replace(c, counts=np.full(len(c.counts), 2**63, np.uint64)), "not as many arrivals"),
        (lambda c: replace(c, places=c.places[:0], counts=c.counts * 0), "pixel 0 has fewer than 4 anchors"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(change: object, message: str) -> None:
    batch = make_batch(range(2))
    with pytest.raises(ValueError, match=message):
        decode_arrivals(change(encoded(batch)), geometry(batch), 4)  # type: ignore[operator]


def test_geometry_that_contradicts_itself_is_refused() -> None:
    batch = make_batch(range(2))
    where, coded = geometry(batch), encoded(batch)
    for wrong, message in (
        (replace(where, positions=where.positions + 50), "an anchor is outside of its image"),
        (replace(where, sizes=where.sizes + 1), "other numbers of pixels"),
        (replace(where, sizes=where.sizes * 0), "images of 0 to 0 pixels"),
        (replace(where, sizes=where.sizes * 2**40), "pixels a side"),
        (replace(where, pixel_offsets=where.pixel_offsets[:-1]), "other numbers of pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_arrivals(coded, wrong, 4)


def test_it_is_a_fraction_of_the_cache_as_it_is() -> None:
    cloud = make_cloud(5, size=(64, 64), points=204)
    batch = CloudBatch.join([cloud])
    assert np.array_equal(cloud.neighbours, nearest(cloud.positions, (64, 64), 4))
    coded = encoded(batch)
    assert coded.places.dtype == np.int8
    blosc = Blosc("zstd", 1, Blosc.SHUFFLE)
    packed = sum(len(blosc.encode(np.ascontiguousarray(values.T))) for values in (coded.places, coded.counts))
    plain = len(blosc.encode(np.ascontiguousarray(batch.neighbours.T)))  # type: ignore[union-attr]
    assert packed < 0.2 * 64 * 64
    assert packed < 0.2 * plain


def test_sets_of_older_stores_are_read_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(range(4))
    assert batch.neighbours is not None
    stored = np.random.default_rng(0).permuted(batch.neighbours, axis=1)
    where = geometry(batch)
    assert np.array_equal(decode_neighbours(stored, "sets", where), batch.neighbours)
    monkeypatch.setattr(arrivals, "SET_PIXELS", 5)
    assert np.array_equal(decode_neighbours(stored, "sets", where), batch.neighbours)
    stored[3, 0] = 999
    with pytest.raises(ValueError, match="row that its cloud does not have"):
        decode_neighbours(stored, "sets", where)
