"""Ctrl-C and SIGTERM during training: finish the step, save, then do what the signal asks."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from arcpipe.storage.objects import hurry_up

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Notes the first signal instead of acting on it; a second one acts at once, unless `patient`.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.pending: int | None = None
        self._patient = patient
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as under nohup
            self._previous = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.deliver()  # it came after the last step
        self._restore()

    def deliver(self, otherwise: int | None = None) -> None:
        """Let the noted signal do what it would have done: KeyboardInterrupt for Ctrl-C. `otherwise`: if none was."""
        self._restore()
        number, self.pending = self.pending or otherwise, None
        if number is not None:
            signal.raise_signal(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pending = number
        hurry_up()  # a step may be waiting for a bucket that does not answer
        if not self._patient:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
