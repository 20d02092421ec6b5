"""Accuracy of a trained run on a split, as it is or with clouds moved (thesis experiments 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from arcpipe.config import Augmentation, AugmentSection, EvaluateConfig
from arcpipe.devices import choose_device
from arcpipe.errors import (
    ConfigError,
    DivergedError,
    FileAccessError,
    MissingSplitError,
    SourceError,
    StoreMismatchError,
)
from arcpipe.models.share import Draw
from arcpipe.paths import outside_stores
from arcpipe.storage import Storage
from arcpipe.store import Store, open_store
from arcpipe.stream.loader import StreamLoader
from arcpipe.stream.split import Split
from arcpipe.threads import torch_threads
from arcpipe.train.ahead import on_device, plan_of
from arcpipe.train.facts import default_test_split
from arcpipe.train.figures import draw_calibration, draw_confusion
from arcpipe.train.measures import Measures, average_repeats, first_repeats, measure
from arcpipe.train.ranks import ALONE, Ranks, gather
from arcpipe.train.run import RunFolder, open_run


@dataclass(frozen=True)
class EvaluateReport:
    """Measures of one split. `push` and `shift` in pixels; images are counted once, whatever their repeats.

    `clouds`: how many were averaged into the images' answers, each seen `views` times. `files`: the figures, where a
    folder was given.
    """

    run: Path
    store: Storage
    split: str
    push: float
    shift: float
    displace: bool
    views: int
    clouds: int
    measures: Measures
    files: tuple[Path, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        values = {**asdict(self), "run": str(self.run), "store": str(self.store)}
        values["files"] = [str(path) for path in self.files]
        measures = values.pop("measures")
        return {**values, **measures}

    def lines(self) -> list[str]:
        moved = [f"pushed by up to {self.push:g} px"] if self.push else []
        moved += [f"shifted by up to {self.shift:g} px"] if self.shift else []
        moved += ["displaced"] if self.displace else []
        moved += [f"seen {self.views} times"] if self.views > 1 else []
        what = f"{self.split} of {self.store}" + (f", {' and '.join(moved)}" if moved else "")
        lines = [f"{self.run} on {what}", *measure_lines(self.measures, self.clouds)]
        return lines + [f"  {path}" for path in self.files]


def measure_lines(measures: Measures, clouds: int, split: str = "") -> list[str]:
    """Measures for people, the weakest classes first; `split` is put before them."""
    counted = f"{measures.n} images" + (f" ({clouds} clouds, averaged for each image)" if clouds > measures.n else "")
    known = {name: share for name, share in measures.per_class.items() if share is not None}
    weakest = sorted(known, key=lambda name: known[name])[:5]
    return [
        f"  {split}{': ' if split else ''}accuracy {100 * measures.accuracy:.2f} % of {counted}; "
        f"loss {measures.loss:.4f}, calibration error {100 * measures.calibration_error:.2f} %",
        "  weakest classes: " + ", ".join(f"{name} {100 * known[name]:.1f} %" for name in weakest),
    ]


def run_evaluate(config: EvaluateConfig) -> EvaluateReport:
    """Evaluate a run on a split of a store that has the run's decoder.

    Raises:
        CheckpointError: there is no trained run.
        MissingSplitError: the store has no such split, or there is none to choose.
        StoreMismatchError: the store was made with another decoder, latent dimension or other classes.
        ConfigError: sine networks cannot be moved, or the run was trained on clouds as they are and `views` are asked.
    """
    if config.out is not None:
        outside_stores(config.out)
    run = open_run(config.run)
    store = open_store(config.store)
    check_store(run, store, config.store)
    name = config.split or run.facts.test_split or default_test_split(store)
    if name is None:
        raise MissingSplitError(
            f"{config.store} has no split test or val.",
            details=[f"splits: {', '.join(store.splits)}"],
            fix=[f"--split {split}" for split in store.splits],
        )
    device = choose_device(config.device)
    model = run.model().to(device)
    run.load_weights(model, config.weights)
    if run.facts.decoder_kind == "siren" and (config.push or config.shift or config.displace):
        raise ConfigError(
            "--push, --shift and --displace move the points of clouds, and sine networks have none.",
            fix=[
                "leave them out",
                f"arcpipe convert ... --pad S --displace --recipe siren --decoder {run.config.store}",
            ],
        )
    split = Split(store, name)
    changes = [moves(config)] + [training_changes(run, config) for _ in range(1, config.views)]
    loaders = [
        StreamLoader(
            split,
            run.normalisation,
            config.batch_size,
            section=run.config.stream,
            seed=config.seed,
            epoch=view,  # every view draws other changes
            augment=change,
            shuffle=False,
        )
        for view, change in enumerate(changes)
    ]
    with torch_threads(config.threads):
        measures = score(model, loaders, device, repeats=config.repeats)
    how = (config.push, config.shift, config.displace, config.views)
    report = EvaluateReport(config.run, config.store, name, *how, measures.clouds, measures)
    return report if config.out is None else replace(report, files=draw_measures(config.out, name, measures))


def training_changes(run: RunFolder, config: EvaluateConfig) -> AugmentSection:
    """What training does to single clouds: its augmentation but for mixing.

    Raises:
        ConfigError: there is none, or the options say already how clouds are changed.
    """
    augment, names = run.config.augment, [name for name in run.config.augment.apply if name != "arcmix"]
    if not names or config.push or config.shift or config.displace:
        why = (
            ["--push, --shift and --displace say how clouds are changed"]
            if names
            else [f"{run.path} was trained on clouds as they are (augment.apply: {', '.join(augment.apply) or 'none'})"]
        )
        raise ConfigError("--views has no changes to draw.", details=why, fix=["without --views"])
    return augment.model_copy(update={"apply": tuple(names)})


def moves(config: EvaluateConfig) -> AugmentSection:
    """Say `--push`, `--shift` and `--displace` as an augmentation."""
    names: list[Augmentation] = ["push"] if config.push or config.shift else []
    names += ["displace"] if config.displace else []
    return AugmentSection(apply=tuple(names), push=config.push, shift=config.shift)


def draw_measures(folder: Path, split: str, measures: Measures) -> tuple[Path, ...]:
    """Write `calibration.png` and `confusion.png` of a split.

    Raises:
        FileAccessError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileAccessError(
            f"{folder} cannot be made a folder.", details=[str(error)], fix=["--out FOLDER"]
        ) from None
    title = f"{split}: {100 * measures.accuracy:.2f} % of {measures.n} images"
    draw_confusion(folder / "confusion.png", measures.confusion, list(measures.per_class), title)
    draw_calibration(folder / "calibration.png", measures.calibration, measures.calibration_error, split)
    return folder / "calibration.png", folder / "confusion.png"


def score(
    model: nn.Module,
    loaders: Sequence[StreamLoader],
    device: torch.device,
    check: Callable[[], None] | None = None,
    repeats: int | None = None,
    ranks: Ranks = ALONE,
) -> Measures:
    """Measure a model on all batches of loaders of the same clouds, changed differently; `check` runs before each.

    Probabilities of a cloud are averaged, and then those of the repeats of an image: all, or the first `repeats`.
    Several ranks answer for their own clouds, and all of them get the measures of all clouds.

    Raises:
        SourceError: the split is empty.
        DivergedError: the model's answers are no numbers.
    """
    loader = loaders[0]
    if not len(loader.order):
        raise SourceError(f"the split {loader.split.name} of {loader.split.store.storage} holds no clouds.")
    found = [predict_all(model, own, device, check) for own in loaders]
    probabilities, (_, labels, ids) = np.mean([own for own, _, _ in found], axis=0), found[0]
    if ranks.world > 1:
        places, n = loader.places(), len(loader.order)
        probabilities = gather(ranks, places, n, probabilities)
        labels, ids = gather(ranks, places, n, labels), gather(ranks, places, n, ids)
    if not np.isfinite(probabilities).all():
        raise DivergedError(
            f"the model's answers on the split {loader.split.name} are no numbers: its weights have diverged.",
            fix=["train again with a smaller --lr and --overwrite"],
        )
    if repeats is not None:
        kept = first_repeats(ids, repeats)
        probabilities, labels, ids = probabilities[kept], labels[kept], ids[kept]
    return measure(*average_repeats(probabilities, labels, ids), loader.split.store.classes, len(ids))


def predict_all(
    model: nn.Module, loader: StreamLoader, device: torch.device, check: Callable[[], None] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Probabilities (clouds, classes), labels and sample ids (clouds,). The model is left in evaluation mode."""
    model.eval()
    probabilities, labels, ids = [], [], []
    with torch.inference_mode():
        for batch in on_device(loader, device, lambda batch, _: plan_of(model, batch, Draw())):
            if check is not None:
                check()
            logits = model(batch.latents, batch.positions, batch.offsets, plan=batch.plan)
            probabilities.append(logits.double().softmax(1).cpu().numpy())
            labels.append(batch.labels.argmax(1).cpu().numpy())
            ids.append(batch.sample_ids)
    return np.concatenate(probabilities), np.concatenate(labels), np.concatenate(ids)


def check_store(run: RunFolder, store: Store, path: Storage) -> None:
    """A run understands only clouds that its own decoder's latents are in."""
    facts = run.facts
    found: Mapping[str, tuple[Any, Any]] = {
        "decoder": (facts.decoder_sha256[:8], store.decoder_sha256[:8]),
        "latent dimension": (facts.latent_dim, store.latent_dim),
        "channels": (facts.channels, store.channels),
        "classes": (", ".join(facts.classes), ", ".join(store.classes)),
    }
    details = [
        f"{name}: the run has {ours}, the store {theirs}" for name, (ours, theirs) in found.items() if ours != theirs
    ]
    if not details:
        return
    model = " --model scalegmn" if store.decoder_kind == "siren" else ""
    fix = [f"arcpipe train --store {path}{model} --out {run.path}-2"]
    if facts.classes == tuple(store.classes) and facts.channels == store.channels:
        details.append("latents of different decoders have nothing in common")
        source, out = store.config["source"]["source"], path.beside(f"{facts.decoder_sha256[:8]}-{path.name}")
        kind = "" if facts.decoder_kind == "concat" else f" --recipe {facts.decoder_kind}"
        fix.insert(0, f"arcpipe convert {source} --decoder {run.config.store}{kind} --out {out}")
    raise StoreMismatchError(f"{run.path} cannot be evaluated on {path}.", details=details, fix=fix)
