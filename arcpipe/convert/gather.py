"""One task for each missing part, and what comes back: records, parts to look into, parts that were lost."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field

from arcpipe.cluster import Cluster, describe_loss, died
from arcpipe.convert.isolate import isolate_part
from arcpipe.convert.plan import PartPlan
from arcpipe.convert.task import convert_part
from arcpipe.convert.work import Work
from arcpipe.errors import ArcpipeError, ClusterError
from arcpipe.progress import Progress
from arcpipe.store import PartRecord, StoreWriter

MOST_TRIES = 3
"""Times that a part is looked into by itself: its helper may be killed too, by chance."""


@dataclass
class Gathering:
    """What is known of a conversion's parts while they are made."""

    n_parts: int
    records: list[tuple[PartRecord, bool]]
    """Of every committed part, and whether this run made it."""
    lost: list[tuple[PartPlan, str]] = field(default_factory=list)

    def fields(self) -> dict[str, str]:
        """Running numbers for people: parts, mean PSNR, failures."""
        records = [record for record, _ in self.records]
        fields = {"parts": f"{len(records)}/{self.n_parts}"}
        n_psnr = sum(record.psnr_count for record in records)
        if n_psnr:
            fields["psnr"] = f"{sum(record.psnr_sum for record in records) / n_psnr:.2f} dB"
        fields["failed"] = str(sum(record.n_failures for record in records))
        return fields


def convert_parts(
    todo: Sequence[PartPlan], work: Work, writer: StoreWriter, workers: Cluster, state: Gathering, progress: Progress
) -> None:
    """Make the parts `todo` and add their records to `state`; a lost part does not stop the others.

    Raises:
        ClusterError: some parts could not be made.
        ArcpipeError: something that the other parts would meet too, such as a full disk.
    """
    executor = workers.executor
    # Training clouds first: an unfinished store can then be trained on (--allow-unfinished).
    todo = sorted(todo, key=lambda part: part.split != "train")
    waiting: dict[Future[PartRecord], tuple[PartPlan, int]] = {
        executor.submit(convert_part, work, part, writer): (part, 0) for part in todo
    }
    progress.update(progress.done, **state.fields())
    try:
        while waiting:
            finished, _ = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
            for future in finished:
                part, tries = waiting.pop(future)
                if tries < MOST_TRIES and _to_isolate(future, first=tries == 0):
                    progress.note(
                        f"part {part.split}/{part.part_id}: {_why(future)} Trying it in a process of its own."
                    )
                    waiting[executor.submit(isolate_part, work, part, writer)] = (part, tries + 1)
                    continue
                _take(future, part, state, progress)
            progress.tick()
    finally:
        for future in waiting:
            future.cancel()
    if state.lost:
        raise ClusterError(
            f"{len(state.lost)} of {state.n_parts} parts could not be made; the others are committed.",
            details=[f"{part.split}/{part.part_id}: {why}" for part, why in state.lost[:5]],
            fix=["run the same command again: it makes the missing parts"],
        )


def _take(future: Future[PartRecord], part: PartPlan, state: Gathering, progress: Progress) -> None:
    """Note what became of a part. Raises what the other parts would meet too."""
    why = describe_loss(future)
    error = None if why else future.exception()
    if isinstance(error, ArcpipeError) and not isinstance(error, ClusterError):
        raise error
    if why or error:
        why = why or (str(error) if isinstance(error, ClusterError) else f"{type(error).__name__}: {error}")
        state.lost.append((part, why))
        if not future.cancelled():  # with the cluster all parts go at once: said at the end
            progress.note(f"part {part.split}/{part.part_id} was lost: {why}")
        return
    state.records.append((future.result(), True))
    progress.update(progress.done + len(part.samples), **state.fields())


def _to_isolate(future: Future[PartRecord], *, first: bool) -> bool:
    """Whether a part is worth a closer look: its workers died, or it raised what nobody foresaw."""
    if future.cancelled():
        return False
    error = future.exception()
    return died(future) or (first and error is not None and not isinstance(error, ArcpipeError | OSError))


def _why(future: Future[PartRecord]) -> str:
    error = future.exception()
    return "its workers died." if died(future) else f"{type(error).__name__}: {error}."
