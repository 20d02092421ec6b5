"""The decoder of a store: one that is given, what sine networks have in common, or pretrained as a job of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from arcpipe import seeds
from arcpipe.cloud import DecoderRecord, SirenRecord
from arcpipe.cluster import Cluster, DeadWorkersError, LostTaskError, failure, listening, teller
from arcpipe.config import FitSection
from arcpipe.convert.isolate import find_deadly
from arcpipe.convert.task import Image, read_sample
from arcpipe.convert.work import Work, check_joint_memory, prepare
from arcpipe.errors import ClusterError, ConfigError, DivergedError, ImageError
from arcpipe.machine import available_cores
from arcpipe.progress import Progress, duration, say
from arcpipe.sources import Inventory, Sample, open_source
from arcpipe.storage import storage_at
from arcpipe.store import load_decoder_file, open_store

MOST_TRIES = 3
"""Times that pretraining is begun: its workers may be killed by chance."""
SILENT_S = 8.0
"""Without a step for so long, people are told what may take the time."""


def load_decoder(name: str) -> DecoderRecord:
    """Read the decoder of a store (finished or not), or one saved as safetensors.

    A file holds `weight_0`, `bias_0`, ... and the metadata `n_neighbours` and `latent_dim`; a run folder of
    `arcpipe train` keeps one as `decoder.safetensors`.
    """
    storage = storage_at(name)
    if not storage.is_taken():
        raise ConfigError(
            f"--decoder {name}: there is no such store or file.",
            fix=["--decoder STORE.zarr", "or leave --decoder out: a new one is pretrained"],
        )
    if not storage.is_folder():
        return load_decoder_file(Path(name))
    return open_store(storage, allow_unfinished=True).decoder


def check_decoder(decoder: DecoderRecord, fit: FitSection, channels: int, name: str) -> None:
    """Raise `ConfigError` unless the decoder has the shapes that the settings ask for."""
    wanted = {
        "--neighbours": (fit.neighbours, decoder.n_neighbours),
        "--latent-dim": (fit.latent_dim, decoder.latent_dim),
        "decoder kind": (fit.decoder_kind, decoder.kind),
        "channels": (channels, decoder.channels),
        "fit.hidden": (fit.hidden_widths, decoder.hidden),
    }
    wrong = {key: pair for key, pair in wanted.items() if pair[0] != pair[1]}
    if not wrong:
        return
    if decoder.kind != fit.decoder_kind:
        wrong = {"decoder kind": wanted["decoder kind"]}
    fix = [f"{key} {found}" for key, (_, found) in wrong.items() if key.startswith("--")]
    if "decoder kind" in wrong:
        fix.append("--recipe thesis" if decoder.kind == "concat" else f"--recipe {decoder.kind}")
    if "channels" in wrong:
        fix.append("--grey (one channel)" if decoder.channels == 1 else "a decoder made from greyscale images")
    raise ConfigError(
        f"the decoder {decoder.sha256[:8]} of {name} does not fit these settings.",
        details=[f"{key}: expected {expected}, found {found}" for key, (expected, found) in wrong.items()],
        fix=[*fix, "leave --decoder out: a new one is pretrained"],
    )


def shared_network(fit: FitSection, channels: int, seed: int) -> SirenRecord | None:
    """What all networks of a new store have in common; None for other recipes."""
    from arcpipe.siren import new_record

    return new_record(fit, channels, seeds.derive_seed(seed, "decoder")) if fit.decoder_kind == "siren" else None


def with_network_size(fit: FitSection, channels: int) -> FitSection:
    """The settings with the number of a network's parameters, which depends on the images' channels."""
    record = shared_network(fit, channels, 0)
    return fit if record is None else fit.model_copy(update={"latent_dim": record.latent_dim})


def pretrained_decoder(work: Work, inventory: Inventory, workers: Cluster) -> DecoderRecord:
    """Pretrain the shared decoder with all cores of this machine or of one worker.

    Images that end their worker are left out; they fail later, as samples of their parts.

    Raises:
        ClusterError: the workers died, and no image is to blame.
    """
    split = "train" if inventory.samples.get("train") else next(iter(inventory.samples))
    samples = inventory.samples[split]
    order = seeds.generator(work.config.seed, "pretrain").permutation(len(samples))
    # Twice as many as are wanted, so that unreadable ones do not matter.
    chosen = [samples[i] for i in order if samples[i].reason is None][: 2 * work.fit.pretrain_images]
    started = time.monotonic()
    say(f"pretraining the decoder on {min(len(chosen), work.fit.pretrain_images)} images of {split}")
    future = _attempt(work, chosen, workers)
    if isinstance(lost := failure(future), LostTaskError):
        short = "or, if memory was short: --set fit.pretrain_images=10, or --shorter 256"
        fix = ["run the same command again", short]
        raise ClusterError("the decoder could not be pretrained.", details=[str(lost)], fix=fix)
    record: DecoderRecord = future.result()
    say(f"pretrained decoder {record.sha256[:8]} in {duration(time.monotonic() - started)}")
    return record


def _attempt(work: Work, chosen: list[Sample], workers: Cluster) -> Future[Any]:
    """Pretrain; where the workers died, without the images that do it."""
    # The other workers of this machine wait for the decoder; so it has as many threads whatever --workers, for the same
    # bits.
    threads = available_cores() if work.threads else 0
    work = replace(work, threads=threads, memory=work.memory * (workers.n_workers if work.threads else 1))
    for attempt in range(MOST_TRIES):
        steps = work.fit.pretrain_steps if workers.client else None
        with Progress("pretrain", steps, "steps", even=True) as progress:
            with listening(workers.client, progress.update) as topic:
                future = workers.executor.submit(pretrain, work, chosen, topic)
                _watch(future, progress)
            if steps and failure(future) is None:
                progress.update(steps)  # the last steps are told by the result
        if not isinstance(failure(future), DeadWorkersError) or attempt == MOST_TRIES - 1:
            break
        say("pretraining: its workers died. Reading its images in a process of its own.")
        search = workers.executor.submit(find_deadly, work, tuple(chosen))
        with Progress("search", None, "images") as progress:
            _watch(search, progress)
        if not isinstance(failure(search), LostTaskError):
            deadly = {found.sample_id: found.message for found in search.result()}
            for message in deadly.values():
                say(message)
            chosen = [sample for sample in chosen if sample.sample_id not in deadly]
    return future


def _watch(future: Future[Any], progress: Progress) -> None:
    began, said = time.monotonic(), progress.total is None
    while not wait([future], timeout=1).done:
        progress.tick()
        if not said and progress.done == 0 and time.monotonic() - began > SILENT_S:
            progress.note("no step yet: a new installation compiles its kernels first, which takes up to a minute")
            said = True


def pretrain(work: Work, samples: Sequence[Sample], topic: str) -> DecoderRecord:
    """Fit the first `pretrain_images` readable samples jointly with a decoder (METHOD §1, thesis 3.2.2).

    The steps that were taken are told under `topic`.
    """
    from arcpipe.arc.learn_basis import piece_of
    from arcpipe.arc.pretrain import pretrain_decoder

    device, seed = prepare(work), work.config.seed
    source = open_source(work.config.source, seed=seed, download=False)
    chosen: list[Sample] = []
    images: list[Image] = []
    sizes = [(*sample.size, work.channels) for sample in samples if sample.size][: work.fit.pretrain_images]
    check_joint_memory(sizes, work.fit, work.memory_bytes)
    for sample in samples:
        image, _ = read_sample(source, sample, work)
        if image is not None:
            chosen.append(sample)
            images.append(image if work.fit.decoder_kind == "concat" else piece_of(image, seed, sample.key))
        if len(images) == work.fit.pretrain_images:
            break
    if not images:
        raise ImageError(
            "no image of the training split can be read, so no decoder can be pretrained.",
            details=[f"tried {len(samples)} samples, for example {samples[0].key}" if samples else "it is empty"],
        )
    image_seeds = [seeds.derive_seed(seed, "pretrain", sample.key) for sample in chosen]
    decoder, _ = pretrain_decoder(
        images,
        work.fit,
        image_seeds,
        seed=seeds.derive_seed(seed, "decoder"),
        channels=work.channels,
        device=device,
        memory_bytes=max(0, work.free_bytes),
        stepped=teller(topic),
    )
    record = decoder.to_record()
    if not all(np.isfinite(values).all() for values in record.arrays().values()):
        raise DivergedError(
            "pretraining the decoder did not end in finite numbers.",
            details=[f"fit.lr = {work.fit.lr:g}, {len(images)} images, {work.fit.pretrain_steps} steps"],
            fix=["a smaller rate: --set fit.lr=0.005"],
        )
    return record
