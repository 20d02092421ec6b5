"""What a conversion says when it ends."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arcpipe.cloud import FailedSample
from arcpipe.errors import TooManyFailuresError
from arcpipe.progress import byte_size, counted, duration
from arcpipe.store import PartRecord, open_store


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one split: `samples` committed + `failed` = `planned`."""

    planned: int
    samples: int
    failed: int
    clouds: int
    points: int
    pixels: int
    parts: int
    mean_psnr: float | None
    """None if no cloud was made."""


@dataclass(frozen=True)
class ConvertReport:
    """The closing summary of `arcpipe convert`."""

    store: Path
    splits: Mapping[str, SplitSummary]
    failures: tuple[FailedSample, ...]
    seconds: float
    clouds_made: int
    parts_before: int
    bytes_by_array: Mapping[str, int]
    decoder_sha256: str
    n_classes: int
    workers: int
    """Workers of this run; 0 if nothing was left to do."""
    max_failed: float
    """Failed samples that are accepted: below 1 a share, else a number."""

    @property
    def failed(self) -> int:
        return sum(split.failed for split in self.splits.values())

    @property
    def planned(self) -> int:
        return sum(split.planned for split in self.splits.values())

    def check(self) -> None:
        """Raise `TooManyFailuresError` if more samples failed than are accepted."""
        allowed = self.max_failed * self.planned if self.max_failed < 1 else self.max_failed
        if self.failed > allowed:
            raise TooManyFailuresError(
                f"{self.store} is done, but {self.failed} of {self.planned} samples failed.",
                details=[f"expected at most {allowed:g} (--max-failed {self.max_failed:g}), found {self.failed}"],
                fix=[f"--max-failed {self.failed} accepts them", "mend the images, then the same with --retry-failed"],
            )

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        return {**values, "store": str(self.store), "failed": self.failed, "planned": self.planned}

    def lines(self) -> list[str]:
        pixels = sum(split.pixels for split in self.splits.values())
        total_bytes = sum(self.bytes_by_array.values())
        lines = [f"{self.store}: {self._work_done()}"]
        for name, split in self.splits.items():
            counts = f"{split.samples} samples + {split.failed} failed = {split.planned}"
            quality = "" if split.mean_psnr is None else f", mean PSNR {split.mean_psnr:.2f} dB"
            lines.append(
                f"  {name}: {counts}; {split.clouds} clouds, {split.points} anchors in {split.parts} parts{quality}"
            )
        per_pixel = [f"{name} {size / max(pixels, 1):.3f}" for name, size in self.bytes_by_array.items()]
        lines.append(f"  {byte_size(total_bytes)}, bytes a pixel: {', '.join(per_pixel)}")
        lines.append(f"  decoder {self.decoder_sha256[:8]}")
        lines += self._failure_lines()
        return lines + self._next()

    def _work_done(self) -> str:
        if not self.workers:
            return f"nothing left to do, all {self.parts_before} parts were there before"
        speed = f"{self.clouds_made / self.seconds:.1f} images/s on {counted(self.workers, 'worker', 'workers')}"
        made = f"{counted(self.clouds_made, 'cloud', 'clouds')} in {duration(self.seconds)} ({speed})"
        return f"{made}; {self.parts_before} parts were there before" if self.parts_before else made

    def _next(self) -> list[str]:
        """Commands that work on this store: nothing can be drawn of no cloud, nor learned from one class."""
        store, commands = shlex.quote(str(self.store)), []
        if any(split.clouds for split in self.splits.values()):
            commands.append(f"arcpipe inspect {store}")
        if self.n_classes > 1 and "train" in self.splits and self.splits["train"].clouds:
            commands.append(f"arcpipe train --store {store}")
        return [f"{'next:' if i == 0 else '     '} {command}" for i, command in enumerate(commands)]

    def _failure_lines(self) -> list[str]:
        reasons = Counter(failure.reason for failure in self.failures)
        lines = [f"  failed, {reason}: {count}" for reason, count in reasons.most_common()]
        shown = [f"    {_first_line(failure)}" for failure in self.failures[:5]]
        more = len(self.failures) - len(shown)
        return [*lines, *shown, *([f"    and {more} more"] if more > 0 else [])]


def _first_line(failure: FailedSample) -> str:
    line = failure.message.split("\n")[0]
    return line if failure.path in line else f"{failure.path}: {line}"


def summarise(
    path: Path, records: Sequence[tuple[PartRecord, bool]], *, seconds: float, workers: int, max_failed: float
) -> ConvertReport:
    """Read a finished store's own numbers into the closing summary. `records`: of all parts, and whether this run
    made them."""
    store = open_store(path)
    splits: dict[str, SplitSummary] = {}
    failures: list[FailedSample] = []
    for split in store.splits:
        parts = store.parts(split)
        quality = store.psnr(split)
        lost = store.failures(split)
        failures += lost
        splits[split] = SplitSummary(
            planned=sum(part.n_samples for part in parts),
            samples=sum(part.n_samples - part.n_failures for part in parts),
            failed=len(lost),
            clouds=sum(part.n_clouds for part in parts),
            points=sum(part.n_points for part in parts),
            pixels=sum(part.n_pixels for part in parts),
            parts=len(parts),
            mean_psnr=float(np.mean(quality)) if len(quality) else None,
        )
    n_bytes: Counter[str] = Counter()
    for record, _ in records:
        n_bytes.update(record.bytes)
    return ConvertReport(
        store=path,
        splits=splits,
        failures=tuple(failures),
        seconds=seconds,
        clouds_made=sum(record.clouds for record, new in records if new),
        parts_before=sum(not new for _, new in records),
        bytes_by_array=dict(n_bytes.most_common()),
        decoder_sha256=store.decoder.sha256,
        n_classes=len(store.classes),
        workers=workers,
        max_failed=max_failed,
    )


@dataclass(frozen=True)
class DryRunReport:
    """The plan, printed by `--dry-run`."""

    store: Path
    splits: Mapping[str, tuple[int, int]]
    """Samples and parts of each split."""
    parts_before: int
    """Parts that are there already; what follows counts the others."""
    classes: tuple[str, ...]
    channels: int
    clouds: int
    pixels: int
    expected_bytes: int
    expected_core_s: float
    failing: tuple[str, ...]
    """Why samples fail that their headers already show to fail; each names its sample."""

    def check(self) -> None:
        """A plan has nothing to complain about."""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "store": str(self.store)}

    def lines(self) -> list[str]:
        classes = ", ".join(self.classes[:8]) + (", ..." if len(self.classes) > 8 else "")
        more = len(self.failing) - 10
        there = [f"  {self.parts_before} parts are there already"] if self.parts_before else []
        what = f"{self.clouds} clouds of {self.pixels} pixels, {counted(self.channels, 'channel', 'channels')}"
        return [
            f"{self.store}: {what}",
            *there,
            *(f"  {split}: {samples} samples in {parts} parts" for split, (samples, parts) in self.splits.items()),
            f"  {counted(len(self.classes), 'class', 'classes')}: {classes}",
            f"  about {byte_size(self.expected_bytes)} and {duration(self.expected_core_s)} of one core",
            *(f"  will fail: {reason}" for reason in self.failing[:10]),
            *([f"  and {more} more will fail"] if more > 0 else []),
            "nothing was written: this was a dry run",
        ]
