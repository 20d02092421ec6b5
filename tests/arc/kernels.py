"""Fits by a kernel of one name, where the engine would choose the fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.kernels.joint import fit_jointly
from arcpipe.arc.kernels.numba_kernel import NumbaKernel
from arcpipe.arc.kernels.torch_kernel import TorchKernel
from arcpipe.arc.problem import FittedCloud
from arcpipe.config import FitSection

KERNELS = {"numba": NumbaKernel, "torch": TorchKernel}


def fit_by(
    kernel: str,
    images: Sequence[np.ndarray],
    decoder: Decoder,
    fit: FitSection,
    seeds: Sequence[int],
    memory_bytes: int = 2**30,
) -> list[FittedCloud]:
    return KERNELS[kernel](decoder).run(images, fit, seeds, memory_bytes)


def pretrain_by(
    kernel: str,
    images: Sequence[np.ndarray],
    fit: FitSection,
    seeds: Sequence[int],
    seed: int,
    *,
    memory_bytes: int = 2**30,
    stepped: Callable[[int], None] = lambda taken: None,
) -> tuple[Decoder, np.ndarray]:
    """Pretrain a decoder of three channels; also its losses (steps,)."""
    decoder = Decoder.initial(fit, 3, seed)
    if kernel == "numba":
        return decoder, fit_jointly(decoder, images, fit.joint, seeds, stepped)
    return decoder, TorchKernel(decoder).run_jointly(images, fit.joint, seeds, memory_bytes, stepped)
