"""Gradients by hand are those of autograd; Adam is torch's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from arcpipe.arc.adam import Adam
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.factorised import DecoderGradient
from arcpipe.arc.kernels.torch_kernel import Steps, TorchKernel
from arcpipe.arc.problem import mini_batches, prepare_image
from arcpipe.arc.reference import ReferenceCloud
from arcpipe.arc.tiles import Tiled, kept_bytes, transpose
from arcpipe.config import FitSection


@pytest.mark.parametrize("hidden", [None, (20, 12)])
@pytest.mark.parametrize("tile_pixels", [4096, 20])
def test_gradients_are_those_of_autograd(
    make_image: Callable[..., np.ndarray], hidden: tuple[int, ...] | None, tile_pixels: int
) -> None:
    fit = FitSection(hidden=hidden, latent_dim=8, neighbours=3, init=0.5)
    decoder = Decoder.initial(fit, 3, 7)
    image = make_image(15, 18)
    cloud = ReferenceCloud(image, fit, 3)
    learned = [cloud.latents, *decoder.weights, *decoder.biases]
    for tensor in learned:
        tensor.requires_grad_(True)
    expected_loss = cloud.loss(decoder, torch.from_numpy(cloud.batches[1]))
    expected = torch.autograd.grad(expected_loss, learned)

    problem = Tiled([prepare_image(image, fit, 3)], tile_pixels=tile_pixels)
    assert len(problem.tiles(1)) == (1 if tile_pixels > 100 else 4)
    gradient, loss, sums = torch.zeros_like(cloud.latents), torch.zeros(1), DecoderGradient.zeros(decoder)
    kernel = TorchKernel(decoder)
    for tile in problem.tiles(1):
        kernel.accumulate(tile, cloud.latents.detach(), gradient, loss, sums)
    found = [gradient, decoder.join_first(sums.latent_part, sums.relative_part), *sums.weights, *sums.biases]
    torch.testing.assert_close(loss[0], expected_loss.detach())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, atol=1e-7, rtol=1e-4)


def test_adam_is_that_of_torch() -> None:
    fit = FitSection(lr=0.01, betas=(0.8, 0.99), eps=1e-7)
    rng = np.random.default_rng(0)
    theirs = [torch.from_numpy(rng.random(shape, np.float32)) for shape in [(5, 3), (4,)]]
    ours = [tensor.clone() for tensor in theirs]
    mine, reference = Adam(ours, fit), torch.optim.Adam(theirs, lr=0.01, betas=(0.8, 0.99), eps=1e-7)
    for _ in range(30):
        gradients = [torch.from_numpy(rng.normal(size=tensor.shape).astype(np.float32)) for tensor in ours]
        for tensor, gradient in zip(theirs, gradients, strict=True):
            tensor.grad = gradient.clone()
        reference.step()
        mine.update(gradients)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-6, atol=1e-7)


def test_a_transpose_lists_the_pixels_of_every_row() -> None:
    rng = np.random.default_rng(0)
    index = (rng.integers(0, 30, (50, 3)) * 3 + np.arange(3)).astype(np.int32)
    users, offsets = transpose(torch.from_numpy(index), 96)
    assert users.dtype == offsets.dtype == torch.int32
    for row in range(96):
        assert users[offsets[row] : offsets[row + 1]].tolist() == np.flatnonzero((index == row).any(1)).tolist()


@pytest.mark.parametrize("settings", [{}, {"schedule": "cosine", "lr": 0.01, "betas": (0.8, 0.9)}])
def test_steps_that_a_gpu_records_are_those_of_the_loop(
    make_image: Callable[..., np.ndarray], settings: dict[str, object]
) -> None:
    fit = FitSection(latent_dim=8, steps=11, eps=1e-4, **settings)  # not a multiple of the 4 mini-batches
    images = [make_image(12, 15), make_image(9, 7)]
    kernel = TorchKernel(Decoder.initial(fit, 3, 7))
    problem = Tiled([prepare_image(image, fit, i) for i, image in enumerate(images)], tile_pixels=4096)
    expected, latents = problem.latents(), problem.latents()
    losses = kernel.fit(problem, expected, fit)
    steps = Steps(kernel, problem, latents, fit)
    torch.testing.assert_close(latents, problem.latents(), atol=0, rtol=0)
    for step in range(fit.steps):
        steps.take(step % problem.n_batches)
    torch.testing.assert_close(latents, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(steps.losses, losses, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("n_pixels", "expected"), [(8, [2, 2, 2, 2]), (11, [2, 2, 2, 5]), (3, [1, 1, 1]), (1, [1])])
def test_mini_batches_cut_one_permutation_and_the_remainder_joins_the_last(n_pixels: int, expected: list[int]) -> None:
    batches = mini_batches(n_pixels, 0.25, np.random.default_rng(1))
    assert [len(batch) for batch in batches] == expected
    np.testing.assert_array_equal(np.concatenate(batches), np.random.default_rng(1).permutation(n_pixels))


def test_tiles_cycle_through_the_mini_batches_and_cover_every_pixel_once(
    make_image: Callable[..., np.ndarray],
) -> None:
    image = make_image(15, 18)
    problem = Tiled([prepare_image(image, FitSection(), 3)], tile_pixels=20)
    assert problem.tiles(1) is problem.tiles(5)  # kept
    targets = torch.cat([tile.target[tile.weight[:, 0] > 0] for step in range(4) for tile in problem.tiles(step)])
    assert sorted(targets.tolist()) == sorted(image.reshape(-1, 3).tolist())


def test_the_estimate_of_memory_is_about_what_tiles_take(make_image: Callable[..., np.ndarray]) -> None:
    prepared = [prepare_image(make_image(60, 50), FitSection(), 3)]
    problem = Tiled(prepared, tile_pixels=200)
    fields = ("rows", "index", "index_offsets", "users", "user_offsets", "relative", "target", "weight", "order")
    tensors = [getattr(tile, field) for step in range(4) for tile in problem.tiles(step) for field in fields]
    taken = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    assert kept_bytes(prepared) == pytest.approx(taken, rel=0.2)
