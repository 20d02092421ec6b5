"""Making a damaged store ready for `arcpipe convert`: what is damaged and can be made again is moved aside."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from arcpipe.storage import Place, Storage, storage_at
from arcpipe.store.reader import Store
from arcpipe.store.schema import PlannedPart, group_document, plan_parts
from arcpipe.store.verify import verify_part
from arcpipe.store.verify_part import Problem, VerifyReport
from arcpipe.store.writer import declare_unfinished


@dataclass
class RepairReport:
    """What `repair` did.

    `parts`: moved aside, to be made again. `strangers`: files moved aside. `mended`: metadata written again. `aside`:
    where they are now. `left`: problems that stay, with `advice`. `fleeting`: parts that were whole when
    they were read a second time.
    """

    parts: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    aside: Storage | None = None
    left: list[Problem] = field(default_factory=list)
    fleeting: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


def repair(place: Place, found: VerifyReport) -> RepairReport:
    """Move damaged parts and strangers to `NAME.zarr.damaged-<n>` beside the store, and write splits' groups again.

    The caller holds the store's lock and has just made `found` by `verify`. Nothing is deleted and no sound part is
    touched: a damaged one is read once more before it is moved, for what is wrong may be the reading. Afterwards the
    store is an unfinished one, and the same `arcpipe convert` makes what is missing. A damaged root or decoder cannot
    be made again; then nothing is changed and `advice` says what helps.

    Raises:
        OSError: the store or the folder beside it cannot be written.
    """
    storage, done = storage_at(place), RepairReport()
    done.advice = advice(storage, found.problems)
    if done.advice:
        done.left = list(found.problems)
        return done
    store = Store(storage)
    damaged = [problem for problem in found.problems if problem.kind == "damage"]
    parts = {f"{part.split}/{part.id}": part for part in plan_parts(store.root["splits"])}
    hurt = {"/".join(problem.where.split("/")[:2]) for problem in damaged} & parts.keys()
    done.fleeting = [name for name in sorted(hurt) if _is_sound(store, parts[name])]
    hurt -= set(done.fleeting)
    if hurt or any(problem.kind == "totals" for problem in found.problems):
        declare_unfinished(storage)
    done.parts = sorted(hurt)
    done.strangers = [
        problem.where
        for problem in found.problems
        if problem.kind == "stranger" and "/".join(problem.where.split("/")[:2]) not in hurt
    ]
    done.aside = _move_aside(storage, [*done.parts, *done.strangers])
    for split in store.splits:
        if any(problem.where == f"{split}/zarr.json" for problem in damaged):
            storage.replace(f"{split}/zarr.json", group_document({"split": split}))
            done.mended.append(f"{split}/zarr.json")
    return done


def advice(storage: Storage, problems: Iterable[Problem]) -> list[str]:
    """What helps where root or decoder are damaged, which cannot be made again; empty where `repair` can help."""
    lost = {problem.where.split("/")[0] for problem in problems if problem.kind == "damage"} & {"zarr.json", "decoder"}
    if not lost:
        return []
    other = storage.beside(f"{storage.name}.damaged")
    lines = []
    if "zarr.json" in lost:
        lines.append(f"put {storage}/zarr.json back from a copy of the store: no other file has all that it says")
    if "decoder" in lost:
        lines.append(f"put the folder {storage}/decoder back from a copy of the store")
    return [
        *lines,
        f"or start again: mv {storage} {other}, then the same arcpipe convert command",
        f"and keep what is whole: as soon as that has begun, stop it, mv {other}/SPLIT/PART to {storage}/SPLIT/PART "
        "for the parts that are not named above, and give the command once more; then arcpipe verify",
    ]


def _move_aside(storage: Storage, names: Iterable[str]) -> Storage | None:
    """Move what is there of some names to the first free `NAME.damaged-<n>`; None where nothing is."""
    there = [name for name in names if storage.is_taken(name)]
    if not there:
        return None
    places = (storage.beside(f"{storage.name}.damaged-{number}") for number in itertools.count(1))
    aside = next(place for place in places if not place.is_taken())
    for name in there:
        storage.move(name, aside)
    return aside


def _is_sound(store: Store, part: PlannedPart) -> bool:
    again = VerifyReport(store.storage)
    verify_part(store, part, again)
    return all(problem.kind != "damage" for problem in again.problems)
