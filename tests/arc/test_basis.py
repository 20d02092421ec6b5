"""The kind `basis`: compiled loops against the equations, on odd shapes, and what must hold of every fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from arcpipe.arc.basis import Basis, changed_basis, new_basis
from arcpipe.arc.engine import decode, decoder_of, fit_clouds
from arcpipe.arc.kernels import basis_loops as loops
from arcpipe.arc.kernels.basis_kernel import BasisKernel, place, solve_together
from arcpipe.arc.learn_basis import batch_slopes, lay_batch, learn_basis, solved
from arcpipe.arc.maps import orders_of, units_of
from arcpipe.config import FitSection
from arcpipe.threads import team
from tests.arc.basis_reference import basis_functions_reference, solve_basis_reference


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.float32]:
    """A smooth picture with an edge."""
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    rng = np.random.default_rng(seed)
    waves = [
        np.sin(rng.uniform(2, 9) * rows + rng.uniform(2, 9) * columns + rng.uniform(0, 6)) for _ in range(channels)
    ]
    image = 0.5 + 0.3 * np.stack(waves, axis=2)
    image[rows + columns > 0.8] *= 0.5
    return image.astype(np.float32)


def random_basis(latent_dim: int = 9, channels: int = 3, neighbours: int = 4, seed: int = 0) -> Basis:
    basis = new_basis(latent_dim, channels, neighbours)
    profiles = basis.record.profiles + 0.1 * np.random.default_rng(seed).normal(size=basis.record.profiles.shape)
    profiles[0, :, basis.record.orders > 0] = 0
    return changed_basis(basis, profiles=profiles.astype(np.float32), sharpness=0.9)


def settings(**values: Any) -> FitSection:
    return FitSection.model_validate({"recipe": "basis", "latent_dim": 9, **values})


@pytest.mark.parametrize("latent_dim", [1, 2, 9, 16, 32, 40])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_new_basis_has_the_numbers_asked_for(latent_dim: int, channels: int) -> None:
    basis = new_basis(latent_dim, channels, 4)
    assert basis.latent_dim == latent_dim
    assert len(orders_of(basis.record.orders)) == len(units_of(basis.record.orders)) == latent_dim
    assert basis.record.profiles.shape[1] == channels


@pytest.mark.parametrize(
    ("height", "width", "channels", "latents", "neighbours"),
    [
        *((9, 11, 3, 0.1, 4), (8, 8, 1, 0.2, 4), (1, 30, 3, 5, 4), (30, 1, 1, 4, 4), (2, 2, 3, 1, 1)),
        pytest.param(12, 12, 3, 3, 3, marks=pytest.mark.slow),  # each number of neighbours is compiled by itself
    ],
)
def test_a_fit_is_what_the_equations_say(
    height: int, width: int, channels: int, latents: float, neighbours: int
) -> None:
    image, basis = picture(height, width, channels), random_basis(channels=channels, neighbours=neighbours)
    fit = settings(latents=latents, neighbours=neighbours, damping=0.1)
    (cloud,) = BasisKernel(basis).run([image], fit, [3], 2**30)
    assert cloud.scales is not None
    exact, made = solve_basis_reference(image, basis.record, cloud.positions, cloud.scales, cloud.neighbours, fit)
    np.testing.assert_allclose(cloud.latents, exact, atol=2e-4)
    shown = decode(
        cloud.latents, cloud.positions, (height, width), basis, (0, 1), cloud.neighbours, scales=cloud.scales
    )
    np.testing.assert_allclose(shown, made, atol=1e-3)


@pytest.mark.parametrize("scale", [1, 3])
def test_places_between_pixels_decode_by_the_same_formula(scale: int) -> None:
    image, basis, fit = picture(20, 17), random_basis(), settings()
    (cloud,) = fit_clouds([image], basis, fit, [1])
    assert cloud.scales is not None
    made = decode(cloud.latents, cloud.positions, (20, 17), basis, (0, 1), scale=scale, scales=cloud.scales)
    whole = decode(
        cloud.latents, cloud.positions.astype(float), (20, 17), basis, (0, 1), scale=scale, scales=cloud.scales
    )
    np.testing.assert_allclose(made, whole, atol=2e-5)
    assert made.shape == (20 * scale, 17 * scale, 3)


def test_functions_far_away_and_near_are_those_of_the_equations() -> None:
    basis = random_basis(latent_dim=21)
    places = np.array([[0, 0], [0, 1], [-3, 2], [11, -4], [200, 1], [-5000, -7000]])
    latents, out = np.zeros(basis.table.width, np.float32), np.empty((1, 3), np.float32)
    expected = basis_functions_reference(basis.record, torch.from_numpy(places / 2.0))
    for place_, functions in zip(places, expected, strict=True):
        for k in range(basis.latent_dim):
            latents[:] = 0
            latents[k] = 1
            origin, one = np.zeros((1, 2)), np.array([0.5], np.float32)
            near = np.zeros((1, 1), np.int64)
            loops.render_places(basis.table, origin, one, latents, place_[None].astype(float), near, out)
            np.testing.assert_allclose(out[0], functions[:, k], atol=1e-4)


@pytest.mark.parametrize("size", [(130, 140), (40, 300)])
def test_threads_and_blocks_change_no_bit(size: tuple[int, int]) -> None:
    image, basis, fit = picture(*size), random_basis(latent_dim=16), settings(latent_dim=16)
    scene = loops.scene_of(basis.scenes([image], *place(basis, [image], fit, [5])), 0)
    assert len(scene.blocks) > 1
    together = np.zeros(len(scene.anchors) * basis.table.width, np.float32)
    (scenes,) = lay_batch(basis, [(image, 5)], fit)
    alone = solved(basis, scenes, fit)
    with team(3) as helpers:
        solve_together(basis.table, scene, fit, together, helpers)
    np.testing.assert_array_equal(alone, together)


def test_two_fits_of_the_same_anchors_are_the_same() -> None:
    images, basis, fit = [picture(32, 32, seed=i) for i in range(3)], random_basis(), settings()
    first = fit_clouds(images, basis, fit, [1, 2, 3])
    again = fit_clouds(images[1:2], basis, fit, [2])
    np.testing.assert_array_equal(first[1].latents, again[0].latents)


def test_far_pixels_do_not_decide_the_picture() -> None:
    """A picture on a large black ground is nearly as good as on a small one."""
    basis = random_basis(latent_dim=16)
    fit = settings(latent_dim=16, latents=40)
    errors = []
    for margin in (8, 200):
        image = np.pad(picture(24, 24), ((margin, margin), (margin, margin), (0, 0)))
        (cloud,) = fit_clouds([image], basis, fit, [0])
        size = (image.shape[0], image.shape[1])
        made = decode(cloud.latents, cloud.positions, size, basis, (0, 1), cloud.neighbours, scales=cloud.scales)
        inside = (made - image)[margin : margin + 24, margin : margin + 24]
        errors.append(float(np.square(inside).mean()))
    assert errors[1] < 1.6 * errors[0]


def test_a_flat_image_is_met() -> None:
    image = np.full((16, 16, 3), 0.25, np.float32)
    (cloud,) = fit_clouds([image], random_basis(), settings(damping=1e-4), [0])
    made = decode(cloud.latents, cloud.positions, (16, 16), random_basis(), (0, 1), scales=cloud.scales)
    assert float(np.abs(made - image).mean()) < 0.02


def test_scales_are_mean_distances_to_the_four_nearest() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 4, 60):
        positions = rng.integers(0, 400, (count, 2))
        squares = np.square(positions[:, None] - positions[None]).sum(2)
        np.fill_diagonal(squares, 2**40)
        nearest = np.sqrt(np.sort(squares, axis=1)[:, : min(4, count - 1)])
        mean = nearest.mean(axis=1) if count > 1 else np.zeros(1)
        expected = np.exp2(np.round(2 * np.log2(np.clip(0.4 * mean, 2, 40))) / 2)
        np.testing.assert_allclose(new_basis(9, 3, 4).scales_of([positions])[0], expected, rtol=1e-6)


def test_the_slope_of_the_loss_is_that_of_differences() -> None:
    basis, fit = random_basis(), settings()
    batch = [(picture(14, 15), 7)]
    with team(1) as alone:
        slopes, sums, _ = batch_slopes(basis, lay_batch(basis, batch, fit), fit, alone)

    def loss(changed: Basis) -> float:
        _, totals, _ = batch_slopes(changed, lay_batch(basis, batch, fit), fit, alone)
        latents = solved(changed, *lay_batch(basis, batch, fit), fit)
        ridge = fit.damping * float(np.square(latents.astype(np.float64)).sum())
        return float(totals[1] + ridge) / (14 * 15)

    step = 1e-2
    moved = [basis.record.sharpness * float(np.exp(sign * step)) for sign in (1, -1)]
    up, down = (loss(changed_basis(basis, sharpness=sharpness)) for sharpness in moved)
    assert (up - down) / (2 * step) == pytest.approx(sums[2] * basis.record.sharpness, rel=0.05)
    for at in [(3, 0, 1), (9, 1, 3), (14, 2, 0)]:
        values = []
        for sign in (1, -1):
            profiles = basis.record.profiles.copy()
            profiles[at] += sign * step
            values.append(loss(changed_basis(basis, profiles=profiles)))
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slopes[at], rel=0.05, abs=2e-5)


def test_learning_makes_fits_better_and_comes_back_from_its_record() -> None:
    images = [picture(32, 32, seed=i) for i in range(12)]
    fit = settings(latent_dim=12, pretrain_steps=40)
    basis, errors = learn_basis(images, fit, seed=0, channels=3)
    assert errors[-9:].mean() < 0.85 * errors[:9].mean()
    again, _ = learn_basis(images, fit, seed=0, channels=3)
    assert again.record.sha256 == basis.record.sha256
    np.testing.assert_allclose(basis.record.costs, 1, atol=0.6)
    restored = type(basis.record).from_arrays(basis.record.arrays(), 4)
    assert restored.sha256 == basis.record.sha256
    assert decoder_of(restored).kind == "basis"


def test_a_learned_basis_does_not_depend_on_threads() -> None:
    images = [picture(40, 40, seed=i) for i in range(9)]
    fit, found = settings(latent_dim=12, pretrain_steps=3), set()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with threadpool_limits(threads, user_api="blas"):
                found.add(learn_basis(images, fit, seed=0, channels=3)[0].record.sha256)
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1
