"""What a store says about itself: header, plan, records, and the seal that tells when its metadata was changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FORMAT = "arcpipe-store"
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """One unit of work: `n_samples` images, each to end as its clouds or as one failure, in the group `split/id`."""

    split: str
    id: str
    n_samples: int


@dataclass(frozen=True)
class StoreHeader:
    """What is known before the first part is written.

    `splits`: `{"train": {"samples": 8000, "parts": 40}}`. Every part of a split has `samples // parts` samples and the
    first `samples % parts` have one more. An image that is fitted several times is one sample with several clouds.
    `config` is the resolved configuration, `fingerprint` the hash of what changes content (see `fingerprint`),
    `versions` the tools that made it (no part of the fingerprint).
    """

    config: Mapping[str, Any]
    fingerprint: str
    classes: Sequence[str]
    channels: int
    splits: Mapping[str, Mapping[str, int]]
    seed: int = 0
    dtype: str = "float16"
    bits: int = 8
    """Of `int8`, see `latent_steps`."""
    neighbours_cache: str = "pixels"
    versions: Mapping[str, str] = field(default_factory=dict)


def plan_parts(splits: Mapping[str, Mapping[str, int]]) -> tuple[PlannedPart, ...]:
    """List the parts of a plan `{split: {"samples": n, "parts": p}}`; ids are `0000`, `0001`, ..."""
    planned = []
    for split, numbers in splits.items():
        samples, parts = numbers["samples"], numbers["parts"]
        width = max(4, len(str(parts - 1)))
        for i in range(parts):
            planned.append(PlannedPart(split, f"{i:0{width}d}", samples // parts + (i < samples % parts)))
    return tuple(planned)


@dataclass(frozen=True)
class PartRecord:
    """What a part says about itself, without its arrays: small, so that tasks return it.

    `bytes`: on disk, per array. `psnr_sum`: over the clouds whose PSNR is known (`psnr_count`), dB.
    """

    split: str
    id: str
    n_samples: int
    n_clouds: int
    n_points: int
    n_pixels: int
    n_failures: int
    psnr_sum: float
    psnr_count: int
    seconds: float
    bytes: dict[str, int]
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage, where the part tells them apart."""


def fingerprint(values: Mapping[str, Any]) -> str:
    """Hash what changes the content of a store: sha256 of its canonical JSON. Order of keys does not matter."""
    return hashlib.sha256(canonical(values)).hexdigest()


def canonical(values: Any) -> bytes:
    """JSON with sorted keys and no spaces; NaN and infinity are refused."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """The bytes of a sealed group's `zarr.json`.

    The attribute `seal` is the sha256 of the canonical JSON of the whole document without it, and the document has one
    spelling only (indented by 1, ASCII, a newline at the end): a change of any byte can be told.
    """
    document = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    document["attributes"] = {**attributes, "seal": hashlib.sha256(canonical(document)).hexdigest()}
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
