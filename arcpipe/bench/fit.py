"""`arcpipe bench fit`: how long a fit takes, beside the usual ways to do it, and how good it is.

Every method fits the same pictures in a fresh process that may use all cores, as it would for a user: autograd through
torch's own threads, the engine by one image for each. Time is wall time, so nothing else should run. Compilation and
the first calls are not part of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from arcpipe.bench.machine import in_fresh_process, matrix_peak, peak_memory
from arcpipe.bench.tiles import TileResult, measure_tiles
from arcpipe.cloud import DecoderRecord
from arcpipe.config import FitSection
from arcpipe.errors import ConfigError
from arcpipe.machine import available_cores, cache_sizes
from arcpipe.progress import Progress, byte_size

SIZES = ("32x32", "224x224", "375x500")
METHODS = ("loop", "batch", "thesis", "basis", "siren")
RATIOS = (("loop", "thesis"), ("batch", "thesis"), ("thesis", "basis"), ("loop", "basis"))
SMALL, MANY, MORE = 2**12, 32, 256
"""Pictures of at most so many pixels are measured by `MANY` at once, of larger ones one for each core. Methods that
`QUICK` names, which share many out among all threads, are given `MORE`, the first of them the same."""
QUICK = ("thesis", "basis")
LEAST_S = 0.5
"""Pictures are fitted again until so much time has passed; the median counts."""
SIREN_PIXELS = 2**16
"""Larger pictures are given to SIREN only with `--images 1`: 1000 full batches take longer than all the rest."""
LOOP_PIXELS, LOOP_STEPS = 2**16, 20
"""Of larger pictures, one goes through autograd alone, for so many steps: its steps are all alike."""
DECODER_IMAGES = 32
BASIS_STEPS = 60
"""Steps in which a basis is learned to be timed: its quality is that of other photographs, not of these few."""
Records = dict[str, DecoderRecord]


@dataclass(frozen=True)
class FitResult:
    """One method on pictures of one size: wall seconds and mean PSNR (dB), the peak of the whole process, and the
    method's matrix products by second as a share of what this machine reaches in one large product. Where
    `measured_steps` are fewer than `steps`, seconds are those of the measured ones in proportion, and there is no PSNR
    to compare."""

    size: str
    method: str
    images: int
    steps: int
    seconds_per_image: float
    psnr: float
    peak_bytes: int
    matrix_peak_share: float
    measured_steps: int = 0

    @property
    def partial(self) -> bool:
        return 0 < self.measured_steps < self.steps


@dataclass(frozen=True)
class BenchFitReport:
    """All results, ratios of seconds by size, what was `skipped` (size, method, reason), and the kernel's tiles."""

    results: tuple[FitResult, ...]
    matrix_peak_gflops: float
    threads: int
    skipped: tuple[dict[str, str], ...] = ()
    tiles: tuple[TileResult, ...] = ()

    @property
    def ratios(self) -> dict[str, dict[str, float]]:
        """By size, `loop/thesis` and so on, where both were measured."""
        seconds = {(result.size, result.method): result.seconds_per_image for result in self.results}
        sizes = dict.fromkeys(result.size for result in self.results)
        return {
            size: {
                f"{slow}/{quick}": seconds[size, slow] / seconds[size, quick]
                for slow, quick in RATIOS
                if (size, slow) in seconds and (size, quick) in seconds
            }
            for size in sizes
        }

    def as_dict(self) -> dict[str, Any]:
        return {
            "results": [asdict(result) for result in self.results],
            "ratios": self.ratios,
            "matrix_peak_gflops": self.matrix_peak_gflops,
            "threads": self.threads,
            "skipped": list(self.skipped),
            "tiles": [asdict(tile) for tile in self.tiles],
            "caches": {f"L{level}": size for level, size in cache_sizes().items()},
        }

    def lines(self) -> list[str]:
        lines = [f"{self.threads} threads, wall time; matrix peak {self.matrix_peak_gflops:.0f} GFLOP/s"]
        lines.append(f"{'size':>10} {'method':>7} {'s/image':>9} {'PSNR':>6} {'peak':>9} {'of matrix peak':>15}")
        for result in self.results:
            lines.append(
                f"{result.size:>10} {result.method:>7} {result.seconds_per_image:>9.4f} {result.psnr:>6.2f} "
                f"{byte_size(result.peak_bytes):>9} {result.matrix_peak_share:>15.0%}"
                + (f"   from {result.measured_steps} of {result.steps} steps" if result.partial else "")
            )
        lines += [f"{entry['size']:>10} {entry['method']:>7} skipped: {entry['reason']}" for entry in self.skipped]
        lines += [tile.line() for tile in self.tiles]
        for size, ratios in self.ratios.items():
            lines.append(f"{size:>10} " + ", ".join(f"{name} {value:.1f}" for name, value in ratios.items()))
        return lines


def run_bench_fit(
    sizes: Sequence[str] = SIZES,
    images: int | None = None,
    *,
    methods: Sequence[str] = METHODS,
    steps: int | None = None,
) -> BenchFitReport:
    """Measure the methods on pictures of each size.

    Args:
        sizes: HEIGHTxWIDTH.
        images: Pictures of each size; by default `MANY` small ones, or as many large ones as there are cores.
        methods: Some of `METHODS`.
        steps: Of the recipe `thesis`, the others in proportion; by default the recipe's own.

    Raises:
        ConfigError: a size that cannot be read.
    """
    threads = available_cores()
    shapes = [parse_size(size) for size in sizes]
    fit = FitSection() if steps is None else FitSection(steps=steps)
    jobs, skipped = [], []
    for shape, method in product(shapes, methods):
        n_pixels = shape[0] * shape[1]
        if method == "siren" and n_pixels > SIREN_PIXELS and images != 1:
            reason = f"more than {SIREN_PIXELS} pixels; --images 1 measures it on one picture"
            skipped.append({"size": f"{shape[0]}x{shape[1]}", "method": method, "reason": reason})
            continue
        alone = method == "loop" and n_pixels > LOOP_PIXELS
        many = MORE if method in QUICK else MANY
        jobs.append((shape, method, 1 if alone else images or (many if n_pixels <= SMALL else threads)))
    results: list[FitResult] = []
    with Progress("bench fit", len(jobs) + 2, "measurements") as bar:
        records, peak = in_fresh_process(prepare, fit, threads, "basis" in methods)
        for shape, method, count in jobs:
            bar.update(1 + len(results), now=f"{shape[0]}x{shape[1]} {method}")
            results.append(in_fresh_process(measure, shape, method, count, fit, records, peak, threads))
        bar.update(1 + len(results), now="tiles")
        tiles = in_fresh_process(measure_tiles, records["concat"])
    return BenchFitReport(tuple(results), peak / 1e9, threads, tuple(skipped), tuple(tiles))


def parse_size(text: str) -> tuple[int, int]:
    """Read HEIGHTxWIDTH.

    Raises:
        ConfigError: it is something else.
    """
    height, cross, width = text.strip().partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ConfigError(f"{text!r} is no size.", details=["expected HEIGHTxWIDTH"], fix=["--sizes 32x32,375x500"])
    return int(height), int(width)


def prepare(fit: FitSection, threads: int, with_basis: bool) -> tuple[Records, float]:
    """Pretrain a decoder of each kind, by kind, and measure the machine's matrix peak, operations a second."""
    import torch

    from arcpipe.arc.learn_basis import learn_basis
    from arcpipe.arc.pretrain import pretrain_decoder
    from arcpipe.bench.photographs import photographs

    torch.set_num_threads(threads)
    pictures = photographs((32, 32), DECODER_IMAGES)
    decoder, _ = pretrain_decoder(pictures, fit, range(DECODER_IMAGES), seed=0, channels=3)
    records: Records = {"concat": decoder.to_record()}
    if with_basis:
        pieces = photographs((128, 128), DECODER_IMAGES)
        learned = FitSection(recipe="basis").model_copy(update={"pretrain_steps": BASIS_STEPS})
        records["basis"] = learn_basis(pieces, learned, 0, 3)[0].to_record()
    return records, matrix_peak()


def measure(
    shape: tuple[int, int],
    method: str,
    count: int,
    fit: FitSection,
    records: Records,
    peak: float,
    threads: int,
) -> FitResult:
    """Fit some pictures by one method in this process."""
    import torch

    from arcpipe.arc.engine import decoder_of
    from arcpipe.arc.metrics import psnr
    from arcpipe.bench import methods
    from arcpipe.bench.photographs import photographs

    torch.set_num_threads(threads)
    decoder, run, whole = decoder_of(records["basis" if method == "basis" else "concat"]), methods.METHODS[method], fit
    if method == "loop" and shape[0] * shape[1] > LOOP_PIXELS:
        fit = fit.model_copy(update={"steps": min(fit.steps, LOOP_STEPS)})
    run(photographs((16, 16), 1), decoder, fit.model_copy(update={"steps": 4}))
    pictures = photographs(shape, count)
    if method == "siren":
        run = partial(methods.siren, goals=methods.engine_psnr(pictures, decoder, fit))
    share, taken = whole.steps / fit.steps, list[float]()
    while sum(taken) < LEAST_S:
        before = time.perf_counter()
        fitted = run(pictures, decoder, fit)
        taken.append(time.perf_counter() - before)
    seconds = float(np.median(taken)) * share / count
    peak_bytes = peak_memory()
    made = fitted.render()[:MANY]
    quality = np.mean([psnr(picture, own) for picture, own in zip(pictures, made, strict=False)])
    work = matrix_operations(method, shape[0] * shape[1], fit)
    return FitResult(
        size=f"{shape[0]}x{shape[1]}",
        method=method,
        images=count,
        steps=round(fitted.steps * share),
        seconds_per_image=seconds,
        psnr=float(quality),
        peak_bytes=peak_bytes,
        matrix_peak_share=work * fitted.steps * share / seconds / peak,
        measured_steps=round(fitted.steps),
    )


def matrix_operations(method: str, n_pixels: int, fit: FitSection) -> float:
    """Operations of a method's matrix products in one step of one picture, each product forward and back once.

    Autograd multiplies every supervised pixel by the whole first layer, the engine every latent once for each slot.
    """
    from arcpipe.arc.anchors import count_anchors
    from arcpipe.bench.methods import SIREN_LAYERS, SIREN_WIDTH

    if method == "siren":
        # The weights move too: a product forward, two back.
        return 6.0 * n_pixels * (SIREN_WIDTH * 5 + (SIREN_LAYERS - 1) * SIREN_WIDTH**2)
    width = fit.hidden_widths[0]
    if method in ("loop", "batch"):
        return 4.0 * fit.pixel_share * n_pixels * fit.neighbours * (fit.latent_dim + 2) * width
    return 4.0 * count_anchors(n_pixels, fit) * fit.latent_dim * fit.neighbours * width
