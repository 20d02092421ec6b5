"""What a worker does: pretrain the decoder, or turn the samples of one part into clouds and commit them.

Tasks return small records, never arrays, and may run twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from arcpipe import seeds
from arcpipe.cloud import DecoderRecord
from arcpipe.cluster import teller
from arcpipe.convert.budget import check_joint_memory, free_bytes
from arcpipe.convert.limits import within
from arcpipe.convert.making import Making, read_sample
from arcpipe.convert.plan import PartPlan
from arcpipe.convert.work import Work, prepare
from arcpipe.errors import DivergedError, ImageError
from arcpipe.machine import available_cores
from arcpipe.sources import Sample, open_source
from arcpipe.store import PartRecord, StoreWriter


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
    with within(work.fit_limit_s(part.samples)):
        making = Making.begin(work, part, writer)
        sizes = [sample.size for sample in part.samples]
        for rows in making.needs.groups(sizes, work.memory_bytes, max(1, work.threads)):
            making.fit(making.read(part.samples[rows]))
        return making.commit()
