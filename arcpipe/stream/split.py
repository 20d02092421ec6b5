"""One split of a store as a stream sees it: its manifest, its blocks, and how its latents are normalised."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import CloudBatch, DecoderRecord, SirenRecord, tensor_sizes
from arcpipe.errors import ConfigError
from arcpipe.options import Normalise
from arcpipe.store import Store
from arcpipe.stream.augment import Columns
from arcpipe.stream.changes import columns_of
from arcpipe.stream.order import Manifest


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Latents become `(latents - mean) / std`. `mean`, `std` (z,) float32."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def __call__(self, latents: NDArray[Any]) -> NDArray[np.float32]:
        """Normalise (m, z) latents of any float type into a new float32 array."""
        normalised = latents.astype(np.float32)
        normalised -= self.mean
        normalised *= np.float32(1) / self.std
        return normalised

    def to_dict(self) -> dict[str, list[float]]:
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, list[float]]) -> Normalisation:
        return cls(np.array(values["mean"], np.float32), np.array(values["std"], np.float32))


class Split:
    """Reads blocks of one split, from the store or from memory.

    Args:
        name: The split; `MissingSplitError` if the store has none of that name.
        cache_mb: A split of at most so many megabytes is read once and kept. Content and order are the same.
        readers: Threads that fill the memory.
        without: Leave out the last images of every part, about so large a share of its clouds.
        only: Take just those that `without` leaves out. Parts are drawn by a seed, so these are images of any kind;
            all clouds of an image are on one side.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        cache_mb: float = 0,
        readers: int = 2,
        without: float = 0.0,
        only: float = 0.0,
    ) -> None:
        self.store, self.split = store, name
        self.name = "validation" if only else name
        self.whole = not (without or only)
        parts = store.parts(name)
        cuts = np.cumsum([part.n_clouds for part in parts])[:-1]
        columns = [np.split(store.column(name, column), cuts) if parts else [] for column in ("counts", "labels")]
        self._before = [0] * len(parts)  # clouds of a part before the first that is taken
        if not self.whole and parts:
            ends = [_learned(ids, without or only) for ids in np.split(store.column(name, "sample_ids"), cuts)]
            if only:
                self._before = ends
            taken = [slice(end, None) if only else slice(end) for end in ends]
            columns = [[values[rows] for values, rows in zip(column, taken, strict=True)] for column in columns]
        self.manifest = Manifest(
            parts=tuple(part.id for part in parts), points=tuple(columns[0]), labels=tuple(columns[1])
        )
        self._memory: tuple[CloudBatch, ...] | None = None
        if self.n_bytes <= cache_mb * 2**20:
            with ThreadPoolExecutor(max(readers, self.least_readers), "arcpipe-read") as pool:
                clouds = map(len, self.manifest.points)
                self._memory = tuple(pool.map(self._read, range(len(parts)), itertools.repeat(0), clouds))

    @cached_property
    def columns(self) -> Columns | None:
        """What the numbers are that describe a point, so that they can change with the picture."""
        return columns_of(self.store.decoder)

    @property
    def in_memory(self) -> bool:
        return self._memory is not None

    @property
    def least_readers(self) -> int:
        """Threads that fetch blocks at least: from a bucket most of their time is waiting for answers."""
        return self.store.storage.readers

    @property
    def n_bytes(self) -> int:
        """Bytes of the split in memory: latents (4 bytes a value at most), positions and a row per cloud."""
        return self.manifest.n_points * (4 * self.store.latent_dim + 8) + 48 * len(self.manifest)

    def read(self, part: int, start: int, stop: int) -> CloudBatch:
        """Clouds `start:stop` of part number `part` of the manifest, without neighbours and scales. Thread-safe."""
        if self._memory is not None:
            return self._memory[part].cut(start, stop)
        return self._read(part, start, stop)

    def _read(self, part: int, start: int, stop: int) -> CloudBatch:
        row = self._before[part]
        clouds = self.store.read_block(self.split, self.manifest.parts[part], row + start, row + stop)
        return replace(clouds, scales=None)


def _learned(sample_ids: NDArray[np.int64], held_out: float) -> int:
    """How many clouds of a part are left for training; the cut is between two images."""
    end = len(sample_ids) - round(held_out * len(sample_ids))
    while 0 < end < len(sample_ids) and sample_ids[end] == sample_ids[end - 1]:
        end -= 1
    return end


def normalisation(split: Split, kind: Normalise) -> Normalisation:
    """Choose mean and std of the training latents, or features (thesis experiment 6).

    `kind` is `per-dim`: one mean and std per latent dimension; `whole`: one of each; `per-layer`: of sine networks,
    one for the weights and one for the biases of every layer; `none`: latents stay as they are.
    """
    if kind == "none":
        return from_statistics(split.store, kind, {})
    statistics = split.store.latent_statistics
    # The store keeps those of its own training split only, and of all of it.
    if statistics.get("split") != split.name or not split.whole:
        statistics = _statistics(split)
    return from_statistics(split.store, kind, statistics)


def from_statistics(store: Store, kind: Normalise, statistics: Mapping[str, Any]) -> Normalisation:
    """Choose mean and std from statistics as a store keeps them; `none` needs none.

    Raises:
        ConfigError: `per-layer`, and the decoder is none of sine networks.
    """
    width = store.latent_dim
    if kind == "none":
        return Normalisation(np.zeros(width, np.float32), np.ones(width, np.float32))
    if kind == "per-layer":
        return _per_layer(statistics, store.decoder)
    if kind == "whole":
        mean = np.full(width, statistics["whole_mean"], np.float32)
        std = np.full(width, statistics["whole_std"], np.float32)
    else:
        mean, std = np.array(statistics["mean"], np.float32), np.array(statistics["std"], np.float32)
    return Normalisation(mean, np.where(std > 0, std, np.float32(1)))  # a constant dimension becomes 0, not NaN


def _per_layer(statistics: Mapping[str, Any], decoder: DecoderRecord) -> Normalisation:
    """One mean and std for each of W_0, b_0, W_1, ... of sine networks."""
    if not isinstance(decoder, SirenRecord):
        raise ConfigError("--normalise per-layer is of sine networks.", fix=["--normalise per-dim"])
    mean, std = (np.array(statistics[name], np.float64) for name in ("mean", "std"))
    for rows in np.split(np.arange(len(mean)), np.cumsum(tensor_sizes(decoder.widths_tuple))[:-1]):
        middle = mean[rows].mean()
        power = np.mean(std[rows] ** 2 + (mean[rows] - middle) ** 2)
        mean[rows], std[rows] = middle, np.sqrt(power) if power > 0 else 1.0
    return Normalisation(mean.astype(np.float32), std.astype(np.float32))


def _statistics(split: Split) -> dict[str, Any]:
    """Mean and std of the latents, per dimension and over all, in float64, block by block."""
    width = split.store.latent_dim
    count, total, square = 0, np.zeros(width), np.zeros(width)
    for part, points in enumerate(split.manifest.points):
        for start in range(0, len(points), 256):
            latents = split.read(part, start, min(start + 256, len(points))).latents.astype(np.float64)
            count += len(latents)
            total += latents.sum(0)
            square += np.square(latents).sum(0)
    mean, power = total / max(count, 1), square / max(count, 1)
    return {
        "mean": mean,
        "std": np.sqrt(np.maximum(power - mean**2, 0)),
        "whole_mean": mean.mean(),
        "whole_std": np.sqrt(max(power.mean() - mean.mean() ** 2, 0)),
    }
