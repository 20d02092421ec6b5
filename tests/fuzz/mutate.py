"""Small damage to bytes and to JSON documents, the same for the same generator."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    0.5,
    2**31,
    2**53 + 1,
    2**63,
    10**30,
    1e308,
    "",
    "x",
    "..",
    "../../etc/passwd",
    "/dev/zero",
    "\0",
    "\ud800",
    [],
    {},
    [1],
    [[]],
    {"name": "x"},
    "9" * 5000,
)


def mutate(data: bytes, rng: np.random.Generator, other: bytes = b"") -> bytes:
    """One to eight changes: bits, bytes, numbers, cuts, copies, pieces of `other`; often near the ends, where headers
    and directories are."""
    changed = bytearray(data)
    for _ in range(int(min(8, rng.geometric(0.5)))):
        kind = rng.integers(9)
        at = _place(len(changed), rng)
        if kind <= 1 and changed:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 2 and changed:
            changed[at] = int(rng.integers(256))
        elif kind <= 4:
            width, order = int(rng.choice([1, 2, 4, 8])), ("little", "big")[int(rng.integers(2))]
            number = INTERESTING[int(rng.integers(len(INTERESTING)))] % 256**width
            changed[at : at + width] = number.to_bytes(width, order)  # type: ignore[arg-type]
        elif kind == 5:
            del changed[at : at + int(rng.integers(1, 65))]
        elif kind == 6:
            start = _place(len(changed), rng)
            changed[at:at] = changed[start : start + int(rng.integers(1, 257))]
        elif kind == 7 and other:
            start = _place(len(other), rng)
            changed[at : at + int(rng.integers(64))] = other[start : start + int(rng.integers(1, 513))]
        elif kind == 8 and rng.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def mutate_json(document: Any, rng: np.random.Generator) -> Any:
    """A copy of a document with one to three values replaced, removed, added, or copied from elsewhere in it."""
    changed = copy.deepcopy(document)
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(changed))
        if not places:
            return changed
        holder, key = places[int(rng.integers(len(places)))]
        kind = rng.integers(6)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            source, name = places[int(rng.integers(len(places)))]
            holder[key] = copy.deepcopy(source[name])
        elif kind == 2 and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        elif kind == 3 and isinstance(holder[key], int):
            holder[key] += int(rng.integers(-3, 4))
        else:
            holder[key] = copy.deepcopy(VALUES[int(rng.integers(len(VALUES)))])
    return changed


def to_bytes(document: Any) -> bytes:
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _place(size: int, rng: np.random.Generator) -> int:
    if size < 2:
        return 0
    if rng.random() < 0.5:
        near = int(rng.integers(min(size, 128)))
        return near if rng.random() < 0.6 else size - 1 - near
    return int(rng.integers(size))


def _places(document: Any) -> Any:
    """Every (holder, key) below a document."""
    keys = document.keys() if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in list(keys):
        yield document, key
        yield from _places(document[key])
