"""Arms times seeds: where their stores and runs lie, and which settings a result stands for.

Names are hashes of settings, so arms (also of other files) with the same conversion share a store, and arms with the
same training share a run; an edited file makes new ones and never meets the old ones under a name of theirs.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from arcpipe.config import ConvertConfig, EvaluateConfig, Section, TrainConfig, build, with_later, without_later
from arcpipe.errors import ConfigError
from arcpipe.options import default_store
from arcpipe.pipeline.file import PLACEHOLDER, Arm, Column, Pipeline
from arcpipe.storage import Storage, storage_at


@dataclass(frozen=True)
class Evaluation:
    """A column of a job. `convert`: its store's settings where that is not the job's."""

    column: Column
    config: EvaluateConfig
    convert: ConvertConfig | None
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One arm with one seed: what is converted, trained and evaluated, with all paths."""

    arm: Arm
    seed: int
    convert: ConvertConfig
    train: TrainConfig
    evaluations: tuple[Evaluation, ...]

    @property
    def title(self) -> str:
        return f"arm {self.arm.name}, seed {self.seed}"


def plan_jobs(pipeline: Pipeline, only: Iterable[str] = (), seeds: Iterable[int] = ()) -> list[Job]:
    """All arms with the first seed, then all with the next.

    Raises:
        ConfigError: `only` names an arm that is not in the file, or two conversions share an `out`.
    """
    wanted = list(only)
    names = [arm.name for arm in pipeline.arms]
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0) or names
            details = [f"arms of {pipeline.path}: {', '.join(names)}"]
            raise ConfigError(f"there is no arm {name!r}.", details=details, fix=[f'--only "{near[0]}"'])
    jobs = [
        _job(arm, seed)
        for seed in (tuple(seeds) or pipeline.seeds)
        for arm in pipeline.arms
        if not wanted or arm.name in wanted
    ]
    _check_stores(pipeline, jobs)
    return jobs


def _job(arm: Arm, seed: int) -> Job:
    convert = with_store(arm.convert)
    folder = Path("runs") / PurePath(convert.out.name).stem if arm.train.out == PLACEHOLDER else arm.train.out
    out = folder / f"{digest(of_training(arm.train))}-s{seed}"
    train = arm.train.model_copy(update={"seed": seed, "store": convert.out, "out": out})
    evaluations = []
    for column in arm.columns:
        other = None
        if column.convert is not None:
            fit = column.convert.fit.model_copy(update={"decoder": str(convert.out)})
            other = with_store(column.convert.model_copy(update={"fit": fit, "out": storage_at(PLACEHOLDER)}))
        config = column.section.of(train, other.out if other else convert.out)
        settings = {
            "convert": of_conversion(convert),
            "train": {**of_training(train), "seed": seed},
            "evaluate": config.model_dump(
                mode="json", exclude={"run", "store", "device", "threads", "batch_size", "out"}
            ),
            "evaluate_convert": of_conversion(other) if other else None,
        }
        evaluations.append(Evaluation(column, config, other, settings))
    return Job(arm, seed, convert, train, tuple(evaluations))


def with_store(convert: ConvertConfig) -> ConvertConfig:
    """The conversion with its store's path: `store/SOURCE-HASH.zarr` unless the file gives one."""
    if convert.out != storage_at(PLACEHOLDER):
        return convert
    stem = default_store(convert.source.source).stem
    out = storage_at(Path("store") / f"{stem}-{digest(of_conversion(convert))}.zarr")
    return convert.model_copy(update={"out": out})


def of_conversion(convert: ConvertConfig) -> dict[str, Any]:
    """What identifies a conversion: all but where images and store lie and who does the work."""
    values = without_later(convert.model_dump(mode="json", exclude={"out": True, "run": True, "source": {"data"}}))
    return {**values, "source": {**values["source"], "source": PurePath(convert.source.source).name}}


def of_training(train: TrainConfig) -> dict[str, Any]:
    """What identifies a training on a given store, but for the seed."""
    from arcpipe.train.begin import NO_MATTER, NO_MATTER_OF_STREAM

    left_out: dict[str, Any] = {**dict.fromkeys(("seed", *NO_MATTER), True), "stream": set(NO_MATTER_OF_STREAM)}
    return without_later(train.model_dump(mode="json", exclude=left_out))


def digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def same_settings(recorded: Any, wanted: Mapping[str, Any]) -> bool:
    """Whether a result of `recorded` settings is one of the `wanted`; a setting that is new since has its default."""
    if not isinstance(recorded, Mapping) or set(recorded) != set(wanted) or not _agree(recorded, wanted):
        return False
    paths = {"convert": {"out": "-"}, "train": {"out": "-", "store": "-"}, "evaluate": {"run": "-", "store": "-"}}
    kinds: dict[str, type[Section]] = {"convert": ConvertConfig, "train": TrainConfig, "evaluate": EvaluateConfig}
    for name, values in wanted.items():
        own = recorded[name]
        if own is None or values is None:
            if own is not values:
                return False
            continue
        kind = name.rpartition("_")[2]  # evaluate_convert is a conversion
        try:
            pair = [build(kinds[kind], {**with_later(settings), **paths[kind]}) for settings in (own, values)]
        except (ConfigError, TypeError):
            return False
        if pair[0] != pair[1]:
            return False
    return True


def _agree(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether what both name is the same in both; quick, for most pairs differ here."""
    for key in recorded.keys() & wanted.keys():
        old, new = recorded[key], wanted[key]
        both = isinstance(old, Mapping) and isinstance(new, Mapping)
        if not (_agree(old, new) if both else old == new):
            return False
    return True


def _check_stores(pipeline: Pipeline, jobs: Iterable[Job]) -> None:
    """One `out` for two conversions would be refused in the middle of the work."""
    seen: dict[Storage, dict[str, Any]] = {}
    for job in jobs:
        for convert in (job.convert, *(evaluation.convert for evaluation in job.evaluations)):
            if convert is not None and seen.setdefault(convert.out, of_conversion(convert)) != of_conversion(convert):
                raise ConfigError(
                    f"{pipeline.path}: two different conversions share convert.out = {convert.out}.",
                    details=[job.title],
                    fix=["leave convert.out away: every conversion gets a name of its own"],
                )
