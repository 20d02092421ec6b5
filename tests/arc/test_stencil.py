"""Stencil features: means, cosines, borders, and what a flip does to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.fft import dctn

from arcpipe.arc import stencil
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.engine import decode
from arcpipe.arc.stencil import mirror_signs, stencil_features
from arcpipe.cloud import Cloud
from arcpipe.config import FitSection


@pytest.fixture
def decoder() -> Decoder:
    return Decoder.initial(FitSection(latent_dim=5), channels=3, seed=2)


@pytest.fixture
def cloud() -> Cloud:
    rng = np.random.default_rng(4)
    cells = np.sort(rng.permutation(12 * 10)[:9])
    positions = np.stack([cells // 10, cells % 10], axis=1).astype(np.uint16)
    return Cloud(positions, rng.standard_normal((9, 5)).astype(np.float16), (12, 10), (0.1, 2.0))


def test_features_are_the_cosine_coefficients_of_the_decoded_windows(decoder: Decoder, cloud: Cloud) -> None:
    found = stencil_features(cloud, decoder, (3, 5), order=2)
    picture = decode(cloud.latents, cloud.positions, cloud.size, decoder, cloud.relative)
    assert found.shape == (9, 2 * 3 * 6)
    for row, (y, x) in enumerate(cloud.positions.astype(int)):
        expected = []
        for window in (3, 5):
            reach = window // 2
            lines = np.clip(np.arange(y - reach, y + reach + 1), 0, 11)
            columns = np.clip(np.arange(x - reach, x + reach + 1), 0, 9)
            for channel in range(3):
                waves = dctn(picture[np.ix_(lines, columns)][..., channel], norm="ortho") / window
                expected += [waves[u, v] for u in range(3) for v in range(3 - u)]
        np.testing.assert_allclose(found[row], expected, atol=2e-6)


def test_the_first_coefficient_is_the_mean_colour(decoder: Decoder, cloud: Cloud) -> None:
    picture = decode(cloud.latents, cloud.positions, cloud.size, decoder, cloud.relative)
    found = stencil_features(cloud, decoder, (1,), order=0)
    np.testing.assert_allclose(found, picture[tuple(cloud.positions.astype(int).T)], atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(True, False), (False, True), (True, True)])
def test_signs_turn_features_with_a_flipped_picture(
    decoder: Decoder, cloud: Cloud, rows: bool, columns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stencil_features(cloud, decoder, (3, 7), order=2)
    turn = (slice(None, None, -1 if rows else 1), slice(None, None, -1 if columns else 1))
    picture = decode(cloud.latents, cloud.positions, cloud.size, decoder, cloud.relative)[turn]
    monkeypatch.setattr(stencil, "decode", lambda *_, **__: picture)  # the same picture, flipped
    places = cloud.positions.astype(int)
    flipped = np.where([rows, columns], np.array(cloud.size) - 1 - places, places)
    after = stencil_features(replace(cloud, positions=flipped), decoder, (3, 7), order=2)
    signs = mirror_signs(3, (3, 7), 2)
    factors = (signs[0] if rows else 1) * (signs[1] if columns else 1)
    np.testing.assert_allclose(after, before * factors, atol=2e-6)
    assert not np.allclose(after, before, atol=1e-3)


def test_an_empty_cloud_has_no_features(decoder: Decoder) -> None:
    signs = mirror_signs(3, (3,), 1)
    assert signs.shape == (2, 9)
    assert signs[:, 0].tolist() == [1, 1]
