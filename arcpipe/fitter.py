"""How an image becomes a cloud, whoever asks: fitted under a frozen decoder, rounded, and measured."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from arcpipe.arc.engine import AnyDecoder, decoder_of, fit_clouds
from arcpipe.arc.problem import FittedCloud
from arcpipe.arc.render import measure
from arcpipe.cloud import Cloud, DecoderRecord, SirenRecord
from arcpipe.config import FitSection, SourceSection, StoreSection
from arcpipe.errors import ConfigError, ImageError
from arcpipe.seeds import derive_seed
from arcpipe.sources import Picture, load_image
from arcpipe.storage import Place
from arcpipe.store import Rounding, Store, open_store, position_dtype

MEMORY = 2**30


@dataclass(frozen=True)
class Fitter:
    """Turns images into clouds: fits them, rounds the latents, and measures what these decode to.

    >>> import arcpipe as ap
    >>> fitter = ap.Fitter.like(ap.open_store("store/digits.zarr"))
    >>> cloud = fitter.fit("photo.png")  # a file, an image of Pillow, or an array
    >>> cloud.size, ap.decode(cloud).shape
    ((20, 30), (20, 30, 1))

    `settings`: the recipe. `store`: how latents are rounded. `source`: the shape that images take before the fit.
    `seed`: of the run; the fits of `fit` follow from it and from the pixels. `threads`: finish several clouds at once.
    """

    decoder: AnyDecoder
    settings: FitSection
    store: StoreSection = field(default_factory=StoreSection)
    source: SourceSection = field(default_factory=lambda: SourceSection(source="."))
    seed: int = 0
    device: str = "cpu"
    threads: int = 1

    def __repr__(self) -> str:
        return f"<Fitter: recipe {self.settings.recipe}, {self.record}, on {self.device}>"

    @classmethod
    def like(cls, store: Store | Place, *, device: str = "cpu") -> Fitter:
        """A fitter that makes clouds as those of a store.

        Raises:
            ConfigError: the store does not say how it was made.
        """
        store = store if isinstance(store, Store) else open_store(store)
        return cls.made(store.config, store.decoder, str(store.storage), device=device)

    @classmethod
    def made(cls, config: Mapping[str, Any], decoder: DecoderRecord, where: str, *, device: str = "cpu") -> Fitter:
        """A fitter of the resolved settings that a store or a run keeps; `where` names it in messages.

        Raises:
            ConfigError: the settings are not there.
        """
        try:
            return cls(
                decoder_of(decoder, device),
                FitSection.model_validate(config["fit"]),
                StoreSection.model_validate(config["store"]),
                SourceSection.model_validate(config["source"]),
                int(config["seed"]),
                device,
            )
        except (KeyError, ValidationError) as error:
            raise ConfigError(
                f"{where} does not say how its clouds were made, so no new image can be fitted.",
                details=[str(error)],
                fix=["use a store made by arcpipe convert"],
            ) from None

    @cached_property
    def rounding(self) -> Rounding:
        """How latents are rounded: as the store keeps them."""
        return Rounding.of(self.store.dtype, self.store.bits, self.decoder)

    @cached_property
    def record(self) -> DecoderRecord:
        """The arrays of the decoder."""
        return self.decoder if isinstance(self.decoder, SirenRecord) else self.decoder.to_record()

    def load(self, image: Picture) -> NDArray[np.float32]:
        """Bring a picture into the shape in which it is fitted, see `load_image`."""
        return load_image(image, self.source, self.decoder.channels, seed=self.seed)

    def fit(self, image: Picture) -> Cloud:
        """Fit one picture: a file, an image of Pillow, or an array (see `load_image`).

        The same pixels give the same cloud, whatever the name of the file.

        Raises:
            ImageError: it cannot be read, or the fit did not end in finite numbers.
        """
        pixels = self.load(image)
        (cloud,) = self.clouds([pixels], [self.seed_of(pixels)])
        if isinstance(cloud, ImageError):
            raise cloud
        return replace(cloud, decoder=self.record, path="" if not isinstance(image, str) else image)

    def seed_of(self, image: NDArray[np.float32]) -> int:
        """The seed of a picture that is in no store: by its pixels alone."""
        content = hashlib.sha256(str(image.shape).encode() + np.ascontiguousarray(image, "<f4").tobytes()).hexdigest()
        return derive_seed(self.seed, "predict", content)

    def clouds(
        self,
        images: Sequence[NDArray[np.float32]],
        seeds: Sequence[int],
        *,
        memory_bytes: int = MEMORY,
        seconds: dict[str, float] | None = None,
    ) -> list[Cloud | ImageError]:
        """Fit, round and measure images (height, width, channels) in [0, 1]; in place of a cloud, why there is none.

        Args:
            images: Of any sizes.
            seeds: One for each image.
            memory_bytes: See `fit_clouds`.
            seconds: Gets the time that the stages `fit` and `finish` took added.
        """
        started = time.perf_counter()
        fitted = self.solve(images, seeds, memory_bytes=memory_bytes)
        solved = time.perf_counter()
        finished = self.finish(fitted, images)
        if seconds is not None:
            seconds["fit"] += solved - started
            seconds["finish"] += time.perf_counter() - solved
        return finished

    def solve(
        self, images: Sequence[NDArray[np.float32]], seeds: Sequence[int], *, memory_bytes: int = MEMORY
    ) -> list[FittedCloud]:
        """Fit images without rounding, see `fit_clouds`."""
        return fit_clouds(
            images, self.decoder, self.settings, seeds, device=self.device, memory_bytes=max(0, memory_bytes)
        )

    def finish(self, fitted: Sequence[FittedCloud], images: Sequence[NDArray[np.float32]]) -> list[Cloud | ImageError]:
        """Make the clouds of images from their fits: round first, then measure what a reader will decode.

        In place of a cloud, why there is none: reason `not-finite`, its reconstruction is not made of finite numbers.
        """
        rounded = [self._rounded(cloud, image) for cloud, image in zip(fitted, images, strict=True)]
        sound = {i: cloud for i, cloud in enumerate(rounded) if isinstance(cloud, Cloud)}
        measured = measure([*sound.values()], self.decoder, [images[i] for i in sound], threads=self.threads)
        for (i, cloud), quality in zip(sound.items(), measured, strict=True):
            if np.isfinite(quality):
                rounded[i] = replace(cloud, positions=cloud.positions.astype(position_dtype(cloud.size)), psnr=quality)
            else:
                rounded[i] = ImageError("the fit did not end in finite numbers.", reason="not-finite")
        return rounded

    def _rounded(self, fitted: FittedCloud, image: NDArray[np.float32]) -> Cloud | ImageError:
        try:
            latents = self.rounding.round(fitted.latents)
        except ImageError as error:
            return error
        size = (image.shape[0], image.shape[1])
        return Cloud(fitted.positions, latents, size, fitted.relative, fitted.neighbours, scales=fitted.scales)
