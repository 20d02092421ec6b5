"""`arcpipe settings`: every setting with its default, its bounds and its meaning, as the models of `config` say it."""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from arcpipe.config import ConvertConfig, Section, TrainConfig
from arcpipe.errors import ConfigError

OF: dict[type[Section], str] = {ConvertConfig: "convert", TrainConfig: "train"}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


@dataclass(frozen=True)
class Setting:
    """One setting: `key` for `--set KEY=VALUE` of the command `of`, or in its table of a pipeline file."""

    key: str
    of: str
    default: str
    values: str
    """What it may be."""
    meaning: str


@dataclass(frozen=True)
class SettingsReport:
    """Some settings, in the order of the models."""

    settings: tuple[Setting, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"settings": [asdict(entry) for entry in self.settings]}

    def lines(self) -> list[str]:
        width = max(len(entry.key) for entry in self.settings)
        lines: list[str] = []
        for command in OF.values():
            own = [entry for entry in self.settings if entry.of == command]
            lines += [f"arcpipe {command} --set KEY=VALUE", ""] if own else []
            for entry in own:
                lines.append(f"  {entry.key:{width}}  {entry.default}   ({entry.values})")
                lines += textwrap.wrap(entry.meaning, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
            lines += [""] if own else []
        return lines[:-1]


def find_settings(keys: Sequence[str]) -> SettingsReport:
    """The settings of these names, sections or last words of a name; without any, all.

    Raises:
        ConfigError: there is none of that name (names the nearest).
    """
    everything = all_settings()
    if not keys:
        return SettingsReport(everything)
    named: dict[str, list[Setting]] = {}
    for entry in everything:
        section, _, last = entry.key.rpartition(".")
        for name in (entry.key, section, last):
            named.setdefault(name, []).append(entry)
    for key in keys:
        if key not in named:
            near = difflib.get_close_matches(key, sorted(named), n=3)
            raise ConfigError(
                f"there is no setting {key!r}.",
                fix=[f"arcpipe settings {name}" for name in near] or ["arcpipe settings"],
            )
    return SettingsReport(tuple(dict.fromkeys(entry for key in keys for entry in named[key])))


@cache
def all_settings() -> tuple[Setting, ...]:
    """Every setting of `convert` and `train`."""
    return tuple(entry for kind, command in OF.items() for entry in _of_section(kind, "", command, None))


def _of_section(kind: type[Section], prefix: str, command: str, defaults: Section | None) -> Iterator[Setting]:
    meanings, schema = meanings_of(kind), kind.model_json_schema()
    for name, field in kind.model_fields.items():
        inner, default = field.annotation, field.default if defaults is None else getattr(defaults, name)
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from _of_section(inner, f"{name}.", command, default if isinstance(default, Section) else None)
            continue
        shown = "has to be given" if field.is_required() and defaults is None else _shown(default)
        values = _values(schema["properties"][name], schema)
        yield Setting(f"{prefix}{name}", command, shown, values, meanings.get(name, ""))


def meanings_of(kind: type[Section]) -> dict[str, str]:
    """What the text behind each field of a model says."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _shown(value: Any) -> str:
    """A default as it would be written behind `--set KEY=`."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)).replace("'", '"') if isinstance(value, tuple) else str(value)


def _values(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "$ref" in schema:
        return _values(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        kinds = [_values(choice, root) for choice in schema["anyOf"] if choice.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = schema.get("type")
    if kind == "array":
        inner = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        return f"a list of: {_values(inner, root)}"
    if kind in ("integer", "number"):
        bounds = [f"{word} {_number(schema[name])}" for name, word in BOUNDS.items() if name in schema]
        return ", ".join(["a whole number" if kind == "integer" else "a number", *bounds])
    return {"boolean": "true or false", "string": "a text", "object": "a table"}.get(str(kind), "a value")


def _number(value: float) -> str:
    return f"{value:.12g}" if abs(value) < 10**12 else f"{value:.3g}"
