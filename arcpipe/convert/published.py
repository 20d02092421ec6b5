"""Published sets of sine networks become a store: read, checked and written part by part, without a fit.

The store is of the kind `siren` as those of `--recipe siren`; the PSNR of its networks is not known, for their images
are not there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.cloud import Cloud, CloudBatch, FailedSample
from arcpipe.config import ConvertConfig, FitSection
from arcpipe.convert.decoders import with_network_size
from arcpipe.convert.plan import PartPlan, Plan
from arcpipe.convert.report import ConvertReport, summarise
from arcpipe.errors import ConfigError, ImageError
from arcpipe.progress import Progress, say
from arcpipe.siren import new_record, split_layers
from arcpipe.sources import NetworkSet, only_splits
from arcpipe.sources.networks import Network, read_network
from arcpipe.store import PartRecord, StoreWriter, create_or_open, position_dtype

PART_SAMPLES = 2000
"""Networks of a part: some 10 MB."""
CHECKED = 2000
"""Training networks by whose numbers a set is recognised."""
CLOSE = 0.02
FINGERPRINTS: dict[str, tuple[str, tuple[float, ...]]] = {
    "MNIST of DWSNets": ("siren-dws", (0.0628, 0.0213, 0.01827, 0.0110, 0.1179, 0.0999)),
    "Fashion-MNIST of DWSNets": ("siren-dws", (0.0782, 0.0286, 0.0324, 0.0167, 0.1345, 0.0960)),
    "MNIST of NFN": ("siren-nfn", (0.2868, 0.4090, 0.0171, 0.1041, 0.0639, 0.0970)),
    "CIFAR-10 of NFN": ("siren-nfn", (0.2803, 0.4087, 0.0177, 0.1039, 0.0546, 0.0873)),
}
"""Variant, and standard deviations of W_0, b_0, W_1, b_1, W_2, b_2 over all training networks of a set."""


def import_networks(found: NetworkSet, config: ConvertConfig, *, overwrite: bool) -> ConvertReport:
    """Make or continue the store of a set. The caller holds its lock.

    Raises:
        ConfigError: the numbers are those of a set of another variant, or there are fewer fits than `--repeats`.
        ImageError: no network can be read.
        StoreMismatchError, TooManyFailuresError, ...: as of every conversion.
    """
    started = time.monotonic()
    if config.fit.views > 1:
        raise ConfigError("networks that are there already have no views.", fix=["leave --views out"])
    inventory, files = found.inventory(config.source, config.fit.repeats)
    inventory = only_splits(inventory, config.source)
    config = config.model_copy(update={"fit": _fit(config.fit, found)})
    n_images, widths = sum(map(len, inventory.samples.values())), "-".join(map(str, found.widths))
    say(f"{found.root}: {n_images} images as networks, {widths}, variant {found.variant}")
    say(recognised(found, [fits[0] for (split, _), fits in files.items() if split == "train"]))
    plan = Plan.of(config, inventory, part_samples=config.store.part_samples or PART_SAMPLES)
    record = new_record(config.fit, found.widths[-1], 0)
    writer = create_or_open(config.out, plan.header, record, overwrite=overwrite)
    todo, before, made = plan.missing(), list[PartRecord](), list[PartRecord]()
    with Progress("read", n_images, "images") as bar:
        for part in plan.parts:
            if part in todo:
                _write(writer, part, files, found, config)
            (made if part in todo else before).append(writer.record(part.split, part.part_id))
            bar.update(bar.done + len(part.samples))
    report = summarise(config, before, made, started=started, workers=min(1, len(made)))
    writer.finish(report.for_the_store() if made else None)
    return report


def recognised(found: NetworkSet, training: Sequence[Network]) -> str:
    """Say which published set the numbers are those of.

    Raises:
        ConfigError: one of another variant than the files lie as.
        ImageError: no network can be read.
    """
    chosen = training[:: max(1, len(training) // CHECKED)]
    values, why = [], ImageError("there is no training network.")
    for file in chosen:
        try:
            vector = read_network(file.path)
        except ImageError as error:
            why = error
            continue
        if vector.widths == found.widths:
            values.append(vector.values)
    if not values:
        raise why
    deviations = np.array([part.std() for layer in split_layers(np.stack(values), found.widths) for part in layer])
    gaps = {
        name: float(np.abs(deviations / known - 1).max())
        for name, (_, known) in FINGERPRINTS.items()
        if len(known) == len(deviations)
    }
    shown = ", ".join(f"{value:.4g}" for value in deviations)
    nearest = min(gaps, key=lambda name: gaps[name], default=None)
    if nearest is None or gaps[nearest] > CLOSE:
        return f"deviations of W_0, b_0, W_1, ...: {shown}; no published set that is known has these"
    variant = FINGERPRINTS[nearest][0]
    if variant != found.variant:
        raise ConfigError(
            f"{found.root} lies as networks of the variant {found.variant}, but its numbers are those of {variant}.",
            details=[f"deviations of W_0, b_0, W_1, ...: {shown}", f"{nearest}, within {100 * gaps[nearest]:.1f} %"],
            fix=["fetch the set again, and unpack it into an empty folder"],
        )
    return f"deviations of W_0, b_0, W_1, ...: those of {nearest}, within {100 * gaps[nearest]:.1f} %"


def _fit(fit: FitSection, found: NetworkSet) -> FitSection:
    """The settings by which more such networks can be made. The public sets have independent starts."""
    made: dict[str, Any] = {"variant": found.variant, "start": "independent", "hidden": found.widths[1:-1]}
    made |= {"stop_db": 40.0} if found.variant == "siren-dws" else {}
    return with_network_size(FitSection.model_validate({**fit.model_dump(), **made}), found.widths[-1])


def _write(
    writer: StoreWriter,
    part: PartPlan,
    files: Mapping[tuple[str, str], Sequence[Network]],
    found: NetworkSet,
    config: ConvertConfig,
) -> None:
    clouds: list[Cloud] = []
    failures: list[FailedSample] = []
    started = time.perf_counter()
    for sample in part.samples:
        try:
            vectors = [_values(file, found, sample.label) for file in files[part.split, sample.path]]
        except ImageError as error:
            failures.append(FailedSample(sample.sample_id, sample.path, error.reason, str(error)))
            continue
        middle = np.array([[found.size[0] // 2, found.size[1] // 2]], position_dtype(found.size))
        clouds += [
            Cloud(
                positions=middle,
                latents=writer.rounding.round(values[None]),
                size=found.size,
                label=sample.label,
                repeat=repeat,
                sample_id=sample.sample_id,
                path=sample.path,
            )
            for repeat, values in enumerate(vectors)
        ]
    batch = CloudBatch.join(clouds, latent_dim=config.fit.latent_dim, n_neighbours=1).without_neighbours()
    seconds = {"read": time.perf_counter() - started, "total": time.perf_counter() - started}
    writer.commit_part(part.split, part.part_id, batch, failures, {"seconds": seconds, "device": "cpu"})


def _values(file: Network, found: NetworkSet, label: int) -> NDArray[np.float32]:
    vector = read_network(file.path)
    if vector.label not in (-1, label):
        raise ImageError(f"{file.path} has another label than before.", details=[f"was {label}, now {vector.label}"])
    if vector.widths != found.widths:
        expected = "-".join(map(str, found.widths))
        raise ImageError(
            f"{file.path} is a network of another shape.",
            details=[f"expected {expected}, found {'-'.join(map(str, vector.widths))}"],
        )
    return vector.values
