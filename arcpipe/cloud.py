"""The nouns that every room shares: one cloud, many clouds end to end, and the arrays of a decoder. NumPy only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

import arcpipe

DecoderKind = Literal["concat", "basis", "siren"]
"""How latents become a colour: `NetworkRecord`, `BasisRecord` or `SirenRecord`."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """All anchors of one image (thesis eq. 9) and what is needed to decode them.

    `positions` (k, 2): row and column in pixels, pixel (0, 0) is centred on 0. `latents` (k, z).
    `size`: height and width of the image, pixels. `relative`: mean and std that standardise `anchor - pixel`.
    `neighbours` (height * width, n): rows of this cloud, raster order, nearest first; None where not loaded.
    `psnr` in dB on [0, 1], NaN where unknown.
    `scales` (k,) float32: how far each anchor reaches, pixels; None where the decoder's kind has none.
    `decoder`: what the cloud was fitted under, where it comes from a store's `store["train/17"]` or from a `Fitter`.
    """

    positions: NDArray[Any]
    latents: NDArray[Any]
    size: tuple[int, int]
    relative: tuple[float, float] = (0.0, 1.0)
    neighbours: NDArray[Any] | None = None
    label: int = -1
    psnr: float = float("nan")
    repeat: int = 0
    sample_id: int = -1
    path: str = ""
    scales: NDArray[np.float32] | None = None
    decoder: DecoderRecord | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        height, width = self.size
        return f"<Cloud {self.path}: {len(self)} anchors, {height} x {width} pixels, label {self.label}>"

    def _repr_png_(self) -> bytes | None:
        """How a notebook shows the cloud, where its decoder is known."""
        return None if self.decoder is None else arcpipe.show(self)._repr_png_()


PER_CLOUD = ("labels", "sizes", "relative", "psnr", "repeats", "sample_ids")
PER_POINT = ("positions", "latents", "scales")
"""The columns of a `CloudBatch`: arrays with a row for each cloud, and for each point. `paths` are a tuple."""


@dataclass(frozen=True, slots=True)
class CloudBatch:
    """Many clouds lying end to end in flat arrays; cloud i owns points `offsets[i]:offsets[i + 1]`.

    Shapes, with s clouds and m points in all: `offsets` (s + 1,) int64, `positions` (m, 2), `latents` (m, z),
    `sizes` (s, 2), `relative` (s, 2), `labels`, `psnr`, `repeats`, `sample_ids` (s,), `paths` s strings.
    `neighbours` (pixels of all images, n) holds rows local to each cloud, image i owning
    `pixel_offsets[i]:pixel_offsets[i + 1]`; both are None where the cache is not loaded.
    `scales` (m,) float32, or None as in `Cloud`.
    """

    offsets: NDArray[np.int64]
    positions: NDArray[Any]
    latents: NDArray[Any]
    sizes: NDArray[Any]
    relative: NDArray[Any]
    labels: NDArray[np.int64]
    psnr: NDArray[np.float32]
    repeats: NDArray[np.int64]
    sample_ids: NDArray[np.int64]
    paths: tuple[str, ...]
    neighbours: NDArray[Any] | None = None
    pixel_offsets: NDArray[np.int64] | None = None
    scales: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"<CloudBatch: {len(self)} clouds, {len(self.positions)} anchors>"

    def __getitem__(self, index: int) -> Cloud:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        neighbours = None
        if self.neighbours is not None and self.pixel_offsets is not None:
            neighbours = self.neighbours[int(self.pixel_offsets[index]) : int(self.pixel_offsets[index + 1])]
        return Cloud(
            positions=self.positions[rows],
            latents=self.latents[rows],
            size=(int(self.sizes[index, 0]), int(self.sizes[index, 1])),
            relative=(float(self.relative[index, 0]), float(self.relative[index, 1])),
            neighbours=neighbours,
            label=int(self.labels[index]),
            psnr=float(self.psnr[index]),
            repeat=int(self.repeats[index]),
            sample_id=int(self.sample_ids[index]),
            path=self.paths[index],
            scales=None if self.scales is None else self.scales[rows],
        )

    def __iter__(self) -> Iterator[Cloud]:
        return (self[index] for index in range(len(self)))

    def pixel_counts(self) -> NDArray[np.int64]:
        """Pixels (s,) of every image."""
        return np.asarray(self.sizes, np.int64).prod(axis=1)

    def without_neighbours(self) -> CloudBatch:
        """The same clouds without the neighbours of their pixels."""
        return replace(self, neighbours=None, pixel_offsets=None)

    def cut(self, start: int, stop: int) -> CloudBatch:
        """Clouds `start:stop`, whose arrays are views of these."""
        changes: dict[str, Any] = {name: getattr(self, name)[start:stop] for name in (*PER_CLOUD, "paths")}
        points = slice(int(self.offsets[start]), int(self.offsets[stop]))
        changes |= {name: column[points] for name, column in self._points().items()}
        if self.neighbours is not None and self.pixel_offsets is not None:
            pixels = self.pixel_offsets[start : stop + 1]
            changes["neighbours"] = self.neighbours[int(pixels[0]) : int(pixels[-1])]
            changes["pixel_offsets"] = pixels - pixels[0]
        return replace(self, offsets=self.offsets[start : stop + 1] - self.offsets[start], **changes)

    def take(self, chosen: Sequence[int] | NDArray[np.int64]) -> CloudBatch:
        """Some clouds, in the given order, as copies; a cloud may be taken more than once."""
        rows = np.asarray(chosen, np.int64)
        changes: dict[str, Any] = {name: getattr(self, name)[rows] for name in PER_CLOUD}
        changes["paths"] = tuple(self.paths[row] for row in rows.tolist())
        changes["offsets"], points = _ragged(self.offsets, rows)
        changes |= {name: column[points] for name, column in self._points().items()}
        if self.neighbours is not None and self.pixel_offsets is not None:
            changes["pixel_offsets"], pixels = _ragged(self.pixel_offsets, rows)
            changes["neighbours"] = self.neighbours[pixels]
        return replace(self, **changes)

    @classmethod
    def concat(cls, batches: Sequence[CloudBatch]) -> CloudBatch:
        """All clouds of some batches (one at least), end to end. What one of them lacks, all lose: scales, neighbours.

        A single batch is returned as it is.
        """
        if len(batches) == 1:
            return batches[0]
        lengths = np.concatenate([np.diff(batch.offsets) for batch in batches])
        common = [name for name in PER_POINT if all(getattr(batch, name) is not None for batch in batches)]
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(batch, name) for batch in batches]) for name in (*PER_CLOUD, *common)
        }
        columns["paths"] = tuple(path for batch in batches for path in batch.paths)
        neighbours = [batch.neighbours for batch in batches if batch.neighbours is not None]
        if len(neighbours) == len(batches):
            columns["neighbours"] = np.concatenate(neighbours)
            columns["pixel_offsets"] = ends_from(columns["sizes"].astype(np.int64).prod(axis=1))
        return cls(offsets=ends_from(lengths), **columns)

    def _points(self) -> dict[str, NDArray[Any]]:
        """The columns that have a row for each point."""
        return {name: column for name in PER_POINT if (column := getattr(self, name)) is not None}

    @classmethod
    def join(cls, clouds: Sequence[Cloud], *, latent_dim: int = 0, n_neighbours: int = 4) -> CloudBatch:
        """Lay clouds end to end. `latent_dim` and `n_neighbours` give the widths of an empty batch.

        An empty batch has no `scales`. A batch has them if its clouds have.

        Raises:
            ValueError: some clouds have `scales` and others have not.
        """
        neighbours = [cloud.neighbours for cloud in clouds if cloud.neighbours is not None]
        with_neighbours = len(neighbours) == len(clouds)
        scales = [cloud.scales for cloud in clouds if cloud.scales is not None]
        if len(scales) not in (0, len(clouds)):
            raise ValueError(f"{len(scales)} of {len(clouds)} clouds have scales: all or none must have them")
        return cls(
            offsets=ends_from([len(cloud) for cloud in clouds]),
            positions=_stack([c.positions for c in clouds], (0, 2), np.uint16),
            latents=_stack([c.latents for c in clouds], (0, latent_dim), np.float32),
            sizes=np.array([c.size for c in clouds], np.int64).reshape(-1, 2),
            relative=np.array([c.relative for c in clouds], np.float32).reshape(-1, 2),
            labels=np.array([c.label for c in clouds], np.int64),
            psnr=np.array([c.psnr for c in clouds], np.float32),
            repeats=np.array([c.repeat for c in clouds], np.int64),
            sample_ids=np.array([c.sample_id for c in clouds], np.int64),
            paths=tuple(c.path for c in clouds),
            neighbours=_stack(neighbours, (0, n_neighbours), np.uint16) if with_neighbours else None,
            pixel_offsets=ends_from([c.size[0] * c.size[1] for c in clouds]) if with_neighbours else None,
            scales=np.concatenate(scales).astype(np.float32, copy=False) if scales else None,
        )


def ends_from(counts: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    """Offsets (len(counts) + 1,) that start at 0 and rise by `counts`."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]).astype(np.int64)


def _ragged(offsets: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets of the chosen pieces laid end to end, and the rows of which they consist."""
    lengths = np.diff(offsets)[chosen]
    ends = ends_from(lengths)
    return ends, np.arange(ends[-1]) + np.repeat(offsets[chosen] - ends[:-1], lengths)


def morton_codes(positions: NDArray[Any]) -> NDArray[np.uint64]:
    """Codes (m,) of rows and columns (m, 2), whole numbers below 2**32: see `morton`."""
    return morton(positions[:, 0].astype(np.uint64), positions[:, 1].astype(np.uint64))


def morton(rows: Any, columns: Any) -> Any:
    """Interleave the bits of whole numbers below 2**32, the row's bit above the column's: the z-order curve.

    Takes and gives integers of 64 bits, arrays of NumPy or tensors.
    """
    return spread(rows) << 1 | spread(columns)


def spread(values: Any) -> Any:
    """Put a zero bit above every bit of whole numbers below 2**32."""
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF),
        (8, 0x00FF00FF00FF00FF),
        (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    ):
        values = (values | values << shift) & mask
    return values


def _stack(arrays: Sequence[NDArray[Any]], empty: tuple[int, int], dtype: Any) -> NDArray[Any]:
    if len(arrays) == 1:  # a large image is not in memory twice
        return arrays[0]
    return np.concatenate(list(arrays)) if arrays else np.zeros(empty, dtype)


def _described(decoder: DecoderRecord) -> str:
    about = f"latent dimension {decoder.latent_dim}, {decoder.channels} channels"
    return f"<decoder {decoder.sha256[:8]}, kind {decoder.kind}: {about}>"


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """The arrays of a decoder (thesis eq. 5): what a store keeps so that it can decode itself.

    Layer i computes `x @ weights[i].T + biases[i]`, `weights[i]` (out, in) float32; ReLU between layers, the last is
    linear. Of the kind `concat`, the thesis's, the input is the `n_neighbours` latents, nearest first, then their
    standardised relative positions (row, column).
    """

    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]
    n_neighbours: int
    latent_dim: int
    kind: ClassVar[DecoderKind] = "concat"
    __repr__ = _described

    @property
    def channels(self) -> int:
        return int(self.biases[-1].shape[0])

    @property
    def hidden(self) -> tuple[int, ...]:
        return tuple(int(bias.shape[0]) for bias in self.biases[:-1])

    @property
    def sha256(self) -> str:
        return decoder_hash(f"{self.n_neighbours}/{self.latent_dim}", self.arrays())

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """`weight_0`, `bias_0`, `weight_1`, ... as they are named on disk."""
        named: dict[str, NDArray[np.float32]] = {}
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            named[f"weight_{i}"] = weight
            named[f"bias_{i}"] = bias
        return named

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], n_neighbours: int, latent_dim: int) -> NetworkRecord:
        n_layers = len(arrays) // 2
        return cls(
            weights=tuple(np.asarray(arrays[f"weight_{i}"], np.float32) for i in range(n_layers)),
            biases=tuple(np.asarray(arrays[f"bias_{i}"], np.float32) for i in range(n_layers)),
            n_neighbours=n_neighbours,
            latent_dim=latent_dim,
        )


@dataclass(frozen=True, slots=True)
class BasisRecord:
    """The arrays of a decoder of the kind `basis`, which is linear in the latents (docs/fitting.md has the formula).

    A latent has a number for every function of the basis. A function is a radial profile times cos(m a) or sin(m a),
    a being the angle of the pixel as seen from the anchor and m the profile's order: a profile of order 0 has one
    number of the latent, any other has two that follow each other (cosine, sine).

    `profiles` (knots, channels, units) float32: the colour that each profile gives at the distances 0, `spacing`,
    2 `spacing`..., in anchor scales, linear between them and constant behind the last. `orders` (units,) float32: whole
    numbers, rising. `sharpness` and `floor`: a near anchor's share of a pixel is in proportion to
    exp(-sharpness (d^2 - least d^2)) - floor, d in its scale, the least among the near anchors; below 0 it is 0.
    `scale_rule` (3,): an anchor's scale is its mean distance to its nearest anchors times the first, not below the
    second nor above the third, in pixels. `costs` (z,): the mean squared change of colour that a change of 1 in each
    number of a latent makes; `ranges` (z,): the size below which 99.95 % of these numbers stayed, in pretraining.
    """

    profiles: NDArray[np.float32]
    orders: NDArray[np.float32]
    spacing: float
    sharpness: float
    floor: float
    scale_rule: NDArray[np.float32]
    costs: NDArray[np.float32]
    ranges: NDArray[np.float32]
    n_neighbours: int
    kind: ClassVar[DecoderKind] = "basis"
    hidden: ClassVar[tuple[int, ...]] = ()
    __repr__ = _described

    @property
    def latent_dim(self) -> int:
        return int(np.where(self.orders == 0, 1, 2).sum())

    @property
    def channels(self) -> int:
        return int(self.profiles.shape[1])

    @property
    def sha256(self) -> str:
        return decoder_hash(f"basis/{self.n_neighbours}/{self.latent_dim}", self.arrays())

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The arrays as they are named on disk; `kernel` holds spacing, sharpness and the floor, unless that is 0."""
        return {
            "profiles": self.profiles,
            "orders": self.orders,
            "kernel": np.array([self.spacing, self.sharpness, *([self.floor] if self.floor else [])], np.float32),
            "scale_rule": self.scale_rule,
            "costs": self.costs,
            "ranges": self.ranges,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], n_neighbours: int) -> BasisRecord:
        """Take the arrays as `arrays` names them. Raises KeyError where one is missing."""
        floats = {name: np.asarray(arrays[name], np.float32) for name in BASIS_ARRAYS}
        spacing, sharpness, *floor = floats.pop("kernel").tolist()
        return cls(**floats, spacing=spacing, sharpness=sharpness, floor=sum(floor), n_neighbours=n_neighbours)


BASIS_ARRAYS = ("profiles", "orders", "kernel", "scale_rule", "costs", "ranges")


@dataclass(frozen=True, slots=True)
class SirenRecord:
    """What all sine networks of a store have in common (kind `siren`): each image is one network, its own decoder.

    Such a cloud has a single point, and its latent (P,) is all parameters of the network, in the order that
    `arcpipe.siren.network` says. `widths` (layers + 1,): 2 coordinates, hidden widths, channels. `form` (5,): omega,
    what is added to the output, 1 where coordinates are (column, row) instead of (row, column), and the outputs that
    mean black and white. `start` (P,): the parameters before the first step, if all images share them, else (0,).
    """

    widths: NDArray[np.float32]
    form: NDArray[np.float32]
    start: NDArray[np.float32]
    kind: ClassVar[DecoderKind] = "siren"
    n_neighbours: ClassVar[int] = 1
    __repr__ = _described

    @property
    def widths_tuple(self) -> tuple[int, ...]:
        return tuple(int(width) for width in self.widths)

    @property
    def latent_dim(self) -> int:
        """Parameters of a network."""
        return sum(tensor_sizes(self.widths_tuple))

    @property
    def channels(self) -> int:
        return self.widths_tuple[-1]

    @property
    def hidden(self) -> tuple[int, ...]:
        return self.widths_tuple[1:-1]

    @property
    def omega(self) -> float:
        return float(self.form[0])

    @property
    def offset(self) -> float:
        return float(self.form[1])

    @property
    def column_first(self) -> bool:
        return bool(self.form[2])

    @property
    def low(self) -> float:
        return float(self.form[3])

    @property
    def high(self) -> float:
        return float(self.form[4])

    @property
    def sha256(self) -> str:
        return decoder_hash("siren", self.arrays())

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The arrays as they are named on disk."""
        return {"widths": self.widths, "form": self.form, "start": self.start}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SirenRecord:
        """Take the arrays as `arrays` names them. Raises KeyError where one is missing."""
        return cls(**{name: np.asarray(arrays[name], np.float32) for name in ("widths", "form", "start")})


def tensor_sizes(widths: Sequence[int]) -> list[int]:
    """How many numbers W_0, b_0, W_1, ... of a network have, whose layers have so many neurons, inputs first."""
    return [size for n_in, n_out in pairwise(widths) for size in (n_in * n_out, n_out)]


DecoderRecord = NetworkRecord | BasisRecord | SirenRecord
"""What a store keeps of its decoder, of any kind."""


def decoder_hash(start: str, arrays: Mapping[str, NDArray[np.float32]]) -> str:
    """Hash of shapes and little-endian bytes; the decoder's name in stores and messages (first 8 digits)."""
    digest = hashlib.sha256(f"arc-decoder/{start}".encode())
    for name, array in arrays.items():
        digest.update(f"/{name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()


def record_from_arrays(
    arrays: Mapping[str, NDArray[Any]], n_neighbours: int, latent_dim: int, kind: DecoderKind
) -> DecoderRecord:
    """The record of a decoder of any kind. Raises KeyError or IndexError where arrays are missing."""
    if kind == "basis":
        return BasisRecord.from_arrays(arrays, n_neighbours)
    if kind == "siren":
        return SirenRecord.from_arrays(arrays)
    return NetworkRecord.from_arrays(arrays, n_neighbours, latent_dim)


@dataclass(frozen=True, slots=True)
class FailedSample:
    """A sample that could not become a cloud, as its part records it."""

    sample_id: int
    path: str
    reason: str
    """Stable code, see `ImageError`."""
    message: str = ""
