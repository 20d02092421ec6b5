"""What a worker does with one part: read its images, fit them, and commit the clouds.

A task returns a small record, never arrays, and may run twice.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from arcpipe import seeds
from arcpipe.arc.memory import LOADED_BYTES, copies_of_image
from arcpipe.cloud import Cloud, CloudBatch, DecoderRecord, FailedSample
from arcpipe.convert.plan import PartPlan
from arcpipe.convert.work import Work, check_memory, prepare, within
from arcpipe.errors import DownloadError, FileAccessError, ImageError, SourceError
from arcpipe.machine import is_out_of_memory
from arcpipe.sources import Sample, Source, open_source
from arcpipe.sources.shape import view_of
from arcpipe.store import PartRecord, StoreWriter
from arcpipe.threads import ahead, each

if TYPE_CHECKING:
    from arcpipe.fitter import Fitter

Image = NDArray[np.float32]
Group = Sequence[tuple[Sample, Image]]
Made = tuple[list[Cloud], list[FailedSample]]


def convert_part(work: Work, part: PartPlan, writer: StoreWriter) -> PartRecord:
    """Decode, place anchors, find neighbours, fit, quantise, check, write and commit one part."""
    with within(work.fit_limit_s(part.samples)):
        making = Making(work, part, writer)
        if making.device == "cpu":  # all cores are at work already, and a group is gone before the next is read
            for samples in making.groups():
                making.fit(making.read(samples))
        else:  # while a GPU fits a group, threads of the CPU read the next
            for group in ahead(map(making.read, making.groups())):
                making.fit(group)
        return making.commit()


class Making:
    """The clouds and failures of a part so far, and what is needed to make the others.

    `convert_part` drives it in a worker, `child` in the process that isolates what ends its worker.
    """

    def __init__(self, work: Work, part: PartPlan, writer: StoreWriter) -> None:
        """Load decoder and source. Raises `FileAccessError` where the images have gone."""
        self.started = time.perf_counter()
        self.work, self.part, self.writer = work, part, writer
        self.device = prepare(work)
        self.fitter = fitter_of(work, writer.decoder(), self.device)
        self.source = open_images(work)
        self.clouds: list[Cloud] = []
        self.failures: list[FailedSample] = []
        self.kept_bytes = 0
        """Memory of the clouds of all images that were read."""
        self.stages = {"read": 0.0, "fit": 0.0, "finish": 0.0}

    def groups(self) -> Iterator[Sequence[Sample]]:
        """The samples in groups that fit into memory together; beside a GPU two such groups do."""
        work, samples = self.work, self.part.samples
        memory = work.memory_bytes
        if self.device != "cpu":
            memory = LOADED_BYTES + (memory - LOADED_BYTES) // 2
        for rows in work.needs.groups([sample.size for sample in samples], memory, max(1, work.threads)):
            yield samples[rows]

    def read(self, samples: Sequence[Sample]) -> list[tuple[Sample, Image]]:
        """Read the images of some samples, by the worker's threads; those that cannot be read are failures."""
        started = time.perf_counter()

        def one(sample: Sample) -> tuple[Image | None, FailedSample | None]:
            return read_sample(self.source, sample, self.work, self.kept_bytes)

        together = self.work.threads > 1 and len(samples) > 1 and self._all_fit(samples)
        found = each(one, samples, self.work.threads) if together else map(one, samples)
        group: list[tuple[Sample, Image]] = []
        for sample, (image, failure) in zip(samples, found, strict=True):
            if failure is not None:
                self.failures.append(failure)
            if image is not None:
                group.append((sample, image))
                self.kept_bytes += self.work.needs.of(image.shape[:2]).clouds
        self.stages["read"] += time.perf_counter() - started
        return group

    def fit(self, group: Group) -> None:
        """Make the clouds of a group of images."""
        if group:
            made, lost = fit_group(group, self.fitter, self.work, self.stages)
            self.clouds += made
            self.failures += lost

    def commit(self) -> PartRecord:
        """Write and commit what was made, in the order of the part's samples; the clouds are gone afterwards."""
        work, part, writer = self.work, self.part, self.writer
        rows = {sample.sample_id: row for row, sample in enumerate(part.samples)}
        self.clouds.sort(key=lambda cloud: (rows[cloud.sample_id], cloud.repeat))
        self.failures.sort(key=lambda failure: rows[failure.sample_id])
        if any(failure.reason == "unreadable" for failure in self.failures):
            open_images(work)  # one image that cannot be read is its own fault, a disk that is gone is not
        batch = CloudBatch.join(self.clouds, latent_dim=work.fit.latent_dim, n_neighbours=work.fit.neighbours)
        self.clouds.clear()  # joined: not in memory twice while they are written
        if work.config.store.neighbours_cache == "none":
            batch = batch.without_neighbours()
        write = time.perf_counter()
        how = {"seconds": {**self.stages, "total": write - self.started}, "device": self.device}
        try:
            record = writer.commit_part(part.split, part.part_id, batch, self.failures, how)
        except OSError as error:  # nothing of this part is to blame, and all others would meet it too
            details = [f"part {part.name}, {error.filename or 'no file named'}"]
            raise FileAccessError(
                f"{writer.storage} cannot be written: {error.strerror or error}.",
                details=[*details, "committed parts are safe"],
                fix=["mend what is in the way, then run the same command again: it continues"],
            ) from None
        return replace(record, stages={**record.stages, "write": time.perf_counter() - write})

    def _all_fit(self, samples: Sequence[Sample]) -> bool:
        """Whether memory suffices for every image even if all can be read: then none depends on those before it."""
        kept, memory = self.kept_bytes, self.work.memory_bytes
        for sample in samples:
            need = self.work.needs.of(sample.size)
            if need.beside(kept) > memory:
                return False
            kept += need.clouds
        return True


def open_images(work: Work) -> Source:
    """The source. Raises `FileAccessError` where it was here when the conversion began and is not any more."""
    section = work.config.source
    try:
        source, folder = open_source(section, seed=work.config.seed, download=False), Path(section.source)
        if not folder.is_dir() or any(folder.iterdir()):
            return source
        why = f"{folder} is empty now"
    except (SourceError, DownloadError) as error:
        why = error.what
    except OSError as error:
        why = str(error)
    raise FileAccessError(
        f"the images of {section.source} have gone.",
        details=[f"seen from {socket.gethostname()}: {why}", "committed parts are safe"],
        fix=["bring them back (is the disk still mounted?), then run the same command again: it continues"],
    )


def fitter_of(work: Work, record: DecoderRecord, device: str) -> Fitter:
    """What makes the clouds of a conversion. Loads what fits them, and torch for networks and GPUs."""
    from arcpipe.arc.engine import decoder_of
    from arcpipe.fitter import Fitter

    config, decoder = work.config, decoder_of(record, device)
    return Fitter(decoder, config.fit, config.store, config.source, config.seed, device, max(1, work.threads))


def read_sample(source: Source, sample: Sample, work: Work, kept: int = 0) -> tuple[Image | None, FailedSample | None]:
    """One image that fits into memory beside `kept` bytes of clouds, or why there is none."""
    try:
        if sample.reason is None:
            check_memory(sample.size, work.needs, work.memory_bytes, kept)
        with within(work.read_limit_s):
            image = source.read(sample, work.channels)
        if sample.size is not None and image.shape[:2] != sample.size:
            planned, found = (f"{height} x {width}" for height, width in (sample.size, image.shape[:2]))
            raise ImageError(
                f"{sample.key} was replaced while it was converted.",
                reason="changed",
                details=[f"{planned} pixels when it was listed, {found} now"],
            )
        return image, None
    except ImageError as error:
        return None, FailedSample(sample.sample_id, sample.path, error.reason, str(error))
    except MemoryError as error:
        return None, out_of_memory(sample, str(error))


def out_of_memory(sample: Sample, message: str) -> FailedSample:
    """The record of a sample that did not fit into memory by itself."""
    what = f"{sample.key} does not fit into memory" + (f": {message}" if message else "")
    return FailedSample(sample.sample_id, sample.path, "out-of-memory", what)


def fit_group(group: Group, fitter: Fitter, work: Work, seconds: dict[str, float]) -> Made:
    """Clouds of a group of images, every repeat or view of each; those that come out wrong are failures.

    Where memory does not suffice for the group its halves are fitted, and so on; a single image is then a failure.
    """
    try:
        return _fit_together(group, fitter, work, seconds)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = str(error).split("\n")[0]
    # Outside of the handler, whose traceback keeps the arrays of the attempt alive.
    if fitter.device != "cpu":
        import torch

        torch.cuda.empty_cache()  # it keeps memory in pieces, which may be too small for what comes
    if len(group) == 1:
        return [], [out_of_memory(group[0][0], message)]
    middle = len(group) // 2
    first, second = (fit_group(half, fitter, work, seconds) for half in (group[:middle], group[middle:]))
    return first[0] + second[0], first[1] + second[1]


def _fit_together(group: Group, fitter: Fitter, work: Work, seconds: dict[str, float]) -> Made:
    settings = fitter.settings
    clouds: list[Cloud] = []
    lost: dict[int, FailedSample] = {}
    for view in range(settings.views):  # one after the other, for each is a copy of the pixels
        if settings.views == 1:
            items = [(sample, image, repeat) for sample, image in group for repeat in range(settings.repeats)]
        else:
            items = [(s, view_of(image, view, settings, s.key, fitter.seed), view) for s, image in group]
        fit_seeds = [seeds.derive_seed(fitter.seed, sample.key, repeat) for sample, _, repeat in items]
        held = sum(image.nbytes for _, image in group) * copies_of_image(settings)
        pixels = [image for _, image, _ in items]
        made = fitter.clouds(pixels, fit_seeds, memory_bytes=work.free_bytes - held, seconds=seconds)
        for (sample, _, repeat), found in zip(items, made, strict=True):
            if isinstance(found, Cloud):
                found = replace(found, label=sample.label, repeat=repeat)
                clouds.append(replace(found, sample_id=sample.sample_id, path=sample.path))
            else:
                lost[sample.sample_id] = FailedSample(sample.sample_id, sample.path, found.reason, str(found))
    return [cloud for cloud in clouds if cloud.sample_id not in lost], list(lost.values())
