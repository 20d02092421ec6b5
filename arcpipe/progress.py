"""Progress that is true: a bar on a terminal, a plain line every 30 seconds elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

PLAIN_LINE_EVERY_S = 30.0


class Progress:
    """Counts work done and shows it with named fields, the rate and the time left.

    Args:
        title: What is going on, for example `convert`.
        total: Units of work in all; None where nobody counts them: then the time that has passed is shown, and
            nothing is claimed.
        unit: Name of a unit, plural, for example `images`.
        done: Units that earlier runs already did: they count as progress, not as speed.
        enabled: False is silent.
    """

    def __init__(self, title: str, total: int | None, unit: str, *, done: int = 0, enabled: bool = True) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._first = done
        self.fields: dict[str, str] = {}
        self._enabled = enabled
        self._started = self._last_line = time.monotonic()
        self._bar = None
        if enabled and sys.stderr.isatty():
            self._bar = _terminal_bar(counts=total is not None)
            self._task = self._bar.add_task(title, total=total, completed=done, text="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, **fields: str) -> None:
        """Set the units done; `fields` (name=text) stay until they are given again."""
        self.done = done
        self.fields.update(fields)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=self._text())
        elif self._enabled and time.monotonic() - self._last_line >= PLAIN_LINE_EVERY_S:
            self._last_line = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

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
            print(message, file=sys.stderr, flush=True)

    @property
    def rate(self) -> float:
        """Units a second of this run."""
        return (self.done - self._first) / max(time.monotonic() - self._started, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds left at this rate; None while nothing is known."""
        return (self.total - self.done) / self.rate if self.total is not None and self.done > self._first else None

    def line(self) -> str:
        """The plain form: `convert: 300/1797 images (17 %), 21.4 images/s, psnr 31.20 dB, 1 min 10 s left`.

        Without a total: `pretrain: at work for 1 min 30 s`.
        """
        if self.total is None:
            return f"{self.title}: at work for {duration(time.monotonic() - self._started)}"
        share = 100 * self.done / max(self.total, 1)
        parts = [f"{self.title}: {self.done}/{self.total} {self.unit} ({share:.0f} %)", self._text()]
        if self.left_s is not None:
            parts.append(f"{duration(self.left_s)} left")
        return ", ".join(part for part in parts if part)

    def _text(self) -> str:
        rate = [f"{self.rate:.1f} {self.unit}/s"] if self.done > self._first else []
        return ", ".join([*rate, *(f"{name} {text}" for name, text in self.fields.items())])


def counted(number: int, one: str, many: str) -> str:
    """`1 class`, `3 classes`."""
    return f"{number} {one if number == 1 else many}"


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
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns: list[ProgressColumn] = [TextColumn("[bold]{task.description}"), BarColumn(bar_width=24)]
    if counts:
        text = TextColumn("{task.fields[text]}", markup=False)
        columns += [MofNCompleteColumn(), text, TimeRemainingColumn(compact=True)]
    else:
        columns += [TimeElapsedColumn()]
    # What nobody counts has nothing to show once it is over.
    return RichProgress(*columns, console=Console(stderr=True), transient=not counts)
