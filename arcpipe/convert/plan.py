"""The plan of a conversion: which samples make which part, what it will cost, and the fingerprint of its content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice

from arcpipe import __version__, seeds
from arcpipe.arc.anchors import count_anchors
from arcpipe.cloud import DecoderRecord
from arcpipe.config import ConvertConfig, FitSection, without_later
from arcpipe.errors import NoSpaceError
from arcpipe.progress import byte_size
from arcpipe.sources import Inventory, Sample
from arcpipe.store import StoreHeader, committed_parts, existing_decoder, fingerprint, plan_parts

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

    @property
    def name(self) -> str:
        """What messages call it: `train/0003`."""
        return f"{self.split}/{self.part_id}"


@dataclass(frozen=True)
class Estimate:
    """What the plan will cost, from header sizes and measured constants."""

    clouds: int
    pixels: int
    core_s: float
    n_bytes: int


@dataclass(frozen=True)
class Plan:
    """What a conversion is going to make."""

    config: ConvertConfig
    """With absolute paths, and what only the images could tell."""
    given: DecoderRecord | None
    """The decoder that the user named."""
    inventory: Inventory
    header: StoreHeader
    parts: tuple[PartPlan, ...]

    @classmethod
    def of(
        cls,
        config: ConvertConfig,
        inventory: Inventory,
        given: DecoderRecord | None = None,
        part_samples: int | None = None,
    ) -> Plan:
        """Deal the samples of every split to its parts by a seeded permutation.

        So a part is already shuffled, and parts of equal counts are of about equal work. `part_samples`: in each of
        them, by default as many as are worth half a minute of work, whatever the number of workers.
        """
        part_samples = part_samples or config.store.part_samples
        counts: dict[str, dict[str, int]] = {}
        parts: list[PartPlan] = []
        for split, samples in inventory.samples.items():
            if part_samples is not None:
                n_parts = -(-len(samples) // part_samples)
            else:
                work = sum(map(_pixels, samples)) * steps_of_work(config.fit) * config.fit.clouds_an_image
                n_parts = max(LEAST_PARTS, round(work / PIXEL_STEPS_PER_PART))
            counts[split] = {"samples": len(samples), "parts": min(n_parts, len(samples))}
            order = iter(seeds.generator(config.seed, "parts", split).permutation(len(samples)))
            for part in plan_parts({split: counts[split]}):
                parts.append(PartPlan(split, part.id, tuple(samples[i] for i in islice(order, part.n_samples))))
        content = content_settings(config, inventory, given.sha256 if given else None)
        header = StoreHeader(
            config={**config.model_dump(mode="json", exclude={"run", "out"}), "content": content},
            fingerprint=fingerprint(content),
            classes=inventory.classes,
            channels=inventory.channels,
            splits=counts,
            seed=config.seed,
            dtype=config.store.dtype,
            bits=config.store.bits,
            neighbours_cache=config.store.neighbours_cache,
            versions={"arcpipe": __version__, **{name: version(name) for name in ("torch", "numpy", "zarr", "pillow")}},
        )
        return cls(config, given, inventory, header, tuple(parts))

    def missing(self) -> list[PartPlan]:
        """The parts that are not committed yet."""
        committed = committed_parts(self.config.out, self.header.splits)
        return [part for part in self.parts if part.part_id not in committed[part.split]]

    def check_store(self, *, overwrite: bool) -> DecoderRecord | None:
        """Refuse, before any work, a store of other settings and a plan that does not fit on the disk; writes nothing.

        Returns the decoder of the store that will be continued, if there is one.
        """
        out = self.config.out
        there = None if overwrite else existing_decoder(out, self.header)
        needed = estimate(self.missing() if there else self.parts, self.config).n_bytes
        space = out.free_space()
        if space is not None and needed > space[1]:
            folder, free = space
            raise NoSpaceError(
                f"there is not enough space for {out}.",
                details=[
                    f"expected up to {byte_size(needed)}, found {byte_size(free)} free in {folder}: "
                    f"{byte_size(needed - free)} are missing"
                ],
                fix=["--out on another disk", "--neighbours-cache none, or --dtype int8 (smaller stores)"],
            )
        return there


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
