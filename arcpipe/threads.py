"""How the threads of a training process wait for each other: spinning where the machine is idle, asleep elsewhere.

Measured on 2 cores, an epoch of 8,000 clouds: threads that sleep at once 15 s, threads that spin for a while 8 s.
Beside a busy neighbour it is 14 against 48 to 70 s, so it depends on the neighbours, when the process starts.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
LOOK_S = 0.1
SPIN = "200000"
"""Turns of the waiting loop of GNU OpenMP, some 0.1 ms: about as long as the gaps between a step's operations."""
IDLE = 4, 5  # fields of the first line of /proc/stat: idle, waiting for a disk


def set_waiting(stat: Path = STAT) -> bool:
    """Set the environment for the OpenMP that torch will load; returns whether threads may spin.

    To be called before torch is imported. What the user has set (`OMP_WAIT_POLICY`, `GOMP_SPINCOUNT`) stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    spins = busy_cores(stat) < 0.5
    if spins:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    return spins


def busy_cores(stat: Path = STAT) -> float:
    """How many cores are at work, looking for 0.1 s; infinite where the system does not say."""
    try:
        before = _ticks(stat)
        time.sleep(LOOK_S)
        after = _ticks(stat)
    except (OSError, ValueError, IndexError):  # no Linux
        return float("inf")
    total, idle = (now - then for now, then in zip(after, before, strict=True))
    return (total - idle) / (os.sysconf("SC_CLK_TCK") * LOOK_S)


def _ticks(stat: Path) -> tuple[int, int]:
    """Ticks of all cores since the start of the machine, and those of them that were idle."""
    fields = stat.read_text(encoding="ascii").splitlines()[0].split()
    if fields[0] != "cpu":
        raise ValueError(fields[0])
    ticks = [int(field) for field in fields[1:9]]  # what comes behind is counted in these already
    return sum(ticks), sum(ticks[i - 1] for i in IDLE)
