"""Everything that a GPU should prove, in one command: python benchmarks/gpu.py --out gpu.json [--quick] [--device cpu]

On a card it takes at most 9 minutes, needs no network and no Dask cluster, and writes after every section, so that what
was measured is there whatever comes next:

* machine: the card, its measured matrix peaks and memory bandwidth;
* parity: clouds of every kernel beside those of the CPU, in numbers and in dB, and whether the device was ever asked;
* fits: images a second by size and recipe, beside one image at a time through autograd on the same device;
* training: steps of the small and the large preset, beside the CPU's losses and clouds a second;
* convert: whole conversions of made images by `--gpus 1`, by the workers that share the GPU, and its utilisation;
* profile: where the time of a fit and of a step goes.

A section whose packages are missing is skipped with the reason. `--device cpu --quick` rehearses all of it in minutes.
`python benchmarks/gpu.py --page gpu.json --plot docs/gpu.png` prints the tables of docs/gpu.md and draws its figure.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arcpipe.arc.basis import Basis
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.engine import decode, decoder_of
from arcpipe.arc.kernels import batch_kernel
from arcpipe.arc.kernels.basis_batch import Batch
from arcpipe.arc.kernels.basis_kernel import BasisKernel
from arcpipe.arc.kernels.batch_kernel import BatchKernel
from arcpipe.arc.kernels.numba_kernel import NumbaKernel
from arcpipe.arc.kernels.torch_kernel import TorchKernel
from arcpipe.arc.metrics import psnr
from arcpipe.arc.problem import FittedCloud
from arcpipe.arc.reference import ReferenceCloud, decode_reference
from arcpipe.cloud import DecoderRecord
from arcpipe.config import FitSection

LIMIT_S = 9 * 60
SIZES = {(32, 32): 2048, (224, 224): 64, (375, 500): 22}
QUICK_SIZES = {(32, 32): 6, (40, 60): 2}
LOOP_STEPS = 50
Clouds = Sequence[FittedCloud]


class Bench:
    """What all sections share. `found` is the document; a section adds its own part."""

    def __init__(self, device: torch.device, quick: bool, out: Path) -> None:
        self.device, self.quick, self.out, self.began = device, quick, out, time.monotonic()
        self.sizes = QUICK_SIZES if quick else SIZES
        self.thesis = FitSection(steps=8, pretrain_steps=8) if quick else FitSection()
        self.basis_fit = FitSection(recipe="basis")
        self.found: dict[str, Any] = {"quick": quick, "sections": {}, "skipped": {}}
        self.records: dict[str, DecoderRecord] = {}

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left_s(self) -> float:
        return LIMIT_S - (time.monotonic() - self.began)

    def section(self, name: str, work: Callable[[Bench], Any]) -> None:
        """Do a section and write the document; what goes wrong is part of it."""
        started = time.monotonic()
        if self.left_s < 30:
            self.found["skipped"][name] = "no time left"
        else:
            try:
                self.found["sections"][name] = work(self)
            except Exception as error:
                self.found["skipped"][name] = f"{type(error).__name__}: {str(error)[:300]}"
        seconds = time.monotonic() - started
        self.found.setdefault("seconds", {})[name] = round(seconds, 1)
        self.out.write_text(json.dumps(self.found, indent=1))
        print(f"{name}: {self.found['skipped'].get(name, 'done')} ({seconds:.0f} s)", file=sys.stderr, flush=True)

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], least_s: float = 1.0, most: int = 20) -> float:
        """The median of several calls after one that is not counted, each until the device is done."""
        times: list[float] = []
        for i in range(1 + (2 if self.quick else most)):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            if i:
                times.append(time.perf_counter() - started)
            if sum(times) > least_s:
                break
        return statistics.median(times)

    def solvers(self) -> list[str]:
        able = self.on_gpu or os.environ.get("TRITON_INTERPRET") == "1"
        return ["torch", "triton"] if able and batch_kernel.has_triton() else ["torch"]


def machine(bench: Bench) -> dict[str, Any]:
    """The card, its peaks in large products, and a copy's bandwidth (bytes read and written)."""
    side = 512 if bench.quick else 8192
    peaks = {}
    for name, kind, tf32 in (
        ("bfloat16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        matrix = torch.randn(side, side, device=bench.device, dtype=kind)
        peaks[name] = 2 * side**3 / bench.seconds(lambda: matrix @ matrix, 0.5) / 1e12  # noqa: B023
    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.empty((1 << (24 if bench.quick else 31)) // 4, device=bench.device)
    made = torch.empty_like(source)
    copied = 2 * source.nbytes / bench.seconds(lambda: made.copy_(source), 0.5)
    from importlib.util import find_spec

    return {
        "device": torch.cuda.get_device_name() if bench.on_gpu else "CPU",
        "torch": torch.__version__,
        "triton": __import__("triton").__version__ if find_spec("triton") else None,
        "python": sys.version.split()[0],
        "threads": torch.get_num_threads(),
        "peak_tflops": peaks,
        "bandwidth_gb_s": copied / 1e9,
    }


def decoders(bench: Bench) -> dict[str, Any]:
    """A decoder of each kind, learned on the CPU."""
    from arcpipe.bench.fit import prepare

    bench.records, peak = prepare(bench.thesis, torch.get_num_threads(), True)
    return {"cpu_matrix_peak_gflops": peak / 1e9}


def pictures(size: tuple[int, int], count: int) -> list[Any]:
    from arcpipe.bench.photographs import photographs

    different = photographs(size, min(count, 64))
    return [different[i % len(different)] for i in range(count)]


def quality(clouds: Clouds, images: Sequence[Any], decoder: Decoder | Basis) -> float:
    """Mean PSNR in dB, decoded by the CPU."""
    made = [
        psnr(image, decode(c.latents, c.positions, image.shape[:2], decoder, c.relative, c.neighbours, scales=c.scales))
        for c, image in zip(clouds, images, strict=True)
    ]
    return float(np.mean(made))


def parity(bench: Bench) -> list[dict[str, Any]]:
    """Every kernel beside the CPU's on the same images."""
    rows = []
    concat, basis = (decoder_of(bench.records[kind]) for kind in ("concat", "basis"))
    assert isinstance(concat, Decoder)
    assert isinstance(basis, Basis)
    for size, count in bench.sizes.items():
        images = pictures(size, min(count, 256 if size[0] * size[1] < 2**12 else 2))
        seeds, memory = range(len(images)), 2**30
        kernels = {f"basis, {name}": BatchKernel(basis.to(bench.device), name) for name in bench.solvers()}
        cases: list[tuple[str, Any, FitSection, Any, Any]] = [
            (name, basis, bench.basis_fit, BasisKernel(basis), kernel) for name, kernel in kernels.items()
        ]
        if size[0] * size[1] <= 2**16 or bench.left_s > 300:
            there = concat.to(bench.device)
            cases += [
                (f"thesis, {name}", concat, bench.thesis, NumbaKernel(concat), TorchKernel(there, name))
                for name in bench.solvers()
            ]
        for name, decoder, fit, ours, theirs in cases:
            expected, found = (kernel.run(images, fit, seeds, memory) for kernel in (ours, theirs))
            gaps = [np.abs(a.latents - b.latents).max() for a, b in zip(expected, found, strict=True)]
            cpu_db, db = quality(expected, images, decoder), quality(found, images, decoder)
            rows.append({"size": f"{size[0]}x{size[1]}", "kernel": name, "images": len(images), "cpu_db": cpu_db})
            rows[-1] |= {"db": db, "difference_db": db - cpu_db, "largest_latent_gap": float(max(gaps))}
            same = all((a.positions == b.positions).all() for a, b in zip(expected, found, strict=True))
            rows[-1] |= {"same_positions": same}
            if isinstance(theirs, BatchKernel):
                rows[-1] |= {"measured_gap_db": abs(float(np.mean(theirs.measure(found, images))) - db)}
    return rows


def silence(bench: Bench) -> dict[str, str]:
    """Whether anything asks the device for a number between the pixels and the latents: torch itself refuses it."""
    basis, images = decoder_of(bench.records["basis"]), pictures((32, 32), 8)
    assert isinstance(basis, Basis)
    basis, fit, answers = basis.to(bench.device), bench.basis_fit, {}
    for name in bench.solvers():
        kernel = BatchKernel(basis, name)
        placed = kernel.place(images, fit, range(len(images)))
        try:
            with asking_refused(bench):
                batch = Batch.lay(images, *placed, basis, bench.device)
                kernel.solve(batch, kernel.profiles, fit.patch, fit.damping)
            answers[name] = "never asked"
        except RuntimeError as error:
            answers[name] = str(error)[:200]
    return answers


@contextmanager
def asking_refused(bench: Bench) -> Iterator[None]:
    if bench.on_gpu:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if bench.on_gpu:
            torch.cuda.set_sync_debug_mode("default")


def fits(bench: Bench) -> list[dict[str, Any]]:
    """Images a second: what the device does once anchors are drawn, and the whole fit with the CPU's share."""
    rows = []
    concat, basis = (decoder_of(bench.records[kind], bench.device) for kind in ("concat", "basis"))
    assert isinstance(concat, Decoder)
    assert isinstance(basis, Basis)
    for size, count in bench.sizes.items():
        images, area = pictures(size, count), size[0] * size[1]
        label = f"{size[0]}x{size[1]}"
        for name in bench.solvers():
            kernel = BatchKernel(basis, name)
            seconds = bench.seconds(lambda: kernel.place(images, bench.basis_fit, range(count)), most=3)  # noqa: B023
            rows.append({"size": label, "what": f"what the CPU does for {name}", "images_s": count / seconds})
        for name in bench.solvers():
            rows.append({"size": label, "what": f"basis, {name}", **basis_speed(bench, basis, name, images)})
            kernel = BatchKernel(basis, name)
            clouds = kernel.run(images, bench.basis_fit, range(count), 0)
            seconds = bench.seconds(lambda: kernel.measure(clouds, images), most=3)  # noqa: B023
            rows.append({"size": label, "what": f"basis, PSNR by {name}", "images_s": count / seconds})
        for name in bench.solvers():
            thesis = TorchKernel(concat, name)
            seconds = bench.seconds(lambda: thesis.run(images, bench.thesis, range(count), 2**33), most=2)  # noqa: B023
            work = thesis_work(area, bench.thesis)
            rows.append(
                {"size": label, "what": f"thesis, {name}", "images_s": count / seconds}
                | shares(bench, work, 0, seconds / count)
            )
        seconds = autograd_seconds(bench, images[0], concat)
        rows.append({"size": label, "what": f"autograd, one image, from {LOOP_STEPS} steps", "images_s": 1 / seconds})
    return rows


def tuning(bench: Bench) -> list[dict[str, Any]]:
    """Images a second of the Triton kernels by what was chosen without a measurement, and dB beside how it is set."""
    if "triton" not in bench.solvers():
        return []
    from arcpipe.arc.kernels import basis_triton, steps_triton

    size = next(iter(bench.sizes))
    images = pictures(size, bench.sizes[size])
    few, seeds = images[:256], range(len(images))
    rows = []
    cases: list[tuple[str, Any, FitSection, Any, dict[str, tuple[Any, ...]]]] = [
        ("basis", BatchKernel, bench.basis_fit, basis_triton, {"WARPS": (1, 2, 4, 8), "CHUNK": (16, 32)}),
        ("thesis", TorchKernel, bench.thesis, steps_triton, {"WARPS": (4, 8, 16), "PIXELS": (16, 32)}),
    ]
    for recipe, kernel, fit, tuned, choices in cases:
        decoder = decoder_of(bench.records["concat" if recipe == "thesis" else recipe])
        assert isinstance(decoder, Decoder | Basis)
        there = kernel(decoder.to(bench.device), "triton")
        usual = quality(there.run(few, fit, seeds[: len(few)], 2**33), few, decoder)
        for name, values in {**choices, "PRODUCTS": ("tf32x3", "tf32")}.items():
            before = getattr(tuned, name)
            for value in values:
                setattr(tuned, name, value)
                row: dict[str, Any] = {"recipe": recipe, "what": f"{name} {value}"}
                try:
                    seconds = bench.seconds(lambda: there.run(images, fit, seeds, 2**33), 0.2, 3)  # noqa: B023
                    db = quality(there.run(few, fit, seeds[: len(few)], 2**33), few, decoder)
                    row |= {"images_s": len(images) / seconds, "difference_db": db - usual}
                except Exception as error:  # what does not fit the card is an answer, too
                    row["failed"] = f"{type(error).__name__}: {str(error)[:100]}"
                rows.append(row)
            setattr(tuned, name, before)
    return rows


def basis_speed(bench: Bench, basis: Basis, name: str, images: Sequence[Any]) -> dict[str, Any]:
    """Of the solver of one name: all that the device does once anchors are drawn, and `run` as a user has it."""
    kernel, fit = BatchKernel(basis, name), bench.basis_fit
    most = batch_kernel.GROUP_PIXELS[name] // (images[0].shape[0] * images[0].shape[1])
    images = images[:most]
    placed = kernel.place(images, fit, range(len(images)))
    batch = Batch.lay(images, *placed, basis, bench.device)

    def device_only() -> None:
        batch = Batch.lay(images, *placed, basis, bench.device)
        kernel.solve(batch, kernel.profiles, fit.patch, fit.damping)

    alone = bench.seconds(device_only)
    whole = bench.seconds(lambda: kernel.run(images, fit, range(len(images)), 2**30))
    pairs, anchors, pixels = int((batch.shares > 0).sum()), len(batch.anchors), len(batch.places)
    channels, width = batch.target.shape[1], kernel.profiles.values.shape[2]
    # Products of every pair with a share and factors of every anchor; pixels, pairs and latents go through memory once.
    work = pairs * channels * width * 2 * (width + 1) + anchors * width**3 / 3
    moved = pixels * 4 * (channels + 3) + pairs * 8 + anchors * 4 * (width + 4)
    rates = {"images_s": len(images) / alone, "whole_images_s": len(images) / whole}
    return rates | shares(bench, work, moved, alone) | {"images": len(images)}


def thesis_work(area: int, fit: FitSection) -> float:
    from arcpipe.bench.fit import matrix_operations

    return matrix_operations("thesis", area, fit) * fit.steps


def shares(bench: Bench, work: float, moved: float, seconds: float) -> dict[str, float]:
    """Useful operations and least bytes of memory, as shares of what the card was measured to reach."""
    known = bench.found["sections"]["machine"]
    return {
        "share_of_float32_peak": work / seconds / 1e12 / known["peak_tflops"]["float32"],
        "share_of_bandwidth": moved / seconds / 1e9 / known["bandwidth_gb_s"],
    }


def autograd_seconds(bench: Bench, image: Any, decoder: Decoder) -> float:
    """One image through autograd as the equations stand, on the device; of `LOOP_STEPS` steps, in proportion."""
    fit = bench.thesis
    cloud = ReferenceCloud(image, fit, 0)
    for name in ("positions", "neighbours", "latents", "image"):
        setattr(cloud, name, getattr(cloud, name).to(bench.device))
    batches = [torch.from_numpy(pixels).to(bench.device) for pixels in cloud.batches]
    cloud.latents.requires_grad_(True)
    adam = torch.optim.Adam([cloud.latents], lr=fit.lr, betas=fit.betas, eps=fit.eps)
    steps = 2 if bench.quick else LOOP_STEPS

    def loop() -> None:
        for step in range(steps):
            pixels = batches[step % len(batches)]
            adam.zero_grad()
            torch.nn.functional.mse_loss(
                decode_reference(decoder, cloud.encode(pixels)), cloud.image[pixels]
            ).backward()
            adam.step()

    return bench.seconds(loop, most=3) * fit.steps / steps


def clouds_of(n_clouds: int, n_points: int, side: int) -> tuple[Any, ...]:
    """Clouds at random pixels with Gaussian latents."""
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.cat([torch.randperm(side * side, generator=drawn)[:n_points] for _ in range(n_clouds)])
    positions = torch.stack([pixels // side, pixels % side], 1).float()
    latents = torch.randn(len(pixels), 32, generator=drawn)
    return latents, positions, torch.arange(n_clouds + 1) * n_points


def training(bench: Bench) -> list[dict[str, Any]]:
    """Steps as `arcpipe train` makes them, batches made ready ahead; first losses beside the CPU's."""
    from arcpipe.config import ModelSection, OptimSection
    from arcpipe.models import build_model
    from arcpipe.models.share import Draw
    from arcpipe.stream.loader import Batch as TrainBatch
    from arcpipe.train.ahead import made_ready, plan_of
    from arcpipe.train.step import make_optimiser, train_step

    cases = (
        [("small", 16, 51, 32)]
        if bench.quick
        else [("small", 256, 51, 32), ("small", 1024, 51, 32), ("photo", 16, 2508, 224)]
    )
    rows = []
    for preset, n_clouds, n_points, side in cases:
        latents, positions, offsets = clouds_of(n_clouds, n_points, side)
        labels = torch.eye(10)[torch.arange(n_clouds) % 10]

        first = TrainBatch(latents, positions, offsets, labels, np.arange(n_clouds), 0, 0, n_clouds)

        def run(
            device: torch.device,
            precision: str,
            steps: int,
            preset: str = preset,
            first: Any = first,
            fuse: bool = False,
        ) -> Any:
            torch.manual_seed(0)
            model = build_model(ModelSection.model_validate({"preset": preset}), 32, 10).to(device).train()
            stepped: Any = torch.compile(model, dynamic=True) if fuse else model
            optim = OptimSection.model_validate({"precision": precision})
            optimiser, losses, moments = make_optimiser(model, optim, device), [], []
            batches = made_ready(
                (replace(first, index=i) for i in range(steps)), device,
                lambda made, step: plan_of(model, made, Draw(torch.Generator().manual_seed(step))),
            )  # fmt: skip
            for step, made in enumerate(batches):
                losses.append(train_step(stepped, optimiser, made, optim, 1e-3, step)[0])
                moments.append(time.perf_counter())
            gaps = np.diff(moments)[min(10, steps // 2) :]
            return losses, float(np.median(gaps)) if len(gaps) else float("nan")

        few, many = (4, 4) if bench.quick else (6, 60)
        cpu, cpu_step = run(torch.device("cpu"), "float32", few)
        ways = [("float32", False), ("bfloat16", False)]
        if bench.on_gpu and n_clouds == 1024:
            ways.append(("bfloat16", True))
        for precision, fuse in ways:
            rows.append({"preset": preset, "clouds": n_clouds, "points": n_points, "precision": precision})
            try:
                losses, step_s = run(bench.device, precision, many, fuse=fuse)
            except Exception as error:  # whether torch.compile takes the model is a part of the question
                if not fuse:
                    raise
                rows[-1] |= {"compiled": f"{type(error).__name__}: {str(error)[:100]}"}
                continue
            rows[-1] |= {"compiled": fuse, "clouds_s": n_clouds / step_s, "cpu_clouds_s": n_clouds / cpu_step}
            rows[-1] |= {
                "losses": losses[:few],
                "largest_loss_gap": float(np.abs(np.subtract(losses[:few], cpu)).max()),
            }
    return rows


def conversions(bench: Bench) -> list[dict[str, Any]]:
    """Whole conversions of made images, by one worker in this process or by several that share the device."""
    from PIL import Image

    from arcpipe.config import ConvertConfig, build
    from arcpipe.convert import run_convert
    from arcpipe.convert.report import ConvertReport

    rows = []
    if bench.quick:
        cases = [("basis", (32, 32), 24, 1), ("basis", (32, 32), 24, 2), ("thesis", (32, 32), 24, 1)]
    else:
        cases = [("basis", (32, 32), 16384, workers) for workers in (1, 2, 4, 8)]
        cases += [("thesis", (32, 32), 4096, workers) for workers in (1, 4)]
        cases += [("basis", (375, 500), 192, workers) for workers in (1, 4)]
        cases += [("thesis", (375, 500), 64, 1)]
    for name, size, count, n_workers in cases:
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder) / "train" / "class"
            images.mkdir(parents=True)
            for i, picture in enumerate(pictures(size, count)):
                Image.fromarray((255 * picture).astype(np.uint8)).save(images / f"{i:05}.jpg", quality=92)
            quick = {"steps": bench.thesis.steps} if name == "thesis" else {}
            config = build(
                ConvertConfig,
                {
                    "source": {"source": str(images.parents[1])},
                    "out": Path(folder) / "store.zarr",
                    "fit": {"recipe": name, "pretrain_steps": 8 if bench.quick else 60, "pretrain_images": 16, **quick},
                    "store": {} if bench.quick else {"part_samples": max(8, count // 32)},
                    "run": {"gpus": 1, "gpu_workers": n_workers} if bench.on_gpu else {},
                },
            )
            with workers(bench, n_workers) as cluster:
                started = time.perf_counter()
                with watched(bench) as used:
                    report = run_convert(config, cluster=cluster)
                seconds = time.perf_counter() - started
            assert isinstance(report, ConvertReport)
            stages = {stage: round(spent, 3) for stage, spent in report.seconds_by_stage.items()}
        rows.append({"size": f"{size[0]}x{size[1]}", "recipe": name, "workers": n_workers, "images": count})
        rows[-1] |= {"seconds": seconds}
        rows[-1] |= {"images_s": count / seconds, "stages_s": stages, "over_fit": seconds / max(stages["fit"], 1e-9)}
        rows[-1] |= {"utilisation": used}
    return rows


@contextmanager
def workers(bench: Bench, count: int) -> Iterator[Any]:
    """So many processes with the device, each ready for its first part; one of them is this process."""
    from arcpipe.cluster import Cluster

    threads = max(1, torch.get_num_threads() // count)
    if count == 1:
        with ThreadPoolExecutor(1) as pool:
            yield Cluster(pool, 1, threads, bench.device.type, None)
        return
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as processes:
        list(processes.map(ready, [bench.device] * count))
        yield Cluster(processes, count, threads, bench.device.type, None)


def ready(device: torch.device) -> None:
    """What a process does once, whatever it makes afterwards; it takes long enough that every process gets a call."""
    import arcpipe.arc.engine
    import arcpipe.convert.task  # noqa: F401

    torch.ones(1, device=device).sum().item()
    time.sleep(1)


@contextmanager
def watched(bench: Bench, every_s: float = 0.25) -> Iterator[list[int]]:
    """The GPU's utilisation in per cent over the time of the block; nothing on a CPU."""
    used: list[int] = []
    over = threading.Event()

    def watch() -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while bench.on_gpu and not over.wait(every_s):
            told = subprocess.run(command, capture_output=True, text=True).stdout.split()
            used.extend(int(number) for number in told[:1] if number.isdigit())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield used
    finally:
        over.set()
        thread.join()


def profiles(bench: Bench) -> dict[str, list[dict[str, Any]]]:
    """The ten kernels that take most of the device's time, in a fit of each recipe."""
    from torch.profiler import ProfilerActivity, profile

    size = next(iter(bench.sizes))
    images = pictures(size, min(bench.sizes[size], 256))
    concat, basis = (decoder_of(bench.records[kind], bench.device) for kind in ("concat", "basis"))
    assert isinstance(concat, Decoder)
    assert isinstance(basis, Basis)

    def solve_all(basis: Basis, name: str) -> Clouds:
        return BatchKernel(basis, name).run(images, bench.basis_fit, range(len(images)), 0)

    works: dict[str, Callable[[], Any]] = {
        f"basis, {name}": partial(solve_all, basis, name) for name in bench.solvers()
    }
    for name in bench.solvers():
        thesis = TorchKernel(concat, name)
        works[f"thesis, {name}"] = partial(thesis.run, images, bench.thesis, range(len(images)), 2**33)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.on_gpu else [])]
    found = {}
    for name, work in works.items():
        work()
        with profile(activities=kinds) as told:
            work()
            bench.wait()
        attribute = "self_device_time_total" if bench.on_gpu else "self_cpu_time_total"
        rows = sorted(told.key_averages(), key=lambda row: -getattr(row, attribute))[:10]
        found[name] = [
            {"kernel": row.key[:80], "calls": row.count, "ms": getattr(row, attribute) / 1e3} for row in rows
        ]
    return found


def page(document: dict[str, Any]) -> list[str]:
    """The tables of docs/gpu.md."""
    parts = document["sections"]
    known = parts.get("machine", {})
    peaks = ", ".join(f"{name} {value:.1f}" for name, value in known.get("peak_tflops", {}).items())
    lines = [
        f"{known.get('device')}, torch {known.get('torch')}, Triton {known.get('triton')}. Measured peaks in TFLOP/s: "
        f"{peaks}; memory {known.get('bandwidth_gb_s', 0):.0f} GB/s; {known.get('threads')} threads of the CPU."
    ]
    silent = ", ".join(f"{name} {answer}" for name, answer in parts.get("silence", {}).items())
    lines += ["", f"Between the pixels and the latents of the recipe `basis` the device was: {silent}."]
    for name, columns in {
        "parity": (
            "size",
            "kernel",
            "cpu_db",
            "db",
            "difference_db",
            "measured_gap_db",
            "largest_latent_gap",
            "same_positions",
        ),
        "fits": ("size", "what", "images_s", "whole_images_s", "share_of_float32_peak", "share_of_bandwidth"),
        "tuning": ("recipe", "what", "images_s", "difference_db", "failed"),
        "training": (
            "preset",
            "clouds",
            "points",
            "precision",
            "compiled",
            "clouds_s",
            "cpu_clouds_s",
            "largest_loss_gap",
        ),
        "convert": ("size", "recipe", "workers", "images", "seconds", "images_s", "over_fit", "stages_s"),
    }.items():
        lines += ["", f"**{name}**", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        for row in parts.get(name, []):
            lines.append(f"| {' | '.join(_cell(row.get(column)) for column in columns)} |")
    lines += [""] + [f"* skipped: {name}: {reason}" for name, reason in document["skipped"].items()]
    return lines


def draw(document: dict[str, Any], path: Path) -> None:
    """Images a second by size and method, and how busy the device was while whole sets were converted."""
    from matplotlib.figure import Figure

    fits, conversions = (document["sections"].get(name, []) for name in ("fits", "convert"))
    fits = [row for row in fits if not row["what"].startswith("what the CPU does")]
    sizes, methods = ([*dict.fromkeys(row[key] for row in fits)] for key in ("size", "what"))
    figure = Figure(figsize=(11, 4), layout="constrained")
    speed, busy = figure.subplots(1, 2)
    for i, method in enumerate(methods):
        own = [row for row in fits if row["what"] == method]
        places = [sizes.index(row["size"]) + 0.8 * (i + 0.5) / len(methods) - 0.4 for row in own]
        bars = speed.bar(places, [row["images_s"] for row in own], 0.8 / len(methods), label=method)
        speed.bar_label(bars, fmt=lambda value: f"{value:.3g}", fontsize=7)
    speed.set(yscale="log", ylabel="images a second", xticks=range(len(sizes)), xticklabels=sizes)
    speed.legend(fontsize=7)
    for row in conversions:
        used = row["utilisation"]
        seconds = np.linspace(0, row["seconds"], len(used))
        busy.plot(seconds, used, label=f"{row['recipe']}, {row['images']} of {row['size']}, {row['workers']} workers")
    busy.set(xlabel="seconds of a conversion", ylabel="utilisation of the GPU, %", ylim=(0, 105))
    busy.legend(fontsize=7)
    figure.savefig(path, dpi=150)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(part)}" for name, part in value.items())
    return "" if value is None else str(value)


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--out", type=Path, default=Path("gpu.json"))
    asked.add_argument("--device", default="cuda" if torch.cuda.is_available() else None)
    asked.add_argument("--quick", action="store_true", help="small sizes: a rehearsal")
    asked.add_argument("--page", type=Path, help="print the tables of this document instead")
    asked.add_argument("--plot", type=Path, help="with --page: a figure of it")
    options = asked.parse_args()
    if options.page:
        document = json.loads(options.page.read_text())
        print("\n".join(page(document)))
        if options.plot:
            draw(document, options.plot)
        return 0
    if options.device is None:
        print("no GPU here. A rehearsal on the CPU: python benchmarks/gpu.py --device cpu --quick", file=sys.stderr)
        return 2
    bench = Bench(torch.device(options.device), options.quick, options.out)
    for name, work in {
        "machine": machine,
        "decoders": decoders,
        "parity": parity,
        "silence": silence,
        "fits": fits,
        "tuning": tuning,
        "training": training,
        "convert": conversions,
        "profile": profiles,
    }.items():
        bench.section(name, work)
    print("\n".join(page(bench.found)))
    return 1 if bench.found["skipped"] else 0


if __name__ == "__main__":
    sys.exit(main())
