"""One task for each missing part, and what comes back: records, parts to look into, parts that were lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from arcpipe.cluster import Cluster, DeadWorkersError, LostTaskError, failure
from arcpipe.convert.isolate import isolate_part
from arcpipe.convert.plan import PartPlan, Plan, estimate
from arcpipe.convert.task import convert_part
from arcpipe.convert.work import Work
from arcpipe.errors import ArcpipeError, ClusterError, NoSpaceError
from arcpipe.progress import Progress, byte_size, say
from arcpipe.store import PartRecord, StoreWriter

MOST_TRIES = 3
"""Times that a part is looked into by itself: its helper may be killed too, by chance."""

Waiting = dict[Future[PartRecord], tuple[PartPlan, int]]
"""Tasks, the part of each, and how often that part has been looked into."""


def convert_parts(
    todo: Sequence[PartPlan], work: Work, writer: StoreWriter, workers: Cluster, plan: Plan, before: list[PartRecord]
) -> list[PartRecord]:
    """Make the parts `todo` of a plan; a lost part does not stop the others.

    `before`: records of the parts that were there. Returns those of the new ones, as they came.

    Raises:
        ClusterError: some parts could not be made.
        ArcpipeError: something that the other parts would meet too, such as a full disk.
    """
    records, lost, n_parts = before.copy(), list[str](), len(plan.parts)
    if before:
        say(f"continuing: {len(before)} of {n_parts} parts are there")
    total = sum(len(part.samples) for part in plan.parts)
    done = total - sum(len(part.samples) for part in todo)
    expected_s = estimate(todo, plan.config).core_s / (workers.n_workers * max(workers.threads, 1))
    with Progress("convert", total, "images", done=done, expected_s=expected_s) as progress:
        # Training clouds first: an unfinished store can then be trained on (--allow-unfinished).
        waiting: Waiting = {
            workers.executor.submit(convert_part, work, part, writer): (part, 0)
            for part in sorted(todo, key=lambda part: part.split != "train")
        }
        progress.update(done, **_fields(records, n_parts))
        try:
            for future, part, tries in _as_they_end(waiting, progress):
                error = failure(future)
                if error is None:
                    records.append(future.result())
                    progress.update(progress.done + len(part.samples), **_fields(records, n_parts))
                elif tries < MOST_TRIES and _to_isolate(error, first=tries == 0):
                    why = "its workers died" if isinstance(error, DeadWorkersError) else _told(error)
                    progress.note(f"part {part.name}: {why}. Trying it in a process of its own.")
                    waiting[workers.executor.submit(isolate_part, work, part, writer)] = (part, tries + 1)
                elif isinstance(error, ArcpipeError) and not isinstance(error, ClusterError):
                    raise error  # the other parts would meet it too
                else:
                    lost.append(f"{part.name}: {_told(error)}")
                    if not future.cancelled():  # with the cluster all parts go at once: said at the end
                        progress.note(f"part {part.name} was lost: {_told(error)}")
        except NoSpaceError as error:
            details = [*error.details, *_what_is_missing(plan)]
            raise NoSpaceError(error.what, details=details, fix=error.fix) from None
        finally:
            for future in waiting:
                future.cancel()
    if lost:
        raise ClusterError(
            f"{len(lost)} of {n_parts} parts could not be made; the others are committed.",
            details=lost[:5],
            fix=["run the same command again: it makes the missing parts"],
        )
    return records[len(before) :]


def _as_they_end(waiting: Waiting, progress: Progress) -> Iterator[tuple[Future[PartRecord], PartPlan, int]]:
    """Take tasks out of those that are waited for as they end, also those that are added meanwhile."""
    while waiting:
        for future in wait(waiting, timeout=1, return_when=FIRST_COMPLETED).done:
            yield future, *waiting.pop(future)
        progress.tick()


def _fields(records: Sequence[PartRecord], n_parts: int) -> dict[str, str]:
    """Running numbers for people: parts, mean PSNR, failures."""
    fields = {"parts": f"{len(records)}/{n_parts}"}
    n_psnr = sum(record.psnr_count for record in records)
    if n_psnr:
        fields["psnr"] = f"{sum(record.psnr_sum for record in records) / n_psnr:.2f} dB"
    return {**fields, "failed": str(sum(record.n_failures for record in records))}


def _what_is_missing(plan: Plan) -> list[str]:
    """What the rest of the conversion needs, for a message about a full disk."""
    left, n_parts = plan.missing(), len(plan.parts)
    needed = estimate(left, plan.config).n_bytes
    lines = [f"{n_parts - len(left)} of {n_parts} parts are committed; the others need up to {byte_size(needed)}"]
    if space := plan.config.out.free_space():
        folder, free = space
        lines.append(f"{byte_size(free)} are free in {folder}: {byte_size(max(0, needed - free))} are missing")
    return lines


def _to_isolate(error: BaseException, *, first: bool) -> bool:
    """Whether a part is worth a closer look: its workers died, or it raised what nobody foresaw."""
    foreseen = isinstance(error, ArcpipeError | OSError | LostTaskError)
    return isinstance(error, DeadWorkersError) or (first and not foreseen)


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, ClusterError | LostTaskError) else f"{type(error).__name__}: {error}"
