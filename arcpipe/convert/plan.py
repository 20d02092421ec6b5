"""The plan of a conversion: which samples make which part, what it will cost, and the fingerprint of its content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from arcpipe import seeds
from arcpipe.arc.anchors import count_anchors
from arcpipe.config import ConvertConfig, FitSection, without_later
from arcpipe.errors import NoSpaceError
from arcpipe.progress import byte_size
from arcpipe.sources import Inventory, Sample
from arcpipe.storage import Storage
from arcpipe.store import PlannedPart

# A part is 30 to 120 s of one core: small enough that a killed worker loses little, large enough that Dask's 2 ms a
# task and a part's 20 files cost nothing. One core fits about 1.4e7 pixel-steps a second (32 x 32 pixels, 500 steps:
# 0.035 s), so this is half a minute.
PIXEL_STEPS_PER_PART = 4.5e8
PIXEL_STEPS_PER_CORE_S = 1.4e7
# A step of the kind `basis` costs about as much a pixel; what it needs beside its few steps, from reading an image to
# writing its cloud, as much as so many more.
STEPS_BESIDE_BASIS = 16
# A step of a sine network costs as much a pixel as one of the kind `concat` where it has so many parameters.
PARAMETERS_OF_A_STEP = 1000
# A small dataset still makes work for several workers.
LEAST_PARTS = 8
# What a part takes beside its arrays: 27 small files and their folders, where a block has 4 kB.
PART_BYTES = 100_000


@dataclass(frozen=True)
class PartPlan:
    """One task: the samples of one part, all of one split, with every repeat of each."""

    split: str
    part_id: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Estimate:
    """What the plan will cost, from header sizes and measured constants."""

    clouds: int
    pixels: int
    core_s: float
    n_bytes: int


def count_parts(inventory: Inventory, config: ConvertConfig) -> dict[str, dict[str, int]]:
    """Samples and parts of every split, `{"train": {"samples": 8000, "parts": 26}}`; never depends on workers."""
    counts = {}
    for split, samples in inventory.samples.items():
        if config.store.part_samples is not None:
            n_parts = -(-len(samples) // config.store.part_samples)
        else:
            work = sum(map(_pixels, samples)) * steps_of_work(config.fit) * config.fit.clouds_an_image
            n_parts = max(LEAST_PARTS, round(work / PIXEL_STEPS_PER_PART))
        counts[split] = {"samples": len(samples), "parts": min(n_parts, len(samples))}
    return counts


def deal(inventory: Inventory, planned: Sequence[PlannedPart], seed: int) -> tuple[PartPlan, ...]:
    """Deal the samples of every split to its planned parts by a seeded permutation.

    So a part is already shuffled, and parts of equal counts are of about equal work.
    """
    dealt: list[PartPlan] = []
    for split, samples in inventory.samples.items():
        order = iter(seeds.generator(seed, "parts", split).permutation(len(samples)))
        for part in (part for part in planned if part.split == split):
            dealt.append(PartPlan(split, part.id, tuple(samples[i] for i in islice(order, part.n_samples))))
    return tuple(dealt)


def _pixels(sample: Sample) -> int:
    """Pixels to fit; 1 for a sample that will only be recorded as failed."""
    return sample.size[0] * sample.size[1] if sample.size and sample.reason is None else 1


def content_settings(config: ConvertConfig, inventory: Inventory, decoder_sha256: str | None) -> dict[str, object]:
    """Everything that changes a byte of the store's arrays; the store's fingerprint is its hash.

    The path of the source is left out, so that a dataset may move, and so is what decides on splits only: both are in
    the digest of the inventory.
    """
    settings = {
        "source": config.source.model_dump(mode="json", exclude={"source", "data", "held_out"}),
        "fit": config.fit.model_dump(mode="json", exclude={"decoder"}),
        "store": config.store.model_dump(mode="json"),
    }
    return {
        "inventory": inventory.digest,
        "channels": inventory.channels,
        **without_later(settings),
        "decoder": decoder_sha256 or "pretrained",
        "seed": config.seed,
        # Numbers hold within a class of devices. Without the key: CPUs, as stores have it that were made before.
        **({"device": "cuda"} if config.run.gpus is not None else {}),
    }


def estimate(parts: Sequence[PartPlan], config: ConvertConfig) -> Estimate:
    """Cost of making some parts. Bytes are an upper estimate (an uncompressed cache would be 8 bytes a pixel)."""
    fit, width = config.fit, {"float16": 2, "float32": 4, "int8": 1}[config.store.dtype]
    clouds, pixels, n_bytes = 0, 0, PART_BYTES * len(parts)
    for part in parts:
        for sample in part.samples:
            if sample.size is None or sample.reason is not None:
                continue
            area = sample.size[0] * sample.size[1]
            clouds += fit.clouds_an_image
            pixels += area * fit.clouds_an_image
            cache = 3 * area if config.store.neighbours_cache == "pixels" else 0
            n_bytes += fit.clouds_an_image * (count_anchors(area, fit) * (fit.latent_dim * width + 4) + cache + 100)
    return Estimate(clouds, pixels, pixels * steps_of_work(fit) / PIXEL_STEPS_PER_CORE_S, n_bytes)


def core_seconds(samples: Iterable[Sample], fit: FitSection) -> float:
    """Seconds of one core that fitting some samples should take."""
    return sum(map(_pixels, samples)) * steps_of_work(fit) * fit.clouds_an_image / PIXEL_STEPS_PER_CORE_S


def steps_of_work(fit: FitSection) -> float:
    """What a pixel costs, in steps."""
    if fit.decoder_kind == "siren":
        return fit.steps * fit.pixel_share * fit.latent_dim / PARAMETERS_OF_A_STEP
    return fit.steps + (STEPS_BESIDE_BASIS if fit.decoder_kind == "basis" else 0)


def check_space(out: Storage, expected: Estimate) -> None:
    """Raise `NoSpaceError` before any work if the store will not fit, as far as that can be known."""
    space = out.free_space()
    if space is None:
        return
    folder, free = space
    if expected.n_bytes > free:
        raise NoSpaceError(
            f"there is not enough space for {out}.",
            details=[
                f"expected up to {byte_size(expected.n_bytes)}, found {byte_size(free)} free in {folder}: "
                f"{byte_size(expected.n_bytes - free)} are missing"
            ],
            fix=["--out on another disk", "--neighbours-cache none, or --dtype int8 (smaller stores)"],
        )
