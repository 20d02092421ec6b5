"""What the machine has: memory, as the system or the container says, and the caches of a core."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
STATM = Path("/proc/self/statm")
USUAL_CACHES = {2: 2**20, 3: 2**25}
"""Bytes of the second and third level, where the system does not say."""


def machine_memory(cgroup: Path = CGROUP) -> int:
    """Bytes of memory that this process may hope for: the machine's, or its container's limit where that is lower."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            total = min(total, int((cgroup / name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return total


def resident_bytes(statm: Path = STATM) -> int:
    """Memory that this process has now; 0 where the system does not say."""
    try:
        return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def cache_sizes(folder: Path = CACHES) -> dict[int, int]:
    """Bytes of the caches of one core by level, 2 and 3; of a shared one its whole size."""
    sizes = dict(USUAL_CACHES)
    for index in sorted(folder.glob("index*")):
        try:
            level = int((index / "level").read_text(encoding="ascii"))
            text = (index / "size").read_text(encoding="ascii").strip()
            if level in sizes and text.endswith("K"):
                sizes[level] = int(text[:-1]) * 1024
        except (OSError, ValueError):
            continue
    return sizes
