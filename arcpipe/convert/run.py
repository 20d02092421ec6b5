"""`arcpipe convert`: plan, decoder, one Dask task per part, totals. Safe to run again: what is committed stays."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

from arcpipe import __version__
from arcpipe.cloud import DecoderRecord
from arcpipe.cluster import Cluster, available_cores, check_gpus, describe_loss, open_cluster
from arcpipe.config import ConvertConfig
from arcpipe.convert.decoders import check_decoder, load_decoder
from arcpipe.convert.plan import PartPlan, check_space, content_settings, count_parts, deal, estimate
from arcpipe.convert.report import ConvertReport, DryRunReport, summarise
from arcpipe.convert.task import Work, convert_part, pretrain
from arcpipe.errors import ArcpipeError, ClusterError
from arcpipe.progress import Progress, counted, duration
from arcpipe.sources import Inventory, located, only_splits, open_source
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
    store_lock,
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
    if config.run.gpus is not None and cluster is None:
        check_gpus(config.run.gpus)
    check_place(config.out)
    config = config.model_copy(update={"source": located(config.source)})
    given = load_decoder(config.fit.decoder) if config.fit.decoder else None
    inventory = _take_inventory(config)
    if given is not None:
        check_decoder(given, config.fit, inventory.channels, config.fit.decoder or "")
    counts = count_parts(inventory, config)
    header = _header(config, inventory, counts, given)
    if retry_failed:
        header = with_mended_images(config.out, header)
    parts = deal(inventory, plan_parts(counts), config.seed)
    if dry_run:
        return _dry_run(config, inventory, header, parts, overwrite=overwrite)
    with ExitStack() as stack:
        stack.enter_context(store_lock(config.out))
        there = _check_store(config, header, parts, overwrite=overwrite)

        @cache
        def workers() -> Cluster:  # started when there is something to do
            return cluster or _open_workers(stack, config)

        decoder = given or there or _pretrain(config, inventory, workers())
        writer = create_or_open(config.out, header, decoder, overwrite=overwrite)
        if retry_failed:
            writer.drop_failed()
        todo = _missing(parts, config.out)
        records = [(writer.record(part.split, part.part_id), False) for part in parts if part not in todo]
        if todo:
            _convert_parts(parts, todo, _work(config, inventory, workers()), writer, workers(), records)
        writer.finish()
    return summarise(
        config.out,
        records,
        seconds=time.monotonic() - started,
        workers=workers().n_workers if todo else 0,
        max_failed=config.run.max_failed,
    )


def _check_store(
    config: ConvertConfig, header: StoreHeader, parts: Sequence[PartPlan], *, overwrite: bool
) -> DecoderRecord | None:
    """Refuse, before any work, a store of other settings and a plan that does not fit on the disk; writes nothing.

    Returns the decoder of the store that will be continued, if there is one.
    """
    there = None if overwrite else existing_decoder(config.out, header)
    check_space(config.out, estimate(_missing(parts, config.out) if there else parts, config))
    return there


def _missing(parts: Sequence[PartPlan], out: Path) -> list[PartPlan]:
    """The plan minus what is committed."""
    committed = committed_parts(out, {part.split for part in parts})
    return [part for part in parts if part.part_id not in committed[part.split]]


def _open_workers(stack: ExitStack, config: ConvertConfig) -> Cluster:
    workers = stack.enter_context(open_cluster(config.run))
    if workers.dashboard:
        say(f"dashboard: {workers.dashboard}")
    return workers


def say(message: str) -> None:
    """Tell the person on stderr."""
    print(message, file=sys.stderr, flush=True)


def _take_inventory(config: ConvertConfig) -> Inventory:
    inventory = only_splits(open_source(config.source, seed=config.seed, progress=say).inventory(), config.source)
    total = sum(map(len, inventory.samples.values()))
    splits = ", ".join(f"{name} {len(samples)}" for name, samples in inventory.samples.items())
    say(f"{inventory.name}: {total} images ({splits}), {counted(len(inventory.classes), 'class', 'classes')}")
    return inventory


def _dry_run(
    config: ConvertConfig, inventory: Inventory, header: StoreHeader, parts: Sequence[PartPlan], *, overwrite: bool
) -> DryRunReport:
    there = _check_store(config, header, parts, overwrite=overwrite)
    todo = _missing(parts, config.out) if there else list(parts)
    expected = estimate(todo, config)
    failing = [s.reason for samples in inventory.samples.values() for s in samples if s.reason is not None]
    return DryRunReport(
        store=config.out,
        splits={split: (count["samples"], count["parts"]) for split, count in header.splits.items()},
        parts_before=len(parts) - len(todo),
        classes=inventory.classes,
        channels=inventory.channels,
        clouds=expected.clouds,
        pixels=expected.pixels,
        expected_bytes=expected.n_bytes,
        expected_core_s=expected.core_s,
        failing=tuple(failing),
    )


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
        neighbours_cache=config.store.neighbours_cache,
        versions={"arcpipe": __version__, **{name: version(name) for name in ("torch", "numpy", "zarr", "pillow")}},
    )


def _work(config: ConvertConfig, inventory: Inventory, workers: Cluster) -> Work:
    return Work(
        source=config.source,
        channels=inventory.channels,
        fit=config.fit,
        store=config.store,
        seed=config.seed,
        threads=workers.threads,
        device=workers.device,
    )


def _pretrain(config: ConvertConfig, inventory: Inventory, workers: Cluster) -> DecoderRecord:
    """Pretrain the shared decoder as a job of its own, with all cores of this machine or of one worker."""
    from arcpipe import seeds

    split = "train" if inventory.samples.get("train") else next(iter(inventory.samples))
    samples = inventory.samples[split]
    order = seeds.generator(config.seed, "pretrain").permutation(len(samples))
    # Twice as many as are wanted, so that unreadable ones do not matter.
    chosen = [samples[i] for i in order if samples[i].reason is None][: 2 * config.fit.pretrain_images]
    work = _work(config, inventory, workers)
    started = time.monotonic()
    say(f"pretraining the decoder on {min(len(chosen), config.fit.pretrain_images)} images of {split}")
    # The other workers have nothing to do yet; the same number of threads whatever --workers, for the same bits.
    threads = available_cores() if work.threads else 0
    future = workers.executor.submit(pretrain, replace(work, threads=threads), chosen)
    with Progress("pretrain", None, "steps") as progress:
        while not wait([future], timeout=1).done:
            progress.tick()
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


def _convert_parts(
    parts: Sequence[PartPlan],
    todo: Sequence[PartPlan],
    work: Work,
    writer: StoreWriter,
    workers: Cluster,
    records: list[tuple[PartRecord, bool]],
) -> None:
    """Make the parts `todo` of `parts` and add their records to those of the others."""
    if len(todo) < len(parts):
        say(f"continuing: {len(parts) - len(todo)} of {len(parts)} parts are there")
    total = sum(len(part.samples) for part in parts)
    done = total - sum(len(part.samples) for part in todo)
    with Progress("convert", total, "images", done=done) as progress:
        progress.update(done, **_fields(records, len(parts)))
        # Training clouds first: an unfinished store can then be trained on (--allow-unfinished).
        todo = sorted(todo, key=lambda part: part.split != "train")
        lost = _collect(workers.executor, todo, work, writer, records, progress, len(parts))
    if lost:
        raise ClusterError(
            f"{len(lost)} of {len(parts)} parts could not be made; the others are committed.",
            details=[f"{part.split}/{part.part_id}: {why}" for part, why in lost[:5]],
            fix=["run the same command again: it makes the missing parts"],
        )


def _collect(
    executor: Executor,
    todo: Sequence[PartPlan],
    work: Work,
    writer: StoreWriter,
    records: list[tuple[PartRecord, bool]],
    progress: Progress,
    n_parts: int,
) -> list[tuple[PartPlan, str]]:
    """Run one task per part and gather the records; parts that were lost are returned with why, the rest goes on."""
    waiting: dict[Future[PartRecord], PartPlan] = {
        executor.submit(convert_part, work, part, writer): part for part in todo
    }
    lost: list[tuple[PartPlan, str]] = []
    try:
        while waiting:
            finished, _ = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
            for future in finished:
                part = waiting.pop(future)
                why = describe_loss(future)
                error = None if why else future.exception()
                if isinstance(error, ArcpipeError):
                    raise error
                if why or error:
                    lost.append((part, why or f"{type(error).__name__}: {error}"))
                    if not future.cancelled():  # with the cluster all parts go at once: said at the end
                        progress.note(f"part {part.split}/{part.part_id} was lost: {lost[-1][1]}")
                    continue
                records.append((future.result(), True))
                progress.update(progress.done + len(part.samples), **_fields(records, n_parts))
            progress.tick()
    finally:
        for future in waiting:
            future.cancel()
    return lost


def _fields(records: Sequence[tuple[PartRecord, bool]], n_parts: int) -> dict[str, str]:
    """Running numbers for people: parts, mean PSNR, failures."""
    fields = {"parts": f"{len(records)}/{n_parts}"}
    n_psnr = sum(record.psnr_count for record, _ in records)
    if n_psnr:
        fields["psnr"] = f"{sum(record.psnr_sum for record, _ in records) / n_psnr:.2f} dB"
    fields["failed"] = str(sum(record.failed for record, _ in records))
    return fields
