"""Anchors: drawn without replacement in proportion to the gradient norm, with a rule for every image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from arcpipe.arc.anchors import count_anchors, draw_anchors, gradient_norm, morton_order
from arcpipe.config import FitSection


def sobel_by_hand(image: np.ndarray) -> np.ndarray:
    padded = np.pad(image.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="edge")
    kernel = np.outer([1, 2, 1], [-1, 0, 1])
    height, width, channels = image.shape
    total = np.zeros((height, width))
    for row, column, channel in itertools.product(range(height), range(width), range(channels)):
        patch = padded[row : row + 3, column : column + 3, channel]
        total[row, column] += (patch * kernel).sum() ** 2 + (patch * kernel.T).sum() ** 2
    return np.sqrt(total)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 6, 1), (5, 1, 3), (7, 13, 3)])
def test_gradient_norm_is_sobel_with_a_replicated_border(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(1).random(shape).astype(np.float32)
    np.testing.assert_allclose(gradient_norm(image), sobel_by_hand(image), rtol=1e-5, atol=1e-6)


def test_a_flat_image_has_no_gradient_at_all() -> None:
    assert not gradient_norm(np.full((5, 4, 3), 0.1, np.float32)).any()


def test_positions_are_distinct_pixels_in_morton_order() -> None:
    image = np.random.default_rng(2).random((20, 30, 3))
    positions = draw_anchors(image, FitSection(latents=100), np.random.default_rng(3))
    assert positions.shape == (100, 2)
    assert positions.dtype == np.int64
    assert len(np.unique(positions, axis=0)) == 100
    assert (positions >= 0).all()
    assert (positions < [20, 30]).all()
    np.testing.assert_array_equal(morton_order(positions), np.arange(100))


def test_the_same_generator_gives_the_same_anchors_and_another_gives_others() -> None:
    image = np.random.default_rng(2).random((20, 30, 3))
    first, again, other = (draw_anchors(image, FitSection(), np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_draws_follow_successive_sampling_in_proportion_to_the_gradient() -> None:
    """The chance of every pair is that of drawing one pixel, then another from those that remain."""
    image = np.random.default_rng(5).random((2, 3, 1))
    weights = gradient_norm(image).ravel().astype(float)
    weights /= weights.sum()
    expected = np.zeros((6, 6))
    for i, j in itertools.permutations(range(6), 2):
        expected[min(i, j), max(i, j)] += weights[i] * weights[j] / (1 - weights[i])
    found = np.zeros((6, 6))
    rng = np.random.default_rng(6)
    draws = 6000
    for _ in range(draws):
        positions = draw_anchors(image, FitSection(latents=2, neighbours=2), rng)
        i, j = sorted(positions[:, 0] * 3 + positions[:, 1])
        found[i, j] += 1 / draws
    spread = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(found - expected) <= 4.5 * spread + 1e-12).all()


def test_a_flat_image_gets_as_few_anchors_as_allowed_anywhere() -> None:
    """Flat: K shrinks to n, drawn uniformly."""
    image = np.full((4, 5, 3), 0.5, np.float32)
    rng = np.random.default_rng(7)
    seen = np.zeros((4, 5))
    for _ in range(1000):
        positions = draw_anchors(image, FitSection(latents=10), rng)
        assert len(np.unique(positions, axis=0)) == 4
        seen[tuple(positions.T)] += 1
    assert (np.abs(seen - 200) < 4.5 * np.sqrt(200 * 0.8)).all()


def test_anchors_shrink_to_the_pixels_that_have_a_gradient() -> None:
    image = np.zeros((10, 10, 1), np.float32)
    image[:, 5:] = 1
    positions = draw_anchors(image, FitSection(latents=50), np.random.default_rng(8))
    assert len(positions) == 20
    assert set(positions[:, 1]) == {4, 5}


def test_too_few_pixels_with_a_gradient_are_all_taken_and_filled_up() -> None:
    image = np.zeros((2, 9, 1), np.float32)
    image[:, 8] = 1  # four pixels have a gradient
    positions = draw_anchors(image, FitSection(latents=9, neighbours=6), np.random.default_rng(9))
    assert len(np.unique(positions, axis=0)) == 6
    assert {(0, 7), (1, 7), (0, 8), (1, 8)} <= {tuple(position) for position in positions.tolist()}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 1), [[0, 0]] * 4), ((1, 3), [[0, 0], [0, 0], [0, 1], [0, 2]]), ((2, 2), [[0, 0], [0, 1], [1, 0], [1, 1]])],
)
def test_an_image_smaller_than_n_repeats_its_pixels(shape: tuple[int, int], expected: list[list[int]]) -> None:
    image = np.random.default_rng(1).random((*shape, 3))
    assert draw_anchors(image, FitSection(), np.random.default_rng(1)).tolist() == expected


@pytest.mark.parametrize(
    ("latents", "n_pixels", "expected"),
    [(0.05, 1024, 51), (0.29, 100, 29), (0.05, 20, 4), (25, 1024, 25), (25.9, 1024, 25), (2000, 1024, 1024)],
)
def test_latents_below_one_are_a_share_of_the_pixels_and_a_count_otherwise(
    latents: float, n_pixels: int, expected: int
) -> None:
    assert count_anchors(n_pixels, FitSection(latents=latents)) == expected


def test_morton_order_interleaves_the_bits_of_row_and_column() -> None:
    positions = np.random.default_rng(4).integers(0, 70000, (200, 2))

    def code(position: np.ndarray) -> int:
        row, column = (f"{int(value):032b}" for value in position)
        return int("".join(a + b for a, b in zip(row, column, strict=True)), 2)

    assert morton_order(positions).tolist() == sorted(range(200), key=lambda i: code(positions[i]))


def test_morton_order_keeps_equal_places_in_their_order() -> None:
    assert morton_order(np.array([[1, 1], [0, 0], [1, 1], [0, 0]])).tolist() == [1, 3, 0, 2]


def drawn_by_numpy(image: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """The draw as the first stores were made, operation by operation: bits of sums depend on their order."""
    padded = np.pad(image.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="edge")
    down, right = padded[2:] - padded[:-2], padded[:, 2:] - padded[:, :-2]
    squares = np.square(down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:])
    squares += np.square(right[:-2] + 2 * right[1:-1] + right[2:])
    weights = np.sqrt(squares.sum(axis=2)).astype(np.float32)
    np.testing.assert_array_equal(gradient_norm(image), weights)
    with np.errstate(divide="ignore"):
        times = rng.exponential(size=weights.size) / weights.ravel()
    chosen = np.argsort(times, kind="stable")[: min(wanted, np.count_nonzero(weights))]
    positions = np.stack(np.divmod(chosen, image.shape[1]), axis=1)
    return positions[morton_order(positions)]


@pytest.mark.parametrize("levels", [0, 255, 3])
@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (61, 40, 3), (1, 300, 1), (90, 2, 4)])
def test_the_draw_is_that_of_the_first_stores_bit_for_bit(shape: tuple[int, int, int], levels: int) -> None:
    for seed in range(20):
        image = np.random.default_rng(seed).random(shape).astype(np.float32)
        if levels:
            image = np.rint(image * levels) / np.float32(levels)
        drawn = draw_anchors(image, FitSection(latents=30), np.random.default_rng(seed))
        np.testing.assert_array_equal(drawn, drawn_by_numpy(image, 30, np.random.default_rng(seed)))
