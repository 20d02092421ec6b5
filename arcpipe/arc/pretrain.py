"""The shared decoder, learned once per dataset: some images fitted jointly with it, then frozen (thesis 3.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.basis import Basis
from arcpipe.arc.engine import check_images
from arcpipe.arc.learn_basis import learn_basis
from arcpipe.config import FitSection
from arcpipe.devices import choose_device

if TYPE_CHECKING:
    from arcpipe.arc.decoder import Decoder


def pretrain_decoder(
    images: Sequence[NDArray[Any]],
    fit: FitSection,
    seeds: Sequence[int],
    seed: int,
    channels: int,
    *,
    device: str = "cpu",
    memory_bytes: int = 2**30,
    stepped: Callable[[int], None] = lambda taken: None,
) -> tuple[Decoder | Basis, NDArray[np.float32]]:
    """Fit a decoder jointly with the clouds of some images; the clouds are thrown away.

    Every step adds up the loss over one mini-batch of each image and moves all latents and the decoder,
    `fit.pretrain_steps` times. Images, neighbours and latents stay in memory. A basis is learned as `learn_basis` says.

    Args:
        images: (height, width, channels) floats in [0, 1], of any sizes.
        seeds: One for each image: anchors, first latents and mini-batches.
        seed: For the decoder's first weights.
        channels: Of all images.
        device: Where to compute.
        memory_bytes: Of `TorchKernel`: index tensors beyond this are rebuilt in each step. It changes no number.
        stepped: Told the number of steps taken after each of them.

    Returns:
        The decoder, on the CPU, and the mean loss of the images before each step, (steps,) float32.

    Raises:
        ImageError: an image has another number of channels, no pixels, or values that are not finite.
        DeviceError: there is no such device.
    """
    check_images(images, seeds, channels)
    if fit.decoder_kind == "basis":
        return learn_basis(images, fit, seed, channels, stepped)
    from arcpipe.arc.decoder import Decoder
    from arcpipe.arc.kernels.layout import fits

    decoder = Decoder.initial(fit, channels, seed).to(choose_device(device))
    if fits(decoder):
        from arcpipe.arc.kernels.joint import fit_jointly

        return decoder, fit_jointly(decoder, images, fit.joint, seeds, stepped)
    from arcpipe.arc.kernels.torch_kernel import TorchKernel

    losses = TorchKernel(decoder).run_jointly(images, fit.joint, seeds, memory_bytes, stepped)
    return decoder.to("cpu"), losses
