"""Python imports this file as it starts where its folder stands on PYTHONPATH: the process kills itself as it writes.

`kills.py` sets the three variables below. A process counts its calls that rename, link, delete or sync something below
`FAULTS_PLACE`, and sends itself SIGKILL at one of the first `FAULTS_CALLS`, before or after the call has done its work.
Every such kill is a line of the file `FAULTS_LOG`, whose first line says how many there may be.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Any

PLACE, LOG = os.environ["FAULTS_PLACE"], os.environ["FAULTS_LOG"]
NAMES = ("rename", "replace", "link", "unlink", "fsync")

chance = random.Random(os.urandom(8))
doomed = chance.randint(1, int(os.environ["FAULTS_CALLS"]))
after = chance.random() < 0.5
calls = 0


def is_below(target: Any) -> bool:
    """Whether a path, or an open file, lies in the place. What is open and deleted has no path any more."""
    path = f"/proc/self/fd/{target}" if isinstance(target, int) else os.fspath(target)
    return os.path.realpath(path).startswith(PLACE)


def die(name: str) -> None:
    with open(LOG, "r+") as file:
        allowed, *kills = file.read().splitlines()
        if len(kills) < int(allowed):
            file.write(f"{'after' if after else 'before'} {name} of {os.path.basename(sys.argv[0])}\n")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)


def counted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def call(target: Any, *rest: Any, **options: Any) -> Any:
        global calls
        if not is_below(target):
            return work(target, *rest, **options)
        calls += 1
        number = calls  # several threads may write
        if number == doomed and not after:
            die(name)
        result = work(target, *rest, **options)
        if number == doomed:
            die(name)
        return result

    return call


for name in NAMES:
    setattr(os, name, counted(name, getattr(os, name)))
