"""Making a damaged store ready for `arcpipe convert`: what is damaged and can be made again is moved aside."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from arcpipe.place import RemotePath
from arcpipe.store.bucket import move_objects
from arcpipe.store.files import is_taken, replace_file, sync_folder
from arcpipe.store.reader import Store
from arcpipe.store.root import read_root
from arcpipe.store.schema import PlannedPart, group_document, plan_parts
from arcpipe.store.verify import verify_part
from arcpipe.store.verify_report import Problem, VerifyReport


@dataclass
class RepairReport:
    """What `repair` did.

    `parts`: moved aside, to be made again. `strangers`: files moved aside. `mended`: metadata written again. `aside`:
    the folder that they are in now. `left`: problems that stay, with `advice`. `fleeting`: parts that were whole when
    they were read a second time.
    """

    parts: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    aside: Path | None = None
    left: list[Problem] = field(default_factory=list)
    fleeting: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


def repair(path: Path, found: VerifyReport) -> RepairReport:
    """Move damaged parts and strangers to `NAME.zarr.damaged-<n>` beside the store, and write splits' groups again.

    The caller holds the store's lock and has just made `found` by `verify`. Nothing is deleted and no sound part is
    touched: a damaged one is read once more before it is moved, for what is wrong may be the reading. Afterwards the
    store is an unfinished one, and the same `arcpipe convert` makes what is missing. A damaged root or decoder cannot
    be made again; then nothing is changed and `advice` says what helps.

    Raises:
        OSError: the store or the folder beside it cannot be written.
    """
    done = RepairReport()
    done.advice = advice(path, found.problems)
    if done.advice:
        done.left = list(found.problems)
        return done
    store = Store(path)
    damaged = [problem for problem in found.problems if problem.kind == "damage"]
    parts = {f"{part.split}/{part.id}": part for part in plan_parts(store.root["splits"])}
    hurt = {"/".join(problem.where.split("/")[:2]) for problem in damaged} & parts.keys()
    done.fleeting = [name for name in sorted(hurt) if _is_sound(store, parts[name])]
    hurt -= set(done.fleeting)
    if hurt or any(problem.kind == "totals" for problem in found.problems):
        _declare_unfinished(path)
    done.parts = sorted(hurt)
    done.strangers = [
        problem.where
        for problem in found.problems
        if problem.kind == "stranger" and "/".join(problem.where.split("/")[:2]) not in hurt
    ]
    done.aside = _move_aside(path, [*done.parts, *done.strangers])
    for split in store.splits:
        if any(problem.where == f"{split}/zarr.json" for problem in damaged):
            (path / split).mkdir(exist_ok=True)
            replace_file(path / split / "zarr.json", group_document({"split": split}))
            done.mended.append(f"{split}/zarr.json")
    return done


def advice(path: Path, problems: Iterable[Problem]) -> list[str]:
    """What helps where root or decoder are damaged, which cannot be made again; empty where `repair` can help."""
    lost = {problem.where.split("/")[0] for problem in problems if problem.kind == "damage"} & {"zarr.json", "decoder"}
    if not lost:
        return []
    other = path.with_name(f"{path.name}.damaged")
    lines = []
    if "zarr.json" in lost:
        lines.append(f"put {path / 'zarr.json'} back from a copy of the store: no other file has all that it says")
    if "decoder" in lost:
        lines.append(f"put the folder {path / 'decoder'} back from a copy of the store")
    return [
        *lines,
        f"or start again: mv {path} {other}, then the same arcpipe convert command",
        f"and keep what is whole: as soon as that has begun, stop it, mv {other}/SPLIT/PART to {path}/SPLIT/PART for "
        "the parts that are not named above, and give the command once more; then arcpipe verify",
    ]


def _is_sound(store: Store, part: PlannedPart) -> bool:
    folder = store.path / part.split / part.id
    if not (folder / "zarr.json").is_file():
        return False
    again = VerifyReport(store.path)
    verify_part(store, part, again)
    return not [problem for problem in again.problems if problem.kind == "damage"]


def _declare_unfinished(path: Path) -> None:
    root = read_root(path)
    if root["complete"]:
        root |= {"complete": False, "totals": {}, "latent_statistics": {}}
        replace_file(path / "zarr.json", group_document(root))


def _move_aside(path: Path, names: list[str]) -> Path | None:
    there = [name for name in names if is_taken(path / name)]
    if not there:
        return None
    number = 1
    while is_taken(path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    aside = path.with_name(f"{path.name}.damaged-{number}")
    if isinstance(path, RemotePath) and isinstance(aside, RemotePath):
        for name in there:
            move_objects(path / name, aside / name, path)
        return aside
    for name in there:
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        os.rename(path / name, aside / name)
        sync_folder((path / name).parent)
    return aside
