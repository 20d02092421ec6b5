"""Which clouds an epoch visits, and when: pure functions of a manifest, a seed and an epoch. NumPy only.

Parts are shuffled; blocks of neighbouring clouds are shuffled within a window of parts, so that few parts are open at a
time; the clouds of some hundred blocks are shuffled together in memory (a pool). The order is computed for the whole
job: ranks share its batches, so 1, 2, 4 or 8 processes train on the same ones. Resuming needs the seed, the epoch and
the number of batches done, nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from arcpipe import seeds
from arcpipe.cloud import ends_from

POOL_POINTS = 2**22
"""Points that a pool holds at most: 4.2 M, 300 MB of float16 latents of dimension 32. Clouds of 32 x 32 pictures are
bounded by `pool` long before; clouds of whole photographs by this."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The clouds that a split holds: ids of its parts, and for each part how many points each cloud has.

    `points[i]` (clouds of part i,) int64. `labels[i]`, where known, has the same shape.
    """

    parts: tuple[str, ...]
    points: tuple[NDArray[np.int64], ...]
    labels: tuple[NDArray[np.int64], ...] = field(default=())

    def __len__(self) -> int:
        return sum(len(part) for part in self.points)

    @property
    def n_points(self) -> int:
        return sum(int(part.sum()) for part in self.points)

    @property
    def digest(self) -> str:
        """Name of this content: a resumed run checks that it still reads the same clouds."""
        text = hashlib.sha256()
        for part, points in zip(self.parts, self.points, strict=True):
            text.update(f"/{part}:{len(points)}:".encode())
            text.update(np.ascontiguousarray(points, "<i8").tobytes())
        return text.hexdigest()


@dataclass(frozen=True, slots=True)
class EpochOrder:
    """All clouds of a manifest in the order of one epoch.

    `part` and `row` (n,) int32: cloud i of the epoch is row `row[i]` of part `part[i]` of the manifest.
    `pools` (p + 1,): clouds `pools[j]:pools[j + 1]` were shuffled together and are read together, from the blocks
    `blocks[block_ends[j]:block_ends[j + 1]]`, each (part, start, stop).
    """

    part: NDArray[np.int32]
    row: NDArray[np.int32]
    pools: NDArray[np.int64]
    blocks: NDArray[np.int64]
    block_ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.part)

    def pool_blocks(self, pool: int) -> NDArray[np.int64]:
        """Blocks (b, 3) of one pool: part, start, stop."""
        return self.blocks[self.block_ends[pool] : self.block_ends[pool + 1]]


def epoch_order(
    manifest: Manifest, seed: int, epoch: int, *, block: int = 32, window: int = 8, pool: int = 4096
) -> EpochOrder:
    """Order all clouds for one epoch, from 0: a permutation that depends on the arguments only.

    `block`, `window` and `pool` are those of `StreamSection`; a pool has fewer clouds where they would hold more than
    `POOL_POINTS` points.
    """
    generator = seeds.generator("order", seed, epoch)
    parts = generator.permutation(len(manifest.parts))
    windows = [parts[start : start + window] for start in range(0, len(parts), window)]
    blocks = [generator.permutation(_blocks_of(manifest, group, block), axis=0) for group in windows]
    joined = np.concatenate(blocks) if blocks else np.zeros((0, 3), np.int64)
    return _lay_out(joined, manifest, block, pool, generator)


def natural_order(manifest: Manifest, *, block: int = 32, pool: int = 4096) -> EpochOrder:
    """Order all clouds as they lie in the store, part after part: for evaluation."""
    return _lay_out(_blocks_of(manifest, np.arange(len(manifest.parts)), block), manifest, block, pool, None)


def cut_batches(
    order: EpochOrder, manifest: Manifest, batch_size: int, batch_points: int | None = None
) -> NDArray[np.int64]:
    """Cut an epoch into batches: batch i holds clouds `ends[i]:ends[i + 1]` of the order.

    A batch ends after `batch_size` clouds, or before the cloud that would take it over `batch_points` points (a larger
    cloud is a batch by itself). The last batch may be short; a single cloud that is left over joins the batch before
    it, because batch normalisation over one small cloud says little. Every cloud is in exactly one batch.

    Returns:
        (batches + 1,) int64, rising from 0 to the number of clouds.
    """
    n = len(order)
    ends = list(range(0, n, batch_size))
    if batch_points is not None and n:
        before = ends_from(np.concatenate(manifest.points)[_places(order, manifest)])
        ends, start = [], 0
        while start < n:
            ends.append(start)
            stop = int(np.searchsorted(before, before[start] + batch_points, side="right")) - 1
            start = min(max(stop, start + 1), start + batch_size)
    if len(ends) > 1 and n - ends[-1] == 1:
        ends.pop()
    return np.array([*ends, n] if n else [0], np.int64)


def rank_share(start: int, stop: int, rank: int, world: int) -> tuple[int, int]:
    """The slice of the batch `start:stop` that one of `world` processes takes; sizes differ by at most one."""
    n = stop - start
    return start + n * rank // world, start + n * (rank + 1) // world


def shuffle_quality(order: EpochOrder, manifest: Manifest) -> dict[str, float]:
    """Measure how well an epoch is mixed; a perfect shuffle has `displacement` 1 and `run_length` near 1.

    `displacement`: mean distance between a cloud's place in the store and in the epoch, over that of a uniform
    permutation, (n² - 1) / 3n. `run_length`: mean length of runs of one label, over that expected of a uniform
    permutation of the same labels; NaN where labels are unknown.
    """
    n = len(order)
    if n < 2:
        return {"displacement": 1.0, "run_length": 1.0}
    place = _places(order, manifest)
    displacement = float(np.abs(place - np.arange(n)).mean() / ((n * n - 1) / (3 * n)))
    if not manifest.labels:
        return {"displacement": displacement, "run_length": float("nan")}
    labels = np.concatenate(manifest.labels)[place]
    runs = 1 + int((labels[1:] != labels[:-1]).sum())
    counts = np.unique(labels, return_counts=True)[1]
    expected_runs = 1 + (n - 1) * (1 - float((counts * (counts - 1)).sum()) / (n * (n - 1)))
    return {"displacement": displacement, "run_length": expected_runs / runs}


def _blocks_of(manifest: Manifest, parts: NDArray[np.int64], block: int) -> NDArray[np.int64]:
    """Blocks (b, 3) of some parts: part, start, stop. A part's last block may be short."""
    sizes = [(part, len(manifest.points[part])) for part in parts.tolist()]
    rows = [(part, start, min(start + block, n)) for part, n in sizes for start in range(0, n, block)]
    return np.array(rows, np.int64).reshape(-1, 3)


def _lay_out(
    blocks: NDArray[np.int64], manifest: Manifest, block: int, pool: int, generator: np.random.Generator | None
) -> EpochOrder:
    """Write out the clouds of all blocks, shuffled inside each pool where there is a generator.

    Pools are whole blocks: a block is never read for two of them.
    """
    mean_points = manifest.n_points / max(len(manifest), 1)
    per_pool = max(1, int(min(pool, POOL_POINTS / max(mean_points, 1.0)) // block))
    block_ends = np.array([*range(0, len(blocks), per_pool), len(blocks)] if len(blocks) else [0], np.int64)
    sizes = blocks[:, 2] - blocks[:, 1]
    firsts = ends_from(sizes)
    part = np.repeat(blocks[:, 0], sizes).astype(np.int32)
    row = (np.arange(firsts[-1]) + np.repeat(blocks[:, 1] - firsts[:-1], sizes)).astype(np.int32)
    pools = firsts[block_ends]
    if generator is not None:
        for start, stop in pairwise(pools.tolist()):
            mixed = start + generator.permutation(stop - start)
            part[start:stop], row[start:stop] = part[mixed], row[mixed]
    return EpochOrder(part, row, pools, blocks, block_ends)


def _places(order: EpochOrder, manifest: Manifest) -> NDArray[np.int64]:
    """Where the clouds of an epoch stand in the store, counted over all parts."""
    return ends_from([len(part) for part in manifest.points])[order.part] + order.row
