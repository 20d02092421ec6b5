"""Reading a store: splits, parts, blocks of clouds, single samples by name."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import arcpipe
from arcpipe.cloud import Cloud, CloudBatch, DecoderRecord, FailedSample
from arcpipe.errors import MissingSplitError, UnfinishedStoreError
from arcpipe.storage import Place, Storage, storage_at
from arcpipe.store.decoder_file import decoder_kind
from arcpipe.store.names import NameIndex
from arcpipe.store.part import ChunkCache, Part
from arcpipe.store.root import read_decoder, read_root
from arcpipe.store.schema import PartRecord, plan_parts
from arcpipe.store.statistics import combine_statistics, part_record

CACHE_BYTES = 2**28
OPEN_PARTS = 256


def open_store(place: Place, allow_unfinished: bool = False, *, cache_bytes: int = CACHE_BYTES) -> Store:
    """Open a store for reading: a path, or an address in a bucket (`s3://BUCKET/NAME.zarr`).

    >>> import arcpipe as ap
    >>> store = ap.open_store("store/digits.zarr")
    >>> store.splits, len(store.classes), len(store)
    (('test', 'train'), 10, 1797)
    >>> cloud = store["train/17"]
    >>> cloud.positions.shape, cloud.latents.shape, cloud.size, store.classes[cloud.label]
    ((51, 2), (51, 32), (32, 32), '2')

    Raises:
        NotAStoreError: nothing there, or something else.
        UnfinishedStoreError: the conversion has not finished and `allow_unfinished` is not set.
        DamagedStoreError: the root's metadata was changed.
    """
    store = Store(storage_at(place), cache_bytes=cache_bytes)
    if not store.complete and not allow_unfinished:
        missing = store.n_planned - store.n_committed
        source = store.config.get("source", {}).get("source", "SOURCE")
        raise UnfinishedStoreError(
            f"{store.storage} is not finished: {missing} of {store.n_planned} parts are missing.",
            details=[] if missing else ["all parts are there, but they were not added up yet"],
            fix=[
                f"arcpipe convert {source} --out {store.storage}   (with the options of before: it continues)",
                "or use what is there: --allow-unfinished",
            ],
        )
    return store


class Store:
    """A store, open for reading (see `open_store`). Safe to use from several threads; a pickled one opens again.

    `len(store)` counts its clouds, `store["train/17"]` is one of them (see `find` for names), `store.info` sums it up.
    `classes`, `channels`, `config`, `fingerprint`, `seed`, `dtype`, `splits`, `complete`, `totals`, `versions` are as
    the root says. Parts that are committed later are seen by a store that is opened later.
    """

    def __init__(self, storage: Storage, *, cache_bytes: int = CACHE_BYTES) -> None:
        self.storage = storage
        self.root = read_root(storage)
        self.config: dict[str, Any] = self.root["config"]
        self.classes: tuple[str, ...] = tuple(self.root["classes"])
        self.channels: int = self.root["channels"]
        self.splits: tuple[str, ...] = tuple(self.root["splits"])
        self.complete: bool = self.root["complete"]
        self.fingerprint: str = self.root["fingerprint"]
        self.seed: int = self.root["seed"]
        self.dtype: str = self.root["dtype"]
        self.totals: dict[str, Any] = self.root["totals"]
        self.versions: dict[str, str] = self.root["versions"]
        self.latent_dim: int = self.root["decoder"]["latent_dim"]
        self.n_neighbours: int = self.root["decoder"]["n_neighbours"]
        self.decoder_sha256: str = self.root["decoder"]["sha256"]
        self.decoder_kind = decoder_kind(self.root["decoder"], storage)
        self.has_neighbours: bool = self.root["neighbours_cache"] != "none"
        self._cache_bytes = cache_bytes
        self._chunks = ChunkCache(cache_bytes)
        self._open: OrderedDict[tuple[str, str], Part] = OrderedDict()
        self._records: dict[str, tuple[PartRecord, ...]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Store, cache_bytes=self._cache_bytes), (self.storage,)

    def __len__(self) -> int:
        return sum(part.n_clouds for split in self.splits for part in self.parts(split))

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, name: str) -> Cloud:
        """One cloud, with the decoder that it was fitted under. Raises as `find`."""
        if not isinstance(name, str):
            raise TypeError('clouds of a store have names, for example store["train/17"]; CloudDataset numbers them')
        return replace(self.read_cloud(*self.find(name)), decoder=self.decoder)

    __iter__ = None  # or Python would try numbers

    def __repr__(self) -> str:
        splits = ", ".join(f"{split} {numbers['samples']} images" for split, numbers in self.root["splits"].items())
        state = "" if self.complete else ", not finished"
        return f"<Store {self.storage}: {splits}, {len(self.classes)} classes, {self.decoder_kind}{state}>"

    def _repr_png_(self) -> bytes | None:
        return arcpipe.show(self)._repr_png_()

    @property
    def info(self) -> dict[str, Any]:
        """What it is and how it was made, in plain values; PSNR in dB, None where no cloud has one."""
        psnr = {split: self.psnr(split) for split in self.splits}
        return {
            "path": str(self.storage),
            "complete": self.complete,
            "classes": list(self.classes),
            "channels": self.channels,
            "clouds": {split: len(values) for split, values in psnr.items()},
            "failed": {split: sum(part.n_failures for part in self.parts(split)) for split in self.splits},
            "points": {split: sum(part.n_points for part in self.parts(split)) for split in self.splits},
            "psnr": {
                split: float(np.nanmean(values)) if np.isfinite(values).any() else None
                for split, values in psnr.items()
            },
            "decoder": {"kind": self.decoder_kind, "sha256": self.decoder_sha256},
            "latent_dim": self.latent_dim,
            "neighbours": self.n_neighbours,
            "dtype": self.dtype,
            "recipe": self.config.get("fit", {}).get("recipe"),
            "seed": self.seed,
        }

    @property
    def n_planned(self) -> int:
        return sum(numbers["parts"] for numbers in self.root["splits"].values())

    @property
    def n_committed(self) -> int:
        return sum(len(self._ids(split)) for split in self.splits)

    @cached_property
    def decoder(self) -> DecoderRecord:
        """The decoder of every cloud in this store. Raises DamagedStoreError where its hash is not the root's."""
        return read_decoder(self.storage, self.root)

    @cached_property
    def latent_statistics(self) -> dict[str, Any]:
        """`mean`, `std` (z), `whole_mean`, `whole_std`, `count`, `split`: stored latents of the training split.

        Population statistics. Of an unfinished store: of the parts that are there.
        """
        if self.complete:
            statistics: dict[str, Any] = self.root["latent_statistics"]
            return statistics
        parts = [self.part(split, part_id) for split in self.splits for part_id in self._ids(split)]
        return combine_statistics(parts, self.splits)

    def parts(self, split: str) -> tuple[PartRecord, ...]:
        """The committed parts of a split, by id. Raises MissingSplitError."""
        self._require(split)
        if split not in self._records:
            self._records[split] = tuple(
                self.storage.each(lambda part_id: part_record(self.part(split, part_id)), self._ids(split))
            )
        return self._records[split]

    def part(self, split: str, part_id: str) -> Part:
        """A committed part, open; the most recently used ones stay open."""
        with self._lock:
            part = self._open.get((split, part_id))
            if part is not None:
                self._open.move_to_end((split, part_id))
                return part
        self._require(split)
        part = Part(self.storage, f"{split}/{part_id}", self._chunks, len(self.classes))
        own = part.attributes
        if (own["split"], own["part"], own["fingerprint"]) != (split, part_id, self.fingerprint):
            raise part.damaged("", f"it says it is {own['split']}/{own['part']} of {own['fingerprint'][:8]}")
        with self._lock:
            part = self._open.setdefault((split, part_id), part)  # another thread may have been first
            if len(self._open) > OPEN_PARTS:
                self._open.popitem(last=False)
        return part

    def read_part(self, split: str, part_id: str, *, neighbours: bool = False) -> CloudBatch:
        """All clouds of a part. Latents are float16 or float32 as stored (int8 becomes float32).

        Raises:
            MissingSplitError: no such split.
            DamagedStoreError: the part, a file or a checksum is wrong.
            ValueError: `neighbours` of a store that keeps none.
        """
        return self.read_block(split, part_id, 0, self.part(split, part_id).n_clouds, neighbours=neighbours)

    def read_block(self, split: str, part_id: str, start: int, stop: int, *, neighbours: bool = False) -> CloudBatch:
        """Clouds `start:stop` of a part (cut like a Python slice), decoding only the chunks they lie in.

        Raises: as `read_part`.
        """
        if neighbours and not self.has_neighbours:
            raise ValueError(f"{self.storage} keeps no neighbours: compute them from the positions")
        part = self.part(split, part_id)
        start, stop, _ = slice(start, stop).indices(part.n_clouds)
        return part.clouds(start, max(start, stop), neighbours=neighbours)

    def read_cloud(self, split: str, part_id: str, row: int, *, neighbours: bool = False) -> Cloud:
        """One cloud, e.g. `store.read_cloud(*store.find("train/17"))`."""
        return self.read_block(split, part_id, row, row + 1, neighbours=neighbours)[0]

    def column(self, split: str, name: str) -> NDArray[Any]:
        """`labels`, `psnr`, `sample_ids`, `repeats`, `sizes`, `relative` or `counts` (points), part after part."""
        pieces = self.storage.each(lambda info: _column(self.part(split, info.id), name), self.parts(split))
        if pieces:
            return np.concatenate(pieces)
        return np.zeros((0, 2) if name in ("sizes", "relative") else 0, np.float32 if name == "psnr" else np.int64)

    def labels(self, split: str) -> NDArray[np.int64]:
        return self.column(split, "labels")

    def psnr(self, split: str) -> NDArray[np.float32]:
        """PSNR of every cloud of a split in dB, NaN where unknown; row i belongs to `sample_names(split)[i]`."""
        return self.column(split, "psnr")

    def sample_names(self, split: str) -> list[str]:
        """`split/path` of every cloud of a split, part after part."""
        names: list[str] = []
        for info in self.parts(split):
            names += [f"{split}/{path}" for path in self.part(split, info.id).paths(0, info.n_clouds)]
        return names

    def failures(self, split: str) -> list[FailedSample]:
        """The samples of a split that could not be converted."""
        return [failure for info in self.parts(split) for failure in self.part(split, info.id).failures()]

    def find(self, name: str) -> tuple[str, str, int]:
        """Where a sample is: (split, part id, row). Of several repeats the first, or that of a name ending in `#3`.

        `name` is `split/number` (its sample id), `split/path`, a path that only one split has, or a longer path that
        ends in `split/path`.

        Raises:
            SampleNotFoundError: no such sample (names near ones), more than one, or it failed (says why).
        """
        return self._names.find(name)

    @cached_property
    def _names(self) -> NameIndex:
        index = NameIndex(self.storage)
        for split in self.splits:
            for info in self.parts(split):
                part = self.part(split, info.id)
                index.add(split, info.id, part.small("sample_ids"), part.small("repeat"), part.paths(0, part.n_clouds))
            index.add_failures(split, self.failures(split))
        return index

    def _ids(self, split: str) -> list[str]:
        planned = [part.id for part in plan_parts({split: self.root["splits"][split]})]
        if self.complete:  # a part that is missing is noticed when it is opened
            return planned
        there = self.storage.groups(split)
        return [part_id for part_id in planned if part_id in there]

    def _require(self, split: str) -> None:
        if split not in self.splits:
            raise MissingSplitError(
                f"{self.storage} has no split {split!r}.",
                details=[f"its splits: {', '.join(self.splits)}"],
                fix=[f"choose another one: --split {name}" for name in self.splits[:1]],
            )


def _column(part: Part, name: str) -> NDArray[Any]:
    if name == "counts":
        return np.diff(part.small("offsets"))
    return part.small("repeat" if name == "repeats" else name)
