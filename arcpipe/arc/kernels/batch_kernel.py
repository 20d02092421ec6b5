"""The kernel of whole batches of the kind `basis`: groups of images go to the device and come back as clouds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from arcpipe.arc.anchors import draw_anchors
from arcpipe.arc.basis import NEAREST, Basis
from arcpipe.arc.kernels.basis_batch import Batch, Found, Profiles, errors_plainly, moved, solve_plainly
from arcpipe.arc.kernels.basis_kernel import place
from arcpipe.arc.metrics import decibels
from arcpipe.arc.problem import FittedCloud, cut_groups
from arcpipe.cloud import Cloud
from arcpipe.config import FitSection
from arcpipe.seeds import generator
from arcpipe.threads import each as spread

GROUP_PIXELS = {"torch": 2**20, "triton": 2**22}
"""Pixels of a batch: about 1.5 GB of plain torch, 1 GB of Triton. Chosen without a measurement."""
CPU_GROUP_PIXELS = 2**16


class BatchKernel:
    """Fits clouds under a basis: anchors are drawn by the CPU's threads, all else is done on the basis's device (plain
    torch leaves neighbours and scales to the CPU, too).

    Args:
        solver: `triton`, `torch`, or `auto`: Triton on a GPU where it is installed.
    """

    def __init__(self, basis: Basis, solver: str = "auto") -> None:
        self.basis, self.device = basis, torch.device(basis.device)
        if solver == "auto":
            solver = "triton" if self.device.type == "cuda" and has_triton() else "torch"
        self.solver, self.profiles = solver, Profiles.of(basis, self.device)
        self.solve, self.errors = solve_plainly, errors_plainly
        if solver == "triton":
            from arcpipe.arc.kernels.basis_triton import errors_by_triton, solve_by_triton

            self.solve, self.errors = solve_by_triton, errors_by_triton

    def run(
        self, images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int], memory_bytes: int
    ) -> list[FittedCloud]:
        clouds: list[FittedCloud] = []
        last: Callable[[], list[FittedCloud]] = list
        pixels = [image.shape[0] * image.shape[1] for image in images]
        for group in cut_groups(range(len(images)), pixels, self._most()):
            # The CPU lays out a group while the device works on the one before.
            now = self._begin([images[i] for i in group], fit, [seeds[i] for i in group])
            clouds += last()
            last = now
        return clouds + last()

    def measure(self, clouds: Sequence[Cloud | FittedCloud], images: Sequence[NDArray[Any]]) -> list[float]:
        """The PSNR (dB) of clouds, which are decoded on the device, against their images."""
        pixels, on_their_way = [image.shape[0] * image.shape[1] for image in images], []
        for group in cut_groups(range(len(images)), pixels, self._most()):
            some = [images[i] for i in group]
            found: list[Any] = [(clouds[i].scales, clouds[i].neighbours) for i in group]
            drawn = [clouds[i].positions.astype(np.int64) for i in group]
            with torch.no_grad():
                batch = Batch.lay(some, drawn, found, self.basis, self.device)
                rows = [clouds[i].latents for i in group]
                width, z = len(self.profiles.orders), self.profiles.latent_dim
                latents = moved(rows, (len(batch.anchors), z), torch.float32, self.device)
                errors = self.errors(batch, F.pad(latents, (0, width - z)), self.profiles)
                areas = moved([np.array([pixels[i] for i in group])], (len(some),), torch.int64, self.device)
                on_their_way.append(to_host(torch.segment_reduce(errors.double(), "sum", lengths=areas)))
        sums = np.concatenate([total for arrays in on_their_way for total in arrays()])
        return [decibels(total / image.size) for total, image in zip(sums, images, strict=True)]

    def _most(self) -> int:
        """Pixels of a batch."""
        return GROUP_PIXELS[self.solver] if self.device.type == "cuda" else CPU_GROUP_PIXELS

    def _begin(
        self, images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int]
    ) -> Callable[[], list[FittedCloud]]:
        """Give the device all it needs for some images. Returns what waits for their clouds."""
        drawn, found = self.place(images, fit, seeds)
        with torch.no_grad():
            batch = Batch.lay(images, drawn, found, self.basis, self.device)
            latents = self.solve(batch, self.profiles, fit.patch, fit.damping)[:, : self.profiles.latent_dim]
            arrays = to_host(latents, *(() if found else (batch.scales, batch.neighbours)))

        def finish() -> list[FittedCloud]:
            rows, *there = arrays()
            cuts = np.cumsum([len(anchors) for anchors in drawn])
            placed = found
            if placed is None:
                areas = np.cumsum([image.shape[0] * image.shape[1] for image in images])
                near = np.split(there[1], areas[:-1])
                starts = cuts - [len(anchors) for anchors in drawn]
                local = [own - np.int32(start) for own, start in zip(near, starts, strict=True)]
                placed = list(zip(np.split(there[0], cuts[:-1]), local, strict=True))
            return [
                FittedCloud(anchors, own.copy(), near, (0.0, 1.0), np.zeros(0, np.float32), scales=scales.copy())
                for anchors, own, (scales, near) in zip(drawn, np.split(rows, cuts[:-1]), placed, strict=True)
            ]

        return finish

    def place(
        self, images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int]
    ) -> tuple[list[NDArray[np.int64]], list[Found] | None]:
        """Draw anchors by the CPU's threads, and find scales and neighbours if the device does not."""

        def work(i: int) -> tuple[NDArray[np.int64], Found | None]:
            if there:
                return draw_anchors(images[i], fit, generator(seeds[i], "anchors")), None
            (anchors,), (scales,), (near,) = place(self.basis, [images[i]], fit, [seeds[i]])
            return anchors, (scales, near)

        there = self.solver == "triton" and fit.neighbours <= NEAREST
        made = spread(work, range(len(images)), torch.get_num_threads())
        return [anchors for anchors, _ in made], None if there else [found for _, found in made if found]


def to_host(*tensors: Tensor) -> Callable[[], list[NDArray[Any]]]:
    """Send tensors to the CPU, which goes on meanwhile. Returns what waits for them."""
    if tensors[0].device.type != "cuda":
        return lambda: [tensor.numpy() for tensor in tensors]
    hosts = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for host, tensor in zip(hosts, tensors, strict=True):
        host.copy_(tensor, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()

    def arrays() -> list[NDArray[Any]]:
        ready.synchronize()
        return [host.numpy() for host in hosts]

    return arrays


def has_triton() -> bool:
    """Whether Triton is installed: the CUDA builds of torch bring it."""
    from importlib.util import find_spec

    return find_spec("triton") is not None
