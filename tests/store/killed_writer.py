"""Processes that kill themselves while they commit a part.

`killed_writer.py` reads from stdin what each one shall do, a JSON list of store, function, call and moment (`before` or
`after` it does its work), forks, and answers with the exit code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from store_samples import make_batch, make_decoder, make_header

from arcpipe.storage import commits, local, objects, storage_at
from arcpipe.store import Rounding, create, create_or_open, writer
from arcpipe.store.layout import part_arrays

MODULES = {
    "create": create,
    "writer": writer,
    "local": local,
    "commits": commits,
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


def write(path: str, where: str, call: int, moment: str) -> None:
    kill_at(where, call, after=moment == "after")
    header = make_header({"train": {"samples": 5, "parts": 1}})
    create_or_open(storage_at(path), header, make_decoder()).commit_part("train", "0000", make_batch(range(5)))


if __name__ == "__main__":
    part_arrays(make_batch(range(5)), Rounding("float16"), "pixels")  # loads the compiled code, once for all
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            asked = json.loads(line)
            os.environ.update(asked.pop("environment"))
            try:
                write(**asked)
            finally:
                os._exit(0)  # the fault was not reached
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
