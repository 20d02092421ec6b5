"""What a model is given of every point: its latent (the thesis), what its cloud decodes to around it, or both;
and, if asked, how far its anchor reaches.

Decoded features are computed once for a store, part by part, and kept beside the runs: decoding a cloud takes a hundred
times as long as reading it. That folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.engine import decoder_of
from arcpipe.arc.maps import Maps
from arcpipe.arc.stencil import mirror_signs, stencil_features
from arcpipe.cloud import BasisRecord, Cloud, CloudBatch, DecoderRecord, SirenRecord
from arcpipe.config import OF_NETWORKS, AugmentSection, FeaturesSection
from arcpipe.errors import ConfigError
from arcpipe.files import locked
from arcpipe.progress import Progress
from arcpipe.store import Store
from arcpipe.stream.augment import COLOURS, Columns

FORMAT = "stencil-1"
"""Goes into a cache's name: change it with anything that changes a feature."""


@dataclass(frozen=True)
class Features:
    """How the points of one store's clouds are described."""

    section: FeaturesSection
    decoder: DecoderRecord

    @property
    def decoded(self) -> bool:
        """Whether something is computed from the cloud, beyond what is stored."""
        return self.section.kind != "latents"

    @property
    def computed(self) -> bool:
        """Whether features are more than the latents of the store."""
        return self.decoded or self.section.scale

    @property
    def width(self) -> int:
        """Numbers in a point's features."""
        return self.mirror.shape[1]

    @property
    def mirror(self) -> NDArray[np.float32]:
        """Factors (2, width) that a flip puts on the features: [0] of rows, [1] of columns. Ones for latents, whose
        changes are those of `columns.maps`."""
        signs = [np.ones((2, self.decoder.latent_dim), np.float32)] if self.section.kind != "decoded" else []
        if self.decoded:
            signs += [mirror_signs(self.decoder.channels, self.section.windows, self.section.order)]
        return np.concatenate([*signs, np.ones((2, int(self.section.scale)), np.float32)], axis=1)

    @cached_property
    def columns(self) -> Columns:
        """What the numbers are, for changes of the picture."""
        if isinstance(self.decoder, SirenRecord):
            return Columns(networks=self.decoder)
        basis = self.decoder if isinstance(self.decoder, BasisRecord) and self.section.kind != "decoded" else None
        mirror = self.mirror if self.decoded else None
        return Columns(None if basis is None else Maps(basis), mirror, self.section.scale)

    def of(self, clouds: Sequence[Cloud]) -> NDArray[np.float32]:
        """Stencil features (points of all clouds, d): the part of the features that is not in the store."""
        decoder = decoder_of(self.decoder)
        found = [stencil_features(cloud, decoder, self.section.windows, self.section.order) for cloud in clouds]
        width = self.width - (self.decoder.latent_dim if self.section.kind == "both" else 0) - self.section.scale
        return np.concatenate([np.zeros((0, width), np.float32), *found])

    def put(self, clouds: CloudBatch, stencils: NDArray[Any] | None) -> CloudBatch:
        """Clouds whose `latents` are the features (m, width): latents, `stencils` (m, d) and scales, as asked for."""
        columns = [clouds.latents] if self.section.kind != "decoded" else []
        columns += [stencils] if stencils is not None else []
        if self.section.scale:
            if clouds.scales is None:
                raise ValueError("clouds without scales cannot be described by them")
            columns += [np.log2(clouds.scales)[:, None]]
        described = columns[0] if len(columns) == 1 else np.concatenate([c.astype(np.float32) for c in columns], axis=1)
        return replace(clouds, latents=described, scales=None)

    def describe(self, cloud: Cloud) -> Cloud:
        """One cloud with its features as `latents`."""
        if not self.computed:
            return cloud
        return self.put(CloudBatch.join([cloud]).without_neighbours(), self.of([cloud]) if self.decoded else None)[0]


class FeatureCache:
    """Stencil features of a store's parts, each a plain .npy file of (points, d) float16.

    Args:
        folder: Where caches are; each gets a folder of its own, named after store and settings.
    """

    def __init__(self, folder: Path, store: Store, features: Features) -> None:
        settings = f"{FORMAT}/{features.section.windows}/{features.section.order}"
        digest = hashlib.sha256(f"{store.fingerprint}/{store.decoder_sha256}/{settings}".encode()).hexdigest()[:16]
        self.path, self.store, self.features = folder / digest, store, features

    def fill(self, split: str, *, threads: int = 1, quiet: bool = False) -> None:
        """Compute what is missing of a split; another process that does the same is waited for.

        A part's file is written whole or not at all.
        """
        if not self.features.decoded:
            return
        parts = self.store.parts(split)
        if all(self._file(split, part.id).is_file() for part in parts):
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / ".lock", wait=True), ThreadPoolExecutor(threads, "arcpipe-decode") as pool:
            missing = [part for part in parts if not self._file(split, part.id).is_file()]
            with Progress(
                f"decode {split}", sum(part.n_clouds for part in missing), "clouds", enabled=not quiet
            ) as bar:
                done = 0
                for part in missing:
                    done = self._make(split, part.id, part.n_clouds, pool, bar, done)

    def read(self, split: str, part: str, rows: slice) -> NDArray[np.float16] | None:
        """Stencil features of the points `rows` of a part; None where none are asked for."""
        if not self.features.decoded:
            return None
        found: NDArray[np.float16] = np.load(self._file(split, part), mmap_mode="r", allow_pickle=False)
        return np.array(found[rows])

    def _make(self, split: str, part: str, n_clouds: int, pool: ThreadPoolExecutor, bar: Progress, done: int) -> int:
        blocks = [(start, min(start + 32, n_clouds)) for start in range(0, n_clouds, 32)]
        found = [self.features.of([]).astype(np.float16)]
        for stencils, n_block in pool.map(lambda block: self._block(split, part, *block), blocks):
            found.append(stencils)
            done += n_block
            bar.update(done)
        target = self._file(split, part)
        partial = target.with_name(f"{target.name}.partial")
        with partial.open("wb") as file:
            np.save(file, np.concatenate(found), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
        return done

    def _block(self, split: str, part: str, start: int, stop: int) -> tuple[NDArray[np.float16], int]:
        clouds = self.store.read_block(split, part, start, stop)
        return self.features.of(list(clouds)).astype(np.float16), stop - start

    def _file(self, split: str, part: str) -> Path:
        return self.path / f"{split}-{part}.npy"


def feature_cache(section: FeaturesSection, store: Store, run: Path) -> FeatureCache | None:
    """Where the features of a run in the folder `run` are kept; None where the store's latents are all it needs."""
    features = Features(section, store.decoder)
    return FeatureCache(section.cache or run.parent / ".features", store, features) if features.computed else None


def check_changes(features: FeaturesSection, augment: AugmentSection, store: Store) -> None:
    """Refuse what the store's clouds cannot do.

    Raises:
        ConfigError: scales of anchors that have none, or augmentations that would not change what describes a point.
    """
    kind, apply = store.decoder_kind, augment.apply
    foreign = [name for name in apply if name not in OF_NETWORKS]
    if kind == "siren" and (foreign or features.kind != "latents"):
        others = ",".join(name for name in apply if name in OF_NETWORKS) or "none"
        raise ConfigError(
            "sine networks have no points to change or to describe.",
            details=[
                f"found --augment {','.join(foreign) or others} and --features {features.kind}",
                f"networks change by {', '.join(OF_NETWORKS)}",
            ],
            fix=[f"--augment {others} --features latents", "arcpipe convert ... --recipe basis"],
        )
    foreign = [name for name in apply if name in OF_NETWORKS and name != "rotate"]
    if kind != "siren" and foreign:
        others = ",".join(name for name in apply if name not in foreign) or "none"
        raise ConfigError(
            f"--augment {','.join(foreign)} changes sine networks.",
            details=[f"{store.storage} is of the kind {kind}"],
            fix=[f"--augment {others}", "arcpipe convert ... --recipe siren"],
        )
    if features.scale and kind != "basis":
        raise ConfigError(
            "features.scale needs a store of the kind basis: anchors of others have no scale.",
            details=[f"{store.storage} is of the kind {kind}"],
            fix=["--set features.scale=false", "arcpipe convert ... --recipe basis"],
        )
    refused = [name for name in apply if name in ("zoom", *COLOURS)]
    others = ",".join(name for name in apply if name not in refused) or "none"
    if refused and (kind != "basis" or features.kind != "latents"):
        raise ConfigError(
            f"--augment {','.join(refused)} needs latents of the kind basis: others do not change with the picture.",
            details=[f"{store.storage} is of the kind {kind}, and the run has --features {features.kind}"],
            fix=[f"--augment {others}", "arcpipe convert ... --recipe basis"],
        )
    refused = [name for name in apply if name in ("saturation", "hue")]
    others = ",".join(name for name in apply if name not in refused) or "none"
    if refused and store.channels != 3:
        raise ConfigError(
            f"--augment {','.join(refused)} needs images of three channels.",
            details=[f"those of {store.storage} have {store.channels}"],
            fix=[f"--augment {others}"],
        )
