"""What a command reads from and says to: stdout that must take the results, stderr that may be gone, and others' noise.

Results are for stdout: where they cannot be written, the command has failed. What goes to stderr is for people: where
nobody can read it any more, the work goes on. Libraries that log or warn about what a message of ours says already are
silent.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from arcpipe.errors import FileAccessError

NOISY = ("asyncio", "distributed", "tornado")


def open_streams() -> None:
    """Make the three streams of this process safe to use; to be called once, before anything is written.

    A closed one becomes an empty one: else the next file that is opened would get its number, and what libraries print
    would go into that file. Writing to a stdout that was closed fails.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number < 2 else os.O_WRONLY)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
    buffer = io.BufferedWriter(_Patient(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def write_results(lines: Iterable[str]) -> None:
    """Print lines on stdout.

    Raises:
        FileAccessError: stdout is closed, its reader has gone, or its disk is full.
    """
    try:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        for line in lines:  # names of files may hold what no encoding has
            print(line.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "it is closed"
        drop_results()
        raise FileAccessError(
            f"the results could not be written to stdout: {why}.",
            details=["the work itself is done"],
            fix=["the same command again: what is done stays done"],
        ) from None


def drop_results() -> None:
    """Let go of what stdout could not take, or Python would complain about it at its end."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):  # a stdout of tests has no number
        return


def hush() -> None:
    """Silence what libraries log, warn and print by themselves about interruptions and lost connections."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", message=r".*was never awaited", category=RuntimeWarning)


def hush_exit() -> None:
    """Silence what objects of libraries say when they are torn down, after the command has said what happened."""
    sys.unraisablehook = lambda _: None
    warnings.simplefilter("ignore")


class _Patient(io.FileIO):
    """A file whose readers may leave: what they do not take is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno == errno.EAGAIN:
                raise
            return memoryview(data).nbytes

    def isatty(self) -> bool:
        try:
            return super().isatty()
        except OSError:
            return False
