"""Kernels: the step of the fit, one file per backend, all behind `Kernel.run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from arcpipe.config import FitSection
from arcpipe.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from arcpipe.arc.decoder import Decoder
    from arcpipe.arc.problem import Problem

KERNELS = ("torch",)


class Kernel(Protocol):
    """Fits the latents of a problem to its images under a frozen decoder."""

    def run(self, problem: Problem, latents: torch.Tensor, fit: FitSection) -> torch.Tensor:
        """Take `fit.steps` steps of Adam.

        Args:
            problem: Images as tiles, on the decoder's device.
            latents: (m, z) float32, changed in place.
            fit: `steps`, `lr`, `betas` and `eps` are read.

        Returns:
            (steps, images) float32: the loss of each image's mini-batch before each step.
        """
        ...


def choose_kernel(name: str, decoder: Decoder) -> Kernel:
    """Make the kernel of this name, `auto` being the fastest that runs on the decoder's device.

    Raises:
        ConfigError: there is no such kernel.
    """
    if name not in ("auto", *KERNELS):
        raise ConfigError(
            f"there is no kernel {name!r}.", details=[f"known kernels: auto, {', '.join(KERNELS)}"], fix=["kernel auto"]
        )
    from arcpipe.arc.kernels.torch_kernel import TorchKernel

    return TorchKernel(decoder)
