"""Progress that is true: a bar on a terminal, a plain line every 30 seconds elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import Self

PLAIN_LINE_EVERY_S = 30.0
PACE_OVER = 64
"""Lumps of work by which the pace is judged: a machine may become busier."""
LEAST_MARKS = 5


def say(*lines: str) -> None:
    """Tell the person, on stderr."""
    print("\n".join(lines), file=sys.stderr, flush=True)


class Progress:
    """Counts work done and shows it with named fields, the rate and the time left.

    Args:
        title: What is going on, for example `convert`.
        total: Units of work in all; None where nobody counts them: then the time that has passed is shown, and
            nothing is claimed.
        unit: Name of a unit, plural, for example `images`.
        done: Units that earlier runs already did: they count as progress, not as speed.
        expected_s: How long the rest should take, by the plan: shown until there is something to measure.
        even: Units come one by one at one pace, but late (kernels compile before the first): it is judged from the
            second on, and never from the start.
        enabled: False is silent.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str,
        *,
        done: int = 0,
        enabled: bool = True,
        expected_s: float | None = None,
        even: bool = False,
    ) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._first = done
        self.fields: dict[str, str] = {}
        self._enabled = enabled
        self._expected_s = expected_s
        self._least_marks = 2 if even else LEAST_MARKS
        self._even = even
        self._marks: deque[tuple[float, int]] = deque(maxlen=PACE_OVER)
        self._started = self._last_line = time.monotonic()
        self._bar = None
        if enabled and sys.stderr.isatty():
            self._bar = _terminal_bar(counts=total is not None)
            self._task = self._bar.add_task(title, total=total, completed=done, text="", left="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, **fields: str) -> None:
        """Set the units done; `fields` (name=text) stay until they are given again."""
        if done > self.done:
            self._marks.append((time.monotonic(), done))
        self.done = done
        self.fields.update(fields)
        if self._bar is not None:
            left = self._left_text(self.left_s) if self.left_s is not None and done < (self.total or 0) else ""
            self._bar.update(self._task, completed=done, text=self._text(), left=left)
        elif self._enabled and time.monotonic() - self._last_line >= PLAIN_LINE_EVERY_S:
            self._last_line = time.monotonic()
            say(self.line())

    def tick(self) -> None:
        """Show that the process is alive; call it while waiting."""
        self.update(self.done)

    def note(self, message: str) -> None:
        """Print a line that stays."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            say(message)

    @property
    def rate(self) -> float:
        """Units a second of this run.

        Work comes in lumps (parts), the first of them late (processes start, libraries load). So once there are enough
        of them the pace is that between the first and the last of the recent ones, not from the start until now.
        """
        if len(self._marks) >= self._least_marks and self._marks[-1][0] > self._marks[0][0]:
            (began, before), (ended, after) = self._marks[0], self._marks[-1]
            return (after - before) / (ended - began)
        until = self._marks[-1][0] if self._marks else time.monotonic()
        return (self.done - self._first) / max(until - self._started, 1e-9)

    @property
    def _pace_known(self) -> bool:
        return len(self._marks) > self._even

    @property
    def left_s(self) -> float | None:
        """Seconds left at this rate, counted down between two lumps; None while nothing is known."""
        if self.total is None:
            return None
        if not self._pace_known:
            expected = self._expected_s
            return None if expected is None else max(0.0, expected - (time.monotonic() - self._started))
        return max(0.0, (self.total - self.done) / self.rate - (time.monotonic() - self._marks[-1][0]))

    def line(self) -> str:
        """The plain form: `convert: 300/1797 images (17 %), 21.4 images/s, psnr 31.20 dB, 1 min 10 s left`.

        Without a total: `pretrain: at work for 1 min 30 s`.
        """
        if self.total is None:
            return f"{self.title}: at work for {duration(time.monotonic() - self._started)}"
        share = 100 * self.done / max(self.total, 1)
        parts = [f"{self.title}: {self.done}/{self.total} {self.unit} ({share:.0f} %)", self._text()]
        if self.left_s is not None and self.done < self.total:
            parts.append(self._left_text(self.left_s))
        return ", ".join(part for part in parts if part)

    def _left_text(self, left_s: float) -> str:
        if not self._pace_known:  # the plan's word
            return f"about {duration(left_s)} left" if left_s else ""
        return f"{duration(left_s)} left" if left_s >= 1 else "any moment"

    def _text(self) -> str:
        rate = [pace(self.rate, self.unit)] if self.done > self._first and self._pace_known else []
        return ", ".join([*rate, *(f"{name} {text}" for name, text in self.fields.items())])


def counted(number: int, one: str, many: str) -> str:
    """`1 class`, `3 classes`."""
    return f"{number} {one if number == 1 else many}"


def listed(words: Iterable[str]) -> str:
    """`masked, mixed and turned`; what is said twice counts once."""
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} and {last}" if first else last


def pace(per_s: float, unit: str) -> str:
    """Speed in words, in a unit of time that leaves digits to read: `21.4 images/s`, `2.5 images/min`."""
    for seconds, name in ((1, "s"), (60, "min")):
        if per_s * seconds >= 1:
            return f"{per_s * seconds:.1f} {unit}/{name}"
    return f"{per_s * 3600:.1f} {unit}/h"


def duration(seconds: float) -> str:
    """Seconds in words: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def byte_size(n_bytes: float) -> str:
    """Bytes in words: `532 B`, `1.3 MB`; powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def _terminal_bar(*, counts: bool):  # type: ignore[no-untyped-def]  # rich is imported only where a terminal is
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns: list[ProgressColumn] = [TextColumn("[bold]{task.description}"), BarColumn(bar_width=24)]
    if counts:
        text = TextColumn("{task.fields[text]}", markup=False)
        columns += [MofNCompleteColumn(), text, TextColumn("{task.fields[left]}")]
    else:
        columns += [TimeElapsedColumn()]
    # What nobody counts has nothing to show once it is over.
    return RichProgress(*columns, console=Console(stderr=True), transient=not counts)


QUALITY = (
    (15, "barely recognisable"),
    (20, "coarse shapes"),
    (25, "blurred"),
    (30, "small details are lost"),
    (35, "differences are seen side by side"),
    (42, "hardly told from the image"),
)
"""Words for a reconstruction up to so many dB. A bounded error of 8 bits alone makes 59 dB."""
LOW_DB = 20


def quality_words(psnr: float) -> str:
    """What a PSNR, dB, means to the eye, roughly: images differ."""
    return next((words for limit, words in QUALITY if psnr < limit), "as the image to the eye")
