"""The recipe `fast`: another basis for the same decoder, and a schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from arcpipe.arc.adam import learning_rates
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.engine import decode, fit_clouds
from arcpipe.arc.kernels import KERNELS
from arcpipe.arc.metrics import psnr
from arcpipe.arc.pretrain import pretrain_decoder
from arcpipe.arc.recipes import recipe
from arcpipe.arc.reference import decode_reference, fit_cloud_reference
from arcpipe.arc.whiten import whiten
from arcpipe.config import FitSection

MakeImage = Callable[..., np.ndarray]


@pytest.mark.parametrize("hidden", [None, (20, 12)])
def test_the_whitened_decoder_is_the_decoder_in_another_basis(hidden: tuple[int, ...] | None) -> None:
    decoder = Decoder.initial(FitSection(hidden=hidden, latent_dim=8, neighbours=3), 3, 4).to("cpu", torch.float64)
    moved, basis = whiten(decoder)
    rng = np.random.default_rng(0)
    u, relative = rng.normal(size=(5, 3, 8)), rng.normal(size=(5, 6))
    inputs = [torch.from_numpy(np.concatenate([part.reshape(5, -1), relative], axis=1)) for part in (u @ basis.T, u)]
    torch.testing.assert_close(decode_reference(decoder, inputs[0]), decode_reference(moved, inputs[1]))
    assert not torch.equal(decoder.weights[0], moved.weights[0])


def test_directions_that_the_decoder_hardly_answers_to_are_stretched() -> None:
    decoder = Decoder.initial(FitSection(latent_dim=8), 3, 4)
    weight = decoder.weights[0].clone()
    weight[:, 0:32:8] *= 100  # the first value of every latent
    _, basis = whiten(replace(decoder, weights=(weight, *decoder.weights[1:])))
    lengths = np.linalg.norm(basis, axis=1)
    assert lengths[0] < 0.6 * lengths[1:].min()
    assert np.square(basis).sum() == pytest.approx(8)


def test_a_decoder_that_answers_to_nothing_keeps_finite_latents(make_image: MakeImage) -> None:
    decoder = Decoder.initial(FitSection(), 3, 4)
    silent = replace(decoder, weights=(decoder.weights[0], torch.zeros_like(decoder.weights[1])))
    (cloud,) = fit_clouds([make_image(6, 6)], silent, FitSection(steps=3, whiten=True), [1])
    assert np.isfinite(cloud.latents).all()


def test_a_cosine_falls_from_the_rate_to_nearly_nothing() -> None:
    rates = learning_rates(FitSection(lr=0.1, steps=100, schedule="cosine"))
    assert rates[0] == 0.1
    assert rates[50] == pytest.approx(0.05)
    assert 0 < rates[-1] < 1e-4
    assert (np.diff(rates) < 0).all()
    assert learning_rates(FitSection(lr=0.1, steps=3)).tolist() == [0.1, 0.1, 0.1]


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_follows_the_schedule_and_the_basis(make_image: MakeImage, fit: FitSection, kernel: str) -> None:
    fit = fit.model_copy(update={"schedule": "cosine", "whiten": True, "betas": (0.7, 0.9)})
    decoder, image = Decoder.initial(fit, 3, 11), make_image(7, 13)
    (cloud,) = fit_clouds([image], decoder, fit, [5], kernel=kernel)
    moved, basis = whiten(decoder)
    expected, losses = fit_cloud_reference(image, moved.to("cpu", torch.float64), fit, 5)
    np.testing.assert_allclose(cloud.losses, losses, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(cloud.latents, expected.latents.numpy() @ basis.T, atol=5e-6)


def test_pretraining_keeps_its_own_rate_and_knows_no_schedule(make_image: MakeImage) -> None:
    """With the recipe `fast` it makes the decoder of the recipe `thesis`."""
    images = [make_image(7, 9), make_image(8, 8)]
    changes = {"pretrain_steps": 8}
    made = [
        pretrain_decoder(images, recipe(name).model_copy(update=changes), [1, 2], seed=3, channels=3)[0]
        for name in ("thesis", "fast")
    ]
    assert made[0].to_record().sha256 == made[1].to_record().sha256


def test_fast_is_as_good_as_thesis_in_fewer_steps(make_image: MakeImage) -> None:
    """On smooth pictures under one decoder; on real images see benchmarks/fit.py."""
    rng = np.random.default_rng(1)
    coarse = rng.random((4, 5, 5, 3)).astype(np.float32)
    images = [np.kron(part, np.ones((5, 5, 1), np.float32)) for part in coarse]
    decoder, _ = pretrain_decoder(images, FitSection(pretrain_steps=200), range(4), seed=3, channels=3)
    quality = {}
    for name in ("thesis", "fast"):
        clouds = fit_clouds(images, decoder, recipe(name), range(4))
        made = [decode(c.latents, c.positions, (25, 25), decoder, c.relative, c.neighbours) for c in clouds]
        quality[name] = np.mean([psnr(image, picture) for image, picture in zip(images, made, strict=True)])
    assert recipe("fast").steps < 0.6 * recipe("thesis").steps
    assert quality["fast"] > quality["thesis"] - 0.1


def test_what_is_given_wins_over_the_recipe() -> None:
    fit = FitSection(recipe="fast", steps=9)
    assert (fit.steps, fit.lr, fit.schedule) == (9, recipe("fast").lr, "cosine")
    assert FitSection.model_validate(fit.model_dump()) == fit
