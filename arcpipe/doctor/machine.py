"""Devices, cores and threads, memory, limits."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from arcpipe.arc.memory import Needs
from arcpipe.cluster import worker_environment
from arcpipe.config import FitSection
from arcpipe.doctor.finding import Finding, ok, problem, warning
from arcpipe.machine import available_cores, free_memory, machine_memory
from arcpipe.progress import byte_size

PHOTOGRAPHS = [(375, 500)] * 48
"""What a worker is taken to be given."""
OPEN_FILES = 1024
SHARED_BYTES = 2**30
"""What training on several GPUs exchanges its gradients through; containers have 64 MB unless told otherwise."""


def devices() -> Iterator[Finding]:
    """GPUs that torch can use; a GPU that it cannot use is a warning, for everything runs on CPUs."""
    import torch

    built = f"torch {torch.__version__}, built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPUs'}"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        yield ok("devices", f"{', '.join(f'{gpu.name} {byte_size(gpu.total_memory)}' for gpu in names)}; {built}")
    elif _has_nvidia():
        advice = "install a torch that was built for CUDA: pip install --force-reinstall torch"
        if torch.version.cuda:
            advice = "torch cannot use it: compare the driver's CUDA version (nvidia-smi) with torch's"
        yield warning("devices", f"a GPU is here, but torch sees none; {built}", advice)
    else:
        yield ok("devices", f"CPU only; {built}")


def cores() -> Iterator[Finding]:
    """Cores that may be used against threads that would be started, and how busy they are."""
    usable, all_of_them = available_cores(), os.cpu_count() or 1
    yield ok("cores", f"{usable} of {all_of_them} may be used" if usable != all_of_them else f"{usable}")
    yield from _threads(usable)
    busy = os.getloadavg()[0]
    if busy > usable:
        yield warning("load", f"{busy:.1f} processes want {usable} cores", "wait, or expect every estimate to be wrong")
    else:
        yield ok("load", f"{busy:.1f} of {usable} cores busy in the last minute")


def _threads(usable: int) -> Iterator[Finding]:
    """Settings of thread pools. A worker sets its own; training takes those of the environment."""
    import torch

    names = [*(name for name in worker_environment(1) if name.endswith("_NUM_THREADS")), "OMP_WAIT_POLICY"]
    settings = {name: os.environ[name] for name in names if name in os.environ}
    # They are for numbers and words; whatever else somebody put there is not shown.
    plain = {name: value if value.isalnum() and len(value) < 9 else "?" for name, value in settings.items()}
    shown = ", ".join(f"{name}={value}" for name, value in plain.items())
    found = f"torch takes {torch.get_num_threads()} threads; {shown or 'nothing set in the environment'}"
    many = [name for name, value in settings.items() if value.isdecimal() and int(value) > usable]
    if torch.get_num_threads() > usable or many:
        yield warning("threads", found, f"more threads than cores wait for each other: export OMP_NUM_THREADS={usable}")
    elif settings.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        yield warning("threads", found, "idle threads keep their core from others: export OMP_WAIT_POLICY=PASSIVE")
    else:
        yield ok("threads", found)


def memory() -> Iterator[Finding]:
    """Memory that is free, also inside a container, against one worker per core."""
    free = free_memory()
    found = f"{byte_size(free)} free of {byte_size(machine_memory())}"
    needed = Needs(3, FitSection(recipe="basis")).peak(PHOTOGRAPHS, machine_memory(), 1)
    workers = free // needed
    if workers < 1:
        yield problem("memory", found, f"a worker takes about {byte_size(needed)}: free some memory")
    elif workers < available_cores():
        yield warning("memory", found, f"not enough for a worker on every core: --workers {workers}")
    else:
        yield ok("memory", found)


def limits() -> Iterator[Finding]:
    """Open files, and shared memory."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    advice = f"ulimit -n {min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536}"
    if 0 <= soft < 128:
        yield problem("open files", f"at most {soft}", advice)
    elif 0 <= soft < OPEN_FILES:
        yield warning("open files", f"at most {soft}", advice)
    else:
        yield ok("open files", f"at most {soft}" if soft >= 0 else "no limit")
    shared = Path("/dev/shm")
    if not shared.is_dir():
        yield warning("shared memory", "there is no /dev/shm", "training on several GPUs needs it")
        return
    free = shutil.disk_usage(shared).free
    if free < SHARED_BYTES:
        advice = "only training on several GPUs needs more: docker run --shm-size=1g"
        yield warning("shared memory", f"{byte_size(free)} free in {shared}", advice)
    else:
        yield ok("shared memory", f"{byte_size(free)} free in {shared}")


def _has_nvidia() -> bool:
    command = shutil.which("nvidia-smi")
    if command is None:
        return False
    try:
        return subprocess.run([command, "-L"], capture_output=True, timeout=5, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
