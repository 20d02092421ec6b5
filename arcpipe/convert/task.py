"""What a worker does: pretrain the decoder, or turn the samples of one part into clouds and commit them.

Tasks return small records, never arrays, and may run twice.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe import seeds
from arcpipe.arc.memory import cloud_bytes, fit_bytes
from arcpipe.cloud import Cloud, CloudBatch, DecoderRecord, FailedSample
from arcpipe.cluster import teller
from arcpipe.config import FitSection, RunSection, SourceSection, StoreSection
from arcpipe.convert.budget import (
    GROUP_PIXELS,
    LOADED_BYTES,
    check_joint_memory,
    check_memory,
    free_bytes,
    group_bytes,
    worker_memory,
)
from arcpipe.convert.limits import fit_limit_s, is_out_of_memory, within
from arcpipe.convert.plan import PartPlan, core_seconds
from arcpipe.errors import DivergedError, DownloadError, FileAccessError, ImageError, SourceError
from arcpipe.machine import available_cores
from arcpipe.sources import Sample, Source, open_source
from arcpipe.store import PartRecord, Rounding, StoreWriter, position_dtype

Group = Sequence[tuple[Sample, NDArray[np.float32]]]
Made = tuple[list[Cloud], list[FailedSample]]


@dataclass(frozen=True)
class Work:
    """What all tasks of a conversion share; small, so that every task carries it."""

    source: SourceSection
    channels: int
    fit: FitSection
    store: StoreSection
    seed: int
    threads: int
    """Compute threads of a worker; 0 leaves them as the worker was started."""
    device: str
    """`cpu`, `cuda`, or `auto` (CUDA where the worker has it)."""
    run: RunSection
    guarded: bool
    """Whether the process that works may be ended where it takes too long: not where it is the user's own."""
    memory: int = 0
    """Bytes of a worker; 0: the share of its machine that a worker for each core would have."""

    @property
    def memory_bytes(self) -> int:
        return self.memory or worker_memory(RunSection(), os.cpu_count() or 1)

    @property
    def read_limit_s(self) -> float | None:
        """Seconds that one image may take to read and decode."""
        return self.run.hung_read_s if self.guarded else None

    def fit_limit_s(self, samples: Sequence[Sample]) -> float | None:
        """Seconds that these samples may take in all."""
        return fit_limit_s(self.run, core_seconds(samples, self.fit)) if self.guarded else None


def pretrain(work: Work, samples: Sequence[Sample], topic: str = "") -> DecoderRecord:
    """Fit the first `pretrain_images` readable samples jointly with a decoder (METHOD §1, thesis 3.2.2).

    The steps that were taken are told under `topic`.
    """
    import torch

    from arcpipe.arc.learn_basis import piece_of
    from arcpipe.arc.pretrain import pretrain_decoder

    device = prepare(work)
    if work.run.scheduler is None and work.run.cluster is None:
        torch.set_num_threads(available_cores())  # the other workers of this machine wait for the decoder
    source = open_source(work.source, seed=work.seed, download=False)
    chosen: list[Sample] = []
    images: list[NDArray[np.float32]] = []
    sizes = [(*sample.size, work.channels) for sample in samples if sample.size][: work.fit.pretrain_images]
    check_joint_memory(sizes, work.fit, work.memory_bytes)
    for sample in samples:
        image, _ = read_sample(source, sample, work)
        if image is not None:
            chosen.append(sample)
            images.append(image if work.fit.decoder_kind == "concat" else piece_of(image, work.seed, sample.key))
        if len(images) == work.fit.pretrain_images:
            break
    if not images:
        raise ImageError(
            "no image of the training split can be read, so no decoder can be pretrained.",
            details=[f"tried {len(samples)} samples, for example {samples[0].key}" if samples else "it is empty"],
        )
    image_seeds = [seeds.derive_seed(work.seed, "pretrain", sample.key) for sample in chosen]
    decoder, _ = pretrain_decoder(
        images,
        work.fit,
        image_seeds,
        seed=seeds.derive_seed(work.seed, "decoder"),
        channels=work.channels,
        device=device,
        memory_bytes=max(0, free_bytes(work.memory_bytes)),
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


def convert_part(work: Work, part: PartPlan, writer: StoreWriter) -> PartRecord:
    """Decode, place anchors, find neighbours, fit, quantise, check, write and commit one part."""
    started = time.perf_counter()
    stages = {"read": 0.0, "fit": 0.0, "finish": 0.0}
    clouds: list[Cloud] = []
    failures: list[FailedSample] = []
    with within(work.fit_limit_s(part.samples)):
        device = prepare(work)
        decoder = load_decoder(writer, device)
        source = open_images(work)
        for group, failed in _groups(source, part.samples, work, stages):
            failures += failed
            made, lost = fit_group(group, decoder, work, device, stages)
            clouds += made
            failures += lost
            del group, made
        return commit(work, part, writer, clouds, failures, stages, started)


def open_images(work: Work) -> Source:
    """The source. Raises `FileAccessError` where it was here when the conversion began and is not any more."""
    why = None
    try:
        source = open_source(work.source, seed=work.seed, download=False)
        folder = Path(work.source.source)
        if folder.is_dir() and not any(folder.iterdir()):
            why = f"{folder} is empty now"
    except (SourceError, DownloadError) as error:
        why = error.what
    except OSError as error:
        why = str(error)
    if why is None:
        return source
    raise FileAccessError(
        f"the images of {work.source.source} have gone.",
        details=[f"seen from {socket.gethostname()}: {why}", "committed parts are safe"],
        fix=["bring them back (is the disk still mounted?), then run the same command again: it continues"],
    )


def load_decoder(writer: StoreWriter, device: str) -> Any:
    """The store's decoder on a device."""
    from arcpipe.arc.engine import decoder_of

    return decoder_of(writer.decoder(), device)


def commit(
    work: Work,
    part: PartPlan,
    writer: StoreWriter,
    clouds: list[Cloud],
    failures: Sequence[FailedSample],
    stages: dict[str, float],
    started: float,
) -> PartRecord:
    """Write and commit the clouds of a part, emptying the list; `started` by `time.perf_counter()`."""
    if any(failure.reason == "unreadable" for failure in failures):
        open_images(work)  # one image that cannot be read is its own fault, a disk that is gone is not
    batch = CloudBatch.join(clouds, latent_dim=work.fit.latent_dim, n_neighbours=work.fit.neighbours)
    clouds.clear()  # joined: not in memory twice while they are written
    if work.store.neighbours_cache == "none":
        batch = batch.without_neighbours()
    seconds = {**stages, "total": time.perf_counter() - started}
    try:
        write = time.perf_counter()
        record = writer.commit_part(part.split, part.part_id, batch, failures, {"seconds": seconds})
        return replace(record, stages={**record.stages, "write": time.perf_counter() - write})
    except OSError as error:  # nothing of this part is to blame, and all others would meet it too
        raise FileAccessError(
            f"{writer.path} cannot be written: {error.strerror or error}.",
            details=[
                f"part {part.split}/{part.part_id}, {error.filename or 'no file named'}",
                "committed parts are safe",
            ],
            fix=["mend what is in the way, then run the same command again: it continues"],
        ) from None


def fit_group(group: Group, decoder: Any, work: Work, device: str, stages: dict[str, float]) -> Made:
    """Clouds of a group of images, every repeat of each; those that come out wrong are failures.

    Where memory does not suffice for the group its halves are fitted, and so on; a single image is then a failure.
    """
    try:
        return _fit_together(group, decoder, work, device, stages)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = str(error).split("\n")[0]
    # Outside of the handler, whose traceback keeps the arrays of the attempt alive.
    if len(group) == 1:
        return [], [out_of_memory(group[0][0], message)]
    middle = len(group) // 2
    first, second = (fit_group(half, decoder, work, device, stages) for half in (group[:middle], group[middle:]))
    return first[0] + second[0], first[1] + second[1]


def out_of_memory(sample: Sample, message: str) -> FailedSample:
    """The record of a sample that did not fit into memory by itself."""
    what = f"{sample.key} does not fit into memory" + (f": {message}" if message else "")
    return FailedSample(sample.sample_id, sample.path, "out-of-memory", what)


def _fit_together(group: Group, decoder: Any, work: Work, device: str, stages: dict[str, float]) -> Made:
    from arcpipe.arc.engine import fit_clouds
    from arcpipe.arc.finish import finish_cloud

    items = [(sample, image, repeat) for sample, image in group for repeat in range(work.fit.repeats)]
    fit_seeds = [seeds.derive_seed(work.seed, sample.key, repeat) for sample, _, repeat in items]
    started = time.perf_counter()
    free = free_bytes(work.memory_bytes) - sum(image.nbytes for _, image in group)
    images = [image for _, image, _ in items]
    fitted = fit_clouds(images, decoder, work.fit, fit_seeds, device=device, memory_bytes=max(0, free))
    stages["fit"] += time.perf_counter() - started
    started = time.perf_counter()
    clouds: list[Cloud] = []
    lost: dict[int, FailedSample] = {}
    rounding = Rounding.of(work.store.dtype, work.store.bits, decoder)
    for (sample, image, repeat), fit in zip(items, fitted, strict=True):
        try:
            cloud = finish_cloud(fit, rounding.round(fit.latents), image, decoder)
        except ImageError as error:
            lost[sample.sample_id] = FailedSample(sample.sample_id, sample.path, error.reason, str(error))
        else:
            clouds.append(_named(cloud, sample, repeat))
    stages["finish"] += time.perf_counter() - started
    return [cloud for cloud in clouds if cloud.sample_id not in lost], list(lost.values())


def _named(cloud: Cloud, sample: Sample, repeat: int) -> Cloud:
    return replace(
        cloud,
        positions=cloud.positions.astype(position_dtype(cloud.size)),
        label=sample.label,
        repeat=repeat,
        sample_id=sample.sample_id,
        path=sample.path,
    )


def _groups(
    source: Source, samples: Sequence[Sample], work: Work, stages: dict[str, float]
) -> Iterator[tuple[list[tuple[Sample, NDArray[np.float32]]], list[FailedSample]]]:
    """Read images in groups that fit into memory (or one image), with what failed on the way."""
    group: list[tuple[Sample, NDArray[np.float32]]] = []
    failed: list[FailedSample] = []
    n_pixels = n_bytes = kept = most = 0
    started = time.perf_counter()
    for sample in samples:
        # Asked with the header's size, so that an image that is too large for the group is not read beside it.
        area = sample.size[0] * sample.size[1] * work.fit.repeats if sample.size else 0
        own = group_bytes((*sample.size, work.channels), work.fit) if sample.size else 0
        fit = fit_bytes((*sample.size, work.channels), work.fit) * max(1, work.threads) if sample.size else 0
        # While a group is fitted, each thread may be at work on an image like the most demanding one.
        full = n_bytes + own + max(most, fit) > work.memory_bytes - LOADED_BYTES - kept
        if group and (full or n_pixels + area > GROUP_PIXELS):
            stages["read"] += time.perf_counter() - started
            yield group, failed
            group, failed, n_pixels, n_bytes, most, started = [], [], 0, 0, 0, time.perf_counter()
        image, failure = read_sample(source, sample, work, kept)
        if failure is not None:
            failed.append(failure)
        if image is None:
            continue
        group.append((sample, image))
        kept += work.fit.repeats * cloud_bytes(image.shape, work.fit)
        n_pixels, n_bytes, most = n_pixels + area, n_bytes + own, max(most, fit)
    stages["read"] += time.perf_counter() - started
    if group or failed:
        yield group, failed


def read_sample(
    source: Source, sample: Sample, work: Work, kept: int = 0
) -> tuple[NDArray[np.float32] | None, FailedSample | None]:
    """One image that fits into memory beside `kept` bytes of clouds, or why there is none."""
    try:
        if sample.reason is None:
            check_memory(sample.size, work.channels, work.fit, work.memory_bytes, kept)
        with within(work.read_limit_s):
            return source.read(sample, work.channels), None
    except ImageError as error:
        return None, FailedSample(sample.sample_id, sample.path, error.reason, str(error))
    except MemoryError as error:
        return None, out_of_memory(sample, str(error))


def prepare(work: Work) -> str:
    """Set this process's threads and choose its device."""
    import torch

    if work.threads:
        torch.set_num_threads(work.threads)
    if work.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return work.device
