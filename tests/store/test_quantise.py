"""Rounding: what the converter rounds is what a reader gets, and rounding again changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from arcpipe.errors import ImageError
from arcpipe.store import Rounding, position_dtype
from arcpipe.store.quantise import latent_steps, scale_codes, scales_of

LATENTS = arrays(np.float32, st.tuples(st.integers(0, 9), st.integers(1, 4)), elements=st.floats(-6e4, 6e4, width=32))


@given(LATENTS, st.sampled_from(["float16", "float32", "int8"]))
@settings(max_examples=150, deadline=None)
def test_rounding_twice_is_rounding_once(latents: np.ndarray, dtype: str) -> None:
    once = Rounding(dtype).round(latents)
    assert np.array_equal(Rounding(dtype).round(once), once)


@given(LATENTS)
@settings(max_examples=100, deadline=None)
def test_int8_errs_by_at_most_half_a_step(latents: np.ndarray) -> None:
    stored, scale = Rounding("int8").quantise(latents)
    error = np.abs(Rounding("int8").dequantise(stored, scale).astype(np.float64) - latents)
    assert scale is not None
    assert (error <= 0.5001 * scale + 1e-36).all()  # latents below 1e-36 have no scale and become zero


def test_an_int8_cloud_does_not_depend_on_its_part() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=(5, 3)).astype(np.float32), 100 * rng.normal(size=(4, 3)).astype(np.float32)
    offsets = np.array([0, 5, 5, 9])
    together = Rounding("int8").round(np.concatenate([small, large]), offsets)
    assert np.array_equal(together[:5], Rounding("int8").round(small))
    assert np.array_equal(together[5:], Rounding("int8").round(large))


@pytest.mark.parametrize(
    ("value", "dtype"), [(7e4, "float16"), (np.nan, "float32"), (np.inf, "int8"), (3.4028234e38, "int8")]
)
def test_what_the_type_cannot_hold_is_a_failed_sample(value: float, dtype: str) -> None:
    with pytest.raises(ImageError, match=f"not a finite {dtype}") as caught:
        Rounding(dtype).quantise(np.full((2, 2), value, np.float32))
    assert caught.value.reason == "not-finite"


def test_positions_are_as_narrow_as_the_image_allows() -> None:
    assert position_dtype((65536, 1)) == np.uint16
    assert position_dtype((1, 65537)) == np.uint32


@given(LATENTS, st.integers(2, 8))
@settings(max_examples=100, deadline=None)
def test_fewer_bits_have_fewer_numbers_and_larger_steps(latents: np.ndarray, bits: int) -> None:
    stored, scale = Rounding("int8", bits).quantise(latents)
    assert scale is not None
    assert np.abs(stored.astype(int)).max(initial=0) <= 2 ** (bits - 1) - 1
    once = Rounding("int8", bits).round(latents)
    assert (np.abs(once.astype(np.float64) - latents) <= 0.5001 * scale + 1e-36).all()
    assert np.array_equal(Rounding("int8", bits).round(once), once)


def test_a_step_costs_the_same_in_all_dimensions() -> None:
    ranges, costs = np.array([1, 2, 30, 0], np.float32), np.array([1, 9, 0.01, 4], np.float32)
    for bits in range(2, 9):
        steps = latent_steps(ranges, costs, bits)
        np.testing.assert_allclose(steps**2 * costs, steps[0] ** 2, rtol=1e-6)
        np.testing.assert_allclose((ranges / steps).max(), 2 ** (bits - 1) - 1, rtol=1e-6)  # and the largest fills them
    np.testing.assert_array_equal(latent_steps(ranges, bits=8), np.full(4, 30 / 127, np.float32))
    assert latent_steps(ranges, np.array([1, 1, 0, 1])).tolist()[2] > 0  # what costs nothing has a step as well
    assert latent_steps(ranges * 0, costs).tolist() == [0] * 4
    assert latent_steps(ranges, costs * 0).max() < 1
    for wrong in ({"bits": 1}, {"bits": 9}, {"costs": -costs}, {"costs": costs * np.inf}):
        with pytest.raises(ValueError, match=r"latents are rounded to|must be finite"):
            latent_steps(ranges, **{"bits": 8, **wrong})


def test_what_is_beyond_its_range_is_not_cut_before_127_steps() -> None:
    steps = latent_steps(np.array([7, 7], np.float32), bits=4)
    rounding = Rounding("int8", 4, tuple(steps.tolist()))
    stored, _ = rounding.quantise(np.array([[0.4, -3.6], [20, -1000]], np.float32))
    assert stored.tolist() == [[0, -4], [20, -127]]
    with pytest.raises(ImageError, match="not a finite int8"):
        rounding.quantise(np.array([[np.nan, 1]], np.float32))


@given(LATENTS, st.integers(2, 8), st.floats(1e-6, 1e6))
@settings(max_examples=100, deadline=None)
def test_rounding_to_steps_twice_is_rounding_once(latents: np.ndarray, bits: int, width: float) -> None:
    ranges = np.full(latents.shape[1], width, np.float32)
    rounding = Rounding("int8", bits, tuple(latent_steps(ranges, bits=bits).tolist()))
    once = rounding.round(latents)
    assert np.array_equal(rounding.round(once), once)


def test_only_a_decoder_with_ranges_decides_on_steps() -> None:
    class Basis:
        ranges, costs = np.array([1, 2], np.float32), np.array([1, 1], np.float32)

    assert Rounding.of("int8", 8, Basis()).steps == tuple(np.full(2, 2 / 127, np.float32).tolist())
    assert Rounding.of("float16", 8, Basis()).steps is None
    assert Rounding.of("int8", 5, object()) == Rounding("int8", 5, None)


def test_scales_of_every_code_come_back() -> None:
    codes = np.arange(256).astype(np.uint8)
    scales = scales_of(codes)
    assert scales[0] == 1
    assert scales[8 * 5] == 32
    np.testing.assert_allclose(scales[1], 2 ** (1 / 8), rtol=1e-7)
    np.testing.assert_array_equal(scale_codes(scales), codes)
    assert scales_of(scale_codes(np.array([1e-3, 1e30], np.float32))).tolist() == [1.0, float(scales[-1])]
