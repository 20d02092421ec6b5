"""What a worker and the process that isolates a part say to each other: lines of JSON, nothing that can hold code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from arcpipe.config import FitSection, RunSection, Section, SourceSection, StoreSection
from arcpipe.convert.plan import PartPlan
from arcpipe.convert.work import Work
from arcpipe.sources import Sample

SECTIONS: dict[str, type[Section]] = {
    "source": SourceSection,
    "fit": FitSection,
    "store": StoreSection,
    "run": RunSection,
}


def encode(message: Mapping[str, Any]) -> bytes:
    """One line. What holds settings or fields is a mapping of them; names of files that are no UTF-8 survive."""
    return json.dumps(message, ensure_ascii=True, default=_plain).encode("ascii") + b"\n"


def _plain(value: Any) -> dict[str, Any]:
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    return {field.name: getattr(value, field.name) for field in fields(value)}


def decode(line: bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(line)
    return message


def read_work(values: Mapping[str, Any]) -> Work:
    return Work(**{**values, **{name: kind.model_validate(values[name]) for name, kind in SECTIONS.items()}})


def read_part(values: Mapping[str, Any]) -> PartPlan:
    return PartPlan(values["split"], values["part_id"], tuple(map(_read_sample, values["samples"])))


def _read_sample(values: Mapping[str, Any]) -> Sample:
    tuples = {name: values[name] and tuple(values[name]) for name in ("locator", "size")}
    return Sample(**{**values, **tuples})
