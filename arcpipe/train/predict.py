"""New images: fitted as the store's were, under the same frozen decoder, then classified. Needs only the run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

import arcpipe
from arcpipe.arc.memory import GROUP_PIXELS
from arcpipe.cloud import Cloud, CloudBatch
from arcpipe.devices import choose_device
from arcpipe.errors import CheckpointError, ConfigError, ImageError, TooManyFailuresError
from arcpipe.fitter import Fitter
from arcpipe.models import describe
from arcpipe.options import Weights
from arcpipe.progress import Progress, counted
from arcpipe.sources import Picture
from arcpipe.stream.loader import collate
from arcpipe.threads import torch_threads
from arcpipe.train.run import RunFolder, open_run


@dataclass(frozen=True)
class Prediction:
    """One image. `label` is the most probable class; `psnr` (dB) tells how well the cloud represents the image.
    `anchors`: of the cloud; None for a sine network, which has none.

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
        anchors = "" if self.anchors is None else f"{counted(self.anchors, 'anchor', 'anchors')}, "
        return f"{self.path}: {self.label} ({shown}; {anchors}PSNR {self.psnr:.2f} dB)"


@dataclass(frozen=True)
class PredictReport:
    """Predictions in the order of the images."""

    run: Path
    predictions: tuple[Prediction, ...]

    def check(self) -> None:
        """Raise ImageError if not one image could be used, and TooManyFailuresError if some could not."""
        failed = sum(prediction.error is not None for prediction in self.predictions)
        if failed == len(self.predictions):
            raise ImageError(
                "the image could not be classified." if failed == 1 else f"none of {failed} images could be classified."
            )
        if failed:
            raise TooManyFailuresError(f"{failed} of {len(self.predictions)} images could not be classified.")

    def as_dict(self) -> dict[str, Any]:
        return {"run": str(self.run), "predictions": [asdict(prediction) for prediction in self.predictions]}

    def lines(self) -> list[str]:
        return [prediction.line() for prediction in self.predictions]


class TrainedRun:
    """A trained run, ready for new images: see `load_run`.

    `folder`: its `RunFolder`, with settings (`config`), facts of its store and `metrics`. `model`: in evaluation mode.
    `fitter`: makes clouds as those that the model was trained on. `classes`: their names.
    """

    def __init__(self, folder: RunFolder, *, weights: Weights = "last", device: str = "auto") -> None:
        self.folder, self.classes, self.device = folder, folder.facts.classes, choose_device(device)
        self.model = folder.model().to(self.device)
        folder.load_weights(self.model, weights)
        self.model.eval()
        try:
            made, where = folder.facts.convert, str(folder.path)
            self.fitter = Fitter.made(made, folder.decoder(), where, device=str(self.device))
        except ConfigError as error:
            fix = ["train again on a store made by arcpipe convert"]
            raise CheckpointError(error.what, details=error.details, fix=fix) from None

    def __repr__(self) -> str:
        return f"<TrainedRun {self.folder.path}: {describe(self.model)}, {len(self.classes)} classes, on {self.device}>"

    def _repr_png_(self) -> bytes | None:
        return arcpipe.show(self)._repr_png_()

    @property
    def figures(self) -> list[Path]:
        """The pictures that training drew: its curves, and the confusion matrix where a split was evaluated."""
        files = [self.folder.path / name for name in ("curves.png", "confusion.png")]
        return [file for file in files if file.is_file()]

    def predict(
        self, images: Picture | Sequence[Picture], told: Callable[[int], None] = lambda done: None
    ) -> list[Prediction]:
        """Fit and classify pictures, in their order; `told` is called with how many are done.

        The same picture gets the same answer whatever its name and whatever is asked beside it: its seed comes from its
        pixels (but where the store was made with `--displace`, the name decides the place). A picture that cannot be
        used is an entry with an error; the others go on.
        """
        alone = isinstance(images, (str, Path)) or hasattr(images, "__array_interface__")  # of NumPy and of Pillow
        pictures = [cast(Picture, images)] if alone else list(cast(Sequence[Picture], images))
        found: dict[int, Prediction] = {}
        for group in self._groups(pictures, found):
            pixels = [image for _, image in group]
            clouds = self.fitter.clouds(pixels, [self.fitter.seed_of(image) for image in pixels])
            for (i, _), cloud in zip(group, clouds, strict=True):
                name = _name(pictures[i])
                if isinstance(cloud, ImageError):
                    found[i] = Prediction(name, error=str(cloud))
                else:
                    found[i] = self.classify(cloud, name)
            told(len(found))
        return [found[i] for i in range(len(pictures))]

    def classify(self, cloud: Cloud, name: str = "") -> Prediction:
        """Classify one cloud that was fitted under the run's decoder."""
        run = self.folder
        no_label = np.zeros((1, len(self.classes)), np.float32)
        alone = CloudBatch.join([cloud])
        batch = collate(alone, no_label, alone.sample_ids, run.normalisation).to(self.device)
        with torch.inference_mode():
            shares = self.model(batch.latents, batch.positions, batch.offsets).double().softmax(1)[0].tolist()
        return Prediction(
            path=name or cloud.path,
            label=self.classes[int(np.argmax(shares))],
            probabilities=dict(zip(self.classes, shares, strict=True)),
            psnr=cloud.psnr,
            anchors=None if run.facts.decoder_kind == "siren" else len(cloud),
        )

    def _groups(
        self, images: Sequence[Picture], found: dict[int, Prediction]
    ) -> Iterator[list[tuple[int, NDArray[np.float32]]]]:
        """Images with their numbers, some pixels at a time; those that cannot be used go to `found` at once."""
        group: list[tuple[int, NDArray[np.float32]]] = []
        pixels = 0
        for i, image in enumerate(images):
            try:
                group.append((i, self.fitter.load(image)))
            except ImageError as error:
                found[i] = Prediction(_name(image), error=str(error))
                continue
            pixels += group[-1][1].shape[0] * group[-1][1].shape[1]
            if pixels >= GROUP_PIXELS:
                yield group
                group, pixels = [], 0
        if group:
            yield group


def load_run(path: Path | str, *, weights: Weights = "last", device: str = "auto") -> TrainedRun:
    """Load a trained run for new images; its folder is all that is needed.

    >>> import arcpipe as ap
    >>> run = ap.load_run("runs/digits")
    >>> (prediction,) = run.predict("photo.png")
    >>> prediction.label in run.classes, sum(prediction.probabilities.values()) > 0.999
    (True, True)

    Args:
        path: The folder of a run.
        weights: Those of the last step, or those that a validation split chose.
        device: `auto` is the first GPU if there is one; `cpu`, or any other name that torch knows.

    Raises:
        CheckpointError: there is no trained run, or it does not say how its clouds were made.
        DeviceError: there is no such device.
    """
    return TrainedRun(open_run(Path(path)), weights=weights, device=device)


def run_predict(
    run_path: Path,
    images: Sequence[Path],
    *,
    weights: Weights = "last",
    device: str = "auto",
    threads: int | None = None,
) -> PredictReport:
    """Fit and classify image files, see `TrainedRun.predict`.

    Raises:
        CheckpointError: there is no trained run.
    """
    run = load_run(run_path, weights=weights, device=device)
    with Progress("predict", len(images), "images") as bar, torch_threads(threads):
        return PredictReport(run_path, tuple(run.predict(images, bar.update)))


def _name(image: Picture) -> str:
    return str(image) if isinstance(image, (str, Path)) else ""
