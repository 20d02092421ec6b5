"""`arcpipe convert`: plan, decoder, one Dask task per part, totals. Safe to run again: what is committed stays."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from importlib.metadata import version
from pathlib import Path

from arcpipe import __version__
from arcpipe.cloud import DecoderRecord
from arcpipe.cluster import Cluster, check_jobs, open_cluster
from arcpipe.config import ConvertConfig
from arcpipe.convert.budget import worker_memory
from arcpipe.convert.decoders import check_decoder, load_decoder, shared_network, with_network_size
from arcpipe.convert.dry_run import DryRunReport, plan_report
from arcpipe.convert.gather import Gathering, convert_parts
from arcpipe.convert.plan import PartPlan, check_space, content_settings, count_parts, deal, estimate
from arcpipe.convert.pretraining import pretrain_decoder
from arcpipe.convert.report import ConvertReport, summarise
from arcpipe.convert.work import Work
from arcpipe.devices import check_gpus, check_workers, workers_here
from arcpipe.errors import ConfigError, DownloadError, NoSpaceError
from arcpipe.files import temporary_folder
from arcpipe.progress import Progress, byte_size, counted
from arcpipe.sources import Inventory, NetworkSet, located, only_splits, open_networks, open_source
from arcpipe.storage import Storage
from arcpipe.store import (
    PartRecord,
    StoreHeader,
    StoreWriter,
    check_place,
    committed_parts,
    create_or_open,
    existing_decoder,
    fingerprint,
    plan_parts,
    with_mended_images,
)


def run_convert(
    config: ConvertConfig,
    *,
    dry_run: bool = False,
    overwrite: bool = False,
    retry_failed: bool = False,
    cluster: Cluster | None = None,
) -> ConvertReport | DryRunReport:
    """Turn an image dataset into a store of clouds, or continue one.

    `cluster`: work on this one (in-process executors for tests) instead of the one that `config.run` names.
    Raises the errors of DESIGN §3; whatever happens, committed parts stay valid.
    """
    started = time.monotonic()
    check_workers(config.run.workers or 1)
    if config.run.gpus is not None and cluster is None:
        check_gpus(config.run.gpus)
        check_workers(config.run.gpu_workers or 1, "run.gpu_workers")
    if config.run.cluster is not None and cluster is None:
        check_jobs(config.run.cluster)
    check_place(config.out)
    networks = open_networks(located(config.source)) if config.fit.decoder_kind == "siren" else None
    if networks is not None:
        return _import(networks, config, dry_run=dry_run, overwrite=overwrite, retry_failed=retry_failed)
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="arcpipe-dry-run-") as scratch:
            return _dry_run(config, Path(scratch), overwrite=overwrite, retry_failed=retry_failed)
    config, given, inventory, header, parts = _plan(config, retry_failed=retry_failed)
    with ExitStack() as stack:
        stack.enter_context(config.out.lock())
        config.out.undo_set_aside()
        there = _check_store(config, header, parts, overwrite=overwrite)

        @cache
        def workers() -> Cluster:  # started when there is something to do
            return cluster or _open_workers(stack, config)

        decoder = given or there or shared_network(config.fit, inventory.channels, config.seed)
        if decoder is None:
            decoder = pretrain_decoder(_work_of(config, inventory, workers()), inventory, workers(), say)
        writer = create_or_open(config.out, header, decoder, overwrite=overwrite)
        if retry_failed:
            writer.drop_failed()
        todo = _missing(parts, config.out)
        records = [(writer.record(part.split, part.part_id), False) for part in parts if part not in todo]
        if todo:
            _convert_missing(config, inventory, parts, todo, writer, workers(), records)
        report = summarise(
            config.out,
            records,
            seconds=time.monotonic() - started,
            workers=workers().n_workers if todo else 0,
            max_failed=config.run.max_failed,
        )
        writer.finish(report.for_the_store() if todo else None)
    return report


def _import(
    networks: NetworkSet, config: ConvertConfig, *, dry_run: bool, overwrite: bool, retry_failed: bool
) -> ConvertReport:
    """Read networks that others have fitted: the work of a minute, for this process alone."""
    run, source = config.run, config.source
    useless = {
        "--dry-run": dry_run,
        "--retry-failed": retry_failed,
        "--scheduler": run.scheduler,
        "--cluster": run.cluster,
        "--decoder": config.fit.decoder,
        "a shape of the images": source.size or source.shorter or source.center_crop or source.pad or source.grey,
    }
    from arcpipe.convert.published import import_networks

    given = [name for name, value in useless.items() if value]
    if given:
        raise ConfigError(
            f"{networks.root} holds networks, which are read and not fitted: {' and '.join(given)} cannot be.",
            fix=["the same command without"],
        )
    with config.out.lock():
        config.out.undo_set_aside()
        return import_networks(networks, config, _header, say, overwrite=overwrite)


def _plan(
    config: ConvertConfig, *, retry_failed: bool, scratch: Path | None = None
) -> tuple[ConvertConfig, DecoderRecord | None, Inventory, StoreHeader, list[PartPlan]]:
    """Settings with absolute paths, the decoder that was given, what there is to convert, and its parts."""
    config = config.model_copy(update={"source": located(config.source)})
    given = load_decoder(config.fit.decoder) if config.fit.decoder else None
    inventory = _take_inventory(config, scratch)
    config = config.model_copy(update={"fit": with_network_size(config.fit, inventory.channels)})
    if given is not None:
        check_decoder(given, config.fit, inventory.channels, config.fit.decoder or "")
    counts = count_parts(inventory, config)
    header = _header(config, inventory, counts, given)
    if retry_failed:
        header = with_mended_images(config.out, header)
    return config, given, inventory, header, list(deal(inventory, plan_parts(counts), config.seed))


def _check_store(
    config: ConvertConfig, header: StoreHeader, parts: Sequence[PartPlan], *, overwrite: bool
) -> DecoderRecord | None:
    """Refuse, before any work, a store of other settings and a plan that does not fit on the disk; writes nothing.

    Returns the decoder of the store that will be continued, if there is one.
    """
    there = None if overwrite else existing_decoder(config.out, header)
    check_space(config.out, estimate(_missing(parts, config.out) if there else parts, config))
    return there


def _missing(parts: Sequence[PartPlan], out: Storage) -> list[PartPlan]:
    """The plan minus what is committed."""
    committed = committed_parts(out, {part.split for part in parts})
    return [part for part in parts if part.part_id not in committed[part.split]]


def _open_workers(stack: ExitStack, config: ConvertConfig) -> Cluster:
    far = config.run.scheduler is not None or config.run.cluster is not None
    scratch = None if far else stack.enter_context(temporary_folder("workers", "run"))
    workers = stack.enter_context(open_cluster(config.run, scratch, _shared_files(config)))
    if workers.dashboard:
        say(f"dashboard: {workers.dashboard}")
    return workers


def _shared_files(config: ConvertConfig) -> list[Path]:
    """What workers elsewhere have to see: the images, and what is beside the store while we run."""
    source = Path(config.source.source)
    return config.out.absolute().shared_files() + ([source] if source.is_absolute() else [])


def say(message: str) -> None:
    """Tell the person on stderr."""
    print(message, file=sys.stderr, flush=True)


def _take_inventory(config: ConvertConfig, scratch: Path | None) -> Inventory:
    """List the images; with a `scratch` folder nothing is written elsewhere, nor downloaded."""
    source = open_source(config.source, seed=config.seed, progress=say, download=scratch is None, scratch=scratch)
    inventory = only_splits(source.inventory(), config.source)
    total = sum(map(len, inventory.samples.values()))
    splits = ", ".join(f"{name} {len(samples)}" for name, samples in inventory.samples.items())
    say(f"{inventory.name}: {total} images ({splits}), {counted(len(inventory.classes), 'class', 'classes')}")
    return inventory


def _convert_missing(
    config: ConvertConfig,
    inventory: Inventory,
    parts: Sequence[PartPlan],
    todo: Sequence[PartPlan],
    writer: StoreWriter,
    workers: Cluster,
    records: list[tuple[PartRecord, bool]],
) -> None:
    """Make the parts `todo` of `parts` and add their records to those of the others."""
    if len(todo) < len(parts):
        say(f"continuing: {len(parts) - len(todo)} of {len(parts)} parts are there")
    total = sum(len(part.samples) for part in parts)
    done = total - sum(len(part.samples) for part in todo)
    state = Gathering(len(parts), records)
    expected_s = estimate(todo, config).core_s / (workers.n_workers * max(workers.threads, 1))
    with Progress("convert", total, "images", done=done, expected_s=expected_s) as progress:
        try:
            convert_parts(todo, _work_of(config, inventory, workers), writer, workers, state, progress)
        except NoSpaceError as error:
            details = [*error.details, *_what_is_missing(config, parts)]
            raise NoSpaceError(error.what, details=details, fix=error.fix) from None


def _what_is_missing(config: ConvertConfig, parts: Sequence[PartPlan]) -> list[str]:
    """What the rest of the conversion needs, for a message about a full disk."""
    left = _missing(parts, config.out)
    needed = estimate(left, config).n_bytes
    committed = f"{len(parts) - len(left)} of {len(parts)} parts are committed"
    lines, space = [f"{committed}; the others need up to {byte_size(needed)}"], config.out.free_space()
    if space is not None:
        folder, free = space
        lines.append(f"{byte_size(free)} are free in {folder}: {byte_size(max(0, needed - free))} are missing")
    return lines


def _dry_run(config: ConvertConfig, scratch: Path, *, overwrite: bool, retry_failed: bool) -> DryRunReport:
    try:
        config, _, inventory, header, parts = _plan(config, retry_failed=retry_failed, scratch=scratch)
    except DownloadError as error:
        fix = [*error.fix, "or leave --dry-run out: a dry run downloads nothing"]
        raise DownloadError(error.what, details=error.details, fix=fix) from None
    there = _check_store(config, header, parts, overwrite=overwrite)
    todo = _missing(parts, config.out) if there else list(parts)
    n_workers, threads = workers_here(config.run.workers, config.run.gpus, config.run.gpu_workers)
    work = _work(config, inventory, threads, "cuda" if config.run.gpus else "cpu")
    return plan_report(config, inventory, header, parts, todo, work, n_workers, scratch)


def _header(
    config: ConvertConfig, inventory: Inventory, counts: dict[str, dict[str, int]], given: DecoderRecord | None
) -> StoreHeader:
    content = content_settings(config, inventory, given.sha256 if given else None)
    return StoreHeader(
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


def _work_of(config: ConvertConfig, inventory: Inventory, workers: Cluster) -> Work:
    memory = worker_memory(config.run, workers.n_workers) if workers.threads else int(config.run.memory or 0)
    return _work(config, inventory, workers.threads, workers.device, guarded=workers.guarded, memory=memory)


def _work(
    config: ConvertConfig,
    inventory: Inventory,
    threads: int,
    device: str,
    *,
    guarded: bool = False,
    memory: int = 0,
) -> Work:
    return Work(
        source=config.source,
        channels=inventory.channels,
        fit=config.fit,
        store=config.store,
        seed=config.seed,
        threads=threads,
        device=device,
        run=config.run,
        guarded=guarded,
        memory=memory,
    )
