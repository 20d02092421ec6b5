"""Which device trains."""

from __future__ import annotations

import torch

from arcpipe.errors import DeviceError


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU; any other name is torch's own.

    Raises:
        DeviceError: torch does not know the device or the machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # `meta` makes tensors, but holds no numbers
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        details = [str(error).splitlines()[0].split(". ")[0], f"GPUs found: {torch.cuda.device_count()}"]
        raise DeviceError(f"there is no device {name} here.", details=details, fix=["--device cpu"]) from None
    return device
