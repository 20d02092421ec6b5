"""`arcpipe verify`: what the store can check by itself, and pictures decoded again to compare with their records."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from arcpipe import seeds
from arcpipe.errors import ArcpipeError, DamagedStoreError, ImageError, SourceError
from arcpipe.progress import Progress, counted
from arcpipe.sources import open_originals
from arcpipe.storage import Place, Storage, storage_at
from arcpipe.store import RepairReport, VerifyReport, advice, open_store, verify
from arcpipe.store import repair as mend

# Rounding of another machine's arithmetic moves a PSNR by less than a thousandth of this.
PSNR_TOLERANCE_DB = 0.01
SHOWN = 5
"""Samples that could not be compared of which each has a line."""


@dataclass(frozen=True)
class VerifySummary:
    """Problems by name (empty: the store is as it was written), and counts of what was looked at.

    `content`: hash of all that was converted; stores with the same hash hold the same clouds. None with problems,
    or of an unfinished store.
    `repaired`: what `--repair` did, None without it. `unchecked`: what was asked for and could not be checked at all.
    """

    store: Storage
    problems: tuple[str, ...]
    checked: Mapping[str, int]
    notes: tuple[str, ...] = ()
    content: str | None = None
    repaired: RepairReport | None = None
    unchecked: str = ""

    @property
    def ok(self) -> bool:
        """No problems, or all of them were repaired."""
        done = self.repaired
        return not (self.problems if done is None else done.left or done.fleeting)

    def as_dict(self) -> dict[str, Any]:
        summary = {
            "store": str(self.store),
            "ok": self.ok,
            "problems": list(self.problems),
            "checked": dict(self.checked),
            "content": self.content,
            "unchecked": self.unchecked,
            "notes": list(self.notes),
        }
        if self.repaired is None:
            return summary
        done = self.repaired
        aside = {"parts": done.parts, "strangers": done.strangers, "to": str(done.aside) if done.aside else None}
        return {**summary, "repaired": {"aside": aside, "mended": done.mended, "left": [str(p) for p in done.left]}}

    def lines(self) -> list[str]:
        counts = ", ".join(f"{count} {name}" for name, count in self.checked.items())
        verdict = counted(len(self.problems), "problem", "problems") if self.problems else "as it was written"
        lines = [f"{self.store}: {verdict} ({counts})", *(f"  {line}" for line in self.problems)]
        if self.content:
            lines.append(f"  content {self.content[:16]}")
        return [*lines, *(f"  {line}" for line in self.notes)]

    def check(self) -> None:
        """Raise where what was asked for is not known to be sound.

        Raises:
            DamagedStoreError: there are problems.
            SourceError: pictures were to be compared, and none could be.
        """
        if not self.ok:
            raise DamagedStoreError(f"{self.store} is damaged, see above.")
        if self.unchecked:
            error = SourceError(
                f"--decode has compared nothing: {self.unchecked}",
                fix=["bring the images back to where they were", "arcpipe verify without --decode"],
            )
            error.exit_code = 1
            raise error


def run_verify(place: Place, *, decode: int = 0, repair: bool = False) -> VerifySummary:
    """Check every byte of a store; `decode`: also decode so many samples and compare their PSNR with the record.

    `repair`: take what is damaged and can be made again out of the store, so that the next conversion makes it.

    Raises:
        StoreBusyError: `repair`, and a converter is at work.
    """
    storage = storage_at(place)
    with storage.lock() if repair and storage.is_folder() else nullcontext():
        with Progress("verify", _n_parts(storage), "parts") as progress:
            report = verify(storage, on_part=progress.update)
        repaired = mend(storage, report) if repair and report.problems else None
    problems = [str(problem) for problem in report.problems]
    names = ("parts", "clouds", "failed", "arrays", "chunks", "files", "bytes")
    checked, notes, unchecked = {name: int(getattr(report, name)) for name in names}, [], ""
    if report.missing_parts and not report.complete:
        missing = counted(report.missing_parts, "part is", "parts are")
        notes.append(f"unfinished: {missing} missing; the same arcpipe convert continues")
    notes += _said(repaired) if repaired else _mending(report)
    if decode and not problems:
        n_decoded, differing, why = _decode(storage, decode)
        checked["decoded samples"] = n_decoded
        checked["not checked"] = len(why)
        problems += differing
        notes += why[:SHOWN] + ([f"and {len(why) - SHOWN} more were not checked"] if len(why) > SHOWN else [])
        unchecked = "" if n_decoded else (why or ["the store holds no cloud yet"])[0]
    content = report.content if not problems else None
    return VerifySummary(storage, tuple(problems), checked, tuple(notes), content, repaired, unchecked)


def _n_parts(storage: Storage) -> int | None:
    try:
        return open_store(storage, allow_unfinished=True).n_planned
    except ArcpipeError:  # `verify` says what is wrong
        return None


def _mending(report: VerifyReport) -> list[str]:
    if not report.problems:
        return []
    lost = advice(report.storage, report.problems)
    if lost:
        return [f"try: {line}" for line in lost]
    return [
        f"try: arcpipe verify {shlex.quote(str(report.storage))} --repair",
        "     (moves what is damaged aside; then the same arcpipe convert command makes it again)",
    ]


def _said(done: RepairReport) -> list[str]:
    """What `--repair` did, and the next command."""
    lines = []
    if done.left:
        return ["nothing was changed: this cannot be made again", *(f"try: {line}" for line in done.advice)]
    if done.parts:
        parts = counted(len(done.parts), "part is", "parts are")
        lines.append(f"{parts} out of the store: {', '.join(done.parts[:8])}{', ...' if len(done.parts) > 8 else ''}")
    if done.strangers:
        lines.append(f"{counted(len(done.strangers), 'file', 'files')} that did not belong moved away")
    lines += [f"{name} was written again" for name in done.mended]
    if done.aside:
        lines.append(f"moved to {done.aside}: delete it once the store is whole")
    lines += [f"{name} was whole when it was read again: check memory, disk and network" for name in done.fleeting]
    return [*lines, "try: the same arcpipe convert command again: it makes what is missing"]


def _decode(storage: Storage, count: int) -> tuple[int, list[str], list[str]]:
    """Decode a seeded choice of clouds and compare them with the original pixels.

    Returns how many were decoded, which differ from their record, and why others could not be compared.
    """
    from arcpipe.arc.engine import decoder_of
    from arcpipe.arc.render import render_and_compare

    store = open_store(storage, allow_unfinished=True)
    originals = open_originals(store.config, store.channels)
    if originals.why:
        return 0, [], [originals.why]
    rows = [
        (split, part.id, row) for split in store.splits for part in store.parts(split) for row in range(part.n_clouds)
    ]
    chosen = seeds.generator("verify", store.fingerprint).permutation(len(rows))[:count]
    decoder = decoder_of(store.decoder, "cpu")
    n_decoded, problems, notes = 0, [], []
    for split, part_id, row in (rows[i] for i in chosen):
        cloud = store.read_cloud(split, part_id, row)
        try:
            image = originals.load(split, cloud.path, cloud.repeat)
        except (ImageError, OSError) as error:
            what = error.what if isinstance(error, ImageError) else str(error)
            notes.append(f"{split}/{cloud.path}: the source has changed: {what}")
            continue
        if image is None:
            notes.append(f"{split}/{cloud.path}: the source has no such image any more")
            continue
        n_decoded += 1
        _, found = render_and_compare(cloud, decoder, image)
        if not abs(found - cloud.psnr) <= PSNR_TOLERANCE_DB:
            place = f"{split}/{part_id}, {cloud.path}"
            problems.append(f"{place}: PSNR {found:.3f} dB, the record says {cloud.psnr:.3f} dB")
    return n_decoded, problems, notes
