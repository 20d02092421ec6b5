"""What the page about a store is made of: sums of its parts, one row of numbers for each cloud, and a few latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.inspect.samples import in_order
from arcpipe.store import Store
from arcpipe.store.summary import StoreSummary, summarise_store

SAMPLED_BLOCKS, BLOCK_CLOUDS = 16, 16
SAMPLED_POINTS = 2**17
"""Anchors whose latents are read, at 32 float32 values 17 MB; a store has millions."""


@dataclass(frozen=True, slots=True)
class Columns:
    """One row per cloud of a split: PSNR in dB, anchors, size (height, width), label, number of the repeat."""

    psnr: NDArray[Any]
    anchors: NDArray[Any]
    sizes: NDArray[Any]
    labels: NDArray[Any]
    repeats: NDArray[Any]

    @property
    def first(self) -> NDArray[np.bool_]:
        """Which clouds are the first of their image: these count images."""
        return self.repeats == 0


@dataclass(frozen=True, slots=True)
class LatentSample:
    """Latents (points, z) of some clouds of one split, float32."""

    split: str
    values: NDArray[np.float32]
    n_clouds: int
    of_clouds: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything about a store that its page shows beside pictures."""

    store: Store
    summary: StoreSummary
    columns: Mapping[str, Columns]
    latents: LatentSample | None
    """None where there is no cloud."""

    @property
    def psnr(self) -> dict[str, NDArray[Any]]:
        return {split: own.psnr for split, own in self.columns.items()}

    @property
    def planned(self) -> int:
        """Images of the whole plan, committed or not."""
        return sum(int(numbers["samples"]) for numbers in self.store.root["splits"].values())

    @property
    def images(self) -> int:
        return sum(split.samples for split in self.summary.splits.values())

    @property
    def failed(self) -> int:
        return len(self.summary.failures)

    @property
    def pixels(self) -> int:
        return sum(split.pixels for split in self.summary.splits.values())

    @property
    def n_bytes(self) -> int:
        return sum(self.summary.bytes_by_array.values())


def gather(store: Store) -> Facts:
    """Read the facts of a store, finished or not. No more latents than `SAMPLED_POINTS` and one cloud are read."""
    names = ("psnr", "counts", "sizes", "labels", "repeats")
    columns = {split: Columns(*(store.column(split, name) for name in names)) for split in in_order(store.splits)}
    return Facts(store, summarise_store(store), columns, sample_latents(store, columns))


def sample_latents(store: Store, columns: Mapping[str, Columns]) -> LatentSample | None:
    """Latents of up to 256 clouds of the training split, in blocks from parts that lie evenly over the plan.

    A part is a random draw from its split already, so a block of one is, too. Where there is no training cloud, the
    first split that has clouds is taken.
    """
    split = next((name for name in ("train", *columns) if name in columns and len(columns[name].psnr)), None)
    if split is None:
        return None
    parts = [part for part in store.parts(split) if part.n_clouds]
    chosen = np.unique(np.linspace(0, len(parts) - 1, min(SAMPLED_BLOCKS, len(parts))).astype(int))
    each = -(-SAMPLED_BLOCKS * BLOCK_CLOUDS // len(chosen))
    pieces: list[NDArray[np.float32]] = []
    clouds, points = 0, 0
    for part in (parts[i] for i in chosen.tolist()):
        counts = np.diff(store.part(split, part.id).small("offsets"))[:each].cumsum()
        room = max(SAMPLED_POINTS // len(chosen), 1)
        stop = max(int(np.searchsorted(counts, room, side="right")), 0 if pieces else 1)
        if not stop or (pieces and points + int(counts[stop - 1]) > SAMPLED_POINTS):
            continue
        block = store.read_block(split, part.id, 0, stop)
        pieces.append(np.asarray(block.latents, np.float32))
        clouds, points = clouds + len(block), points + len(block.latents)
    return LatentSample(split, np.concatenate(pieces), clouds, len(columns[split].psnr))
