"""`arcpipe convert`: plan, decoder, one Dask task per part, totals. Safe to run again: what is committed stays."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version

from arcpipe import __version__
from arcpipe.cloud import DecoderRecord
from arcpipe.cluster import Cluster, available_cores, check_gpus, open_cluster
from arcpipe.config import ConvertConfig
from arcpipe.convert.decoders import check_decoder, load_decoder
from arcpipe.convert.plan import PartPlan, check_space, content_settings, count_parts, deal, estimate
from arcpipe.convert.report import ConvertReport, DryRunReport, summarise
from arcpipe.convert.task import Work, convert_part, pretrain
from arcpipe.errors import ArcpipeError, ClusterError
from arcpipe.progress import Progress
from arcpipe.sources import Inventory, open_source
from arcpipe.store import (
    PartRecord,
    StoreHeader,
    StoreWriter,
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
    inventory = _take_inventory(config)
    counts = count_parts(inventory, config)
    if dry_run:
        return _dry_run(config, inventory, counts)
    given = load_decoder(config.fit.decoder) if config.fit.decoder else None
    if given is not None:
        check_decoder(given, config.fit, inventory.channels, config.fit.decoder or "")
    header = _header(config, inventory, counts, given)
    if retry_failed:
        header = with_mended_images(config.out, header)
    check_space(config.out, estimate(inventory, config))
    work = _work(config, inventory)
    with ExitStack() as stack:
        stack.enter_context(store_lock(config.out))
        there = None if overwrite else existing_decoder(config.out, header)
        workers = cluster or stack.enter_context(open_cluster(config.run))
        if workers.dashboard:
            say(f"dashboard: {workers.dashboard}")
        work = replace(work, threads=workers.threads, device=workers.device)
        decoder = given or there or _pretrain(config, inventory, work, workers)
        writer = create_or_open(config.out, header, decoder, overwrite=overwrite)
        if retry_failed:
            writer.drop_failed()
        records = _convert_parts(deal(inventory, plan_parts(counts), config.seed), work, writer, workers)
        writer.finish()
    return summarise(
        config.out,
        records,
        seconds=time.monotonic() - started,
        workers=workers.n_workers,
        max_failed=config.run.max_failed,
    )


def say(message: str) -> None:
    """Tell the person on stderr."""
    print(message, file=sys.stderr, flush=True)


def _take_inventory(config: ConvertConfig) -> Inventory:
    inventory = open_source(config.source, seed=config.seed, progress=say).inventory()
    total = sum(map(len, inventory.samples.values()))
    splits = ", ".join(f"{name} {len(samples)}" for name, samples in inventory.samples.items())
    say(f"{inventory.name}: {total} images ({splits}), {len(inventory.classes)} classes")
    return inventory


def _dry_run(config: ConvertConfig, inventory: Inventory, counts: dict[str, dict[str, int]]) -> DryRunReport:
    expected = estimate(inventory, config)
    failing = [(s.key, s.reason) for samples in inventory.samples.values() for s in samples if s.reason is not None]
    return DryRunReport(
        store=config.out,
        splits={split: (count["samples"], count["parts"]) for split, count in counts.items()},
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


def _work(config: ConvertConfig, inventory: Inventory) -> Work:
    return Work(
        source=config.source,
        channels=inventory.channels,
        fit=config.fit,
        store=config.store,
        seed=config.seed,
        threads=0,
        device="cpu",
    )


def _pretrain(config: ConvertConfig, inventory: Inventory, work: Work, workers: Cluster) -> DecoderRecord:
    """Pretrain the shared decoder as a job of its own, with all cores of this machine or of one worker."""
    from arcpipe import seeds

    split = "train" if inventory.samples.get("train") else next(iter(inventory.samples))
    samples = inventory.samples[split]
    order = seeds.generator(config.seed, "pretrain").permutation(len(samples))
    # Twice as many as are wanted, so that unreadable ones do not matter.
    chosen = [samples[i] for i in order if samples[i].reason is None][: 2 * config.fit.pretrain_images]
    say(f"pretraining the decoder on {min(len(chosen), config.fit.pretrain_images)} images of {split}")
    # The other workers have nothing to do yet; the same number of threads whatever --workers, for the same bits.
    threads = available_cores() if work.threads else 0
    future = workers.executor.submit(pretrain, replace(work, threads=threads), chosen)
    with Progress("pretrain", config.fit.pretrain_steps, "steps") as progress:
        while not wait([future], timeout=1).done:
            progress.tick()
    record: DecoderRecord = future.result()
    return record


def _convert_parts(
    parts: Sequence[PartPlan], work: Work, writer: StoreWriter, workers: Cluster
) -> list[tuple[PartRecord, bool]]:
    """Make every part that is not committed; returns all records, and whether this run made them."""
    committed = writer.committed()
    before = [part for part in parts if part.part_id in committed.get(part.split, ())]
    todo = [part for part in parts if part.part_id not in committed.get(part.split, ())]
    records = [(writer.record(part.split, part.part_id), False) for part in before]
    if before:
        say(f"continuing: {len(before)} of {len(parts)} parts are there")
    total = sum(len(part.samples) for part in parts)
    done = total - sum(len(part.samples) for part in todo)
    with Progress("convert", total, "images", done=done) as progress:
        progress.update(done, **_fields(records, len(parts)))
        lost = _collect(workers.executor, todo, work, writer, records, progress, len(parts))
    if lost:
        raise ClusterError(
            f"{len(lost)} of {len(parts)} parts could not be made; the others are committed.",
            details=[f"{part.split}/{part.part_id}: {error}" for part, error in lost[:5]],
            fix=["run the same command again: it makes the missing parts"],
        )
    return records


def _collect(
    executor: Executor,
    todo: Sequence[PartPlan],
    work: Work,
    writer: StoreWriter,
    records: list[tuple[PartRecord, bool]],
    progress: Progress,
    n_parts: int,
) -> list[tuple[PartPlan, BaseException]]:
    """Run one task per part and gather the records; parts whose worker died are returned, the rest goes on."""
    waiting: dict[Future[PartRecord], PartPlan] = {
        executor.submit(convert_part, work, part, writer): part for part in todo
    }
    lost: list[tuple[PartPlan, BaseException]] = []
    try:
        while waiting:
            finished, _ = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
            for future in finished:
                part = waiting.pop(future)
                error = future.exception()
                if isinstance(error, ArcpipeError):
                    raise error
                if error is not None:
                    lost.append((part, error))
                    progress.note(f"part {part.split}/{part.part_id} was lost: {type(error).__name__}: {error}")
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
