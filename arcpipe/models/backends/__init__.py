"""Who computes a network's convolutions, pooling and attention: `auto`, or one of the others by name.

`auto` is compiled loops for float32 on a CPU, and plain torch elsewhere. `torch` is plain torch everywhere.
The others replace one operation by that of another package; what they do not replace is as with `auto`.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings

from torch import nn

from arcpipe.errors import ConfigError, install

PACKAGES = {"spconv": "spconv", "torch-scatter": "torch_scatter"}
"""Backends that need a package, and how it is imported; the file beside this one has the same name."""
INSTALL = {"spconv": install("cuda"), "torch-scatter": install("scatter", "--no-build-isolation ")}
BACKENDS = ("auto", "torch", *PACKAGES)


def available() -> list[str]:
    """The backends whose packages are installed here."""
    return [name for name in BACKENDS if name not in PACKAGES or importlib.util.find_spec(PACKAGES[name]) is not None]


def check_backend(name: str) -> None:
    """Refuse a backend that cannot work here.

    Raises:
        ConfigError: its package is not installed or cannot be imported.
    """
    if name not in PACKAGES:
        return
    try:
        with warnings.catch_warnings(action="ignore"):  # spconv uses what torch and Python will take away
            importlib.import_module(f"arcpipe.models.backends.{PACKAGES[name]}")
    except Exception as error:  # a package built for another torch fails in its own way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"the backend {name} cannot be used here: importing {PACKAGES[name]} failed.",
            details=[reason, f"found: {', '.join(available())}"],
            fix=["--set model.backend=auto", INSTALL[name]],
        ) from None


def use_backend(model: nn.Module, name: str) -> None:
    """Set the backend of every part of the model that has one."""
    check_backend(name)
    for module in model.modules():
        if hasattr(module, "backend"):
            setattr(module, "backend", name)  # noqa: B010  (torch's types know no text there)
