"""Streams batches of clouds: reader threads, bounded memory, the same batches whatever the number of threads.

Blocks are read by a few threads into pools (see `order`), one pool ahead; one thread makes batches from them, a few
batches ahead. No processes, no shared state: everything under way is a future that the consumer holds, so an error in a
thread is raised where the batch is asked for, and leaving the loop ends the threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcpipe.cloud import CloudBatch, ends_from
from arcpipe.config import AugmentSection, StreamSection
from arcpipe.models.moving import moved
from arcpipe.stream.augment import Augmented, augment
from arcpipe.stream.draws import cloud_keys
from arcpipe.stream.order import cut_batches, epoch_order, natural_order, rank_share
from arcpipe.stream.split import Normalisation, Split
from arcpipe.threads import give_way


@dataclass(frozen=True, slots=True)
class Batch:
    """What the model is given, clouds end to end.

    `latents` (m, z) float32, normalised; `positions` (m, 2) float32, row and column in pixels; `offsets` (s + 1,)
    int64; `labels` (s, classes) float32, rows sum to 1; `sample_ids` (s,) and `index`, the batch's number in its epoch.
    Where several processes share a batch, these are its clouds `low:low + s` of `total`.
    """

    latents: Tensor
    positions: Tensor
    offsets: Tensor
    labels: Tensor
    sample_ids: NDArray[np.int64]
    index: int
    low: int
    total: int
    plan: Any = None
    """What the model made of the clouds' places ahead of time, see `ahead`."""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return (
            f"<Batch {self.index}: {len(self)} clouds, {len(self.latents)} points of {self.latents.shape[1]} numbers>"
        )

    @property
    def owner(self) -> Tensor:
        """The cloud of each point (m,) int64, for sums and means over clouds."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.offsets.diff())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        return moved(self, torch.device(device))


@dataclass(eq=False, repr=False)
class StreamLoader:
    """The batches of one epoch, from batch `start_batch` on; iterating again starts there again.

    Args:
        normalisation: Applied to the latents after augmentation.
        batch_size: Clouds in a batch, of all ranks together.
        section: Block, window, pool, readers, prefetch and the bound on points.
        seed, epoch: Choose the order and the augmentation; epochs count from 0.
        start_batch: Batches of the epoch that are done.
        augment: Random changes of the clouds; None leaves them as they are.
        shuffle: False visits the store in its own order.
        rank, world: This process takes its share of each batch; the batches are those of a single process. In a
            shuffled epoch, a batch with fewer clouds than processes goes to each of them whole.
    """

    split: Split
    normalisation: Normalisation
    batch_size: int
    _: KW_ONLY
    section: StreamSection
    seed: int = 0
    epoch: int = 0
    start_batch: int = 0
    augment: AugmentSection | None = None
    shuffle: bool = True
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.augment is not None and not self.augment.apply:
            self.augment = None
        manifest, section = self.split.manifest, self.section
        block, pool = section.block, section.pool
        if self.shuffle:
            self.order = epoch_order(manifest, self.seed, self.epoch, block=block, window=section.window, pool=pool)
        else:
            self.order = natural_order(manifest, block=block, pool=pool)
        self.ends = cut_batches(self.order, manifest, self.batch_size, section.batch_points)

    @property
    def n_batches(self) -> int:
        """Batches in the whole epoch."""
        return len(self.ends) - 1

    def __iter__(self) -> Iterator[Batch]:
        reading = ThreadPoolExecutor(max(self.section.readers, self.split.least_readers), "arcpipe-read", give_way)
        making = ThreadPoolExecutor(1, "arcpipe-batch", give_way)
        try:
            yield from self._batches(reading, making)
        finally:
            # Readers first: the batch under way may be waiting for a block that nobody will read any more.
            reading.shutdown(wait=False, cancel_futures=True)
            making.shutdown(wait=True, cancel_futures=True)
            reading.shutdown(wait=True)

    def _batches(self, reading: ThreadPoolExecutor, making: ThreadPoolExecutor) -> Iterator[Batch]:
        pools: dict[int, Pool] = {}
        ready: deque[Future[Batch]] = deque()
        for index in range(self.start_batch, self.n_batches):
            first, last = self._pools_of(index)
            for number in range(first, min(last + 2, len(self.order.pools) - 1)):
                if number not in pools:
                    pools[number] = Pool(self.split, self.order.pool_blocks(number), reading)
            for number in [number for number in pools if number < first]:
                del pools[number]
            ready.append(making.submit(self._make, index, [pools[number] for number in range(first, last + 1)]))
            if len(ready) > self.section.prefetch:
                yield ready.popleft().result()
        while ready:
            yield ready.popleft().result()

    def _pools_of(self, index: int) -> tuple[int, int]:
        """First and last pool that a batch takes clouds from."""
        first, last = np.searchsorted(self.order.pools, [self.ends[index], self.ends[index + 1] - 1], side="right") - 1
        return int(first), int(last)

    def _make(self, index: int, pools: list[Pool]) -> Batch:
        """A batch from the pools that hold its clouds."""
        start, stop = int(self.ends[index]), int(self.ends[index + 1])
        low, high = self._share(start, stop)
        places = np.arange(low, high)
        mixed = self.augment is not None and "arcmix" in self.augment.apply and low < high
        if mixed:
            # A cloud is mixed with the next one of the batch, the last with the first: a rank needs one cloud more.
            places = np.append(places, high if high < stop else start)
        clouds = self._clouds(index, places, pools)
        ids = clouds.sample_ids[: high - low]
        labels = one_hot(clouds.labels, len(self.split.store.classes))
        changed: CloudBatch | Augmented = clouds
        if self.augment is not None and len(clouds):
            keys = cloud_keys(self.seed, self.epoch, clouds.sample_ids, clouds.repeats)
            changed = augment(clouds, labels, keys, self.augment, self.split.columns)
            labels = changed.labels
        return collate(changed, labels, ids, self.normalisation, index, low - start, stop - start)

    def _clouds(self, index: int, places: NDArray[np.int64], pools: list[Pool]) -> CloudBatch:
        """The clouds at some places of the order, end to end, from the pools of batch `index`."""
        number = np.searchsorted(self.order.pools, places, side="right") - 1 - self._pools_of(index)[0]
        runs = np.split(np.arange(len(places)), np.flatnonzero(np.diff(number)) + 1)
        taken = []
        for run in runs:
            parts, rows = self.order.part[places[run]], self.order.row[places[run]]
            taken.append(pools[int(number[run[0]]) if len(run) else 0].take(parts, rows))
        return CloudBatch.concat(taken)

    def _share(self, start: int, stop: int) -> tuple[int, int]:
        """First and last cloud of this rank. In training none goes without: its batch norms would have nothing."""
        if self.shuffle and stop - start < self.world:
            return start, stop
        return rank_share(start, stop, self.rank, self.world)

    def places(self) -> NDArray[np.int64]:
        """Places in the epoch's order of the clouds that this rank is given, batch after batch."""
        shares = [self._share(*ends) for ends in pairwise(self.ends[self.start_batch :].tolist())]
        return np.concatenate([np.zeros(0, np.int64), *(np.arange(low, high) for low, high in shares)])


class Pool:
    """Blocks that are read together, and lie end to end once somebody asks for a cloud of them.

    The reader threads are asked at once for `blocks` (b, 3): part, start, stop; part by part, as they lie on disk.
    """

    def __init__(self, split: Split, blocks: NDArray[np.int64], readers: ThreadPoolExecutor) -> None:
        self._blocks = blocks[np.lexsort((blocks[:, 1], blocks[:, 0]))]
        self._starts = ends_from(self._blocks[:, 2] - self._blocks[:, 1])
        self._keys = _block_keys(self._blocks[:, 0], self._blocks[:, 1])
        self._reads = [readers.submit(split.read, *block) for block in self._blocks.tolist()]
        self._clouds: CloudBatch | None = None

    def take(self, parts: NDArray[Any], rows: NDArray[Any]) -> CloudBatch:
        """The clouds (n,) at rows of parts, end to end; waits until all blocks are there. One thread at a time."""
        if self._clouds is None:
            self._clouds = CloudBatch.concat([read.result() for read in self._reads])
            self._reads = []
        block = np.searchsorted(self._keys, _block_keys(parts, rows), side="right") - 1
        return self._clouds.take(self._starts[block] + rows - self._blocks[block, 1])


def _block_keys(part: NDArray[Any], row: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray(part, np.int64) << 40 | np.asarray(row, np.int64)


def collate(
    clouds: CloudBatch | Augmented,
    labels: NDArray[np.float32],
    sample_ids: NDArray[np.int64],
    normalisation: Normalisation,
    index: int = 0,
    low: int = 0,
    total: int | None = None,
) -> Batch:
    """Clouds as tensors. `labels` (s, classes); `low`, `total` as in `Batch`, by default all of it."""
    return Batch(
        latents=torch.from_numpy(normalisation(clouds.latents)),
        positions=torch.from_numpy(clouds.positions.astype(np.float32, copy=False)),
        offsets=torch.from_numpy(clouds.offsets),
        labels=torch.from_numpy(labels),
        sample_ids=sample_ids,
        index=index,
        low=low,
        total=len(labels) if total is None else total,
    )


def one_hot(labels: NDArray[np.int64] | Sequence[int], n_classes: int) -> NDArray[np.float32]:
    """Labels (s,) as rows (s, n_classes) of one 1."""
    return np.eye(n_classes, dtype=np.float32)[np.asarray(labels, np.int64)]
