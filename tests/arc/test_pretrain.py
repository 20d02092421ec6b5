"""Pretraining moves clouds and decoder together, as the reference does, in any amount of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.kernels import plan, torch_kernel
from arcpipe.arc.pretrain import pretrain_decoder
from arcpipe.arc.problem import learning_rates
from arcpipe.arc.reference import ReferenceCloud
from arcpipe.config import FitSection
from arcpipe.errors import ImageError
from tests.arc.kernels import pretrain_by

SIZES = [(7, 13), (1, 1), (23, 11), (1, 9), (12, 12)]


def fit_jointly_reference(
    images: Sequence[np.ndarray], decoder: Decoder, fit: FitSection, seeds: Sequence[int]
) -> np.ndarray:
    """The equations: clouds and, in place, the decoder are fitted together, the loss summed over the images.

    Returns the losses (steps, images).
    """
    clouds = [ReferenceCloud(image, fit, seed, decoder.dtype) for image, seed in zip(images, seeds, strict=True)]
    learned = [*(cloud.latents for cloud in clouds), *decoder.weights, *decoder.biases]
    for tensor in learned:
        tensor.requires_grad_(True)
    adam = torch.optim.Adam(learned, lr=fit.lr, betas=fit.betas, eps=fit.eps)
    history = []
    for step, rate in enumerate(learning_rates(fit)):
        adam.param_groups[0]["lr"] = float(rate)
        batches = [torch.from_numpy(cloud.batches[step % len(cloud.batches)]) for cloud in clouds]
        losses = torch.stack([cloud.loss(decoder, pixels) for cloud, pixels in zip(clouds, batches, strict=True)])
        adam.zero_grad()
        losses.sum().backward()
        adam.step()
        history.append(losses.detach().numpy())
    for tensor in learned:
        tensor.requires_grad_(False)
    return np.stack(history)


@pytest.mark.parametrize(
    ("kernel", "hidden"), [("numba", None), ("torch", None), ("numba", (20, 12)), ("torch", (20, 12))]
)
def test_the_pretrained_decoder_is_that_of_the_reference(
    make_image: Callable[..., np.ndarray],
    fit: FitSection,
    kernel: str,
    hidden: tuple[int, ...] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch_kernel, "CPU_TILE_PIXELS", 40)
    monkeypatch.setattr(plan, "tile_pixels", lambda decoder, fit: 40)
    fit = fit.model_copy(update={"hidden": hidden})
    images, seeds = [make_image(*size) for size in SIZES], [1, 2, 3, 4, 5]
    decoder, losses = pretrain_by(kernel, images, fit, seeds, 9)
    expected = Decoder.initial(fit, 3, 9).to("cpu", torch.float64)
    expected_losses = fit_jointly_reference(images, expected, fit.joint, seeds)
    np.testing.assert_allclose(losses, expected_losses.mean(1), rtol=1e-5)
    for ours, theirs in zip((*decoder.weights, *decoder.biases), (*expected.weights, *expected.biases), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5, check_dtype=False)
    assert losses[-1] < losses[0]


def test_memory_changes_no_number(make_image: Callable[..., np.ndarray], fit: FitSection) -> None:
    images, seeds = [make_image(*size) for size in SIZES], [1, 2, 3, 4, 5]
    (plenty, losses), (none, same_losses) = (
        pretrain_by("torch", images, fit, seeds, 9, memory_bytes=memory) for memory in (2**30, 0)
    )
    assert plenty.to_record().sha256 == none.to_record().sha256
    np.testing.assert_array_equal(losses, same_losses)


def test_images_of_other_channels_are_refused(make_image: Callable[..., np.ndarray], fit: FitSection) -> None:
    with pytest.raises(ImageError, match="channels of the decoder"):
        pretrain_decoder([make_image(4, 4, 1)], fit, [1], seed=9, channels=3)
