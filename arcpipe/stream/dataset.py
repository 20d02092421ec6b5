"""A store as a data set of PyTorch: a stream of batches to train on, clouds by number, and batches for PyG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np
from torch import distributed
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from arcpipe.cloud import Cloud, CloudBatch
from arcpipe.config import AugmentSection, OptimSection, StreamSection, build, differences
from arcpipe.errors import ConfigError, MissingPackageError, install
from arcpipe.options import Normalise
from arcpipe.storage import Place
from arcpipe.store import Store, open_store
from arcpipe.stream.changes import check_changes
from arcpipe.stream.loader import Batch, StreamLoader, collate, one_hot
from arcpipe.stream.split import Normalisation, Split, from_statistics

Normalising = Normalise | Normalisation


class CloudStream(IterableDataset[Batch]):
    """The batches of one split, epoch after epoch, in a reproducible order: see `Batch` for what they hold.

    >>> import arcpipe as ap
    >>> stream = ap.CloudStream("store/digits.zarr", "train", batch_size=16, augment=["mask", "arcmix"], seed=0)
    >>> for epoch in range(2):
    ...     stream.set_epoch(epoch)
    ...     for batch in stream:
    ...         pass  # batch.latents (m, z), batch.positions (m, 2), batch.offsets (s + 1,), batch.labels (s, classes)
    >>> batch.latents.shape[1], batch.labels.shape[1]
    (32, 10)

    Order and augmentation follow from `seed` and epoch alone. An epoch that was iterated to its end is followed by the
    next one, so `set_epoch` matters only to who begins elsewhere. Threads of this process read ahead: give the stream
    to torch's DataLoader with `batch_size=None, num_workers=0`, or use no DataLoader at all.

    Args:
        store: A store, or where it is.
        split: Its split.
        batch_size: Clouds in a batch, of all ranks together.
        augment: Names of changes (docs/training.md), or an `AugmentSection` or a mapping that also says how strong.
        seed: Decides order and changes.
        shuffle: False visits the store in its own order.
        normalise: By the store's statistics of its training split: each dimension of the latents, all of them as one,
            those of each layer (of sine networks), or not; or a `Normalisation` of your own.
        rank, world: Which of how many processes this is; each takes its share of every batch. By default those of
            `torch.distributed`, where it is at work.
        settings: Others of `StreamSection`, for example `cache_mb=0` or `batch_points=2**17`.

    Raises:
        MissingSplitError, NotAStoreError, UnfinishedStoreError: there is nothing to stream.
        ConfigError: unknown settings, or changes that the store's clouds do not allow.
    """

    def __init__(
        self,
        store: Store | Place,
        split: str = "train",
        *,
        batch_size: int = 128,
        augment: Sequence[str] | Mapping[str, Any] | AugmentSection = (),
        seed: int = 0,
        shuffle: bool = True,
        normalise: Normalising = "per-dim",
        rank: int | None = None,
        world: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.store = store if isinstance(store, Store) else open_store(store)
        self.section = build(StreamSection, settings, "the stream")
        if not isinstance(augment, AugmentSection):
            names = {"apply": [augment] if isinstance(augment, str) else augment}
            augment = build(AugmentSection, augment if isinstance(augment, Mapping) else names, "augment")
        self.augment = augment
        self.normalisation = as_normalisation(self.store, normalise)
        check_changes(self.augment, self.store)
        self.split = Split(self.store, split, cache_mb=self.section.cache_mb, readers=self.section.readers)
        self.batch_size = build(OptimSection, {"batch_size": batch_size}, "the stream").batch_size  # 0 would never end
        self.seed, self.shuffle = seed, shuffle
        self.rank, self.world = _ranks(rank, world)
        self.epoch = 0
        self._first = self._done = 0

    def __repr__(self) -> str:
        return f"<CloudStream {self.split.name} of {self.store.storage}: {len(self)} batches, epoch {self.epoch}>"

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is iterated next; where it is another one, it is iterated from its first batch."""
        if epoch != self.epoch:
            self.epoch, self._first, self._done = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is: `epoch`, `batch` (those that were handed out), and what tells the same stream."""
        return {"epoch": self.epoch, "batch": self._done, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind the batches that were handed out when `state` was taken: the same ones follow, on any ranks.

        Raises:
            ConfigError: the state is one of another stream.
        """
        own = {key: value for key, value in state.items() if key not in ("epoch", "batch")}
        changed = differences(own, self._identity())
        if changed:
            raise ConfigError("the state is one of another stream.", details=changed)
        self.epoch, self._first = int(state["epoch"]), int(state["batch"])
        self._done = self._first

    def __iter__(self) -> Iterator[Batch]:
        if get_worker_info() is not None:
            raise ConfigError(
                "a CloudStream reads with threads of its own, not in the workers of a DataLoader.",
                fix=["DataLoader(stream, batch_size=None, num_workers=0), or iterate over the stream itself"],
            )
        loader, epoch = self._loader(self._first), self.epoch
        self._done, self._first = self._first, 0
        for batch in loader:
            self._done = batch.index + 1
            yield batch
        self.set_epoch(epoch + 1)

    def __len__(self) -> int:
        """Batches in the epoch."""
        return self._loader(0).n_batches

    def _loader(self, first: int) -> StreamLoader:
        return StreamLoader(
            self.split,
            self.normalisation,
            self.batch_size,
            section=self.section,
            seed=self.seed,
            epoch=self.epoch,
            start_batch=first,
            augment=self.augment,
            shuffle=self.shuffle,
            rank=self.rank,
            world=self.world,
        )

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "clouds": self.split.manifest.digest,
            "augment": self.augment.model_dump(mode="json"),
        }


class CloudDataset(Dataset[Cloud]):
    """The clouds of one split by number, for torch's DataLoader with its samplers and worker processes.

    >>> import arcpipe as ap
    >>> from torch.utils.data import DataLoader
    >>> test = ap.CloudDataset("store/digits.zarr", "test")
    >>> cloud = test[3]
    >>> cloud.positions.shape, cloud.latents.shape
    ((51, 2), (51, 32))
    >>> batch = next(iter(DataLoader(test, batch_size=8, collate_fn=test.collate)))
    >>> len(batch), batch.offsets[-1] == len(batch.latents)
    (8, tensor(True))

    Args:
        store: A store, or where it is.
        split: Its split.
        normalise: What `collate` does to latents, as in `CloudStream`.

    Raises:
        MissingSplitError, NotAStoreError, UnfinishedStoreError: there is nothing to read.
    """

    def __init__(self, store: Store | Place, split: str = "test", *, normalise: Normalising = "per-dim") -> None:
        self.store, self.split = store if isinstance(store, Store) else open_store(store), split
        self.normalisation = as_normalisation(self.store, normalise)
        self._parts = self.store.parts(split)
        self._ends = np.cumsum([part.n_clouds for part in self._parts], dtype=np.int64)

    def __repr__(self) -> str:
        return f"<CloudDataset {self.split} of {self.store.storage}: {len(self)} clouds>"

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Cloud:
        """One cloud as it is stored, in the order of the store."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        part = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[part - 1]) if part else 0)
        return self.store.read_cloud(self.split, self._parts[part].id, row)

    def collate(self, clouds: Sequence[Cloud]) -> Batch:
        """Make a batch of clouds: latents normalised, labels as rows of one 1."""
        joined = CloudBatch.join(clouds, latent_dim=self.store.latent_dim)
        labels = one_hot(joined.labels, len(self.store.classes))
        return collate(joined, labels, joined.sample_ids, self.normalisation)


def to_pyg(batch: Batch) -> Any:
    """A batch in the layout of PyTorch Geometric: `torch_geometric.data.Data`, whose tensors are those of the batch.

    >>> import arcpipe as ap
    >>> batch = next(iter(ap.CloudStream("store/digits.zarr", "test", batch_size=16)))
    >>> data = ap.to_pyg(batch)
    >>> data.x.shape == batch.latents.shape, data.ptr[-1] == len(data.pos)
    (True, tensor(True))

    `x` (m, z) latents, `pos` (m, 2), `batch` (m,) the cloud of each point, `ptr` (s + 1,), `y` (s,) the class with the
    largest share, `soft` (s, classes) the shares.

    Raises:
        MissingPackageError: PyTorch Geometric is not installed.
    """
    try:
        from torch_geometric.data import Data
    except ImportError:
        raise MissingPackageError(
            "to_pyg needs PyTorch Geometric, which is not installed.", fix=[install("pyg")]
        ) from None
    return Data(
        x=batch.latents,
        pos=batch.positions,
        batch=batch.owner,
        ptr=batch.offsets,
        y=batch.labels.argmax(1),
        soft=batch.labels,
    )


def as_normalisation(store: Store, normalise: Normalising) -> Normalisation:
    """The normalisation by a store's own statistics, or the one that is given."""
    if isinstance(normalise, Normalisation):
        return normalise
    if normalise not in get_args(Normalise):
        raise ConfigError(f"normalise is per-dim, whole, per-layer or none, not {normalise!r}.")
    return from_statistics(store, normalise, store.latent_statistics)


def _ranks(rank: int | None, world: int | None) -> tuple[int, int]:
    if rank is None and world is None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    own, of = rank or 0, world or 1
    if not 0 <= own < of:
        raise ConfigError(f"rank {own} of {of} processes does not exist.", fix=["rank 0 to world - 1"])
    return own, of
