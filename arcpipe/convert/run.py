"""`arcpipe convert`: plan, decoder, one Dask task per part, totals. Safe to run again: what is committed stays."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from arcpipe.cluster import Cluster, check_jobs, open_cluster
from arcpipe.config import ConvertConfig, build, sectioned
from arcpipe.convert.decoders import check_decoder, load_decoder, pretrained_decoder, shared_network, with_network_size
from arcpipe.convert.dry_run import DryRunReport, plan_report
from arcpipe.convert.gather import convert_parts
from arcpipe.convert.plan import Plan
from arcpipe.convert.report import ConvertReport, summarise
from arcpipe.convert.work import Work, worker_memory
from arcpipe.devices import check_gpus, check_workers, workers_here
from arcpipe.errors import ConfigError, DownloadError
from arcpipe.files import temporary_folder
from arcpipe.options import default_store
from arcpipe.progress import counted, say
from arcpipe.sources import NetworkSet, located, only_splits, open_networks, open_source
from arcpipe.storage import Place
from arcpipe.store import check_place, create_or_open, with_mended_images


def convert(
    source: Path | str,
    out: Place | None = None,
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    **settings: Any,
) -> ConvertReport:
    """Turn an image dataset into a store of clouds. Safe to run again: it continues.

    >>> import arcpipe as ap
    >>> report = ap.convert("digits", "store/few.zarr", limit=20, decoder="store/digits.zarr", workers=1)
    >>> report.failed, len(ap.open_store(report.store))
    (0, 40)

    Args:
        source: A named dataset (`digits`, `mnist`, ...), a folder, a tar or a zip.
        out: The store, a path or `s3://BUCKET/NAME.zarr`; by default `store/NAME.zarr`.
        overwrite: Replace a store that was made by other settings.
        retry_failed: Make the parts with failed samples again.
        settings: Any of `ConvertConfig` by its name, for example `recipe="thesis"`, `latents=0.1`, `dtype="int8"`,
            `workers=4`; or a section as a whole, `fit={"lr": 0.01}`.

    Raises:
        TooManyFailuresError: the store is done, but more samples failed than `max_failed` allows.
        ArcpipeError: as the command, see its message.
    """
    values = {"source": str(source), "out": out or default_store(str(source)), **settings}
    config = build(ConvertConfig, sectioned(ConvertConfig, values), "convert")
    report = run_convert(config, overwrite=overwrite, retry_failed=retry_failed)
    assert isinstance(report, ConvertReport)
    report.check()
    return report


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
        return _dry_run(config, overwrite=overwrite, retry_failed=retry_failed)
    plan = _plan(config, retry_failed=retry_failed)
    config = plan.config
    with ExitStack() as stack:
        stack.enter_context(config.out.lock())
        config.out.undo_set_aside()
        there = plan.check_store(overwrite=overwrite)

        @cache
        def workers() -> Cluster:  # started when there is something to do
            return cluster or _open_workers(stack, config)

        decoder = plan.given or there or shared_network(config.fit, plan.inventory.channels, config.seed)
        if decoder is None:
            decoder = pretrained_decoder(_work_of(plan, workers()), plan.inventory, workers())
        writer = create_or_open(config.out, plan.header, decoder, overwrite=overwrite)
        if retry_failed:
            writer.drop_failed()
        todo = plan.missing()
        missing = {part.name for part in todo}
        before = [writer.record(part.split, part.part_id) for part in plan.parts if part.name not in missing]
        made = convert_parts(todo, _work_of(plan, workers()), writer, workers(), plan, before) if todo else []
        report = summarise(config, before, made, started=started, workers=workers().n_workers if todo else 0)
        writer.finish(report.for_the_store() if todo else None)
    return report


def _plan(config: ConvertConfig, *, retry_failed: bool, scratch: Path | None = None) -> Plan:
    """List the images, and plan their parts; with a `scratch` folder nothing is written elsewhere, nor downloaded."""
    config = config.model_copy(update={"source": located(config.source)})
    given = load_decoder(config.fit.decoder) if config.fit.decoder else None
    source = open_source(config.source, seed=config.seed, progress=say, download=scratch is None, scratch=scratch)
    inventory = only_splits(source.inventory(), config.source)
    total = sum(map(len, inventory.samples.values()))
    splits = ", ".join(f"{name} {len(samples)}" for name, samples in inventory.samples.items())
    say(f"{inventory.name}: {total} images ({splits}), {counted(len(inventory.classes), 'class', 'classes')}")
    config = config.model_copy(update={"fit": with_network_size(config.fit, inventory.channels)})
    if given is not None:
        check_decoder(given, config.fit, inventory.channels, config.fit.decoder or "")
    plan = Plan.of(config, inventory, given)
    return replace(plan, header=with_mended_images(config.out, plan.header)) if retry_failed else plan


def _work_of(plan: Plan, workers: Cluster) -> Work:
    run = plan.config.run
    memory = worker_memory(run, workers.n_workers) if workers.threads else int(run.memory or 0)
    guarded = workers.client is not None
    return Work(plan.config, plan.inventory.channels, workers.threads, workers.device, guarded, memory)


def _open_workers(stack: ExitStack, config: ConvertConfig) -> Cluster:
    far = config.run.scheduler is not None or config.run.cluster is not None
    scratch = None if far else stack.enter_context(temporary_folder("workers", "run"))
    source = Path(config.source.source)
    # What workers elsewhere have to see: what is beside the store while we run, and the images.
    must_see = config.out.absolute().shared_files() + ([source] if source.is_absolute() else [])
    workers = stack.enter_context(open_cluster(config.run, scratch, must_see))
    if workers.dashboard:
        say(f"dashboard: {workers.dashboard}")
    return workers


def _dry_run(config: ConvertConfig, *, overwrite: bool, retry_failed: bool) -> DryRunReport:
    with tempfile.TemporaryDirectory(prefix="arcpipe-dry-run-") as folder:
        scratch = Path(folder)
        try:
            plan = _plan(config, retry_failed=retry_failed, scratch=scratch)
        except DownloadError as error:
            fix = [*error.fix, "or leave --dry-run out: a dry run downloads nothing"]
            raise DownloadError(error.what, details=error.details, fix=fix) from None
        todo = plan.missing() if plan.check_store(overwrite=overwrite) else plan.parts
        run = config.run
        n_workers, threads = workers_here(run.workers, run.gpus, run.gpu_workers)
        work = Work(plan.config, plan.inventory.channels, threads, "cuda" if run.gpus else "cpu")
        return plan_report(plan, todo, work, n_workers, scratch)


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
        return import_networks(networks, config, overwrite=overwrite)
