"""Kernels: the steps of the fit, one file per backend, all behind `Kernel`."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from arcpipe.config import FitSection
from arcpipe.errors import ConfigError

if TYPE_CHECKING:
    from arcpipe.arc.decoder import Decoder
    from arcpipe.arc.problem import FittedCloud

KERNELS = ("numba", "torch")


class Kernel(Protocol):
    """Fits latents under the decoder that it was made for. Images are (height, width, channels), each with a seed."""

    def run(
        self, images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int], memory_bytes: int
    ) -> list[FittedCloud]:
        """Take `fit.steps` steps of Adam for each image; the decoder stays."""
        ...

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
        ...


@functools.cache
def has_numba() -> bool:
    """Whether compiled kernels can be used here."""
    return importlib.util.find_spec("numba") is not None


def choose_kernel(name: str, decoder: Decoder) -> Kernel:
    """Make the kernel of this name, `auto` being the fastest that runs on the decoder's device.

    Raises:
        ConfigError: there is no such kernel, or it cannot run this decoder here.
    """
    if name not in ("auto", *KERNELS):
        raise ConfigError(
            f"there is no kernel {name!r}.", details=[f"known kernels: auto, {', '.join(KERNELS)}"], fix=["kernel auto"]
        )
    if name != "torch" and has_numba():
        from arcpipe.arc.kernels.numba_kernel import NumbaKernel

        if NumbaKernel.supports(decoder):
            return NumbaKernel(decoder)
        from arcpipe.arc.kernels.blend_kernel import BlendKernel

        if BlendKernel.supports(decoder):
            return BlendKernel(decoder)
    if name == "numba":
        raise ConfigError(
            "the kernel 'numba' cannot run this decoder here.",
            details=[
                "expected Numba installed, a CPU, hidden layers (one for the kind blend) and at most 3 channels",
                f"found Numba {'installed' if has_numba() else 'missing'}, device {decoder.device}",
                f"found kind {decoder.kind}, hidden widths {decoder.hidden}, {decoder.channels} channels",
            ],
            fix=["kernel auto", "pip install numba"],
        )
    from arcpipe.arc.kernels.torch_kernel import TorchKernel

    return TorchKernel(decoder)
