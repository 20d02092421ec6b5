"""New images: fitted as the store's were, under the same frozen decoder, then classified. Needs only the run folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from arcpipe.arc.engine import AnyDecoder, decoder_of, fit_clouds
from arcpipe.arc.finish import finish_cloud
from arcpipe.arc.problem import FittedCloud
from arcpipe.cloud import CloudBatch
from arcpipe.config import FitSection, SourceSection, StoreSection
from arcpipe.errors import CheckpointError, ImageError
from arcpipe.progress import Progress
from arcpipe.seeds import derive_seed
from arcpipe.sources import load_image
from arcpipe.store import Rounding
from arcpipe.threads import torch_threads
from arcpipe.train.device import choose_device
from arcpipe.train.loader import collate
from arcpipe.train.run import RunFolder, open_run

GROUP_PIXELS = 2**20  # images are read and fitted in groups of about so many pixels, so that memory stays bounded


@dataclass(frozen=True)
class Prediction:
    """One image. `label` is the most probable class; `psnr` (dB) tells how well the cloud represents the image.

    Where the image cannot be used, `error` says why and the rest is empty.
    """

    path: str
    label: str | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    psnr: float | None = None
    anchors: int | None = None
    error: str | None = None

    def line(self) -> str:
        if self.error is not None:
            what, *details = self.error.splitlines()
            return f"{self.path}: failed: {what}" + (f" ({details[0].strip()})" if details else "")
        ranked = sorted(self.probabilities.items(), key=lambda entry: -entry[1])[:3]
        shown = ", ".join(f"{name} {100 * share:.1f} %" for name, share in ranked)
        return f"{self.path}: {self.label} ({shown}; {self.anchors} anchors, PSNR {self.psnr:.2f} dB)"


@dataclass(frozen=True)
class PredictReport:
    """Predictions in the order of the images."""

    run: Path
    predictions: tuple[Prediction, ...]

    def check(self) -> None:
        """Raise ImageError if not one image could be used."""
        if all(prediction.error is not None for prediction in self.predictions):
            raise ImageError(f"none of {len(self.predictions)} images could be classified.")

    def as_dict(self) -> dict[str, Any]:
        return {"run": str(self.run), "predictions": [asdict(prediction) for prediction in self.predictions]}

    def lines(self) -> list[str]:
        return [prediction.line() for prediction in self.predictions]


@dataclass(frozen=True)
class Recipe:
    """How the run's clouds were made."""

    source: SourceSection
    fit: FitSection
    store: StoreSection
    seed: int

    @classmethod
    def of(cls, run: RunFolder) -> Recipe:
        made = run.facts.convert
        try:
            return cls(
                SourceSection.model_validate(made["source"]),
                FitSection.model_validate(made["fit"]),
                StoreSection.model_validate(made["store"]),
                int(made["seed"]),
            )
        except (KeyError, ValidationError) as error:
            raise CheckpointError(
                f"{run.path} does not say how its clouds were made, so no new image can be fitted.",
                details=[str(error)],
                fix=["train again on a store made by arcpipe convert"],
            ) from None


def run_predict(
    run_path: Path,
    images: Sequence[Path],
    *,
    weights: Literal["last", "best"] = "last",
    device: str = "auto",
    threads: int | None = None,
    quiet: bool = False,
) -> PredictReport:
    """Fit and classify image files.

    The same picture gets the same answer whatever its name and whatever is asked beside it: its seed comes from its
    pixels (but where the store was made with `--displace`, the name decides the place). A picture that cannot be used
    is an entry with an error; the others go on.

    Raises:
        CheckpointError: there is no trained run.
    """
    run = open_run(run_path)
    recipe = Recipe.of(run)
    chosen = choose_device(device)
    model = run.model().to(chosen)
    run.load_weights(model, weights)
    model.eval()
    decoder = decoder_of(run.decoder(), chosen)
    found: dict[int, Prediction] = {}
    with Progress("predict", len(images), "images", enabled=not quiet) as bar, torch_threads(threads):
        for group in _groups(images, recipe, run.facts.channels, found):
            pixels = [image for _, image in group]
            image_seeds = [_image_seed(recipe.seed, image) for image in pixels]
            fitted = fit_clouds(pixels, decoder, recipe.fit, image_seeds, device=str(chosen))
            for (i, image), fit in zip(group, fitted, strict=True):
                found[i] = _predict(images[i], image, fit, decoder, recipe, run, model, chosen)
            bar.update(len(found))
    return PredictReport(run_path, tuple(found[i] for i in range(len(images))))


def _predict(
    path: Path,
    image: NDArray[np.float32],
    fitted: FittedCloud,
    decoder: AnyDecoder,
    recipe: Recipe,
    run: RunFolder,
    model: nn.Module,
    device: torch.device,
) -> Prediction:
    try:
        rounding = Rounding.of(recipe.store.dtype, recipe.store.bits, decoder)
        cloud = finish_cloud(fitted, rounding.round(fitted.latents), image, decoder)
    except ImageError as error:
        return Prediction(str(path), error=str(error))
    no_label = np.zeros((1, len(run.facts.classes)), np.float32)
    batch = collate(CloudBatch.join([run.features.describe(cloud)]), no_label, run.normalisation, 0).to(device)
    with torch.inference_mode():
        shares = model(batch.latents, batch.positions, batch.offsets).double().softmax(1)[0].tolist()
    return Prediction(
        path=str(path),
        label=run.facts.classes[int(np.argmax(shares))],
        probabilities=dict(zip(run.facts.classes, shares, strict=True)),
        psnr=cloud.psnr,
        anchors=len(cloud),
    )


def _groups(
    paths: Sequence[Path], recipe: Recipe, channels: int, found: dict[int, Prediction]
) -> Iterator[list[tuple[int, NDArray[np.float32]]]]:
    """Images with their numbers, some pixels at a time; those that cannot be used go to `found` at once."""
    group: list[tuple[int, NDArray[np.float32]]] = []
    pixels = 0
    for i, path in enumerate(paths):
        try:
            image = load_image(path, recipe.source, channels, seed=recipe.seed)
        except ImageError as error:
            found[i] = Prediction(str(path), error=str(error))
            continue
        group.append((i, image))
        pixels += image.shape[0] * image.shape[1]
        if pixels >= GROUP_PIXELS:
            yield group
            group, pixels = [], 0
    if group:
        yield group


def _image_seed(seed: int, image: NDArray[np.float32]) -> int:
    content = hashlib.sha256(str(image.shape).encode() + np.ascontiguousarray(image, "<f4").tobytes()).hexdigest()
    return derive_seed(seed, "predict", content)
