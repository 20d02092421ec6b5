"""What a worker does: pretrain the decoder, or turn the samples of one part into clouds and commit them.

Tasks return small records, never arrays, and may run twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from arcpipe import seeds
from arcpipe.arc.memory import LOADED_BYTES
from arcpipe.cloud import DecoderRecord
from arcpipe.cluster import teller
from arcpipe.convert.budget import check_joint_memory, free_bytes
from arcpipe.convert.limits import within
from arcpipe.convert.making import Group, Making, read_sample
from arcpipe.convert.plan import PartPlan
from arcpipe.convert.work import Work, prepare
from arcpipe.errors import DivergedError, ImageError
from arcpipe.machine import available_cores
from arcpipe.sources import Sample, open_source
from arcpipe.store import PartRecord, StoreWriter
from arcpipe.threads import set_compute_threads


def pretrain(work: Work, samples: Sequence[Sample], topic: str = "") -> DecoderRecord:
    """Fit the first `pretrain_images` readable samples jointly with a decoder (METHOD §1, thesis 3.2.2).

    The steps that were taken are told under `topic`.
    """
    from arcpipe.arc.learn_basis import piece_of
    from arcpipe.arc.pretrain import pretrain_decoder

    device = prepare(work)
    if work.run.scheduler is None and work.run.cluster is None:
        set_compute_threads(available_cores())  # the other workers of this machine wait for the decoder
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
    with within(work.fit_limit_s(part.samples)):
        making = Making.begin(work, part, writer)
        if making.device == "cpu":  # all cores are at work already, and a group is gone before the next is read
            for samples in _groups(making):
                making.fit(making.read(samples))
        else:
            for group in _read_ahead(making):
                making.fit(group)
        return making.commit()


def _read_ahead(making: Making) -> Iterator[Group]:
    """The images of a part, group after group; while a GPU fits one, threads of the CPU read the next."""
    groups = map(making.read, _groups(making))
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, groups, None)
        while (group := ahead.result()) is not None:
            ahead = reader.submit(next, groups, None)
            yield group


def _groups(making: Making) -> Iterator[Sequence[Sample]]:
    """The samples of a part in groups that fit into memory together; beside a GPU two such groups do."""
    work, samples = making.work, making.part.samples
    memory = work.memory_bytes
    if making.device != "cpu":  # see `_read_ahead`
        memory = LOADED_BYTES + (memory - LOADED_BYTES) // 2
    for rows in work.needs.groups([sample.size for sample in samples], memory, max(1, work.threads)):
        yield samples[rows]
