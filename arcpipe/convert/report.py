"""What a conversion says when it ends."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from arcpipe.cloud import FailedSample
from arcpipe.config import ConvertConfig
from arcpipe.errors import TooManyFailuresError
from arcpipe.progress import LOW_DB, byte_size, counted, duration, pace, quality_words
from arcpipe.storage import Storage
from arcpipe.store import PartRecord, open_store
from arcpipe.store.summary import (
    QUANTILES,
    SplitSummary,
    failed_by_reason,
    first_line,
    next_commands,
    summarise_store,
)

MORE = {
    "basis": "--latents or --latent-dim",
    "concat": "--latents, --latent-dim or --steps",
    "siren": "--steps, or a wider --set fit.hidden=[64,64]",
}
"""Which options make reconstructions better, by the decoder's kind: the others refuse or ignore them."""


@dataclass(frozen=True)
class ConvertReport:
    """The closing summary of `arcpipe convert`."""

    store: Storage
    splits: Mapping[str, SplitSummary]
    failures: tuple[FailedSample, ...]
    seconds: float
    clouds_made: int
    parts_before: int
    bytes_by_array: Mapping[str, int]
    seconds_by_stage: Mapping[str, float]
    """Of all workers together, of all parts. `write` only of those that this run made."""
    decoder_sha256: str
    decoder_kind: str
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

    @property
    def failed_by_reason(self) -> dict[str, int]:
        return failed_by_reason(self.failures)

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        sums = {"failed": self.failed, "planned": self.planned, "failed_by_reason": self.failed_by_reason}
        return {**values, "store": str(self.store), **sums, "next": self.next_commands()}

    def for_the_store(self) -> dict[str, Any]:
        """What the finished store keeps of it, in the attribute `totals`; failures are in the parts."""
        names = ("seconds", "workers", "bytes_by_array", "seconds_by_stage", "failed_by_reason")
        return {
            **{name: getattr(self, name) for name in names},
            "psnr": {split: summary.psnr for split, summary in self.splits.items()},
        }

    def lines(self) -> list[str]:
        lines = [f"{self.store}: {self._work_done()}", *_table(self.splits), *self._quality_lines()]
        stages = [f"{name} {duration(seconds)}" for name, seconds in self.seconds_by_stage.items()]
        lines.append(f"  time of all workers: {', '.join(stages)}")
        pixels = sum(split.pixels for split in self.splits.values())
        per_pixel = {name: size / max(pixels, 1) for name, size in self.bytes_by_array.items()}
        large = [f"{name} {share:.2f}" for name, share in per_pixel.items()][:4]
        rest = sum(list(per_pixel.values())[4:])
        total = byte_size(sum(self.bytes_by_array.values()))
        lines.append(f"  {total}; bytes a pixel: {', '.join(large)}, others {rest:.2f}")
        lines.append(f"  decoder {self.decoder_sha256[:8]}")
        lines += self._failure_lines()
        return lines + [f"{'next:' if i == 0 else '     '} {line}" for i, line in enumerate(self.next_commands())]

    def _quality_lines(self) -> list[str]:
        """Words for the mean PSNR, and a warning where it is low."""
        means = {name: split.mean_psnr for name, split in self.splits.items() if split.mean_psnr}
        if not means:
            return []
        mean = sum(means.values()) / len(means)
        lines = [f"  PSNR in dB; a mean of {mean:.1f} is: {quality_words(mean)}"]
        if mean < LOW_DB:
            lines.append(f"  warning: clouds hold little of their images; try more {MORE[self.decoder_kind]}")
        return lines

    def _work_done(self) -> str:
        if not self.workers:
            return f"nothing left to do, all {self.parts_before} parts were there before"
        one_each = all(split.clouds == split.samples for split in self.splits.values())
        unit = "images" if one_each else "clouds"  # with --repeats and --views an image is several
        speed = f"{pace(self.clouds_made / self.seconds, unit)} on {counted(self.workers, 'worker', 'workers')}"
        made = f"{counted(self.clouds_made, 'cloud', 'clouds')} in {duration(self.seconds)} ({speed})"
        return f"{made}; {self.parts_before} parts were there before" if self.parts_before else made

    def next_commands(self) -> list[str]:
        return next_commands(self.store, self.splits, self.n_classes, self.decoder_kind)

    def _failure_lines(self) -> list[str]:
        lines = [f"  failed, {reason}: {count}" for reason, count in self.failed_by_reason.items()]
        shown = [f"    {first_line(failure)}" for failure in self.failures[:5]]
        more = len(self.failures) - len(shown)
        return [*lines, *shown, *([f"    and {more} more"] if more > 0 else [])]


def _table(splits: Mapping[str, SplitSummary]) -> list[str]:
    """Rows of counts: samples + failed = planned; and of quality, where there is some."""
    head = ["", "samples", "failed", "planned", "clouds", "anchors", "parts", "PSNR worst", *QUANTILES[1:], "mean"]
    rows = [head]
    for name, split in splits.items():
        counts = (split.samples, split.failed, split.planned, split.clouds, split.points, split.parts)
        quality = [*split.psnr.values(), split.mean_psnr] if split.psnr else []
        rows.append([name, *(f"{count:,}" for count in counts), *(f"{value:.2f}" for value in quality if value)])
    first, *others = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(head))]
    # Names to the left, numbers to the right; a split without clouds has no quality.
    return ["  ".join(["", name.ljust(first), *map(str.rjust, cells, others)]) for name, *cells in rows]


def summarise(
    config: ConvertConfig, before: Sequence[PartRecord], made: Sequence[PartRecord], *, started: float, workers: int
) -> ConvertReport:
    """Read a store's own numbers, all parts of which are committed, into the closing summary.

    `before`, `made`: records of the parts that were there, and of those that this run made. `started`: when it did, by
    `time.monotonic()`.
    """
    seconds = time.monotonic() - started
    store = open_store(config.out, allow_unfinished=True)
    summary = summarise_store(store, [*before, *made])
    return ConvertReport(
        store=config.out,
        splits=summary.splits,
        failures=summary.failures,
        seconds=seconds,
        clouds_made=sum(record.n_clouds for record in made),
        parts_before=len(before),
        bytes_by_array=summary.bytes_by_array,
        seconds_by_stage=summary.seconds_by_stage,
        decoder_sha256=store.decoder.sha256,
        decoder_kind=store.decoder_kind,
        n_classes=len(store.classes),
        workers=workers,
        max_failed=config.run.max_failed,
    )
