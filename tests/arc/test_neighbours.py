"""Neighbours: exact, and equal distances go to the lower row, as a comparison of all distances in integers gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcpipe.arc.neighbours import Finder, nearest_anchors, relative_statistics
from arcpipe.errors import TooFewAnchorsError


def brute_force(positions: np.ndarray, points: np.ndarray, n: int) -> np.ndarray:
    squared = ((points[:, None] - positions) ** 2).sum(2)
    return squared.argsort(axis=1, kind="stable")[:, :n]


def grid(height: int, width: int) -> np.ndarray:
    return np.stack(np.divmod(np.arange(height * width), width), axis=1)


def look_up(way: str, positions: np.ndarray, size: tuple[int, int], n: int) -> np.ndarray:
    """The neighbours of all pixels, by the compiled grid or by what serves any places."""
    return nearest_anchors(positions, size, n) if way == "grid" else Finder(positions, n)(grid(*size))


@st.composite
def clouds(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, int], int]:
    size = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    place = st.tuples(st.integers(0, size[0] - 1), st.integers(0, size[1] - 1))
    places = draw(st.lists(place, min_size=1, max_size=40))  # duplicates and lattices abound
    return np.array(places), size, draw(st.integers(1, min(6, len(places))))


either_way = pytest.mark.parametrize("way", ["grid", "tree"])


@given(clouds())
@settings(max_examples=60, deadline=None, derandomize=True)
@either_way
def test_neighbours_are_those_of_a_brute_force_comparison(
    way: str, cloud: tuple[np.ndarray, tuple[int, int], int]
) -> None:
    positions, size, n = cloud
    np.testing.assert_array_equal(look_up(way, positions, size, n), brute_force(positions, grid(*size), n))


@either_way
def test_a_lattice_of_many_anchors_ties_everywhere_and_is_still_exact(way: str) -> None:
    positions = 4 * grid(12, 12)[np.random.default_rng(0).permutation(144)]
    found = look_up(way, positions, (48, 48), 4)
    np.testing.assert_array_equal(found, brute_force(positions, grid(48, 48), 4))


@either_way
def test_a_hundred_anchors_at_one_place_are_taken_from_the_lowest_row(way: str) -> None:
    positions = np.concatenate([np.full((200, 2), 3), np.random.default_rng(1).integers(0, 20, (50, 2))])
    np.testing.assert_array_equal(look_up(way, positions, (20, 20), 5), brute_force(positions, grid(20, 20), 5))


@either_way
@pytest.mark.parametrize("size", [(1, 70_000), (30_000, 2)])
def test_narrow_images_and_far_anchors_are_searched_alike(size: tuple[int, int], way: str) -> None:
    """Empty stretches, and anchors that lie beside the image."""
    rng = np.random.default_rng(4)
    positions = np.stack([rng.integers(-40, length // 50 + 2, 60) for length in size], axis=1)
    far = np.array([[size[0] - 1, size[1] - 1], [size[0] + 9, 3]])
    positions = np.concatenate([positions, far])
    found = look_up(way, positions, size, 3).reshape(*size, 3)
    places = np.stack([rng.integers(0, length, 300) for length in size], axis=1)
    np.testing.assert_array_equal(found[tuple(places.T)], brute_force(positions, places, 3))


@pytest.mark.parametrize("seed", range(4))
def test_the_grid_finds_what_the_tree_finds_in_an_image_of_uneven_density(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centre, size = rng.integers(20, 100, 2), (130, 117)
    spread = rng.choice([2, 9, 40], (900, 1))
    positions = np.clip((centre + rng.normal(size=(900, 2)) * spread).astype(np.int64), 0, np.array(size) - 1)
    found = nearest_anchors(positions, size, 5)
    np.testing.assert_array_equal(found, look_up("tree", positions, size, 5))
    np.testing.assert_array_equal(found, look_up("tree", positions.astype(np.float32), size, 5))


def test_large_coordinates_do_not_overflow() -> None:
    positions = np.array([[0, 0], [60000, 60000], [0, 60000], [60000, 0]], np.uint16)
    points = np.array([[59999, 59999], [1, 59998]])
    np.testing.assert_array_equal(Finder(positions, 2)(points), brute_force(positions.astype(np.int64), points, 2))


@pytest.mark.parametrize("k", [6, 300])
def test_edited_positions_and_points_between_pixels_follow_the_same_rule(k: int) -> None:
    rng = np.random.default_rng(2)
    positions = rng.integers(0, 12, (k, 2)) * np.float32(0.5)
    points = (grid(24, 24) + 0.5) / 4 - 0.5
    expected = brute_force(positions.astype(np.float64), points, 4)
    np.testing.assert_array_equal(Finder(positions, 4)(points), expected)


def test_too_few_anchors_are_refused() -> None:
    with pytest.raises(TooFewAnchorsError, match="fewer anchors than neighbours") as caught:
        nearest_anchors(np.zeros((3, 2), np.int64), (2, 2), 4)
    assert "found 3" in str(caught.value)


def test_statistics_are_one_mean_and_std_over_pixels_neighbours_and_axes() -> None:
    positions = np.random.default_rng(3).integers(0, 9, (7, 2))
    found = nearest_anchors(positions, (5, 9), 3)
    gaps = positions[found] - grid(5, 9)[:, None]
    mean, std = relative_statistics(positions, found, (5, 9))
    assert mean == pytest.approx(gaps.mean(), rel=1e-6)
    assert std == pytest.approx(gaps.std(), rel=1e-6)
    assert (mean, std) == (float(np.float32(mean)), float(np.float32(std)))  # what a store can keep


def test_a_single_pixel_is_standardised_by_one() -> None:
    assert relative_statistics(np.zeros((4, 2), np.int64), np.array([[0, 1, 2, 3]]), (1, 1)) == (0.0, 1.0)
