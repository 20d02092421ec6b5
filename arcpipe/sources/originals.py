"""The images that a store was made from, where they can still be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.config import FitSection, SourceSection, build
from arcpipe.errors import ArcpipeError
from arcpipe.sources.inventory import Sample, Source
from arcpipe.sources.opening import open_source
from arcpipe.sources.shape import view_of


@dataclass(frozen=True, slots=True)
class Originals:
    """The images a store was made from, where they can still be read; `why` says why not."""

    source: Source | None
    samples: dict[tuple[str, str], Sample]
    channels: int
    why: str = ""
    fit: FitSection = field(default_factory=FitSection)
    seed: int = 0

    @property
    def note(self) -> str:
        """What a sheet says where there are no originals."""
        return f"Reconstructions only, {self.why}" if self.why else ""

    def read(self, split: str, path: str, repeat: int = 0) -> NDArray[np.float32] | None:
        """The image (H, W, C) as it was fitted, or None if it is gone or cannot be decoded."""
        try:
            return self.load(split, path, repeat)
        except (ArcpipeError, OSError):  # a picture that has gone bad since: the sheet says so
            return None

    def load(self, split: str, path: str, repeat: int = 0) -> NDArray[np.float32] | None:
        """As `read`, but raises `ImageError` or `OSError` where the image is there and cannot be decoded."""
        sample = self.samples.get((split, path))
        if self.source is None or sample is None:
            return None
        image = self.source.read(sample, self.channels)
        return image if self.fit.views == 1 else view_of(image, repeat, self.fit, sample.key, self.seed)


def open_originals(config: Mapping[str, Any], channels: int) -> Originals:
    """Find the source of a store's resolved config. Nothing is downloaded; nothing is raised if it is gone."""
    try:
        # By these settings every image is listed under the path that the store has: its limit chose among what was
        # there. Stores of an older arcpipe had no share of class folders held out, and no views.
        listed = {"held_out": 0.0, **config["source"], "limit": None}
        views = {name: value for name, value in config.get("fit", {}).items() if name in ("views", "view_flip")}
        section = build(SourceSection, listed, "the store's config")
        fit = build(FitSection, views, "the store's config")
        seed = int(config.get("seed", 0))
        source = open_source(section, seed=seed, download=False)
        found = source.inventory().samples
    except KeyError:
        return Originals(None, {}, channels, "the store does not say where its images are.")
    except (ArcpipeError, OSError) as error:
        why = error.what if isinstance(error, ArcpipeError) else str(error)
        return Originals(None, {}, channels, f"the source images cannot be opened: {why}")
    samples = {(split, sample.path): sample for split, rows in found.items() for sample in rows}
    return Originals(source, samples, channels, fit=fit, seed=seed)
