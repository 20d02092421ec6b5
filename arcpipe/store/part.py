"""One part on disk: its arrays, opened when first needed and decoded chunk by chunk."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from arcpipe.cloud import CloudBatch, FailedSample
from arcpipe.errors import DamagedStoreError
from arcpipe.storage import Storage
from arcpipe.store.arrays import Kinds, damaged, data_file, open_array, read_group, read_rows
from arcpipe.store.arrivals import Arrivals, Geometry, decode_arrivals, decode_neighbours
from arcpipe.store.attributes import files_problem, part_problem
from arcpipe.store.layout import ARRAYS, PER_CLOUD, decode_gaps, decode_paths
from arcpipe.store.quantise import Rounding, scales_of

DECODER_ATTRIBUTES: Kinds = {"files": dict, "sha256": str}
PART_ATTRIBUTES: Kinds = {
    **dict.fromkeys(("split", "part", "fingerprint"), str),
    **dict.fromkeys(("samples", "clouds", "points", "pixels"), int),
    **dict.fromkeys(("psnr", "latent_sums", "files", "provenance"), dict),
    "failures": list,
    "neighbours_coding": (str, type(None)),
}
ENDS = {"offsets": "points", "pixel_offsets": "pixels", "path_offsets": None, "arrival_offsets": None}
"""Offsets and the attribute that says where they end."""


class ChunkCache:
    """The most recently decoded chunks of a store, up to so many bytes. Safe to share between threads.

    Blocks of a part are smaller than its chunks: without it every block would decode a whole chunk again.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._chunks: OrderedDict[tuple[Any, ...], NDArray[Any]] = OrderedDict()
        self._coming: dict[tuple[Any, ...], Future[NDArray[Any]]] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...], decode: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """A chunk, decoded where it is not kept. Threads that ask for the same one at once wait for one decoding."""
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
                return self._chunks[key]
            coming = self._coming.get(key)
            mine: Future[NDArray[Any]] = Future()
            if coming is None:
                self._coming[key] = mine
        if coming is not None:
            return coming.result()
        try:
            values = decode()
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            with self._lock:
                if values.nbytes <= self._max_bytes:
                    self._chunks[key] = values
                    self._bytes += values.nbytes
                while self._bytes > self._max_bytes:
                    self._bytes -= self._chunks.popitem(last=False)[1].nbytes
            mine.set_result(values)
            return values
        finally:
            with self._lock:
                del self._coming[key]


class Part:
    """A committed part, open for reading. Safe to use from several threads.

    `attributes` are those of its group, `group` is its name in the store. Arrays of one row per cloud are kept once
    they are read.
    """

    def __init__(
        self, storage: Storage, group: str, cache: ChunkCache | None = None, n_classes: int | None = None
    ) -> None:
        self.storage, self.group, self._n_classes = storage, group, n_classes
        decoder = group == "decoder"
        self.attributes = read_group(storage, group, DECODER_ATTRIBUTES if decoder else PART_ATTRIBUTES)
        problem = files_problem(self.attributes["files"]) or (None if decoder else part_problem(self.attributes))
        if problem:
            raise self.damaged("zarr.json", problem)
        self._cache = cache
        self._arrays: dict[str, zarr.Array] = {}
        self._size_of = storage.sizes(group)
        self._small: dict[str, NDArray[Any]] = {}
        self._lock, self._reading = threading.Lock(), threading.Lock()

    @property
    def n_clouds(self) -> int:
        return int(self.attributes["clouds"])

    def failures(self) -> list[FailedSample]:
        records = self.attributes["failures"]
        return [FailedSample(r["sample_id"], r["path"], r["reason"], r.get("message", "")) for r in records]

    def has(self, name: str) -> bool:
        return f"{name}/zarr.json" in self.attributes["files"]

    def raw(self, name: str) -> NDArray[Any]:
        """A whole array as it is stored."""
        return self.decode(name, 0, self.array(name).shape[0])

    def decode(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows `start:stop` as they are stored, without the cache. Raises DamagedStoreError."""
        return read_rows(self.array(name), start, stop, self.storage, self.place(name))

    def small(self, name: str) -> NDArray[Any]:
        """A whole array of one row per cloud; kept, so treat it as read-only."""
        with self._reading:
            values = self._small.get(name)
            if values is None:
                values = self.raw(name)
                if name in ENDS:
                    self._check_offsets(name, values)
                if name == "labels" and self._n_classes is not None and len(values):
                    low, high = int(values.min()), int(values.max())
                    if low < 0 or high >= self._n_classes:
                        raise self.damaged(name, f"from {low} to {high}, and the root names {self._n_classes} classes")
                values.setflags(write=False)
                self._small[name] = values
            return values

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows `start:stop` as they are stored: a copy the caller may change. Decodes only the chunks they lie in."""
        array = self.array(name)
        n = array.chunks[0]
        if not 0 <= start <= stop <= array.shape[0]:
            raise self.damaged(name, f"rows {start} to {stop} of {array.shape[0]}")
        if self._cache is None or start == stop:
            return self.decode(name, start, stop)
        pieces = []
        for i in range(start // n, (stop - 1) // n + 1):
            decode = partial(self.decode, name, i * n, min((i + 1) * n, array.shape[0]))
            chunk = self._cache.get((self.group, name, i), decode)
            pieces.append(chunk[max(0, start - i * n) : stop - i * n])
        return np.concatenate(pieces)

    def positions(self, start: int, stop: int) -> NDArray[Any]:
        """(points of clouds start:stop, 2) rows and columns of their anchors: a copy the caller may change."""
        points = self.small("offsets")[start : stop + 1]
        first, last = int(points[0]), int(points[-1])
        if self.attributes.get("positions_coding", "plain") == "plain":
            return self.rows("positions", first, last)
        gaps = self.rows("position_gaps", first, last)
        if gaps.ndim != 1:
            raise self.damaged("position_gaps", f"shape {gaps.shape}")
        return decode_gaps(gaps, points - points[0])

    def _neighbours(self, start: int, stop: int, positions: NDArray[Any]) -> NDArray[Any]:
        """(pixels of clouds start:stop, n) rows local to each cloud, raster order, nearest first."""
        points, pixels = self.small("offsets")[start : stop + 1], self.small("pixel_offsets")[start : stop + 1]
        where = Geometry(positions, points - points[0], pixels - pixels[0], self.small("sizes")[start:stop])
        coding = self.attributes["neighbours_coding"]
        name = "arrivals" if coding == "arrivals" else "neighbours"
        try:
            if coding == "arrivals":
                ends = self.small("arrival_offsets")[start : stop + 1]
                places = self.rows("arrivals", int(ends[0]), int(ends[-1]))
                counts = self.rows("arrival_counts", int(points[0]), int(points[-1]))
                return decode_arrivals(Arrivals(places, counts, ends - ends[0]), where, self.attributes["n_neighbours"])
            return decode_neighbours(self.rows("neighbours", int(pixels[0]), int(pixels[-1])), coding, where)
        except (ValueError, IndexError) as error:
            raise self.damaged(name, str(error)) from error

    def clouds(self, start: int, stop: int, *, neighbours: bool = False) -> CloudBatch:
        """Clouds `start:stop` of the part."""
        rows = self.small("offsets")[start : stop + 1]
        positions = self.positions(start, stop)
        pixels = self.small("pixel_offsets")[start : stop + 1] if neighbours else None
        return CloudBatch(
            offsets=rows - rows[0],
            positions=positions,
            latents=self._latents(start, stop),
            paths=self.paths(start, stop),
            neighbours=self._neighbours(start, stop, positions) if neighbours else None,
            pixel_offsets=None if pixels is None else pixels - pixels[0],
            scales=scales_of(self.rows("scales", int(rows[0]), int(rows[-1]))) if self.has("scales") else None,
            **{theirs: self.small(ours)[start:stop].copy() for ours, theirs in PER_CLOUD.items()},
        )

    def _latents(self, start: int, stop: int) -> NDArray[Any]:
        rows = self.small("offsets")[start : stop + 1]
        stored = self.rows("latents", int(rows[0]), int(rows[-1]))
        steps = self.attributes.get("latent_steps")
        if steps is not None:
            if stored.shape[1:] != (len(steps),):
                raise self.damaged("latents", f"shape {stored.shape}, and {len(steps)} steps")
            return Rounding("int8", steps=tuple(steps)).dequantise(stored)
        if not self.has("latent_scale"):
            return stored
        scale = self.small("latent_scale")[start:stop]
        if stored.shape[1:] != scale.shape[1:]:
            raise self.damaged("latent_scale", f"{scale.shape[1:]} values a cloud for latents of {stored.shape[1:]}")
        return Rounding("int8").dequantise(stored, scale, rows - rows[0])

    def paths(self, start: int, stop: int) -> tuple[str, ...]:
        """Source paths of clouds `start:stop`, as the sources name them inside the split."""
        ends = self.small("path_offsets")[start : stop + 1]
        return decode_paths(self.rows("paths", int(ends[0]), int(ends[-1])), ends - ends[0])

    def _check_offsets(self, name: str, values: NDArray[np.int64]) -> None:
        """Offsets rise from 0 to what the part says it has: whoever cuts by them needs no doubts."""
        counted = ENDS[name]
        if not len(values):
            raise self.damaged(name, "empty")
        end = values[-1] if counted is None else self.attributes[counted]
        if values[0] != 0 or values[-1] != end or (np.diff(values) < 0).any():
            raise self.damaged(name, f"from {values[0]} to {values[-1]}, not rising from 0 to {end}")

    def damaged(self, name: str, what: str) -> DamagedStoreError:
        """Say that something of this part is damaged."""
        return damaged(self.storage, self.place(name), what)

    def place(self, name: str) -> str:
        """What is called `name` in this part, as the store calls it."""
        return "/".join(filter(None, (self.group, name)))

    def array(self, name: str) -> zarr.Array:
        """An array of this part, opened and checked against what the part says about it. Raises DamagedStoreError."""
        with self._lock:
            if name not in self._arrays:
                self._arrays[name] = self._open(name)
            return self._arrays[name]

    def _open(self, name: str) -> zarr.Array:
        array = open_array(self.storage, self.group, name, self._size_of)
        allowed, shape = ARRAYS.get(name, ({"float32"}, None))  # the others are a decoder's
        if str(array.dtype) not in allowed:
            raise self.damaged(name, f"data type {array.dtype}, expected {' or '.join(sorted(allowed))}")
        if array.shape[0]:
            file = data_file(name, len(array.shape))
            recorded = self.attributes["files"].get(file, {}).get("bytes")
            n_bytes = self._size_of(file)
            if n_bytes != recorded:  # Zarr would read a missing file as zeros
                raise self.damaged(name, f"{file} has {n_bytes} bytes, expected {recorded}")
        if shape and shape[0] in ("clouds", "ends") and array.shape[0] != self.n_clouds + (shape[0] == "ends"):
            raise self.damaged(name, f"{array.shape[0]} rows for {self.n_clouds} clouds")
        return array
