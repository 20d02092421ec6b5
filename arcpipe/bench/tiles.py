"""Whether the tiles of the fused kernel are of a good size on this machine: the chosen one beside others."""

from __future__ import annotations

from dataclasses import dataclass

from arcpipe.bench.machine import cpu_seconds
from arcpipe.cloud import NetworkRecord
from arcpipe.config import FitSection
from arcpipe.progress import byte_size

ALTERNATIVES = (128, 256, 512, 1024, 2048)
SIZE, STEPS = (224, 224), 20


@dataclass(frozen=True)
class TileResult:
    """Supervised pixels of a tile, its work memory as `kernels.plan` models it, and CPU seconds of a fit of 500 steps
    of 224 x 224 pixels on one thread."""

    pixels: int
    work_bytes: int
    seconds: float
    chosen: bool

    def line(self) -> str:
        mark = " (chosen)" if self.chosen else ""
        return f"tiles of {self.pixels} pixels, {byte_size(self.work_bytes)}: {self.seconds:.2f} s{mark}"


def measure_tiles(record: NetworkRecord) -> list[TileResult]:
    """Fit one picture with tiles of each size; the best of three each, in turns."""
    import torch

    from arcpipe.arc.decoder import Decoder
    from arcpipe.arc.kernels import numba_kernel, plan
    from arcpipe.arc.kernels.layout import lay_network
    from arcpipe.bench.photographs import photographs

    torch.set_num_threads(1)
    fit = FitSection(steps=STEPS)
    decoder = Decoder.from_record(record)
    chosen, network = plan.tile_pixels(decoder, fit), lay_network(decoder)
    (picture,) = photographs(SIZE, 1)
    sizes = sorted({*ALTERNATIVES, chosen})
    best = dict.fromkeys(sizes, float("inf"))
    numba_kernel.fit_image(picture[:16, :16], network, fit, 0, chosen)
    for _ in range(3):
        for size in sizes:
            # Twice the steps, and the difference, so that what goes before them does not count.
            short, long = (
                cpu_seconds(lambda: numba_kernel.fit_image(picture, network, some, 0, size))  # noqa: B023
                for some in (fit, fit.model_copy(update={"steps": 2 * STEPS}))
            )
            best[size] = min(best[size], long - short)
    scale = FitSection().steps / STEPS
    return [TileResult(size, plan.work_bytes(decoder, fit, size), best[size] * scale, size == chosen) for size in sizes]
