"""Large images are cut into bands that threads may share: the same numbers, and the same bits on any threads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arcpipe.arc import problem
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.engine import fit_clouds
from arcpipe.arc.kernels import plan
from arcpipe.arc.kernels.layout import join_scene
from arcpipe.arc.kernels.squares import BAND_SQUARES, MOST_BANDS, band_ends, cut_image, restore_neighbours
from arcpipe.arc.problem import prepare_image, share_out
from arcpipe.arc.reference import fit_cloud_reference
from arcpipe.config import FitSection
from tests.arc.kernels import KERNELS, fit_by, pretrain_by

MakeImage = Callable[..., np.ndarray]


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("hidden", [None, (24, 16)])
def test_a_large_image_has_the_same_bits_on_any_number_of_threads(
    make_image: MakeImage, monkeypatch: pytest.MonkeyPatch, hidden: tuple[int, ...] | None, schedule: str
) -> None:
    monkeypatch.setattr(plan, "tile_pixels", lambda decoder, fit: 20)
    monkeypatch.setattr(problem, "TOGETHER_PIXELS", 1000)
    fit = FitSection(schedule=schedule, hidden=hidden, steps=9, latent_dim=8)
    images, decoder = [make_image(61, 83), make_image(9, 9)], Decoder.initial(fit, 3, 11)
    assert len(cut_image(prepare_image(images[0], fit, 1), 20).bands) > 4
    made = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        made.append(fit_clouds(images, decoder, fit, [1, 2]))
    for other in made[1:]:
        for cloud, expected in zip(other, made[0], strict=True):
            np.testing.assert_array_equal(cloud.latents, expected.latents)
            np.testing.assert_array_equal(cloud.losses, expected.losses)
            np.testing.assert_array_equal(cloud.neighbours, expected.neighbours)


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    tile_pixels=st.integers(1, 40),
    latents=st.sampled_from([4, 0.05, 0.4]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_bands_follow_the_reference(
    height: int, width: int, tile_pixels: int, latents: float, threads: int, seed: int
) -> None:
    """Few anchors lie in one band and serve all of them; narrow images have bands of few pixels."""
    fit = FitSection(latents=latents, latent_dim=5, hidden=(11,), steps=6, eps=1e-3)
    image = np.random.default_rng(seed).random((height, width, 3), np.float32)
    decoder = Decoder.initial(fit, 3, 11)
    expected, losses = fit_cloud_reference(image, decoder.to("cpu", torch.float64), fit, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "tile_pixels", lambda decoder, fit: tile_pixels)
        patch.setattr(problem, "TOGETHER_PIXELS", 0)
        torch.set_num_threads(threads)
        (cloud,) = fit_by("numba", [image], decoder, fit, [seed])
    np.testing.assert_array_equal(cloud.neighbours, expected.neighbours.numpy())
    np.testing.assert_allclose(cloud.losses, losses, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(cloud.latents, expected.latents.numpy(), atol=2e-6)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 50), width=st.integers(1, 50), tile_pixels=st.integers(1, 30), n=st.integers(1, 6))
def test_cutting_keeps_every_neighbour_and_no_latent_in_two_bands(
    height: int, width: int, tile_pixels: int, n: int
) -> None:
    fit = FitSection(neighbours=n)
    image = prepare_image(np.random.default_rng(n).random((height, width, 1), np.float32), fit, 3)
    cut = cut_image(image, tile_pixels)
    k, slots, n_squares = len(image.positions), max(4, n), int(cut.bands[-1])
    np.testing.assert_array_equal(restore_neighbours(cut, k, n, slots), image.neighbours)
    users: list[set[int]] = []
    for begin, end in zip(cut.bands[:-1], cut.bands[1:], strict=True):
        rows = [
            cut.row_latents[cut.tile_rows[first + begin] : cut.tile_rows[first + end]]
            for first in range(0, n_squares * image.n_batches, n_squares)
        ]
        users.append(set(np.concatenate(rows).tolist()))
    assert sum(map(len, users)) == len(set().union(*users))
    two = join_scene([image, image], [cut, cut])
    known = np.concatenate([np.arange(k + 1), cut.ghosts])[cut.row_latents]
    expected = np.concatenate([np.where(known == k, 2 * k, known), np.where(known == k, 2 * k, known + k)])
    np.testing.assert_array_equal(two.cut.row_latents, expected)


def test_bands_are_many_for_large_images_and_one_for_small_ones() -> None:
    assert band_ends(1).tolist() == [0, 1]
    assert band_ends(2 * BAND_SQUARES - 1).tolist() == [0, 2 * BAND_SQUARES - 1]
    assert len(band_ends(10**6)) == MOST_BANDS + 1
    assert np.diff(band_ends(1001)).sum() == 1001


def test_threads_take_small_images_each_and_share_large_ones() -> None:
    fit, small, middle, large = FitSection(), (32, 32, 3), (200, 200, 3), (1200, 1600, 3)
    plenty = 2**40
    assert share_out([small, large, small], fit, 2, plenty) == ([([0, 2], 2)], [1])
    assert share_out([middle] * 5, fit, 2, plenty) == ([([0, 1, 2, 3], 2)], [4])
    assert share_out([small] * 5, fit, 2, plenty) == ([([0, 1, 2, 3], 2), ([4], 2)], [])
    assert share_out([middle] * 5, fit, 1, plenty) == ([([0, 1, 2, 3, 4], 1)], [])
    assert share_out([middle] * 4, fit, 4, 0) == ([([0, 1, 2, 3], 1)], [])
    assert share_out([], fit, 2, plenty) == ([], [])


def test_pretraining_counts_its_steps(make_image: MakeImage, fit: FitSection) -> None:
    for kernel in KERNELS:
        taken: list[int] = []
        images = [make_image(7, 9), make_image(5, 5)]
        pretrain_by(kernel, images, fit, [1, 2], 9, stepped=taken.append)
        assert taken == list(range(1, fit.pretrain_steps + 1))
