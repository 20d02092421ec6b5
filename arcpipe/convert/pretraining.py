"""The decoder of a new store, pretrained as a job of its own."""

from __future__ import annotations

import time
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import Any

from arcpipe import seeds
from arcpipe.cloud import DecoderRecord
from arcpipe.cluster import Cluster, describe_loss, died, listening
from arcpipe.convert.isolate import find_deadly
from arcpipe.convert.task import pretrain
from arcpipe.convert.work import Work
from arcpipe.errors import ClusterError
from arcpipe.machine import available_cores
from arcpipe.progress import Progress, duration
from arcpipe.sources import Inventory, Sample

MOST_TRIES = 3
"""Times that pretraining is begun: its workers may be killed by chance."""
SILENT_S = 8.0
"""Without a step for so long, people are told what may take the time."""


def pretrain_decoder(work: Work, inventory: Inventory, workers: Cluster, say: Any) -> DecoderRecord:
    """Pretrain the shared decoder with all cores of this machine or of one worker.

    Images that end their worker are left out; they fail later, as samples of their parts.

    Raises:
        ClusterError: the workers died, and no image is to blame.
    """
    split = "train" if inventory.samples.get("train") else next(iter(inventory.samples))
    samples = inventory.samples[split]
    order = seeds.generator(work.seed, "pretrain").permutation(len(samples))
    # Twice as many as are wanted, so that unreadable ones do not matter.
    chosen = [samples[i] for i in order if samples[i].reason is None][: 2 * work.fit.pretrain_images]
    started = time.monotonic()
    say(f"pretraining the decoder on {min(len(chosen), work.fit.pretrain_images)} images of {split}")
    future = _attempt(work, chosen, workers, say)
    loss = describe_loss(future)
    if loss is not None:
        raise ClusterError(
            "the decoder could not be pretrained.",
            details=[loss],
            fix=[
                "run the same command again",
                "or, if memory was short: --set fit.pretrain_images=10, or --shorter 256",
            ],
        )
    record: DecoderRecord = future.result()
    say(f"pretrained decoder {record.sha256[:8]} in {duration(time.monotonic() - started)}")
    return record


def _attempt(work: Work, chosen: list[Sample], workers: Cluster, say: Any) -> Future[Any]:
    """Pretrain; where the workers died, without the images that do it."""
    # The other workers have nothing to do yet; the same number of threads whatever --workers, for the same bits.
    threads = available_cores() if work.threads else 0
    work = replace(work, threads=threads, memory=work.memory * (workers.n_workers if work.threads else 1))
    for attempt in range(MOST_TRIES):
        steps = work.fit.pretrain_steps if workers.client else None
        with Progress("pretrain", steps, "steps", even=True) as progress:
            with listening(workers.client, progress.update) as topic:
                future = workers.executor.submit(pretrain, work, chosen, topic)
                _watch(future, progress)
            if steps and describe_loss(future) is None and future.exception() is None:
                progress.update(steps)  # the last steps are told by the result
        if not died(future) or attempt == MOST_TRIES - 1:
            break
        say("pretraining: its workers died. Reading its images in a process of its own.")
        search = workers.executor.submit(find_deadly, work, tuple(chosen))
        with Progress("search", None, "images") as progress:
            _watch(search, progress)
        if describe_loss(search) is None:
            deadly = {failure.sample_id: failure for failure in search.result()}
            for failure in deadly.values():
                say(failure.message)
            chosen = [sample for sample in chosen if sample.sample_id not in deadly]
    return future


def _watch(future: Future[Any], progress: Progress) -> None:
    began, said = time.monotonic(), progress.total is None
    while not wait([future], timeout=1).done:
        progress.tick()
        if not said and progress.done == 0 and time.monotonic() - began > SILENT_S:
            progress.note("no step yet: a new installation compiles its kernels first, which takes up to a minute")
            said = True
