"""A process that kills itself while it commits a part: `killed_writer.py STORE WHERE CALL`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from store_samples import make_batch, make_decoder, make_header

from arcpipe import objects
from arcpipe.place import as_place
from arcpipe.store import bucket, commit, create, create_or_open, files, writer

MODULES = {
    "commit": commit,
    "create": create,
    "writer": writer,
    "files": files,
    "bucket": bucket,
    "objects": objects,
}


def kill_at(where: str, call: int, *, after: bool) -> None:
    """Kill this process at the given call of a function, before or after it does its work."""
    module, name = MODULES[where.split(".")[0]], where.split(".")[1]
    work: Callable[..., Any] = getattr(module, name)
    calls = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        number = calls  # several threads may be at it
        if number == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = work(*args, **options)
        if number == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, name, counted)


if __name__ == "__main__":
    path, place, number, moment = sys.argv[1:]
    kill_at(place, int(number), after=moment == "after")
    header = make_header({"train": {"samples": 5, "parts": 1}})
    create_or_open(as_place(path), header, make_decoder()).commit_part("train", "0000", make_batch(range(5)))
