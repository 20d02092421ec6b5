"""Seeds that depend on names, never on the order of work: the same sample gets the same numbers on any worker."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """Hash names and numbers into a seed below 2**63.

    The value is fixed for ever (BLAKE2b of the parts' text); Python's own `hash` differs from process to process.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """Make a NumPy generator from names and numbers (see `derive_seed`)."""
    return np.random.Generator(np.random.PCG64(derive_seed(*parts)))
