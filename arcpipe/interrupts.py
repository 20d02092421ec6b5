"""Ctrl-C and SIGTERM: the first one unwinds, so that everything is put in order; the second one ends at once."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Terminated(BaseException):
    """SIGTERM arrived: unwind like Ctrl-C does."""


@contextmanager
def heeded() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM in the block into `KeyboardInterrupt` or `Terminated`.

    A signal that was ignored before, as under nohup, stays so. Outside the main thread, where Python allows no
    handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, _first) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def same_command() -> str:
    """What was typed to start this process, for a shell."""
    program = Path(sys.argv[0]).name
    command = [program, *sys.argv[1:]] if program != "__main__.py" else ["python", "-m", "arcpipe", *sys.argv[1:]]
    return shlex.join(command)


def _first(number: int, frame: FrameType | None) -> None:
    for either in (signal.SIGINT, signal.SIGTERM):
        signal.signal(either, _second)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated


def _second(number: int, frame: FrameType | None) -> None:
    """Workers end when they notice that this process has gone, within a second or two."""
    os.write(2, b"\nended at once: nothing that was committed is lost.\n")
    os._exit(128 + number)
