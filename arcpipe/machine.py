"""What this process may use: cores and memory, as the system, the container or the batch job says; caches of a core."""

from __future__ import annotations

import ctypes
import errno
import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
SHORTAGES = (
    "can't start new thread",
    "Cannot allocate memory",
    "failed to map segment",
    "Resource temporarily unavailable",
)
"""What Python and the system's loader say in errors of no kind of their own."""
LARGE_BLOCK = 2**22
"""Bytes from which `return_large_blocks` lets no block linger."""
M_MMAP_THRESHOLD = -3
"""The number of this setting of `mallopt` in glibc's <malloc.h>."""
USUAL_CACHES = {2: 2**20, 3: 2**25}
"""Bytes of the second and third level, where the system does not say."""


def available_cores(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Cores that this process may use: those it may run on, or as many as its quota of their time fills, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _control_groups("cpu", cgroup, membership):
        try:
            if (group / "cpu.max").exists():
                quota, period = map(int, (group / "cpu.max").read_text(encoding="ascii").split())
            else:
                quota, period = (_number(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            cores = min(cores, math.ceil(quota / period) if quota > 0 else cores)
        except (OSError, ValueError, ZeroDivisionError):  # not there, or "max"
            continue
    return cores


def return_large_blocks() -> None:
    """Have glibc give every block of 4 MiB and more back to the system once it is free, from now on in this process.

    Otherwise it raises that size up to 32 MiB as it sees such blocks, and keeps them. Where the blocks of a step differ
    by megabytes from batch to batch, as photographs' do, its heap then grows to several times what is in use.
    `MALLOC_MMAP_THRESHOLD_` in the environment stays as it is; other C libraries have no such setting.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        library.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def machine_memory(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Bytes of memory that this process may hope for: the machine's, or a lower limit of its container or job."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([total, *(limit for limit, _ in _memory_limits(cgroup, membership))])


def free_memory(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Bytes of it that nobody uses."""
    import psutil

    free = psutil.virtual_memory().available
    return min([free, *(max(0, limit - used) for limit, used in _memory_limits(cgroup, membership))])


def _memory_limits(cgroup: Path, membership: Path) -> Iterator[tuple[int, int]]:
    """Bytes that groups around this process may use and do use; without a limit, a group is left out or enormous."""
    for group in _control_groups("memory", cgroup, membership):
        for limit, used in (("max", "current"), ("limit_in_bytes", "usage_in_bytes")):
            try:
                allowed, taken = _number(group / f"memory.{limit}"), _number(group / f"memory.{used}")
            except (OSError, ValueError):  # not there, or "max"
                continue
            yield allowed, taken - _cached(group)


def _cached(group: Path) -> int:
    """Bytes of files that a group keeps until somebody needs the memory: they count as used, and are free."""
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        counts = {name: int(count) for name, count in (line.split() for line in lines)}
    except (OSError, ValueError):
        return 0
    return counts.get("total_inactive_file", counts.get("inactive_file", 0))


def _control_groups(controller: str, cgroup: Path, membership: Path) -> Iterator[Path]:
    """Folders of the groups that limit this process: its own and all around it, of either version of the hierarchy.

    Inside a container the root is the container's group, whatever the membership says.
    """
    mounted = [cgroup, *(cgroup / name for name in (controller, "cpu,cpuacct", "cpuacct,cpu"))]
    yield from mounted
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for place in mounted[1:] if controllers else mounted[:1]:
            own = place / path.strip("/")
            yield from (group for group in (own, *own.parents) if place in group.parents)


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: Python's and NumPy's MemoryError, torch's RuntimeError of a CPU or a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    told = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in told or "CUDA error: out of memory" in told)


def is_shortage(error: BaseException) -> bool:
    """Whether the machine has no more memory, threads or open files: nothing that is read or written is to blame.

    Also where a library turned such an error into one of its own.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN):
        return True
    short = isinstance(error, (RuntimeError, ImportError, OSError)) and any(words in str(error) for words in SHORTAGES)
    before = error.__cause__ or error.__context__
    return short or is_out_of_memory(error) or (before is not None and is_shortage(before))


def resident_bytes() -> int:
    """Memory that this process has now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


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
