"""The plan, printed by `--dry-run`: what would be made, of what size, and how long it takes by a timed sample."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from arcpipe import seeds
from arcpipe.convert.plan import PIXEL_STEPS_PER_CORE_S, PartPlan, Plan, estimate
from arcpipe.convert.task import Group, Image, fit_group, fitter_of, read_sample
from arcpipe.convert.work import Work, prepare
from arcpipe.progress import byte_size, counted, duration
from arcpipe.sources import Inventory, Sample, open_source
from arcpipe.storage import Storage
from arcpipe.threads import compute_threads, set_compute_threads

SAMPLE_S = 2.0
"""Seconds that the timed sample should take, on an idle machine."""
SAMPLE_PIXELS = 2**16


@dataclass(frozen=True)
class Timing:
    """What fitting a few images for real took here; the decoder is random, which changes no time."""

    images: int
    pixels: int
    steps: int
    seconds: float
    microseconds_per_pixel: float
    """With all steps, on the threads of one worker."""


@dataclass(frozen=True)
class DryRunReport:
    """The plan, printed by `--dry-run`."""

    store: Storage
    splits: Mapping[str, tuple[int, int]]
    """Samples and parts of each split."""
    parts_before: int
    """Parts that are there already; what follows counts the others."""
    classes: tuple[str, ...]
    channels: int
    clouds: int
    pixels: int
    sizes: Mapping[str, tuple[int, int] | None]
    """(height, width) of the smallest, the median and the largest image, after shaping."""
    expected_bytes: int
    """At most so many."""
    free_bytes: int | None
    workers: int
    expected_core_s: float
    expected_s: float
    timing: Timing | None
    """None where nothing is left to do or no image of the sample could be fitted: then `expected_core_s` is a guess."""
    memory_bytes: int
    """Of one worker."""
    failing: tuple[str, ...]
    """Why samples fail that their headers already show to fail; each names its sample."""
    failing_by_reason: Mapping[str, int]

    def check(self) -> None:
        """A plan has nothing to complain about."""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "store": str(self.store)}

    def lines(self) -> list[str]:
        classes = ", ".join(self.classes[:8]) + (", ..." if len(self.classes) > 8 else "")
        more = len(self.failing) - 10
        there = [f"  {self.parts_before} parts are there already"] if self.parts_before else []
        what = f"{self.clouds} clouds of {self.pixels} pixels, {counted(self.channels, 'channel', 'channels')}"
        sizes = [f"{name} {size[0]}x{size[1]}" for name, size in self.sizes.items() if size]
        free = "" if self.free_bytes is None else f" of {byte_size(self.free_bytes)} that are free"
        return [
            f"{self.store}: {what}",
            *there,
            *(f"  {split}: {samples} samples in {parts} parts" for split, (samples, parts) in self.splits.items()),
            f"  {counted(len(self.classes), 'class', 'classes')}: {classes}",
            f"  sizes (height x width): {', '.join(sizes)}",
            f"  up to {byte_size(self.expected_bytes)}{free}",
            *self._time_lines(),
            f"  about {byte_size(self.memory_bytes)} of memory in each worker",
            *(f"  failures expected, {reason}: {count}" for reason, count in self.failing_by_reason.items()),
            *(f"  will fail: {reason}" for reason in self.failing[:10]),
            *([f"  and {more} more will fail"] if more > 0 else []),
            "nothing was written: this was a dry run",
        ]

    def _time_lines(self) -> list[str]:
        wall = f"{duration(self.expected_s)} on {counted(self.workers, 'worker', 'workers')}"
        if self.timing is None:
            return [f"  about {wall}, by the planned speed"]
        took = f"{counted(self.timing.images, 'image', 'images')} fitted here in {duration(self.timing.seconds)}"
        return [
            f"  about {wall} ({self.timing.microseconds_per_pixel:.0f} µs a pixel), by a timed sample:",
            f"  {took} with {self.timing.steps} steps, the machine as busy as it is; pretraining comes on top",
        ]


def plan_report(plan: Plan, todo: Sequence[PartPlan], work: Work, n_workers: int, scratch: Path) -> DryRunReport:
    """Put the plan together and time a sample of it. Writes nothing but to `scratch`."""
    config, inventory = plan.config, plan.inventory
    expected, space = estimate(todo, config), config.out.free_space()
    timing = time_sample(work, inventory, scratch) if todo else None
    core_s = expected.core_s if timing is None else expected.pixels * timing.microseconds_per_pixel / 1e6
    samples = [sample for rows in inventory.samples.values() for sample in rows]
    sizes = sorted((sample.size for sample in samples if sample.size and sample.reason is None), key=math.prod)
    places = {"smallest": 0, "median": len(sizes) // 2, "largest": -1}
    failing = [sample.reason for sample in samples if sample.reason is not None]
    return DryRunReport(
        store=config.out,
        splits={split: (count["samples"], count["parts"]) for split, count in plan.header.splits.items()},
        parts_before=len(plan.parts) - len(todo),
        classes=inventory.classes,
        channels=inventory.channels,
        clouds=expected.clouds,
        pixels=expected.pixels,
        sizes={name: sizes[place] if sizes else None for name, place in places.items()},
        expected_bytes=expected.n_bytes,
        free_bytes=space[1] if space else None,
        workers=n_workers,
        expected_core_s=core_s,
        expected_s=core_s / max(1, min(n_workers, len(todo))),
        timing=timing,
        memory_bytes=_peak_bytes(todo, work),
        failing=tuple(failing),
        failing_by_reason=dict(Counter(map(_kind, failing)).most_common()),
    )


def time_sample(work: Work, inventory: Inventory, scratch: Path) -> Timing | None:
    """Fit a few images with fewer steps, twice, and extrapolate: a fit's time is a constant and a part per step."""
    from arcpipe.arc.engine import first_record

    threads = compute_threads()
    try:
        device = prepare(work)
        record = first_record(work.fit, inventory.channels, work.config.seed)
        fitter = fitter_of(work, record, device)
        group = _sample_images(work, inventory, scratch)
        if not group:
            return None

        def timed_fit(images: Group, steps: int) -> float:
            started = time.perf_counter()
            shorter = replace(fitter, settings=work.fit.model_copy(update={"steps": steps}))
            fit_group(images, shorter, work, {"fit": 0.0, "finish": 0.0})
            return time.perf_counter() - started

        pixels = sum(image.shape[0] * image.shape[1] for _, image in group)
        steps = max(4, min(work.fit.steps, int(SAMPLE_S * PIXEL_STEPS_PER_CORE_S / pixels)))
        few = max(1, steps // 4)
        timed_fit(group[:1], 1)  # compiles, loads libraries
        short, long = timed_fit(group, few), timed_fit(group, steps)
        per_step = max(long - short, 0) / max(steps - few, 1)
        whole = max(long - per_step * steps, 0) + per_step * work.fit.steps
        return Timing(len(group), pixels, steps, short + long, whole / (pixels * work.fit.clouds_an_image) * 1e6)
    finally:
        set_compute_threads(threads)


def _sample_images(work: Work, inventory: Inventory, scratch: Path) -> Group:
    """Images drawn from all splits, up to so many pixels; at least one if any can be read."""
    samples = [sample for rows in inventory.samples.values() for sample in rows if sample.reason is None]
    seed = work.config.seed
    source = open_source(work.config.source, seed=seed, download=False, scratch=scratch)
    group: list[tuple[Sample, Image]] = []
    pixels = 0
    for row in seeds.generator(seed, "timed sample").permutation(len(samples))[:64]:
        image, _ = read_sample(source, samples[row], work)
        if image is None:
            continue
        area = image.shape[0] * image.shape[1]
        if group and pixels + area > SAMPLE_PIXELS:
            break
        group.append((samples[row], image))
        pixels += area
    return group


def _peak_bytes(todo: Sequence[PartPlan], work: Work) -> int:
    """The most memory that a worker takes for any of the parts, by the model that keeps it within its budget."""
    sizes = ([sample.size for sample in part.samples if sample.reason is None] for part in todo)
    return max((work.needs.peak(rows, work.memory_bytes, max(1, work.threads)) for rows in sizes), default=0)


def _kind(reason: str) -> str:
    """Headers are told in sentences; their kind is what comes after the name."""
    for kind, words in {"too large": "large", "too small": "small", "empty": "empty", "cut off": "cut off"}.items():
        if words in reason:
            return kind
    return "unreadable"
