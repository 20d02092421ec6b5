"""The Triton kernels against the equations: on a GPU where there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("triton", reason="Triton is not installed: make gpu-check")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("neither a GPU nor TRITON_INTERPRET=1", allow_module_level=True)

from arcpipe.arc.anchors import morton_order
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.kernels.basis_batch import scales_there
from arcpipe.arc.kernels.basis_kernel import BasisKernel
from arcpipe.arc.kernels.batch_kernel import BatchKernel
from arcpipe.arc.kernels.nearest_triton import nearest_of
from arcpipe.arc.kernels.torch_kernel import TorchKernel
from arcpipe.arc.neighbours import nearest_anchors
from arcpipe.arc.reference import fit_cloud_reference
from arcpipe.config import FitSection
from tests.arc.basis_reference import solve_basis_reference
from tests.arc.test_basis import picture, random_basis, settings
from tests.arc.test_basis_batch import assert_measured

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(
    ("height", "width", "channels", "latents", "neighbours"),
    [(5, 7, 3, 5, 4), (1, 30, 3, 5, 4), (12, 3, 1, 4, 2), (2, 2, 3, 1, 1), (1, 1, 1, 1, 1)],
)
def test_latents_are_those_of_the_dense_solve(
    height: int, width: int, channels: int, latents: float, neighbours: int
) -> None:
    image, basis = picture(height, width, channels), random_basis(channels=channels, neighbours=neighbours)
    fit = settings(latents=latents, neighbours=neighbours, damping=0.1)
    (cloud,) = BatchKernel(basis.to(DEVICE), "triton").run([image], fit, [3], 0)
    assert cloud.scales is not None
    exact, _ = solve_basis_reference(image, basis.record, cloud.positions, cloud.scales, cloud.neighbours, fit)
    assert_allclose(cloud.latents, exact, atol=1e-3)


def scattered(sizes: list[tuple[int, int, int]]) -> list[np.ndarray]:
    """So many anchors (height, width, anchors) in Morton order."""
    rng, drawn = np.random.default_rng(0), []
    for height, width, count in sizes:
        anchors = np.stack(np.divmod(rng.permutation(height * width)[:count], width), axis=1)
        drawn.append(anchors[morton_order(anchors)])
    return drawn


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_neighbours_are_exact_to_the_last_tie(n: int) -> None:
    sizes = [(9, 13, 70), (1, 30, 6), (2, 2, 4), (12, 11, 5)]  # programs with points of several images
    drawn = scattered(sizes)
    grids = [np.indices(size[:2]).reshape(2, -1).T for size in sizes]
    counts = np.array([len(anchors) for anchors in drawn])
    found, squares = nearest_of(
        torch.from_numpy(np.concatenate(grids)).int().to(DEVICE),
        torch.from_numpy(np.repeat(np.arange(4), [len(grid) for grid in grids])).int().to(DEVICE),
        torch.from_numpy(np.concatenate(drawn)).int().to(DEVICE),
        torch.from_numpy(counts).to(DEVICE),
        n,
    )
    firsts = np.cumsum(counts) - counts
    expected = [
        nearest_anchors(anchors, size[:2], n) + first for anchors, size, first in zip(drawn, sizes, firsts, strict=True)
    ]
    assert_array_equal(found.cpu(), np.concatenate(expected))
    gaps = np.concatenate(grids)[:, None] - np.concatenate(drawn)[np.concatenate(expected)]
    assert_array_equal(squares.cpu(), np.square(gaps).sum(2))


def test_scales_are_those_of_the_cpu() -> None:
    basis, drawn = random_basis(), scattered([(9, 13, 9), (1, 30, 6), (40, 60, 40), (2, 2, 1), (3, 3, 2), (3, 3, 4)])
    counts = torch.tensor([len(anchors) for anchors in drawn])
    found = scales_there(
        torch.from_numpy(np.concatenate(drawn)).int().to(DEVICE),
        torch.repeat_interleave(counts).to(DEVICE),
        counts.to(DEVICE),
        basis,
    )
    assert_array_equal(found.cpu(), np.concatenate(basis.scales_of(drawn)))


@pytest.mark.parametrize("latent_dim", [9, 21])
def test_ragged_batches_have_the_latents_of_compiled_loops(latent_dim: int) -> None:
    images = [picture(*size, seed=i) for i, size in enumerate([(16, 9), (1, 20), (2, 2)])]
    basis, fit, seeds = random_basis(latent_dim=latent_dim), settings(latent_dim=latent_dim), range(3)
    ours = BatchKernel(basis.to(DEVICE), "triton").run(images, fit, seeds, 0)
    for one, other in zip(ours, BasisKernel(basis).run(images, fit, seeds, 0), strict=True):
        assert_array_equal(one.positions, other.positions)
        assert_array_equal(one.neighbours, other.neighbours)
        assert_array_equal(one.scales, other.scales)
        assert_allclose(one.latents, other.latents, atol=5e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_clouds_are_measured_as_the_cpu_renders_them(channels: int) -> None:
    images = [picture(*size, channels, seed=i) for i, size in enumerate([(16, 9), (1, 20), (2, 2)])]
    basis = random_basis(channels=channels)
    assert_measured(BatchKernel(basis.to(DEVICE), "triton"), images, basis, settings())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"latent_dim": 5, "neighbours": 3, "hidden": (21,)},
        {"latent_dim": 16, "neighbours": 1, "schedule": "cosine", "betas": (0.8, 0.9)},
        {"latent_dim": 33, "latents": 20, "pixel_share": 0.4},  # wider than the latents of a small block
    ],
)
def test_steps_in_one_launch_are_those_of_the_equations(channels: int, settings: dict[str, object]) -> None:
    fit = FitSection.model_validate({"recipe": "thesis", "latents": 6, "steps": 6, "init": 0.5, "lr": 0.02, **settings})
    decoder = Decoder.initial(fit, channels, 7)
    images = [picture(*size, channels, seed=i) for i, size in enumerate([(9, 11), (1, 30), (5, 5), (12, 7)])]
    clouds = TorchKernel(decoder.to(DEVICE), "triton").run(images, fit, range(4), 0)
    for seed, (image, cloud) in enumerate(zip(images, clouds, strict=True)):
        exact, losses = fit_cloud_reference(image, decoder, fit, seed)
        assert_array_equal(cloud.positions, exact.positions.numpy())
        assert_allclose(cloud.losses, losses, rtol=1e-4)
        assert_allclose(cloud.latents, exact.latents.numpy(), atol=2e-4)
