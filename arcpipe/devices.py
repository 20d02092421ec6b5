"""Which device computes, and whether the machine has it. Torch is imported when one of them is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from arcpipe.errors import DeviceError
from arcpipe.machine import available_cores

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU; any other name is torch's own.

    Raises:
        DeviceError: torch does not know the device or the machine does not have it.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # `meta` makes tensors, but holds no numbers
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        details = [str(error).splitlines()[0].split(". ")[0], f"GPUs found: {torch.cuda.device_count()}"]
        raise DeviceError(f"there is no device {name} here.", details=details, fix=["--device cpu"]) from None
    return device


def has_gpu_driver() -> bool:
    """Whether NVIDIA's driver is loaded, on Linux or below Windows; without it there is no need to ask torch."""
    return any(Path("/dev", name).exists() for name in ("nvidiactl", "dxg"))


def check_gpus(wanted: int) -> None:
    """Raise `DeviceError` unless the machine has that many CUDA devices."""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted > found:
        raise DeviceError(
            f"--gpus {wanted} asks for more GPUs than this machine has.",
            details=[f"expected {wanted}, found {found}"],
            fix=[f"--gpus {found}" if found else f"--workers {available_cores()} (the same but for rounding)"],
        )


WORKERS_PER_GPU = 4
"""Worker processes that share a GPU by default, where there are cores for them; each has its own context on the GPU."""
PROCESSES_PER_CORE = 8


def workers_here(workers: int | None, gpus: int | None, gpu_workers: int | None) -> tuple[int, int]:
    """How many worker processes a conversion on this machine has, and the compute threads of each (`RunSection`)."""
    cores = available_cores()
    n_workers = gpus * (gpu_workers or max(1, min(WORKERS_PER_GPU, cores // gpus))) if gpus else workers or cores
    return n_workers, max(1, cores // n_workers)


def check_workers(wanted: int, option: str = "--workers") -> None:
    """Raise `DeviceError` for far more processes than the machine has cores: they would hardly start."""
    most = PROCESSES_PER_CORE * available_cores()
    if wanted > most:
        raise DeviceError(
            f"{option} {wanted} asks for more processes than this machine can hold.",
            details=[f"expected at most {most}, {PROCESSES_PER_CORE} for each core, found {wanted}"],
            fix=[f"{option} {available_cores()}"],
        )
