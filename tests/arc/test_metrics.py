"""PSNR is finite, on clamped values."""

from __future__ import annotations

import numpy as np
import pytest

from arcpipe.arc.metrics import PSNR_CAP_DB, psnr


def test_psnr_is_ten_log_ten_of_one_over_the_mean_squared_error() -> None:
    image = np.full((2, 3, 1), 0.5)
    assert psnr(image, image + 0.1) == pytest.approx(20.0)
    assert psnr(image, image - np.float32(0.01)) == pytest.approx(40.0, abs=1e-4)


def test_reconstructions_are_clamped_first() -> None:
    assert psnr(np.ones((2, 2, 1)), np.full((2, 2, 1), 7.0)) == PSNR_CAP_DB


def test_an_exact_match_is_finite_and_the_highest() -> None:
    image = np.random.default_rng(0).random((4, 4, 3))
    off = image.copy()
    off[0, 0, 0] += 1e-9
    assert psnr(image, image) == psnr(image, off) == PSNR_CAP_DB


def test_a_reconstruction_that_is_not_finite_says_so() -> None:
    assert np.isnan(psnr(np.zeros((2, 2, 1)), np.full((2, 2, 1), np.nan)))


def test_images_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="reconstruction is"):
        psnr(np.zeros((2, 3, 1)), np.zeros((3, 2, 1)))
