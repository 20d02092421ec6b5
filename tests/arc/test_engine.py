"""The engine computes the equations of the reference for any mix of images, and nothing beside an image changes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from arcpipe.arc import engine
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.engine import decode, fit_clouds
from arcpipe.arc.kernels import plan, torch_kernel
from arcpipe.arc.problem import group_images
from arcpipe.arc.reference import decode_reference, fit_cloud_reference
from arcpipe.config import FitSection
from arcpipe.errors import ConfigError, DeviceError, ImageError, TooFewAnchorsError
from tests.arc.kernels import KERNELS, fit_by

MakeImage = Callable[..., np.ndarray]
each_kernel = pytest.mark.parametrize("kernel", KERNELS)
ODD_SIZES = [(1, 1), (1, 9), (9, 1), (7, 13), (2, 2), (16, 16), (1, 3), (5, 4)]


def assert_like_reference(
    images: list[np.ndarray],
    fit: FitSection,
    kernel: str,
    *,
    latents_atol: float = 2e-6,
    losses_rtol: float = 1e-5,
) -> None:
    decoder = Decoder.initial(fit, images[0].shape[2], 11)
    seeds = [100 + i for i in range(len(images))]
    for image, seed, cloud in zip(images, seeds, fit_by(kernel, images, decoder, fit, seeds), strict=True):
        expected, losses = fit_cloud_reference(image, decoder.to("cpu", torch.float64), fit, seed)
        np.testing.assert_array_equal(cloud.positions, expected.positions.numpy())
        np.testing.assert_array_equal(cloud.neighbours, expected.neighbours.numpy())
        assert cloud.relative == (expected.mean, expected.std)
        np.testing.assert_allclose(cloud.losses, losses, rtol=losses_rtol, atol=1e-7)
        np.testing.assert_allclose(cloud.latents, expected.latents.numpy(), atol=latents_atol)
        assert cloud.losses[-4:].mean() < cloud.losses[:4].mean()


@each_kernel
def test_odd_sizes_in_one_batch_are_fitted_like_the_reference(
    make_image: MakeImage, fit: FitSection, kernel: str
) -> None:
    assert_like_reference([make_image(*size) for size in ODD_SIZES], fit, kernel)


@each_kernel
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_any_number_of_neighbours_and_channels(
    make_image: MakeImage, fit: FitSection, n: int, channels: int, kernel: str
) -> None:
    fit = fit.model_copy(update={"neighbours": n, "latent_dim": 8})
    assert_like_reference([make_image(7, 13, channels), make_image(1, 5, channels)], fit, kernel)


@each_kernel
@pytest.mark.parametrize("hidden", [(24,), (20, 12), (16, 16, 8), (9, 33)])
def test_any_number_of_hidden_layers(
    make_image: MakeImage, fit: FitSection, hidden: tuple[int, ...], kernel: str
) -> None:
    assert_like_reference([make_image(7, 13), make_image(6, 5)], fit.model_copy(update={"hidden": hidden}), kernel)


@each_kernel
@pytest.mark.parametrize("share", [0.25, 0.3, 0.5, 1.0])
def test_any_share_of_the_pixels(make_image: MakeImage, fit: FitSection, share: float, kernel: str) -> None:
    assert_like_reference([make_image(7, 13), make_image(3, 1)], fit.model_copy(update={"pixel_share": share}), kernel)


@each_kernel
@pytest.mark.parametrize("latents", [4, 91, 0.5])
def test_as_few_anchors_as_neighbours_and_as_many_as_pixels(
    make_image: MakeImage, fit: FitSection, latents: float, kernel: str
) -> None:
    assert_like_reference([make_image(7, 13)], fit.model_copy(update={"latents": latents}), kernel)


@each_kernel
def test_a_flat_image_is_fitted(fit: FitSection, kernel: str) -> None:
    assert_like_reference([np.full((8, 8, 3), 0.5, np.float32)], fit, kernel)


@each_kernel
def test_a_large_image_cut_into_tiles_is_fitted_like_the_reference(
    make_image: MakeImage, fit: FitSection, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    monkeypatch.setattr(torch_kernel, "CPU_TILE_PIXELS", 50)
    monkeypatch.setattr(plan, "tile_pixels", lambda decoder, fit: 50)
    assert_like_reference([make_image(23, 41), make_image(5, 5), make_image(30, 9)], fit, kernel)


@each_kernel
def test_the_thesis_recipe_follows_the_reference(make_image: MakeImage, kernel: str) -> None:
    """With Adam's default eps, gradients near 0 are divided by their own rounding, so latents agree a little less."""
    assert_like_reference(
        [make_image(12, 12), make_image(7, 13)], FitSection(steps=50), kernel, latents_atol=5e-3, losses_rtol=1e-3
    )


@each_kernel
def test_a_cloud_does_not_depend_on_its_batch_mates(make_image: MakeImage, fit: FitSection, kernel: str) -> None:
    """Bit for bit: alone, in any order, beside other sizes, beside an image whose fit ends in NaN."""
    images = [make_image(*size) for size in [*ODD_SIZES, (32, 32), (32, 32)]]
    seeds = list(range(len(images)))
    decoder = Decoder.initial(fit, 3, 11)
    together = fit_by(kernel, images, decoder, fit, seeds)
    spoiled = np.full((8, 8, 3), 3e38, np.float32)
    backwards = fit_by(kernel, [*images[::-1], spoiled], decoder, fit, [*seeds[::-1], 99])[-2::-1]
    for image, seed, first, second in zip(images, seeds, together, backwards, strict=True):
        (alone,) = fit_by(kernel, [image], decoder, fit, [seed])
        for other in (first, second):
            np.testing.assert_array_equal(other.latents, alone.latents)
            np.testing.assert_array_equal(other.losses, alone.losses)


def test_memory_changes_no_number(make_image: MakeImage, fit: FitSection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_kernel, "CPU_TILE_PIXELS", 50)
    monkeypatch.setattr(plan, "tile_pixels", lambda decoder, fit: 50)
    images = [make_image(23, 41), make_image(5, 5)]
    decoder = Decoder.initial(fit, 3, 11)
    plenty, none = (fit_by("torch", images, decoder, fit, [1, 2], memory_bytes=memory) for memory in (2**30, 0))
    for first, second in zip(plenty, none, strict=True):
        np.testing.assert_array_equal(first.latents, second.latents)
        np.testing.assert_array_equal(first.losses, second.losses)


@each_kernel
def test_two_threads_give_the_same_bits_as_one(make_image: MakeImage, fit: FitSection, kernel: str) -> None:
    images = [make_image(40, 40), make_image(32, 32), make_image(7, 13), make_image(1, 1)]
    decoder = Decoder.initial(fit, 3, 11)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(fit_by(kernel, images, decoder, fit, [1, 2, 3, 4]))
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first.latents, second.latents)
        np.testing.assert_array_equal(first.losses, second.losses)


def test_seeds_decide_and_differ(make_image: MakeImage, fit: FitSection) -> None:
    image = make_image(16, 16)
    decoder = Decoder.initial(fit, 3, 11)
    first, again, other = fit_clouds([image] * 3, decoder, fit, [1, 1, 2])
    np.testing.assert_array_equal(first.latents, again.latents)
    assert not np.array_equal(first.positions, other.positions)


@each_kernel
def test_the_decoder_stays_frozen(make_image: MakeImage, fit: FitSection, kernel: str) -> None:
    decoder = Decoder.initial(fit, 3, 11)
    before = decoder.to_record().sha256
    fit_by(kernel, [make_image(7, 13)], decoder, fit, [1])
    assert decoder.to_record().sha256 == before


def test_arrays_that_cannot_be_written_are_read_without_a_warning(make_image: MakeImage, fit: FitSection) -> None:
    """As they come from a store or an image decoder."""
    image, decoder = make_image(7, 13), Decoder.initial(fit, 3, 11)
    image.setflags(write=False)
    record = decoder.to_record()
    for array in record.arrays().values():
        array.setflags(write=False)
    (cloud,) = fit_clouds([image], Decoder.from_record(record), fit, [1])
    arrays = [cloud.latents.astype(np.float16), cloud.positions.astype(np.uint16), cloud.neighbours.astype(np.uint8)]
    for array in arrays:
        array.setflags(write=False)
    latents, positions, near = arrays
    first = decode(latents, positions, (7, 13), decoder, cloud.relative, near)
    np.testing.assert_array_equal(first, decode(latents, positions, (7, 13), decoder, cloud.relative))


@pytest.mark.parametrize("batch", [[], [(7, 13)]])
def test_a_batch_may_have_no_image_or_one(make_image: MakeImage, fit: FitSection, batch: list[tuple[int, int]]) -> None:
    images = [make_image(*size) for size in batch]
    assert len(fit_clouds(images, Decoder.initial(fit, 3, 11), fit, [1] * len(images))) == len(batch)


def test_groups_hold_every_image_once_and_stay_small() -> None:
    rng = np.random.default_rng(0)
    sizes = [(int(height), int(width)) for height, width in rng.integers(1, 40, (200, 2))]
    groups = list(group_images(sizes, FitSection(), 1000))
    assert sorted(i for group in groups for i in group) == list(range(200))
    for group in groups:
        pixels = sum(sizes[i][0] * sizes[i][1] // 4 for i in group)
        assert pixels <= 1000 or len(group) == 1
    assert len(groups) < 40


@pytest.mark.parametrize(
    ("image", "reason", "message"),
    [
        (np.zeros((4, 4, 1), np.float32), "unreadable", "channels of the decoder"),
        (np.zeros((4, 4), np.float32), "unreadable", "channels of the decoder"),
        (np.zeros((0, 4, 3), np.float32), "too-small", "no pixels"),
        (np.full((4, 4, 3), np.nan, np.float32), "not-finite", "not finite"),
    ],
)
def test_images_that_cannot_be_fitted_are_refused(
    fit: FitSection, image: np.ndarray, reason: str, message: str
) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        fit_clouds([image], Decoder.initial(fit, 3, 11), fit, [1])
    assert caught.value.reason == reason


def test_devices_decoders_and_seeds_that_do_not_fit_are_refused(make_image: MakeImage, fit: FitSection) -> None:
    images, decoder = [make_image(4, 4)], Decoder.initial(fit, 3, 11)
    with pytest.raises(ConfigError, match="made for other settings") as caught:
        fit_clouds(images, decoder, fit.model_copy(update={"latent_dim": 8}), [1])
    assert "--neighbours 4 --latent-dim 32" in str(caught.value)
    for device in ("cuda:99", "abacus"):
        with pytest.raises(DeviceError, match=f"no device {device} here"):
            fit_clouds(images, decoder, fit, [1], device=device)
    with pytest.raises(ValueError, match="1 images need as many seeds, found 2"):
        fit_clouds(images, decoder, fit, [1, 2])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 13), (70, 90)])
def test_decoding_follows_the_reference_with_the_cache_and_without(
    make_image: MakeImage, fit: FitSection, size: tuple[int, int]
) -> None:
    fit = fit.model_copy(update={"steps": 3})
    image, decoder = make_image(*size), Decoder.initial(fit, 3, 11)
    expected, _ = fit_cloud_reference(image, decoder, fit, 5)
    (cloud,) = fit_clouds([image], decoder, fit, [5])
    latents = expected.latents.numpy()
    values = decode_reference(decoder, expected.encode(torch.arange(size[0] * size[1]))).reshape(*size, 3)
    cached = decode(latents, cloud.positions, size, decoder, cloud.relative, cloud.neighbours.astype(np.uint16))
    np.testing.assert_allclose(cached, values.numpy(), atol=1e-5)
    found = decode(latents, cloud.positions.astype(np.uint16), size, decoder, cloud.relative)
    np.testing.assert_array_equal(found, cached)


def test_a_finer_scale_renders_between_the_pixels(make_image: MakeImage, fit: FitSection) -> None:
    """At scale 3 every third point, from the second on, lies on a pixel; at scale 2 none does."""
    image, decoder = make_image(7, 13), Decoder.initial(fit, 3, 11)
    (cloud,) = fit_clouds([image], decoder, fit, [5])
    plain, double, triple = (
        decode(cloud.latents, cloud.positions, (7, 13), decoder, cloud.relative, cloud.neighbours, scale=scale)
        for scale in (1, 2, 3)
    )
    assert double.shape == (14, 26, 3)
    np.testing.assert_allclose(triple[1::3, 1::3], plain, atol=1e-5)
    assert np.abs(double[::2, ::2] - plain).max() > 1e-3
    points = engine._points(slice(0, 2), slice(3, 4), 2)
    np.testing.assert_allclose(points, [[-0.25, 1.25], [0.25, 1.25]])


def test_blocks_do_not_show(make_image: MakeImage, fit: FitSection, monkeypatch: pytest.MonkeyPatch) -> None:
    image, decoder = make_image(20, 30), Decoder.initial(fit, 3, 11)
    (cloud,) = fit_clouds([image], decoder, fit, [5])
    whole = decode(cloud.latents, cloud.positions, (20, 30), decoder, cloud.relative)
    monkeypatch.setattr(engine, "BLOCK", 7)
    np.testing.assert_allclose(
        decode(cloud.latents, cloud.positions, (20, 30), decoder, cloud.relative), whole, atol=1e-6
    )


def test_a_cloud_of_too_few_anchors_cannot_be_decoded(fit: FitSection) -> None:
    latents, positions = np.zeros((3, 32), np.float32), np.zeros((3, 2), np.int64)
    with pytest.raises(TooFewAnchorsError, match="fewer anchors"):
        decode(latents, positions, (4, 4), Decoder.initial(fit, 3, 11), (0.0, 1.0))
