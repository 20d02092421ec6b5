"""Kernels: the steps of the fit, one file per backend, all behind `Kernel`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from arcpipe.config import FitSection
from arcpipe.errors import ConfigError

if TYPE_CHECKING:
    from arcpipe.arc.basis import Basis
    from arcpipe.arc.decoder import Decoder
    from arcpipe.arc.problem import FittedCloud

KERNELS = ("numba", "torch")


class Kernel(Protocol):
    """Fits latents under the decoder that it was made for. Images are (height, width, channels), each with a seed."""

    def run(
        self, images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int], memory_bytes: int
    ) -> list[FittedCloud]:
        """Fit the latents of each image; the decoder stays."""


class JointKernel(Kernel, Protocol):
    """Also fits latents together with the network that decodes them."""

    def run_jointly(
        self,
        images: Sequence[NDArray[Any]],
        fit: FitSection,
        seeds: Sequence[int],
        memory_bytes: int,
        stepped: Callable[[int], None],
    ) -> NDArray[np.float32]:
        """Move the latents of all images and, in place, the decoder, `fit.steps` times.

        Args:
            stepped: Told the number of steps taken after each of them.

        Returns:
            (steps,) the mean loss of the images before each step.
        """


def choose_kernel(name: str, decoder: Decoder | Basis) -> Kernel:
    """Make the kernel of this name, `auto` being the fastest that runs on the decoder's device.

    Raises:
        ConfigError: there is no such kernel, or it cannot run this decoder here.
    """
    from arcpipe.arc.basis import Basis

    if isinstance(decoder, Basis):
        _check_name(name)
        if decoder.device == "cpu" and name != "torch":
            from arcpipe.arc.kernels.basis_kernel import BasisKernel

            return BasisKernel(decoder)
        from arcpipe.arc.kernels.batch_kernel import BatchKernel

        return BatchKernel(decoder)
    return choose_network_kernel(name, decoder)


def choose_network_kernel(name: str, decoder: Decoder) -> JointKernel:
    """Make the kernel of this name, `auto` being the fastest that runs on the decoder's device.

    Raises:
        ConfigError: there is no such kernel, or it cannot run this decoder here.
    """
    _check_name(name)
    if name != "torch":
        from arcpipe.arc.kernels.layout import fits
        from arcpipe.arc.kernels.numba_kernel import NumbaKernel

        if fits(decoder):
            return NumbaKernel(decoder)
    if name == "numba":
        raise ConfigError(
            "the kernel 'numba' cannot run this decoder here.",
            details=[
                "expected a CPU, hidden layers and at most 3 channels",
                f"found {decoder.device}, hidden widths {decoder.hidden}, {decoder.channels} channels",
            ],
            fix=["kernel auto"],
        )
    from arcpipe.arc.kernels.torch_kernel import TorchKernel

    return TorchKernel(decoder)


def _check_name(name: str) -> None:
    if name not in ("auto", *KERNELS):
        raise ConfigError(
            f"there is no kernel {name!r}.", details=[f"known kernels: auto, {', '.join(KERNELS)}"], fix=["kernel auto"]
        )
