"""One sample of a store, looked at: its cloud, its reconstruction and, where it can be read, its original."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.render import render_and_compare
from arcpipe.cloud import Cloud
from arcpipe.sources import Originals
from arcpipe.store import Store

AGREEMENT_DB = 0.01  # the record is float32 and the picture is decoded again: rounding, nothing else
NAME_BYTES = 120  # of a file name made from a sample's; file systems stop at 255 with prefix and suffix


@dataclass(frozen=True, slots=True)
class CloudPlace:
    """Where a cloud is in its store. `tag` says why it was chosen, if nobody asked for it."""

    split: str
    part: str
    row: int
    tag: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        return self.split, self.part, self.row


@dataclass(frozen=True, slots=True)
class View:
    """A cloud and its pictures, float32 (H, W, C) in [0, 1]. `measured_db` is NaN without an original."""

    place: CloudPlace
    name: str
    class_name: str
    cloud: Cloud
    image: NDArray[np.float32]
    original: NDArray[np.float32] | None
    measured_db: float
    warning: str
    caption: tuple[str, ...]
    """What a sheet says of it, line by line."""


def view_sample(store: Store, originals: Originals, place: CloudPlace) -> View:
    """Read and decode one cloud, and compare it with its original: the record must be reproduced."""
    cloud = store.read_cloud(*place.key, neighbours=store.has_neighbours)
    original = originals.read(place.split, cloud.path, cloud.repeat)
    image, measured = render_and_compare(cloud, store.decoder, original)
    warning = ""
    if original is not None and original.shape != image.shape:
        warning = f"the source image has changed: it is {original.shape[0]} × {original.shape[1]} pixels now"
        original = None
    if not warning and abs(measured - cloud.psnr) > AGREEMENT_DB:
        warning = f"measured {measured:.2f} dB: the source image has changed, or the cloud"
    if not warning and original is None and not originals.note:
        warning = "the source image is gone or cannot be read"
    name, class_name = cloud_name(place.split, cloud), store.classes[cloud.label]
    fitted = fit_name(store.config, cloud.repeat)
    height, width = cloud.size
    n_bytes = cloud.latents.size * np.dtype(store.dtype).itemsize + cloud.positions.nbytes
    caption = (
        name,
        f"class {class_name}" + (f", {fitted}" if fitted else ""),
        f"{height} × {width} pixels",
        f"{len(cloud):,} anchors" if len(cloud) > 1 else f"{cloud.latents.size:,} numbers",
        f"PSNR {decibel(known(cloud.psnr))}",
        f"cloud: {n_bytes / (height * width):.2f} bytes a pixel",
    )
    return View(place, name, class_name, cloud, image, original, measured, warning, caption)


def fit_name(config: Mapping[str, Any], repeat: int) -> str:
    """`view 1` of a store that was made with `--views`, else `repeat 1`; nothing for the first cloud of an image."""
    views = config.get("fit", {}).get("views", 1) > 1
    return f"{'view' if views else 'repeat'} {repeat}" if repeat else ""


def cloud_name(split: str, cloud: Cloud) -> str:
    """What `Store.find` finds it by: `train/cats/1.jpg`, and `train/cats/1.jpg#3` for a repeat."""
    return f"{split}/{cloud.path}" + (f"#{cloud.repeat}" if cloud.repeat else "")


def best_median_worst(psnr: Mapping[str, NDArray[Any]], each: int = 3) -> list[tuple[str, str, int]]:
    """Choose clouds by PSNR over all splits: (tag, split, index in the split), nobody twice, best first.

    `psnr` holds one value per cloud of each split; NaN values are passed over. Ties by split and index.
    """
    ranked = _best_first(psnr)
    count = len(ranked)
    middle = max(0, (count - each) // 2)
    groups = {"best": range(each), "worst": range(count - each, count), "median": range(middle, middle + each)}
    taken: dict[int, str] = {}
    for tag, ranks in groups.items():
        for rank in ranks:
            if 0 <= rank < count:
                taken.setdefault(rank, tag)
    return [(taken[rank], *ranked[rank]) for rank in sorted(taken)]


def nearest_median(psnr: Mapping[str, NDArray[Any]], count: int) -> list[tuple[str, int]]:
    """The `count` clouds whose PSNR ranks nearest to the median over all splits, nearest first: (split, index)."""
    ranked = _best_first(psnr)
    ranks = sorted(range(len(ranked)), key=lambda rank: abs(rank - (len(ranked) - 1) / 2))
    return [ranked[rank] for rank in ranks[:count]]


def _best_first(psnr: Mapping[str, NDArray[Any]]) -> list[tuple[str, int]]:
    """The clouds whose PSNR is known, over all splits: (split, index in the split)."""
    index = [(split, i) for split, values in psnr.items() for i in range(len(values)) if np.isfinite(values[i])]
    return sorted(index, key=lambda at: -float(psnr[at[0]][at[1]]))


def in_order(splits: Iterable[str]) -> list[str]:
    """Splits as they are shown: train, val and test first, then the others by name."""
    return sorted(splits, key=lambda split: (*(split != first for first in ("train", "val", "test")), split))


def place_of(store: Store, split: str, index: int, tag: str = "") -> CloudPlace:
    """The part and row of the `index`-th cloud of a split, in the order of its parts."""
    for part in store.parts(split):
        if index < part.n_clouds:
            return CloudPlace(split, part.id, index, tag)
        index -= part.n_clouds
    raise IndexError(index)


def file_stems(names: Iterable[str]) -> dict[str, str]:
    """A safe file name for every sample's name: letters, digits, `.`, `_` and `-`, of any script, no two the same."""
    stems: dict[str, str] = {}
    for name in names:
        path, mark, repeat = name.rpartition("#")
        if not mark or not repeat.isdecimal():
            path, repeat = name, ""
        bare = unicodedata.normalize("NFC", str(PurePosixPath(path).with_suffix(""))) + (f"-{repeat}" if repeat else "")
        stem = re.sub(r"[^\w.-]+", "-", bare).strip("-.") or "sample"
        short = stem.encode()[:NAME_BYTES].decode(errors="ignore")
        if short != stem or short.casefold() in {other.casefold() for other in stems.values()}:
            short += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
        stems[name] = short
    return stems


def known(value: float) -> float | None:
    """None for NaN: JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def finite_mean(values: NDArray[Any]) -> float | None:
    """The mean of those that are finite; None if there are none."""
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def decibel(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} dB"
