"""What a pipeline file says: shared settings, arms that change some of them, seeds, and the table they end in.

about, seeds, [table], [convert], [train], [evaluate] or [[evaluate]], [[arm]]: docs/pipelines.md has every key.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from arcpipe.config import (
    ConvertConfig,
    EvaluateConfig,
    EvaluateSection,
    Section,
    Seed,
    TrainConfig,
    build,
    kind_of,
    read_toml,
    unread,
)
from arcpipe.errors import ConfigError
from arcpipe.storage import Storage

PLACEHOLDER = Path("-")
"""Where a store or run lies is derived from its settings (`plan`) once they are known."""

Numbers = dict[str, float]


class ColumnSection(EvaluateSection):
    """One evaluation of a trained run: a column of the table."""

    name: str = ""
    """Title of the column; `accuracy` if there is only one."""
    convert: dict[str, Any] = Field(default_factory=dict)
    """Evaluate on another conversion, by these settings in place of the arm's, under the arm's own decoder."""

    def of(self, train: TrainConfig, store: Storage) -> EvaluateConfig:
        """The evaluation of a training, on this store."""
        own = self.model_dump(exclude={"name", "convert"})
        return EvaluateConfig(run=train.out, store=store, seed=train.seed, device=train.device, **own)


class ReferenceSection(Section):
    """A row of the table that others measured."""

    name: str
    thesis: Numbers | float


class TableSection(Section):
    """The table that an experiment ends in."""

    title: str = ""
    thesis: str = "thesis"
    """Which table of the thesis the numbers beside ours come from, for example `thesis table 5`."""
    reference: tuple[ReferenceSection, ...] = ()
    """Methods that are not run here, with the numbers that the thesis gives for them."""


class ArmSection(Section):
    """One row of the table: what it changes of the shared settings."""

    name: Annotated[str, Field(min_length=1)]
    thesis: Numbers | float | None = None
    """The thesis's number of each column, or the one number of the only column; %."""
    convert: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    evaluate: dict[str, Any] | list[dict[str, Any]] | None = None

    @field_validator("name")
    @classmethod
    def one_word_for_only(cls, name: str) -> str:
        if "," in name:
            raise ConfigError(f"the arm {name!r} has a comma in its name: --only separates names by it.")
        if not name.isprintable():
            raise ConfigError(f"the arm {name!r} has a line break or control character in its name.")
        return name


class PipelineConfig(Section):
    """A file for `arcpipe run`, or one of its arms with the shared settings: convert, then train, then evaluate."""

    about: str = ""
    """What it is and what it costs, for people; printed first."""
    seeds: tuple[Seed, ...] = ()
    """Every arm is trained with each of them; by default once, with `train.seed`."""
    table: TableSection = TableSection()
    arm: tuple[ArmSection, ...] = ()
    convert: ConvertConfig
    train: TrainConfig | None = None
    evaluate: tuple[ColumnSection, ...] | None = None

    @field_validator("evaluate", mode="before")
    @classmethod
    def one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def something_to_evaluate(self) -> Self:
        if self.evaluate is not None and self.train is None:
            raise ConfigError("[evaluate] needs [train]: there is nothing to evaluate.", fix=["add a line [train]"])
        return self


@dataclass(frozen=True)
class Column:
    """An evaluation; `convert`: the conversion it is done on where that is not the arm's own."""

    name: str
    section: ColumnSection
    convert: ConvertConfig | None


@dataclass(frozen=True)
class Arm:
    """A row: settings with everything filled in, but for seed and paths. `thesis`: column -> %."""

    name: str
    convert: ConvertConfig
    train: TrainConfig
    columns: tuple[Column, ...]
    thesis: Mapping[str, float]


@dataclass(frozen=True)
class Pipeline:
    """A file that was read. Without `arms` it is `plain`: one conversion, one training, one evaluation."""

    path: Path
    name: str
    """Of its results: the file's, with the recipe where another one was asked for."""
    about: str
    table: TableSection
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    plain: PipelineConfig | None

    @property
    def command(self) -> str:
        """What makes its results again."""
        recipe = self.name.removeprefix(self.path.stem).removeprefix("-")
        return f"arcpipe run {shlex.quote(str(self.path))}" + (f" --recipe {recipe}" if recipe else "")

    def columns(self) -> list[str]:
        """All columns of all arms, in the order of the file."""
        return list(dict.fromkeys(column.name for arm in self.arms for column in arm.columns))


def read_pipeline(path: Path, data: Path | None = None, recipe: str | None = None) -> Pipeline:
    """Read a file and fill in everything; every arm is checked before any work.

    Args:
        data: folder of the datasets, where the file names none.
        recipe: in place of the file's; stores, runs, results and the table have it in their names.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong (with the arm that it is of).
    """
    values = read_toml(path, "arcpipe convert digits; the pipelines of arcpipe lie in its checkout")
    name = path.stem
    if isinstance(values.get("convert"), dict):
        values["convert"] = _with_source(values["convert"], data)
    if recipe is not None:
        values, name = _with_recipe(values, recipe), f"{path.stem}-{recipe}"
    arms = values.get("arm", [])
    if not arms and not values.get("seeds") and not isinstance(values.get("evaluate"), list):
        plain = build(PipelineConfig, _with_paths(values, name), str(path))
        return Pipeline(path, name, plain.about, plain.table, (), (), plain)
    if not isinstance(arms, list) or not all(isinstance(arm, dict) for arm in arms):
        raise ConfigError(f"{path}: arm is no list of tables.", fix=["begin every arm with a line [[arm]]"])
    shared = {key: value for key, value in values.items() if key != "arm"}
    sections = [build(ArmSection, arm, f"{path}, arm {i + 1},") for i, arm in enumerate(arms)]
    sections = sections or [ArmSection(name=path.stem)]
    names = [section.name for section in sections]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(f"{path} has two arms of one name.", details=sorted(twice), fix=["give each its own name"])
    read = [_arm(path, shared, section) for section in sections]
    first = read[0][1]
    seeds = first.seeds or (read[0][0].train.seed,)
    return Pipeline(path, name, first.about, first.table, seeds, tuple(arm for arm, _ in read), None)


def _arm(path: Path, shared: Mapping[str, Any], section: ArmSection) -> tuple[Arm, PipelineConfig]:
    where = f"{path}, arm {section.name},"
    changes: dict[str, Any] = {"convert": _with_source(section.convert), "train": section.train}
    if section.evaluate is not None:
        changes["evaluate"] = section.evaluate
    values = lay_over(shared, changes)
    values.setdefault("evaluate", {})
    for name, paths in (("convert", ("out",)), ("train", ("store", "out"))):
        values[name] = dict.fromkeys(paths, PLACEHOLDER) | values[name] if isinstance(values[name], dict) else {}
    config = build(PipelineConfig, values, where)
    if config.train is None or not config.evaluate:
        raise ConfigError(f"{where} has nothing to evaluate.", fix=["add a line [train]"])
    several = len(config.evaluate) > 1
    columns: list[Column] = []
    for evaluation in config.evaluate:
        name = evaluation.name or ("" if several else "accuracy")
        if not name or name in [column.name for column in columns]:
            raise ConfigError(f"{where} has several evaluations: each needs its own name.", fix=['name = "pushed"'])
        columns.append(Column(name, evaluation, _other_conversion(values, evaluation, f"{where} evaluation {name},")))
    thesis = numbers_of(section.thesis, [column.name for column in columns], where)
    return Arm(section.name, config.convert, config.train, tuple(columns), thesis), config


def _other_conversion(values: Mapping[str, Any], evaluation: ColumnSection, where: str) -> ConvertConfig | None:
    """The arm's conversion with other settings, and of the evaluated split only."""
    if not evaluation.convert:
        return None
    own = lay_over(values["convert"], _with_source(evaluation.convert))
    if evaluation.split is not None:
        own = lay_over(own, {"source": {"splits": [evaluation.split]}})
    return build(ConvertConfig, own, where)


def numbers_of(thesis: Numbers | float | None, names: Sequence[str], where: str) -> Numbers:
    """Column -> number, of the columns of these names.

    Raises:
        ConfigError: a number for a column that is not there, or one number for several columns.
    """
    if thesis is None:
        return {}
    if isinstance(thesis, dict):
        unknown = [name for name in thesis if name not in names]
        if unknown:
            near = difflib.get_close_matches(unknown[0], names, n=1)
            raise ConfigError(
                f"{where} has a number of the thesis for a column that is not there: {unknown[0]}.",
                details=[f"columns: {', '.join(names)}"],
                fix=near,
            )
        return thesis
    if len(names) > 1:
        raise ConfigError(
            f"{where} has one number of the thesis for {len(names)} columns.",
            fix=[f'thesis = {{ "{names[0]}" = {thesis:g} }}'],
        )
    return {names[0]: thesis}


def lay_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`; tables are merged, everything else is replaced. Neither is changed."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = lay_over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _with_recipe(values: Mapping[str, Any], recipe: str) -> dict[str, Any]:
    """Another recipe for all arms that do not name theirs, without what it does not read; title and text say so."""
    table = values.get("table")
    title = table.get("title") if isinstance(table, Mapping) else None
    told = {"about": f"Here with the recipe {recipe} in place of the file's. {values.get('about', '')}"}
    named = {"table": {"title": f"{title}: recipe {recipe}"}} if title else {}
    values = _without_unread(values, recipe)
    if isinstance(values.get("arm"), list):
        values["arm"] = [_without_unread(arm, recipe) if isinstance(arm, dict) else arm for arm in values["arm"]]
    return lay_over(values, {"convert": {"fit": {"recipe": recipe}}, **told, **named})


def _without_unread(values: Mapping[str, Any], recipe: str) -> dict[str, Any]:
    """A file, or an arm that names no recipe, without the settings of a fit that `recipe` does not read."""
    converting = values.get("convert")
    fit = converting.get("fit") if isinstance(converting, Mapping) else None
    if not isinstance(converting, Mapping) or not isinstance(fit, Mapping) or ("name" in values and "recipe" in fit):
        return dict(values)
    kept = {key: value for key, value in fit.items() if key not in unread(kind_of(recipe))}
    return {**values, "convert": {**converting, "fit": kept}}


def _with_source(converting: dict[str, Any], data: Path | None = None) -> dict[str, Any]:
    """A table `convert`, whose `source` may be a name; `data` goes to it where the file says nothing."""
    source = converting.get("source", {} if data is not None else None)
    if isinstance(source, str):
        source = {"source": source}
    if isinstance(source, dict) and data is not None:
        source = {"data": data, **source}
    return {**converting, "source": source} if source is not None else converting


def _with_paths(values: dict[str, Any], stem: str) -> dict[str, Any]:
    """Paths that a plain file leaves out: `store/NAME.zarr`, `runs/NAME`."""
    converting = values.get("convert")
    if converting is None:
        raise ConfigError(f"{stem}.toml does not say what to convert.", fix=['[convert]\nsource = "digits"'])
    if not isinstance(converting, dict):
        return values
    values = {**values, "convert": {"out": Path("store") / f"{stem}.zarr", **converting}}
    if isinstance(values.get("train"), dict):
        paths = {"store": values["convert"]["out"], "out": Path("runs") / stem}
        values["train"] = {**paths, **values["train"]}
    return values
