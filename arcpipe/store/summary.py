"""What the parts of a store add up to: the numbers of a conversion's closing report, and of the page about a store."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import FailedSample
from arcpipe.progress import Progress
from arcpipe.store.reader import Store
from arcpipe.store.schema import PartRecord

QUANTILES = ("worst", "5%", "median", "95%", "best")
SHARES = (0.0, 0.05, 0.5, 0.95, 1.0)


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
    """None if no cloud was made, as are the quantiles."""
    psnr: Mapping[str, float] | None
    """dB: `worst`, `5%`, `median`, `95%`, `best`."""


@dataclass(frozen=True)
class StoreSummary:
    """Sums over the committed parts of a store, finished or not."""

    splits: Mapping[str, SplitSummary]
    failures: tuple[FailedSample, ...]
    bytes_by_array: Mapping[str, int]
    """On disk, largest first."""
    seconds_by_stage: Mapping[str, float]
    """Of all workers together."""


def summarise_store(store: Store, records: Sequence[PartRecord] | None = None) -> StoreSummary:
    """Add up the parts of a store: counts, PSNR, failures, bytes and seconds. Reads one number per cloud.

    `records`: of all parts, where the caller has better ones than the parts themselves keep: those of the run that
    made them know the time of writing, too.
    """
    splits: dict[str, SplitSummary] = {}
    failures: list[FailedSample] = []
    n_parts = store.n_committed if records is None else len(records)
    with Progress("adding up", n_parts, "parts") as shown:
        for split in store.splits:
            quality = [np.zeros(0, np.float32)]
            for info in store.parts(split):
                part = store.part(split, info.id)
                quality.append(part.small("psnr"))
                failures += part.failures()
                shown.update(shown.done + 1)
            splits[split] = _summarise_split(store.parts(split), np.concatenate(quality))
    if records is None:
        records = [record for split in store.splits for record in store.parts(split)]
    n_bytes: Counter[str] = Counter()
    stages: Counter[str] = Counter()
    for record in records:
        n_bytes.update(record.bytes)
        stages.update(record.stages)
    return StoreSummary(
        splits=splits,
        failures=tuple(failures),
        bytes_by_array=dict(n_bytes.most_common()),
        seconds_by_stage={name: round(seconds, 3) for name, seconds in stages.items()},
    )


def _summarise_split(parts: Sequence[PartRecord], psnr: NDArray[np.float32]) -> SplitSummary:
    known = psnr[np.isfinite(psnr)].astype(np.float64)
    return SplitSummary(
        planned=sum(part.n_samples for part in parts),
        samples=sum(part.n_samples - part.n_failures for part in parts),
        failed=sum(part.n_failures for part in parts),
        clouds=sum(part.n_clouds for part in parts),
        points=sum(part.n_points for part in parts),
        pixels=sum(part.n_pixels for part in parts),
        parts=len(parts),
        mean_psnr=float(known.mean()) if len(known) else None,
        psnr=dict(zip(QUANTILES, np.quantile(known, SHARES).tolist(), strict=True)) if len(known) else None,
    )


def failed_by_reason(failures: Sequence[FailedSample]) -> dict[str, int]:
    """Number of failed samples of each reason, most frequent first."""
    return dict(Counter(failure.reason for failure in failures).most_common())


def first_line(failure: FailedSample) -> str:
    """Path and first line of the message of a failed sample."""
    line = failure.message.split("\n")[0]
    return line if failure.path in line else f"{failure.path}: {line}"


def next_commands(where: object, splits: Mapping[str, SplitSummary], n_classes: int, kind: str) -> list[str]:
    """Commands that work on this store: nothing can be drawn of no cloud, nor learned from one class."""
    store, commands = shlex.quote(str(where)), []
    if any(split.clouds for split in splits.values()):
        commands.append(f"arcpipe inspect {store}")
    if n_classes > 1 and "train" in splits and splits["train"].clouds:
        commands.append(f"arcpipe train --store {store}{' --model scalegmn' if kind == 'siren' else ''}")
    return commands
