"""The kind `blend`: the engine computes the equations of the reference, gradients are those of autograd."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from arcpipe.arc.blended import Blended
from arcpipe.arc.decoder import BLEND_WIDTH, Decoder, shares
from arcpipe.arc.engine import decode, fit_clouds
from arcpipe.arc.factorised import DecoderGradient
from arcpipe.arc.kernels import KERNELS, blend_kernel, choose_kernel, torch_kernel
from arcpipe.arc.kernels.torch_kernel import TorchKernel
from arcpipe.arc.metrics import psnr
from arcpipe.arc.pretrain import pretrain_decoder
from arcpipe.arc.problem import Problem, prepare_image
from arcpipe.arc.reference import ReferenceCloud, decode_reference, fit_cloud_reference, fit_jointly_reference
from arcpipe.arc.whiten import whiten
from arcpipe.config import FitSection
from arcpipe.errors import ConfigError, TooFewAnchorsError

MakeImage = Callable[..., np.ndarray]
each_kernel = pytest.mark.parametrize("kernel", KERNELS)
ODD_SIZES = [(1, 1), (1, 9), (9, 1), (7, 13), (2, 2), (16, 16), (1, 3), (5, 4)]


@pytest.fixture
def fit(fit: FitSection) -> FitSection:
    return fit.model_copy(update={"decoder_kind": "blend", "latent_dim": 8, "hidden": (24,)})


def assert_like_reference(images: list[np.ndarray], fit: FitSection, kernel: str = "auto") -> None:
    decoder = Decoder.initial(fit, images[0].shape[2], 11)
    seeds = [100 + i for i in range(len(images))]
    for image, seed, cloud in zip(images, seeds, fit_clouds(images, decoder, fit, seeds, kernel=kernel), strict=True):
        exact = decoder.to("cpu", torch.float64)
        expected, losses = fit_cloud_reference(image, exact, fit, seed)
        np.testing.assert_array_equal(cloud.positions, expected.positions.numpy())
        np.testing.assert_array_equal(cloud.neighbours, expected.neighbours.numpy())
        np.testing.assert_allclose(cloud.losses, losses, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(cloud.latents, expected.latents.numpy(), atol=3e-6)
        assert cloud.losses[-4:].mean() < cloud.losses[:4].mean()
        size = image.shape[:2]
        values = decode_reference(exact, expected.encode(torch.arange(size[0] * size[1]))).reshape(image.shape)
        latents = expected.latents.numpy()
        for cache in (cloud.neighbours, None):
            picture = decode(latents, cloud.positions, size, decoder, cloud.relative, cache)
            np.testing.assert_allclose(picture, values.numpy(), atol=1e-5)


@each_kernel
@pytest.mark.parametrize("alone", [0.0, 0.3, 1.0])
def test_odd_sizes_in_one_batch_are_fitted_like_the_reference(
    make_image: MakeImage, fit: FitSection, alone: float, kernel: str
) -> None:
    assert_like_reference([make_image(*size) for size in ODD_SIZES], fit.model_copy(update={"alone": alone}), kernel)


@each_kernel
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 6])
def test_any_number_of_neighbours_and_channels(
    make_image: MakeImage, fit: FitSection, n: int, channels: int, kernel: str
) -> None:
    fit = fit.model_copy(update={"neighbours": n})
    assert_like_reference([make_image(7, 13, channels), make_image(1, 5, channels)], fit, kernel)


@pytest.mark.parametrize("hidden", [None, (20, 12), (16, 16, 8)])
@pytest.mark.parametrize("latents", [4, 0.5])
def test_any_layers_and_anchors(
    make_image: MakeImage, fit: FitSection, hidden: tuple[int, ...] | None, latents: float
) -> None:
    assert_like_reference([make_image(7, 13)], fit.model_copy(update={"hidden": hidden, "latents": latents}))


@each_kernel
def test_a_ridge_and_a_schedule(make_image: MakeImage, fit: FitSection, kernel: str) -> None:
    fit = fit.model_copy(update={"ridge": 0.01, "schedule": "cosine", "pixel_share": 0.5})
    assert_like_reference([make_image(7, 13), make_image(9, 4)], fit, kernel)


def test_a_large_image_beside_small_ones_goes_to_the_other_kernel(
    make_image: MakeImage, fit: FitSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blend_kernel, "BLEND_PIXELS", 100)
    assert_like_reference([make_image(5, 5), make_image(12, 9), make_image(7, 13)], fit, "numba")


def test_a_large_image_cut_into_tiles_is_fitted_like_the_reference(
    make_image: MakeImage, fit: FitSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_kernel, "CPU_TILE_PIXELS", 200)
    assert_like_reference([make_image(23, 41), make_image(5, 5), make_image(30, 9)], fit, "torch")


@each_kernel
def test_a_cloud_depends_on_no_batch_mate_and_no_thread(make_image: MakeImage, fit: FitSection, kernel: str) -> None:
    """Bit for bit, beside an image whose errors are infinite too."""
    images = [make_image(*size) for size in [*ODD_SIZES, (32, 32)]]
    seeds, decoder = list(range(len(images))), Decoder.initial(fit, 3, 11)
    spoiled = np.full((8, 8, 3), 3e38, np.float32)
    torch.set_num_threads(2)
    together = fit_clouds([*images, spoiled], decoder, fit, [*seeds, 99], kernel=kernel)
    torch.set_num_threads(1)
    for image, seed, cloud in zip(images, seeds, together[:-1], strict=True):
        (alone,) = fit_clouds([image], decoder, fit, [seed], kernel=kernel)
        np.testing.assert_array_equal(cloud.latents, alone.latents)
        np.testing.assert_array_equal(cloud.losses, alone.losses)
    assert not np.isfinite(together[-1].losses).any()


@pytest.mark.parametrize("hidden", [(24,), (20, 12)])
@pytest.mark.parametrize("tile_pixels", [4096, 20])
def test_gradients_are_those_of_autograd(
    make_image: MakeImage, fit: FitSection, hidden: tuple[int, ...], tile_pixels: int
) -> None:
    fit = fit.model_copy(update={"hidden": hidden, "neighbours": 3, "init": 0.5})
    decoder, image = Decoder.initial(fit, 3, 7), make_image(15, 18)
    cloud = ReferenceCloud(image, fit, 3)
    learned = [cloud.latents, *decoder.weights, *decoder.biases]
    for tensor in learned:
        tensor.requires_grad_(True)
    expected_loss = cloud.loss(decoder, torch.from_numpy(cloud.batches[1]))
    expected = torch.autograd.grad(expected_loss, learned)

    problem = Problem([prepare_image(image, fit, 3)], tile_pixels=tile_pixels)
    gradient, loss, sums = torch.zeros_like(cloud.latents), torch.zeros(1), DecoderGradient.zeros(decoder)
    kernel = TorchKernel(decoder)
    for tile in problem.tiles(1):
        kernel.accumulate(tile, cloud.latents.detach(), gradient, loss, sums, fit.alone)
    found = [gradient, decoder.join_first(sums.latent_part, sums.relative_part), *sums.weights, *sums.biases]
    torch.testing.assert_close(loss[0], expected_loss.detach())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, atol=1e-7, rtol=1e-4)


@each_kernel
@pytest.mark.parametrize("channels", [1, 3])
def test_the_pretrained_decoder_is_that_of_the_reference(
    make_image: MakeImage, fit: FitSection, monkeypatch: pytest.MonkeyPatch, kernel: str, channels: int
) -> None:
    monkeypatch.setattr(torch_kernel, "CPU_TILE_PIXELS", 160)
    images, seeds = [make_image(*size, channels) for size in [(7, 13), (1, 1), (23, 11), (1, 9)]], [1, 2, 3, 4]
    decoder, losses = pretrain_decoder(images, fit, seeds, seed=9, channels=channels, kernel=kernel)
    start = Decoder.initial(fit, channels, 9).to("cpu", torch.float64)
    _, expected, expected_losses = fit_jointly_reference(images, start, fit, seeds)
    np.testing.assert_allclose(losses, expected_losses.mean(1), rtol=1e-5)
    for ours, theirs in zip((*decoder.weights, *decoder.biases), (*expected.weights, *expected.biases), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5, check_dtype=False)


def test_a_latent_means_the_same_in_every_slot(make_image: MakeImage, fit: FitSection) -> None:
    """Neighbours in another order, with their own relative positions, make the same pixel."""
    decoder = Decoder.initial(fit, 3, 1)
    rng = np.random.default_rng(0)
    latents, relative = torch.from_numpy(rng.normal(size=(5, 4, 8))), torch.from_numpy(rng.normal(size=(5, 4, 2)))
    exact, order = decoder.to("cpu", torch.float64), [2, 0, 3, 1]
    first, second = (
        decode_reference(exact, torch.cat([w.flatten(1), dp.flatten(1)], dim=1))
        for w, dp in ((latents, relative), (latents[:, order], relative[:, order]))
    )
    torch.testing.assert_close(first, second)


def test_shares_fall_with_the_distance_and_survive_any_distance() -> None:
    near = torch.tensor([[0.0, 0.1, 0.5, 0.0, -1.0, 1.0], [90.0, 0.0, 0.0, 91.0, 1e4, 0.0]])
    found = shares(near)
    torch.testing.assert_close(found.sum(1), torch.ones(2))
    assert found[0, 0] > found[0, 1] > found[0, 2] > 0
    assert found[1].tolist() == [1, 0, 0]
    assert found[0, 1] / found[0, 0] == pytest.approx(np.exp((0.01 - 0.25) / (2 * BLEND_WIDTH**2)), rel=1e-5)


def test_the_whitened_decoder_is_the_decoder_in_another_basis(make_image: MakeImage, fit: FitSection) -> None:
    decoder = Decoder.initial(fit, 3, 4).to("cpu", torch.float64)
    moved, basis = whiten(decoder)
    rng = np.random.default_rng(0)
    u, relative = rng.normal(size=(5, 4, 8)), rng.normal(size=(5, 8))
    inputs = [torch.from_numpy(np.concatenate([part.reshape(5, -1), relative], axis=1)) for part in (u @ basis.T, u)]
    torch.testing.assert_close(decode_reference(decoder, inputs[0]), decode_reference(moved, inputs[1]))
    assert moved.kind == "blend"


def test_a_whitened_fit_decodes_under_the_plain_decoder(make_image: MakeImage, fit: FitSection) -> None:
    fit = fit.model_copy(update={"whiten": True, "lr": 0.02, "eps": 1e-8, "steps": 200})
    image, decoder = make_image(12, 12), Decoder.initial(fit, 3, 4)
    (cloud,) = fit_clouds([image], decoder, fit, [1])
    picture = decode(cloud.latents, cloud.positions, (12, 12), decoder, cloud.relative)
    blank = decode(0 * cloud.latents, cloud.positions, (12, 12), decoder, cloud.relative)
    assert psnr(image, picture) > psnr(image, blank) + 3


def test_the_record_and_every_copy_know_the_kind(fit: FitSection) -> None:
    decoder = Decoder.initial(fit, 3, 1)
    assert [tuple(weight.shape) for weight in decoder.weights] == [(24, 10), (3, 24)]
    record = decoder.to_record()
    kinds = [record.kind, Decoder.from_record(record).kind, decoder.to("cpu").kind, decoder.clone().kind]
    assert kinds == ["blend"] * 4
    assert record.inputs == 10


def test_what_cannot_be_is_refused(make_image: MakeImage, fit: FitSection) -> None:
    decoder, image = Decoder.initial(fit, 3, 1), make_image(4, 4)
    deep = fit.model_copy(update={"hidden": (8, 8)})
    assert isinstance(choose_kernel("auto", decoder), blend_kernel.BlendKernel)
    assert isinstance(choose_kernel("auto", Decoder.initial(deep, 3, 1)), TorchKernel)
    assert isinstance(TorchKernel(decoder).network, Blended)
    with pytest.raises(ConfigError, match="'numba' cannot run this decoder") as caught:
        fit_clouds([image], Decoder.initial(deep, 3, 1), deep, [1], kernel="numba")
    assert "found kind blend" in str(caught.value)
    with pytest.raises(ConfigError, match="made for other settings") as caught:
        fit_clouds([image], decoder, fit.model_copy(update={"decoder_kind": "concat"}), [1])
    assert "--decoder-kind blend" in str(caught.value)
    with pytest.raises(TooFewAnchorsError):
        decode(np.zeros((3, 8), np.float32), np.array([[0, 0], [1, 1], [2, 2]]), (4, 4), decoder, (0.0, 1.0))
