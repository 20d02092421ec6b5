"""The kind `basis` in whole batches, as a GPU fits it, here on the CPU: the same numbers as compiled loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from arcpipe.arc.basis import Basis
from arcpipe.arc.kernels import basis_batch, batch_kernel
from arcpipe.arc.kernels.basis_batch import Batch, cut, sort
from arcpipe.arc.kernels.basis_kernel import BasisKernel
from arcpipe.arc.kernels.batch_kernel import BatchKernel
from arcpipe.arc.render import render_and_compare
from arcpipe.cloud import Cloud
from arcpipe.config import FitSection
from tests.arc.basis_reference import solve_basis_reference
from tests.arc.test_basis import picture, random_basis, settings

ODD = [(9, 11, 0.1, 4), (1, 30, 5, 4), (30, 1, 4, 2), (12, 12, 3, 3), (2, 2, 1, 1), (1, 1, 1, 1)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "latents", "neighbours"), ODD)
def test_latents_are_those_of_the_dense_solve(
    height: int, width: int, latents: float, neighbours: int, channels: int
) -> None:
    image, basis = picture(height, width, channels), random_basis(channels=channels, neighbours=neighbours)
    fit = settings(latents=latents, neighbours=neighbours, damping=0.1)
    (cloud,) = BatchKernel(basis).run([image], fit, [3], 2**30)
    assert cloud.scales is not None
    exact, _ = solve_basis_reference(image, basis.record, cloud.positions, cloud.scales, cloud.neighbours, fit)
    assert_allclose(cloud.latents, exact, atol=2e-4)


def test_ragged_batches_have_the_latents_of_compiled_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_kernel, "CPU_GROUP_PIXELS", 2000)  # several groups, and an image larger than one
    sizes = [(32, 32), (40, 57), (1, 30), (2, 2), (20, 9), (33, 21)]
    images = [picture(*size, seed=i) for i, size in enumerate(sizes)] + [np.zeros((9, 9, 3), np.float32)]
    basis, fit, seeds = random_basis(latent_dim=32), settings(latent_dim=32), range(7)
    expected = BasisKernel(basis).run(images, fit, seeds, 0)
    for ours, theirs in zip(BatchKernel(basis).run(images, fit, seeds, 2**30), expected, strict=True):
        assert_array_equal(ours.positions, theirs.positions)
        assert_array_equal(ours.neighbours, theirs.neighbours)
        assert_allclose(ours.latents, theirs.latents, atol=5e-4)


def test_clouds_are_measured_as_they_are_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_kernel, "CPU_GROUP_PIXELS", 500)
    monkeypatch.setattr(basis_batch, "DECODED", 100)
    for channels in (1, 3):
        images = [picture(*size, channels, seed=i) for i, size in enumerate([(20, 21), (1, 30), (2, 2), (19, 9)])]
        basis, fit = random_basis(channels=channels), settings()
        assert_measured(BatchKernel(basis), images, basis, fit)


def assert_measured(kernel: BatchKernel, images: list[np.ndarray], basis: Basis, fit: FitSection) -> None:
    """The PSNR that the kernel measures is that of the pictures which the CPU renders; NaN of what is no number."""
    fitted = BasisKernel(basis).run(images, fit, range(len(images)), 0)
    clouds = [
        Cloud(one.positions, one.latents * 1.5, image.shape[:2], one.relative, one.neighbours, scales=one.scales)
        for one, image in zip(fitted, images, strict=True)
    ]
    expected = [render_and_compare(cloud, basis, image)[1] for cloud, image in zip(clouds, images, strict=True)]
    assert_allclose(kernel.measure(clouds, images), expected, atol=1e-3)
    broken = replace(clouds[0], latents=clouds[0].latents * np.nan)
    found = kernel.measure([broken, *clouds[1:]], images)
    assert np.isnan(found[0])
    assert_allclose(found[1:], expected[1:], atol=1e-3)


def test_an_image_is_the_same_beside_others_within_rounding() -> None:
    images, basis, fit = [picture(16, 18, seed=i) for i in range(3)], random_basis(), settings()
    whole, alone = BatchKernel(basis).run(images, fit, [1, 2, 3], 0), BatchKernel(basis).run(images[1:2], fit, [2], 0)
    assert_allclose(whole[1].latents, alone[0].latents, atol=5e-5)


def test_two_runs_have_the_same_bits() -> None:
    images, basis, fit = [picture(16, 18, seed=i) for i in range(3)], random_basis(), settings()
    first, again = (BatchKernel(basis).run(images, fit, [1, 2, 3], 0) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert_array_equal(one.latents, other.latents)


def test_the_device_is_never_asked_for_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Laying out and solving read no tensor back: each would wait for all that a GPU has been given."""
    images, basis, fit = [picture(12, 15), picture(7, 9)], random_basis(), settings()

    def refuse(self: torch.Tensor) -> None:
        raise AssertionError("a tensor was read")

    kernel = BatchKernel(basis)
    placed = kernel.place(images, fit, [1, 2])
    for name in ("item", "__bool__", "__int__", "__float__", "tolist", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    batch = Batch.lay(images, *placed, basis, torch.device("cpu"))
    latents = kernel.solve(batch, kernel.profiles, fit.patch, fit.damping)
    kernel.errors(batch, latents, kernel.profiles)


def test_chunks_hold_every_pair_with_a_share_once_and_rising() -> None:
    rng = np.random.default_rng(0)
    near = torch.from_numpy(rng.choice(40, (300, 4), p=np.arange(40) / 780)).int()
    shares = torch.from_numpy(np.maximum(rng.normal(size=(300, 4)), 0))
    pairs, starts = (part.long() for part in sort(near, shares, 40))
    owner, first, stop, chunks = cut(starts, near.numel())
    held = torch.cat([pairs[a:b] for a, b in zip(first, stop, strict=True)])
    assert_array_equal(held, pairs[: starts[-1]])
    assert_array_equal(near.flatten()[held], np.repeat(np.arange(40), starts.diff()))
    assert_array_equal(np.sort(held), np.flatnonzero(shares > 0))
    for anchor in range(40):
        assert (pairs[starts[anchor] : starts[anchor + 1]].diff() > 0).all()
        assert (owner[chunks[anchor] : chunks[anchor + 1]] == anchor).all()
    assert int((stop - first).max()) <= basis_batch.CHUNK


def test_the_number_of_chunks_at_a_time_changes_no_latent(monkeypatch: pytest.MonkeyPatch) -> None:
    images, basis, fit = [picture(16, 18), picture(30, 7)], random_basis(), settings()
    whole = BatchKernel(basis).run(images, fit, [1, 2], 0)
    monkeypatch.setattr(basis_batch, "CHUNKS", 3)
    for one, other in zip(whole, BatchKernel(basis).run(images, fit, [1, 2], 0), strict=True):
        assert_allclose(one.latents, other.latents, atol=5e-5)
