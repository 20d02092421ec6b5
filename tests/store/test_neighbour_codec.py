"""The neighbour cache: exactly reversible for any integers, and small for real clouds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc
from store_samples import make_batch, make_cloud, nearest

from arcpipe.cloud import CloudBatch
from arcpipe.store import neighbour_codec
from arcpipe.store.neighbour_codec import decode_neighbours, decodes_to, encode_neighbours


def geometry(batch: CloudBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    assert batch.pixel_offsets is not None
    return batch.positions, batch.offsets, batch.pixel_offsets, batch.sizes


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12)), max_size=5), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_nearest_anchors_come_back(shapes: list[tuple[int, int, int]], n: int) -> None:
    clouds = [make_cloud(i, size=(h, w), points=max(n, k), n=n) for i, (h, w, k) in enumerate(shapes)]
    batch = CloudBatch.join(clouds, n_neighbours=n)
    stored, coding = encode_neighbours(batch.neighbours, *geometry(batch))
    assert coding == ("sets" if clouds else "plain")
    assert np.array_equal(decode_neighbours(stored, coding, *geometry(batch)), batch.neighbours)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_any_other_integers_come_back_too(seed: int) -> None:
    batch = make_batch(range(4))
    rng = np.random.default_rng(seed)
    assert batch.neighbours is not None
    for strange in (rng.permuted(batch.neighbours, axis=1), rng.integers(0, 4, batch.neighbours.shape, np.uint16)):
        stored, coding = encode_neighbours(strange, *geometry(batch))
        assert np.array_equal(decode_neighbours(stored, coding, *geometry(batch)), strange)


def test_one_cloud_decodes_without_the_others() -> None:
    batch = make_batch(range(6))
    stored, coding = encode_neighbours(batch.neighbours, *geometry(batch))
    for i, cloud in enumerate(batch):
        rows = slice(batch.pixel_offsets[i], batch.pixel_offsets[i + 1])
        alone = CloudBatch.join([cloud])
        assert np.array_equal(decode_neighbours(stored[rows], coding, *geometry(alone)), cloud.neighbours)


def test_a_row_outside_of_the_cloud_is_refused() -> None:
    batch = make_batch(range(2))
    stored, coding = encode_neighbours(batch.neighbours, *geometry(batch))
    stored[3, 0] = 999
    with pytest.raises(ValueError, match="row that its cloud does not have"):
        decode_neighbours(stored, coding, *geometry(batch))


def test_it_is_less_than_half_of_the_cache_as_it_is() -> None:
    positions = make_cloud(5, size=(64, 64), points=204).positions
    cloud = make_cloud(5, size=(64, 64), points=204)
    batch = CloudBatch.join([cloud])
    stored, _ = encode_neighbours(nearest(positions, (64, 64), 4).astype(np.uint16), *geometry(batch))
    blosc = Blosc("zstd", 5, Blosc.SHUFFLE)
    packed, plain = (len(blosc.encode(np.ascontiguousarray(planes.T))) for planes in (stored, cloud.neighbours))
    assert packed < 0.5 * plain


def test_an_image_of_more_pixels_than_are_coded_at_once_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs of more than a megapixel; bands and groups change nothing."""
    batch = CloudBatch.join([make_cloud(i, size=size, points=9) for i, size in enumerate([(9, 7), (2, 3), (9, 7)])])
    expected, coding = encode_neighbours(batch.neighbours, *geometry(batch))
    monkeypatch.setattr(neighbour_codec, "BAND", 5)
    stored, same = encode_neighbours(batch.neighbours, *geometry(batch))
    assert (coding, same) == ("sets", "sets")
    np.testing.assert_array_equal(stored, expected)
    assert decodes_to(batch.neighbours, stored, coding, *geometry(batch))
    other = batch.neighbours.copy()
    other[-1] = other[-1, ::-1]
    assert not decodes_to(other, stored, coding, *geometry(batch))
    assert encode_neighbours(other, *geometry(batch))[1] == "plain"
