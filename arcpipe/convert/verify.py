"""`arcpipe verify`: what the store can check by itself, and pictures decoded again to compare with their records."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arcpipe import seeds
from arcpipe.errors import ArcpipeError
from arcpipe.progress import counted
from arcpipe.sources import Source, open_source
from arcpipe.store import Store, VerifyReport, open_store, verify

# Rounding of another machine's arithmetic moves a PSNR by less than a thousandth of this.
PSNR_TOLERANCE_DB = 0.01


@dataclass(frozen=True)
class VerifySummary:
    """Problems by name (empty: the store is as it was written), and counts of what was looked at."""

    store: Path
    problems: tuple[str, ...]
    checked: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "store": str(self.store),
            "ok": not self.problems,
            "problems": list(self.problems),
            "checked": dict(self.checked),
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        counts = ", ".join(f"{count} {name}" for name, count in self.checked.items())
        verdict = counted(len(self.problems), "problem", "problems") if self.problems else "as it was written"
        return [f"{self.store}: {verdict} ({counts})", *(f"  {line}" for line in [*self.problems, *self.notes])]


def run_verify(path: Path, *, decode: int = 0) -> VerifySummary:
    """Check every byte of a store; `decode`: also decode so many samples and compare their PSNR with the record."""
    report = verify(path)
    problems = [str(problem) for problem in report.problems]
    counted = ("parts", "clouds", "failed", "arrays", "chunks", "files", "bytes")
    checked, notes = {name: int(getattr(report, name)) for name in counted}, []
    if report.missing_parts:
        notes.append(f"unfinished: {report.missing_parts} parts are missing; the same arcpipe convert continues")
    notes += _mending(report)
    if decode and not problems:
        store = open_store(path, allow_unfinished=True)
        try:
            source = open_source(_section(store), seed=int(store.config["seed"]), download=False)
            images = source.inventory().samples
        except ArcpipeError as error:
            checked["decoded samples"] = 0
            notes.append(f"nothing was decoded, the source cannot be opened: {error.what}")
        else:
            n_decoded, differing = _decode_some(store, source, images, decode)
            checked["decoded samples"] = n_decoded
            problems += differing
    return VerifySummary(path, tuple(problems), checked, tuple(notes))


def _mending(report: VerifyReport) -> list[str]:
    """Commands that mend what can be mended: a part is made again, the root and the decoder cannot be."""
    places = dict.fromkeys(tuple(problem.where.split("/")[:2]) for problem in report.problems)
    folders = [report.path.joinpath(*place) for place in places if len(place) == 2 and place[0] != "decoder"]
    parts = [shlex.quote(str(folder)) for folder in folders if folder.is_dir()]
    if not parts:
        return []
    return [f"try: rm -r {' '.join(parts)}, then the same arcpipe convert command again: it makes these parts again"]


def _section(store: Store) -> Any:
    from arcpipe.config import SourceSection, build

    return build(SourceSection, store.config["source"], str(store.path))


def _decode_some(store: Store, source: Source, images: Mapping[str, Any], count: int) -> tuple[int, list[str]]:
    """Decode a seeded choice of clouds and compare with the original pixels."""
    from arcpipe.arc.decoder import Decoder
    from arcpipe.arc.engine import decode
    from arcpipe.arc.metrics import psnr

    rows = [
        (split, part.id, row) for split in store.splits for part in store.parts(split) for row in range(part.n_clouds)
    ]
    chosen = seeds.generator("verify", store.fingerprint).permutation(len(rows))[:count]
    decoder = Decoder.from_record(store.decoder, "cpu")
    problems = []
    for split, part_id, row in (rows[i] for i in chosen):
        cloud = store.read_block(split, part_id, row, row + 1)[0]
        sample = next(sample for sample in images[split] if sample.sample_id == cloud.sample_id)
        image = source.read(sample, store.channels)
        picture = decode(np.asarray(cloud.latents, np.float32), cloud.positions, cloud.size, decoder, cloud.relative)
        found = psnr(image, picture)
        if abs(found - cloud.psnr) > PSNR_TOLERANCE_DB:
            problems.append(f"{split}/{cloud.path}: PSNR {found:.3f} dB, the record says {cloud.psnr:.3f} dB")
    return len(chosen), problems
