"""The Triton kernels against the equations: on a GPU where there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

import os

import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("triton", reason="Triton is not installed: make gpu-check")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("neither a GPU nor TRITON_INTERPRET=1", allow_module_level=True)

from arcpipe.arc.kernels.basis_batch import BatchKernel
from arcpipe.arc.kernels.basis_kernel import BasisKernel
from arcpipe.arc.reference import solve_basis_reference
from tests.arc.test_basis import picture, random_basis, settings

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(
    ("height", "width", "channels", "latents", "neighbours"),
    [(5, 7, 3, 5, 4), (1, 30, 3, 5, 4), (12, 3, 1, 4, 2), (2, 2, 3, 1, 1), (1, 1, 1, 1, 1)],
)
def test_many_steps_end_where_the_dense_solve_does(
    height: int, width: int, channels: int, latents: float, neighbours: int
) -> None:
    image, basis = picture(height, width, channels), random_basis(channels=channels, neighbours=neighbours)
    fit = settings(steps=30, latents=latents, neighbours=neighbours, damping=0.1)
    (cloud,) = BatchKernel(basis.to(DEVICE), "triton").run([image], fit, [3], 0)
    assert cloud.scales is not None
    exact, _ = solve_basis_reference(image, basis.record, cloud.positions, cloud.scales, cloud.neighbours, fit)
    assert_allclose(cloud.latents, exact, atol=1e-3)


@pytest.mark.parametrize("latent_dim", [9, 21])
def test_ragged_batches_have_the_latents_of_compiled_loops(latent_dim: int) -> None:
    images = [picture(*size, seed=i) for i, size in enumerate([(16, 9), (1, 20), (2, 2)])]
    basis, fit, seeds = random_basis(latent_dim=latent_dim), settings(latent_dim=latent_dim), range(3)
    ours = BatchKernel(basis.to(DEVICE), "triton").run(images, fit, seeds, 0)
    for one, other in zip(ours, BasisKernel(basis).run(images, fit, seeds, 0), strict=True):
        assert_array_equal(one.positions, other.positions)
        assert_allclose(one.latents, other.latents, atol=5e-4)
