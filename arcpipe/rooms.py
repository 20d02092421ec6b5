"""Rooms that can be called: `arcpipe.convert` and `arcpipe.train` are packages, and functions of the Python face.

Importing a package puts it under its name into `arcpipe`, in place of whatever has that name; so the package itself is
what is called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def make_callable(name: str, function: Callable[..., Any]) -> None:
    """Let the module `name` be called like `function`, and tell its documentation."""
    room = sys.modules[name]
    room.__class__ = type("Room", (ModuleType,), {"__call__": staticmethod(function)})
    room.__doc__ = function.__doc__
