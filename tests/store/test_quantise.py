"""Rounding: what the converter rounds is what a reader gets, and rounding again changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from arcpipe.errors import ImageError
from arcpipe.store import dequantise, position_dtype, quantise_latents, round_latents

LATENTS = arrays(np.float32, st.tuples(st.integers(0, 9), st.integers(1, 4)), elements=st.floats(-6e4, 6e4, width=32))


@given(LATENTS, st.sampled_from(["float16", "float32", "int8"]))
@settings(max_examples=150, deadline=None)
def test_rounding_twice_is_rounding_once(latents: np.ndarray, dtype: str) -> None:
    once = round_latents(latents, dtype)
    assert np.array_equal(round_latents(once, dtype), once)


@given(LATENTS)
@settings(max_examples=100, deadline=None)
def test_int8_errs_by_at_most_half_a_step(latents: np.ndarray) -> None:
    stored, scale = quantise_latents(latents, "int8")
    error = np.abs(dequantise(stored, scale).astype(np.float64) - latents)
    assert scale is not None
    assert (error <= 0.5001 * scale + 1e-36).all()  # latents below 1e-36 have no scale and become zero


def test_an_int8_cloud_does_not_depend_on_its_part() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=(5, 3)).astype(np.float32), 100 * rng.normal(size=(4, 3)).astype(np.float32)
    offsets = np.array([0, 5, 5, 9])
    together = round_latents(np.concatenate([small, large]), "int8", offsets)
    assert np.array_equal(together[:5], round_latents(small, "int8"))
    assert np.array_equal(together[5:], round_latents(large, "int8"))


@pytest.mark.parametrize(
    ("value", "dtype"), [(7e4, "float16"), (np.nan, "float32"), (np.inf, "int8"), (3.4028234e38, "int8")]
)
def test_what_the_type_cannot_hold_is_a_failed_sample(value: float, dtype: str) -> None:
    with pytest.raises(ImageError, match=f"not a finite {dtype}") as caught:
        quantise_latents(np.full((2, 2), value, np.float32), dtype)
    assert caught.value.reason == "not-finite"


def test_positions_are_as_narrow_as_the_image_allows() -> None:
    assert position_dtype((65536, 1)) == np.uint16
    assert position_dtype((1, 65537)) == np.uint32
