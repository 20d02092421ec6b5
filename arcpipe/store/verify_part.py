"""Checking the arrays of one part: every chunk decoded, then what the numbers mean; and the report of what is found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from arcpipe.errors import DamagedStoreError
from arcpipe.seeds import generator
from arcpipe.storage import Storage
from arcpipe.store.check import batch_problems, nearest_problems, sample_problems
from arcpipe.store.layout import ARRAYS, array_names
from arcpipe.store.part import Part
from arcpipe.store.reader import Store
from arcpipe.store.statistics import latent_sums, psnr_sum

Kind = Literal["damage", "stranger", "totals"]
SeenSamples = dict[str, NDArray[np.int64]]
"""Group of a part -> ids of its samples."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: in which file or array of the store (relative to it), and what.

    `kind`: `damage` to what was written, a `stranger` that does not belong, or `totals` of the root that are not
    those of its parts.
    """

    where: str
    what: str
    kind: Kind = "damage"

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class VerifyReport:
    """What `verify` checked and found.

    `complete`: whether the store says it is finished. `content`: the hash of all that was converted (`content_hash`),
    None where there are problems or the store is unfinished.
    """

    storage: Storage
    complete: bool = False
    parts: int = 0
    arrays: int = 0
    chunks: int = 0
    files: int = 0
    bytes: int = 0
    clouds: int = 0
    failed: int = 0
    missing_parts: int = 0
    problems: list[Problem] = field(default_factory=list)
    content: str | None = None

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, where: str, what: str, kind: Kind = "damage") -> None:
        self.problems.append(Problem(where, what, kind))


def check_arrays(store: Store, part: Part, report: VerifyReport, *, say: bool) -> bool:
    """Decode every chunk by itself, so that a damaged one is named; `say`: its file is not in the report yet."""
    names = array_names(store.root, part.attributes)
    counts = {**part.attributes, "ends": part.n_clouds + 1}
    counts |= {"latent_dim": store.latent_dim, "n_neighbours": store.n_neighbours}
    sound = True
    if part.attributes.get("latent_steps") != store.root.get("latent_steps"):
        report.add(part.place("zarr.json"), "latent_steps are not those of the store")
    for name in sorted(names):
        report.arrays += 1
        try:
            array = part.array(name)
        except DamagedStoreError as error:
            sound = False
            if say:
                report.add(part.place(name), "; ".join(error.details))
            continue
        lengths = ARRAYS[name][1] or array.shape
        shape = tuple(counts[length] if isinstance(length, str) else length for length in lengths)
        if array.shape != shape:
            sound = False
            report.add(part.place(name), f"shape {array.shape}, expected {shape}")
        if name == "latents" and str(array.dtype) != store.dtype:
            report.add(part.place(name), f"{array.dtype}, the store says {store.dtype}")
        step = array.chunks[0]
        for i in range(-(-array.shape[0] // step)):
            report.chunks += 1
            try:
                part.decode(name, i * step, min((i + 1) * step, array.shape[0]))
            except DamagedStoreError as error:
                sound = False
                report.add(part.place(name), f"chunk {i}: {'; '.join(error.details)}")
    return sound


def check_content(store: Store, part: Part, report: VerifyReport, seen: SeenSamples) -> None:
    """Check what the numbers of a part mean; adds its samples to those `seen`."""
    try:
        clouds = part.clouds(0, part.n_clouds, neighbours=store.has_neighbours)
    except DamagedStoreError as error:
        report.add(error.where or part.group, "; ".join(error.details))
        return
    except (ValueError, IndexError) as error:
        report.add(part.group, str(error))
        return
    rng = generator("verify", part.attributes["split"], part.attributes["part"])
    for name, what in batch_problems(clouds, store.root) or nearest_problems(clouds, rng):
        report.add(part.place(name), what)
    for what in sample_problems(clouds, part.failures(), part.attributes["samples"]):
        report.add(part.group, what)
    for name, of, values in (
        ("latent_sums", "latents", latent_sums(clouds.latents)),
        ("psnr", "clouds", psnr_sum(clouds)),
        ("pixels", "sizes", int(clouds.pixel_counts().sum())),
    ):
        if not nearly_equal(values, part.attributes[name]):
            report.add(part.place("zarr.json"), f"{name} are not those of the {of}")
    failed = [failure.sample_id for failure in part.failures()]
    seen[part.group] = np.unique(np.concatenate([clouds.sample_ids, np.array(failed, np.int64)]))


def check_seen(seen: SeenSamples, report: VerifyReport) -> None:
    """No sample is in two parts of a split."""
    for split in dict.fromkeys(group.partition("/")[0] for group in seen):
        parts = [group for group in seen if group.startswith(f"{split}/")]
        ids = np.concatenate([seen[folder] for folder in parts])
        owner = np.repeat(np.arange(len(parts)), [len(seen[folder]) for folder in parts])
        order = np.argsort(ids, kind="stable")
        twice = np.flatnonzero(np.diff(ids[order]) == 0)
        for i in dict.fromkeys(owner[order[twice + 1]].tolist()):
            k = next(row for row in twice if owner[order[row + 1]] == i)
            first = parts[owner[order[k]]].partition("/")[2]
            report.add(f"{parts[i]}/sample_ids", f"sample {ids[order[k]]} is in part {first} too")


def nearly_equal(left: Any, right: Any) -> bool:
    """Equal, up to the rounding of sums in another order."""
    if isinstance(left, Mapping):
        return isinstance(right, Mapping) and all(
            nearly_equal(left.get(key), right.get(key)) for key in {*left, *right}
        )
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(nearly_equal, left, right))
    if isinstance(left, float) or isinstance(right, float):
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        return numbers and math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-6)
    return bool(left == right)
