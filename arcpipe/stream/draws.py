"""Random numbers by name: every cloud has a key, and a number is a function of the key, a use and an index.

No generator has a state, so the numbers of a whole batch come from a few array operations, and those of a cloud do not
depend on which others are beside it. The function is SplitMix64's output mix (Steele, Lea and Flood 2014), twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.seeds import derive_seed

Keys = NDArray[np.uint64]

STEP = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: consecutive indices lie far apart


def cloud_keys(seed: int, epoch: int, sample_ids: NDArray[np.int64], repeats: NDArray[np.int64]) -> Keys:
    """The keys of some clouds (s,) in one epoch."""
    base = np.uint64(derive_seed(seed, "augment", epoch))
    return _mix(_mix(base + sample_ids.astype(np.uint64) * STEP) + repeats.astype(np.uint64) * STEP)


def uniform(keys: Keys, use: str, index: NDArray[Any] | int = 0) -> NDArray[np.float64]:
    """Numbers in [0, 1), one for each key and index (broadcast); another `use` gives other ones."""
    own = _mix(keys ^ np.uint64(derive_seed("use", use)))
    bits = _mix(own + (np.asarray(index).astype(np.uint64) + np.uint64(1)) * STEP)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(keys: Keys, use: str, index: NDArray[Any]) -> NDArray[np.float32]:
    """Standard normal numbers, by Box and Muller."""
    radius = np.sqrt(-2 * np.log1p(-uniform(keys, f"{use} radius", index)))
    return (radius * np.cos(2 * np.pi * uniform(keys, f"{use} angle", index))).astype(np.float32)


def beta(keys: Keys, use: str, alpha: float) -> NDArray[np.float64]:
    """Numbers from Beta(alpha, alpha), one for each key; alpha 1 is uniform."""
    drawn = uniform(keys, use)
    if alpha == 1:
        return drawn
    from scipy.special import betaincinv

    return betaincinv(alpha, alpha, drawn)


def _mix(bits: Keys) -> Keys:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
