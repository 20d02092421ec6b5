"""Training: one straight path from a store to a run folder that can be stopped at any step and continued."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from arcpipe.config import AugmentSection, TrainConfig
from arcpipe.config.training import WEIGHT_DEFAULTS
from arcpipe.errors import DeviceError, DivergedError, EndedElsewhereError, RankLostError, SourceError
from arcpipe.machine import return_large_blocks
from arcpipe.models import check_kind, describe, n_parameters, resolve
from arcpipe.models.share import Draw
from arcpipe.paths import outside_stores
from arcpipe.progress import Progress, listed
from arcpipe.seeds import derive_seed
from arcpipe.store import Store, open_store
from arcpipe.stream.changes import check_changes
from arcpipe.stream.loader import Batch, StreamLoader
from arcpipe.stream.order import Manifest, epoch_order, shuffle_quality
from arcpipe.stream.split import Split
from arcpipe.threads import torch_threads
from arcpipe.train.ahead import on_device, plan_of
from arcpipe.train.average import Average
from arcpipe.train.begin import create_or_continue
from arcpipe.train.checkpoint import Reached, has_checkpoint, load_checkpoint, save_checkpoint, save_tensors
from arcpipe.train.evaluate import score
from arcpipe.train.facts import choose_splits, store_facts
from arcpipe.train.figures import draw_confusion, draw_curves
from arcpipe.train.interrupt import Interrupts
from arcpipe.train.launch import run_ranks
from arcpipe.train.measures import Measures
from arcpipe.train.ranks import ALONE, Ranks, check_processes, from_torchrun, joined, threads_of
from arcpipe.train.report import TrainReport
from arcpipe.train.run import RunFolder
from arcpipe.train.step import learning_rate, make_optimiser, train_step

CHECKPOINT_EVERY_S = 60.0  # at most so much work is lost to a kill
LOG_EVERY_STEPS = 50
DRAW_EVERY_S = 10.0  # a figure takes 0.2 s: epochs may be shorter
EVALUATION_BATCH = 256
LARGE_CLOUD = 500  # points: blocks of a step differ by megabytes


@dataclass
class Job:
    """What stays the same while a run trains, and its bar."""

    run: RunFolder
    train: Split
    test: Split | None
    validation: Split | None
    model: nn.Module
    optimiser: torch.optim.Optimizer
    device: torch.device
    interrupts: Interrupts
    bar: Progress
    ranks: Ranks = ALONE
    average: Average | None = None
    drawn_s: float = float("-inf")

    @property
    def config(self) -> TrainConfig:
        return self.run.config

    @property
    def reported(self) -> nn.Module:
        """The model that is evaluated and kept."""
        return self.average.model if self.average else self.model


def run_train(
    config: TrainConfig, *, resume: bool = False, overwrite: bool = False, quiet: bool = False
) -> TrainReport:
    """Train a classifier on a store. Safe to run again: it continues, and a finished run only reports.

    On Ctrl-C or SIGTERM the step under way is finished and saved, then the signal takes its course.

    Args:
        config: All settings. `workers` and `gpus` start processes that train together; under torchrun, this is one.
        resume: Insist that there is a run to continue.
        overwrite: Start again in a folder that holds a run of other settings.
        quiet: Show no progress.

    Raises:
        NotAStoreError, UnfinishedStoreError, MissingSplitError, SourceError: nothing to train on.
        CheckpointError, StoreMismatchError, StoreBusyError: the run folder cannot be used.
        ConfigError, DeviceError: there is no such model, or not so many GPUs.
        DivergedError: the loss is no longer a number.
        RankLostError: one of the processes that train together has ended.
    """
    ranks = from_torchrun()
    check_processes(config, ranks)
    outside_stores(config.out)
    resolve(config.model)  # refused before a folder is made
    if (config.workers or config.gpus or 1) > 1:
        return run_ranks(config, resume=resume, overwrite=overwrite, quiet=quiet)
    try:
        return train_rank(config, ranks or ALONE, Interrupts(), resume=resume, overwrite=overwrite, quiet=quiet)
    except (DeviceError, DivergedError, RankLostError) as error:  # all ranks notice these: the first one says so
        if ranks is None or ranks.first:
            raise
        ended = EndedElsewhereError(error.what)
        ended.exit_code = error.exit_code
        raise ended from None


def train_rank(
    config: TrainConfig, ranks: Ranks, interrupts: Interrupts, *, resume: bool, overwrite: bool, quiet: bool
) -> TrainReport:
    """What each of the processes does that train together, or the only one."""
    with joined(ranks, config) as device:
        store = open_store(config.store, allow_unfinished=config.stream.allow_unfinished)
        names = choose_splits(store, config.stream)
        check_kind(config.model, store.decoder_kind)
        check_changes(config.augment, store)
        splits = open_splits(store, names, config, ranks)
        facts = store_facts(store, splits[0], names, config)
        run = RunFolder(config.out, config, facts)
        with ranks.first_goes_ahead():
            if ranks.first:
                create_or_continue(config, facts, store.decoder, resume=resume, overwrite=overwrite)
        if run.summary is not None:
            run.check_finished()
            return replace(TrainReport.from_dict(run.summary), run=run.path, store=config.store, before=True)
        if splits[0].manifest.n_points > LARGE_CLOUD * len(splits[0].manifest):
            return_large_blocks()
        with ExitStack() as stack:
            with ranks.first_goes_ahead():  # rank 0 holds the folder for all; nobody begins before it does
                if ranks.first:
                    stack.enter_context(run.held())
            stack.enter_context(torch_threads(threads_of(ranks, config)))
            stack.enter_context(interrupts)
            model = run.model().to(device)
            optimiser = make_optimiser(model, config.optim, device)
            shown = ranks.first and not quiet
            bar = Progress("train", config.optim.epochs * len(splits[0].manifest), "clouds", enabled=shown)
            average = Average(model, config.optim.ema) if config.optim.ema else None
            return _train(Job(run, *splits, model, optimiser, device, interrupts, bar, ranks, average))


def open_splits(
    store: Store, names: tuple[str, str | None, str | None], config: TrainConfig, ranks: Ranks
) -> tuple[Split, Split | None, Split | None]:
    """The splits to train on, to report and to choose by; in memory those that fit, in this order."""
    left = config.stream.cache_mb / ranks.local_world
    splits: list[Split | None] = []
    (train, test, validation), held_out = names, config.stream.validation
    shares = [{"without": held_out}, {}, {"only": held_out}]
    for name, share in zip((train, test, train if held_out else validation), shares, strict=True):
        readers = config.stream.readers
        split = Split(store, name, cache_mb=left, readers=readers, **share) if name else None
        left -= split.n_bytes / 2**20 if split is not None and split.in_memory else 0
        splits.append(split)
    learnt, *others = splits
    assert learnt is not None
    for split in others:  # before the first epoch, not behind it; `store_facts` looks at the training split
        if split is not None and len(learnt.manifest) and not len(split.manifest):
            taken = f"--validation {held_out:g} takes none of {len(learnt.manifest)} clouds: "
            raise SourceError(
                f"there is nothing to evaluate on: the split {split.name} of {store.storage} holds no clouds.",
                details=[f"{taken}it takes its share of every part by itself"] if split.name == "validation" else [],
                fix=["--validation 0.5, or convert with larger parts: --set store.part_samples=100"]
                if split.name == "validation"
                else ["--test-split NAME", "the arcpipe convert command that made the store"],
            )
    return learnt, splits[1], splits[2]


def _train(job: Job) -> TrainReport:
    progress = Reached()
    if has_checkpoint(job.run.checkpoint):
        progress = load_checkpoint(job.run.checkpoint, job.model, job.optimiser, job.average)
    if job.ranks.first:
        job.run.forget_metrics_after(progress.epoch, progress.step)
    first_step = progress.step or None
    for line in first_words(job, progress.epoch):
        job.bar.note(line)
    measures = None
    with job.bar:
        while progress.epoch < job.config.optim.epochs:
            progress = _train_epoch(job, progress)
            progress, measures = _end_epoch(job, progress)
            _save(job, progress)
    measures = measures or _evaluate(job, job.test, progress)
    with job.ranks.first_goes_ahead():
        if job.ranks.first:
            _summarise(job, progress, measures, first_step)
    return TrainReport.from_dict(job.run.summary or {})


def _train_epoch(job: Job, progress: Reached) -> Reached:
    """Train the rest of an epoch; returns with all of its batches done."""
    optim = job.config.optim
    loader = _train_loader(job, progress)
    job.model.train()
    saved = mark = time.monotonic()
    for batch in on_device(loader, job.device, lambda batch, step: _plan(job, batch, step), progress.step):
        arrived = time.monotonic()
        share = (progress.epoch + batch.index / loader.n_batches) / optim.epochs
        rate = learning_rate(optim, share, 1 / (loader.n_batches * optim.epochs))
        seed = _step_seed(job, progress.step)
        loss, right = train_step(job.model, job.optimiser, batch, optim, rate, seed, job.ranks)
        if job.average:
            job.average.update(progress.step)
        done = time.monotonic()
        new = {
            "loss": loss * batch.total,
            "right": right,
            "clouds": batch.total,
            "seconds": done - mark,
            "waiting_s": arrived - mark,
        }
        partial = {name: progress.partial.get(name, 0) + value for name, value in new.items()}
        progress = replace(progress, batch=batch.index + 1, step=progress.step + 1, partial=partial)
        _show_step(job, progress, loss, rate)
        _heed(job, progress)
        if done - saved >= CHECKPOINT_EVERY_S:
            _save(job, progress)
            saved = time.monotonic()
        mark = time.monotonic()
    return progress


def _step_seed(job: Job, step: int) -> int:
    return derive_seed(job.config.seed, "step", step)


def _plan(job: Job, batch: Batch, step: int) -> Any:
    """Let the model do what it can of a step before its batch is on the GPU."""
    generator = torch.Generator().manual_seed(_step_seed(job, step))
    return plan_of(job.model, batch, Draw(generator, job.ranks.share(batch)))


def _train_loader(job: Job, progress: Reached) -> StreamLoader:
    return StreamLoader(
        job.train,
        job.run.normalisation,
        job.config.optim.batch_size,
        section=job.config.stream,
        seed=job.config.seed,
        epoch=progress.epoch,
        start_batch=progress.batch,
        augment=job.config.augment,
        rank=job.ranks.rank,
        world=job.ranks.world,
    )


def _end_epoch(job: Job, progress: Reached) -> tuple[Reached, Measures | None]:
    """Evaluate, note what the validation split prefers, log and draw."""
    epoch, sums = progress.epoch + 1, progress.partial
    line = {"train_loss": sums["loss"] / sums["clouds"], "train_accuracy": sums["right"] / sums["clouds"]}
    measures, best = None, progress.best
    if epoch % job.config.optim.evaluate_every == 0 or epoch == job.config.optim.epochs:
        measures, chosen = (_evaluate(job, split, progress) for split in (job.test, job.validation))
        for split, found in ((job.test, measures), (job.validation, chosen)):
            if split is not None and found is not None:
                line |= {f"{split.name}_loss": found.loss, f"{split.name}_accuracy": found.accuracy}
        if job.validation and chosen and measures and chosen.accuracy > best.get("accuracy", -1.0):
            if job.ranks.first:  # kept apart; the split that is reported has no say in it
                save_tensors(job.run.path / "best.safetensors", job.reported.state_dict())
            accuracies = {"accuracy": chosen.accuracy, "test_accuracy": measures.accuracy}
            best = {"split": job.validation.name, "epoch": epoch, **accuracies}
    times = {"seconds": sums["seconds"], "waiting_s": sums["waiting_s"], "clouds": sums["clouds"]}
    if job.ranks.first:
        job.run.append_metrics(kind="epoch", epoch=epoch, step=progress.step, **line, **times)
        _show_epoch(job, epoch, line)
        if time.monotonic() - job.drawn_s >= DRAW_EVERY_S:
            _draw_curves(job)
    return Reached(epoch=epoch, step=progress.step, best=best), measures


def _draw_curves(job: Job) -> list[dict[str, Any]]:
    """Draw the epochs so far and return them."""
    epochs = [entry for entry in job.run.metrics() if entry["kind"] == "epoch"]
    draw_curves(job.run.path / "curves.png", epochs, [split.name for split in (job.test, job.validation) if split])
    job.drawn_s = time.monotonic()
    return epochs


def _evaluate(job: Job, split: Split | None, progress: Reached) -> Measures | None:
    if split is None:
        return None
    loader = StreamLoader(
        split,
        job.run.normalisation,
        EVALUATION_BATCH,
        section=job.config.stream,
        shuffle=False,
        rank=job.ranks.rank,
        world=job.ranks.world,
    )
    return score(job.reported, [loader], job.device, partial(_heed, job, progress), ranks=job.ranks)


def _summarise(job: Job, progress: Reached, measures: Measures | None, first_step: int | None) -> None:
    """Report the last weights and write the summary, which is what makes a run finished."""
    if measures is not None and job.test is not None:
        title = f"{job.test.name}: {100 * measures.accuracy:.2f} % of {measures.n} images"
        draw_confusion(job.run.path / "confusion.png", measures.confusion, job.run.facts.classes, title)
    epochs = _draw_curves(job)
    seconds = sum(entry["seconds"] for entry in epochs)
    report = TrainReport(
        run=job.run.path,
        store=job.config.store,
        model=describe(job.model),
        parameters=n_parameters(job.model),
        epochs=progress.epoch,
        steps=progress.step,
        clouds=len(job.train.manifest),
        train_loss=epochs[-1]["train_loss"],
        train_accuracy=epochs[-1]["train_accuracy"],
        split=job.test.name if job.test else None,
        test_clouds=len(job.test.manifest) if job.test else 0,
        measures=measures,
        best=progress.best,
        seconds=seconds,
        clouds_per_s=sum(entry["clouds"] for entry in epochs) / max(seconds, 1e-9),
        waiting=sum(entry["waiting_s"] for entry in epochs) / max(seconds, 1e-9),
        resumed_at_step=first_step,
        changed=tuple(CHANGES[name] for name in job.config.augment.apply),
    )
    job.run.write_summary(report.as_dict())


def _heed(job: Job, progress: Reached) -> None:
    """If any rank was interrupted: save, then let the signal do what it would have done, in all of them."""
    if not job.ranks.any(job.interrupts.pending is not None):
        return
    _save(job, progress)
    job.bar.note(f"saved at step {progress.step} of {job.run.path}")
    job.interrupts.deliver(otherwise=signal.SIGTERM)


def _save(job: Job, progress: Reached) -> None:
    if job.ranks.first:
        save_checkpoint(job.run.checkpoint, job.model, job.optimiser, progress, job.average)


def _show_step(job: Job, progress: Reached, loss: float, rate: float) -> None:
    sums = progress.partial
    job.bar.update(
        progress.epoch * len(job.train.manifest) + int(sums["clouds"]),
        epoch=f"{progress.epoch + 1}/{job.config.optim.epochs}",
        loss=f"{sums['loss'] / sums['clouds']:.3f}",
        accuracy=f"{100 * sums['right'] / sums['clouds']:.1f} %",
    )
    if job.ranks.first and progress.step % LOG_EVERY_STEPS == 0:
        job.run.append_metrics(kind="step", epoch=progress.epoch + 1, step=progress.step, loss=loss, rate=rate)


def _show_epoch(job: Job, epoch: int, line: dict[str, float]) -> None:
    text = [f"train loss {line['train_loss']:.4f}, accuracy {100 * line['train_accuracy']:.2f} %"]
    for split in (job.test, job.validation):
        if split is not None and f"{split.name}_accuracy" in line:
            text.append(f"{split.name} accuracy {100 * line[f'{split.name}_accuracy']:.2f} %")
    job.bar.note(f"epoch {epoch}/{job.config.optim.epochs}: {', '.join(text)}")


CHANGES = {
    "noise": "noisy",
    "mask": "masked",
    "push": "pushed",
    "rotate": "turned",
    "flip": "mirrored",
    "zoom": "zoomed",
    "crop": "cropped",
    "displace": "displaced",
    "brightness": "brighter or darker",
    "contrast": "of other contrast",
    "saturation": "of other saturation",
    "hue": "of other hue",
    "arcmix": "mixed",
    "translate": "moved",
    "translate-published": "moved",
    "jitter": "noisy",
    "noise-published": "noisy",
    "drop": "thinned out",
    "stretch": "stretched",
    "permute": "of exchanged neurons",
}
"""What training does to clouds, as `augment.apply` calls it and as people read it."""
POOR = {"displacement": 0.7, "run_length": 1.5}
"""An epoch is mixed badly where clouds move less, or labels run longer, than so many times a full shuffle's."""


def first_words(job: Job, epoch: int) -> list[str]:
    """What to know about the numbers that will be shown."""
    lines = []
    if job.config.augment.apply:
        kind = "networks" if job.train.store.decoder_kind == "siren" else "clouds"
        how = listed(CHANGES[name] for name in job.config.augment.apply)
        lines.append(f"train loss and accuracy are of {kind} that are {how} (--augment), others of {kind} as stored")
    for name, owner in unread(job.config.augment, job.config.model.model):
        lines.append(f"augment.{name} changes nothing: --augment has no {owner}")
    lines += mixing_lines(job.train.manifest, job.config, epoch)
    if job.test is None and job.validation is None:
        lines.append("the store has no split test or val: --validation 0.1 would hold images out to measure by")
    return lines


def unread(section: AugmentSection, model: str = "ptv3") -> list[tuple[str, str]]:
    """Strengths that were given for changes that are not made, and whose they are."""
    owners = {"shift": "push", "flip_axes": "flip", "arcmix_alpha": "arcmix"}
    usual = AugmentSection(**WEIGHT_DEFAULTS.get(model, {}).get("augment", {}))
    given = [
        (name, owners.get(name, name))
        for name in AugmentSection.model_fields
        if name not in ("apply", "exact") and getattr(section, name) != getattr(usual, name)
    ]
    published = {"translate-published": "translate", "noise-published": "jitter"}
    made = {published.get(name, name) for name in section.apply}
    return [(name, owner) for name, owner in given if owner not in made]


def mixing_lines(manifest: Manifest, config: TrainConfig, epoch: int) -> list[str]:
    """A warning where an epoch is mixed badly."""
    stream = config.stream
    order = epoch_order(manifest, config.seed, epoch, block=stream.block, window=stream.window, pool=stream.pool)
    found = shuffle_quality(order, manifest)
    if found["displacement"] >= POOR["displacement"] and found["run_length"] <= POOR["run_length"]:
        return []
    return [
        f"warning: clouds are mixed badly: they move {found['displacement']:.2f} and labels run "
        f"{found['run_length']:.2f} times as far as in a full shuffle; try --set stream.pool={2 * stream.pool}"
    ]
