"""How functions are compiled by Numba, for whoever has loops that must be fast on a CPU.

Numba takes compiled code from its cache on disk as long as the file of the function is the same, whatever else was
compiled into it. A file whose functions contain code or constants of other files therefore has their hash in it,
`BUILT_ON_SHA256`: a change there is a change here. `tests/test_vectors.py` keeps the hashes true.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F, **more: Any) -> F:
    """Compile at the first call, and keep the result on disk where a folder can be written.

    Args:
        more: Other options of Numba.
    """
    how: dict[str, Any] = {"nogil": True, "error_model": "numpy", **more}
    try:
        return njit(function, cache=True, **how)
    except RuntimeError:  # "cannot cache function: no locator available"
        return njit(function, **how)


def bare(function: F) -> F:
    """Compile a function that allocates nothing, without counting references: arrays that it takes out of a tuple in a
    loop would be counted every time, which took longer than the work."""
    return compiled(function, _nrt=False)


def inlined(function: F) -> F:
    """Compile into every compiled function that calls it: a call would pass whole structs of arrays."""
    how: dict[str, Any] = {"inline": "always", "error_model": "numpy", "_nrt": False}
    return njit(function, **how)
