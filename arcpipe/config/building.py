"""From options, TOML files and dictionaries to sections, and what is said where they are wrong."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from arcpipe.config.section import S, Section
from arcpipe.errors import ConfigError
from arcpipe.files import read_plain


def build(kind: type[S], values: Mapping[str, Any], where: str = "the command line") -> S:
    """Validate `values` into a section; every complaint becomes one `ConfigError` that names key and nearest key."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _config_error(kind, error, where) from None
    except ConfigError as error:
        if ".toml" not in where:
            raise
        what, *details = (_as_keys(text) for text in (error.what, *error.details))
        raise ConfigError(f"{where.rstrip(',')}: {what}", details=details, fix=map(_as_keys, error.fix)) from None


def _as_keys(text: str) -> str:
    """Advice about options as advice about keys of a file: `--pad 100` is `pad = 100` there."""
    text = re.sub(r"--set ([\w.]+)=", r"\1 = ", text)
    return re.sub(r"--([a-z][a-z-]*)( (?=[\dS]))?", lambda m: m[1].replace("-", "_") + (" = " if m[2] else ""), text)


def sectioned(kind: type[Section], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Put settings into the sections that have them: `{"epochs": 3}` becomes `{"optim": {"epochs": 3}}`.

    What is a table of settings, or no section's, stays where it is.

    Raises:
        ConfigError: no section has such a setting (names the nearest one).
    """
    sections = {name: field.annotation for name, field in kind.model_fields.items()}
    homes = {
        key: name
        for name, section in sections.items()
        if isinstance(section, type) and issubclass(section, Section)
        for key in section.model_fields
    }
    placed: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and key in sections:
            placed[key] = {**placed.get(key, {}), **value}
        elif key in homes:
            placed[homes[key]] = {**placed.get(homes[key], {}), key: value}
        elif key in sections:
            placed[key] = value
        else:
            near = difflib.get_close_matches(key, [*homes, *sections], n=1)
            raise ConfigError(f"there is no setting {key!r}.", details=[f"near it: {name}" for name in near])
    return placed


def read_toml(path: Path, fix: str = "") -> dict[str, Any]:
    """Read a TOML file, or say which line cannot be read. `fix`: what helps where there is no such file."""
    try:
        return tomllib.loads(read_plain(path).decode("utf-8"))
    except FileNotFoundError:
        near = [str(path.with_name(name)) for name in _names_like(path)]
        raise ConfigError(
            f"there is no file {path}.",
            details=[f"looked for in {Path.cwd()}", *([f"near it: {', '.join(near)}"] if near else [])],
            fix=[fix] if fix else [],
        ) from None
    except (OSError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML.", details=[str(error)]) from None


def _names_like(path: Path) -> list[str]:
    """TOML files beside `path`, those of the nearest names first."""
    try:
        there = sorted(file.name for file in path.absolute().parent.glob("*.toml"))
    except OSError:
        return []
    return difflib.get_close_matches(path.name, there, n=3, cutoff=0.4)


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Name every setting that differs: `fit.steps: was 500, now 200`."""
    lines: list[str] = []
    for key in sorted({*before, *after}):
        old, new, name = before.get(key), after.get(key), f"{prefix}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{name}.")
        elif old != new:
            was, now = ("not set" if value is None else value for value in (old, new))
            lines.append(f"{name}: was {was}, now {now}")
    return lines


def _config_error(kind: type[Section], error: ValidationError, where: str) -> ConfigError:
    details, fix = [], []
    problems = error.errors()
    for problem in problems:
        if problem["type"] == "too_short" and any(other["loc"][:-1] == problem["loc"] for other in problems):
            continue  # it counts what is left of a list without its wrong items, which are told by themselves
        line, advice = _explain(kind, problem)
        details.append(line)
        fix += advice
    return ConfigError(f"{where} has a setting that cannot be used.", details=details, fix=fix)


def _explain(kind: type[Section], problem: ErrorDetails) -> tuple[str, list[str]]:
    """What is wrong with one key, and what would be right where that can be guessed."""
    location, found = [str(part) for part in problem["loc"]], problem["input"]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _keys(kind, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        return f"{key}: unknown key", [".".join([*location[:-1], near[0]]) if near else f"known: {', '.join(known)}"]
    if problem["type"] == "missing":
        return f"{key}: missing", []
    if problem["type"] == "model_type":
        return f"{key}: expected a table of settings, found {found!r}", [f"[{key}]"]
    line = f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]}, found {found!r}".replace("valid tuple", "list")
    line = re.sub(r": tuple should have (.*) after validation, not \d+", r": the list should have \1", line)
    if problem["type"] in ("list_type", "tuple_type"):
        return line, [f"{key}=[{found}]"]
    expected = problem.get("ctx", {}).get("expected", "").replace(" or ", ", ").replace("'", "").split(", ")
    return line, difflib.get_close_matches(str(found), expected, n=1) if problem["type"] == "literal_error" else []


def _keys(kind: type[Section], path: list[str]) -> list[str]:
    """The keys known at `path` inside a section."""
    for name in path:
        if name.isdigit():  # a place in a list of sections
            continue
        annotation = kind.model_fields[name].annotation if name in kind.model_fields else None
        choices = [annotation, *get_args(annotation)]  # `Section`, `Section | None`, `tuple[Section, ...] | None`
        choices += [inner for choice in choices for inner in get_args(choice)]
        inner = [choice for choice in choices if isinstance(choice, type) and issubclass(choice, Section)]
        if not inner:
            return []
        kind = inner[0]
    return sorted(kind.model_fields)
