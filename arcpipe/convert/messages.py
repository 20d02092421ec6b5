"""What a worker and the process that isolates a part say to each other: lines of JSON, nothing that can hold code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from arcpipe import errors
from arcpipe.cloud import FailedSample
from arcpipe.config import FitSection, RunSection, Section, SourceSection, StoreSection
from arcpipe.convert.plan import PartPlan
from arcpipe.convert.work import Work
from arcpipe.errors import ArcpipeError
from arcpipe.sources import Sample
from arcpipe.store import PartRecord


def encode(message: Mapping[str, Any]) -> bytes:
    """One line. Names of files that are no UTF-8 (lone surrogates) survive as escapes."""
    return json.dumps(message, ensure_ascii=True).encode("ascii") + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(line)
    return message


def work_to_json(work: Work) -> dict[str, Any]:
    sections = {name: getattr(work, name).model_dump(mode="json") for name in ("source", "fit", "store", "run")}
    plain = ("channels", "seed", "threads", "device", "guarded", "memory")
    return {**sections, **{name: getattr(work, name) for name in plain}}


def work_from_json(values: Mapping[str, Any]) -> Work:
    kinds: dict[str, type[Section]] = {
        "source": SourceSection,
        "fit": FitSection,
        "store": StoreSection,
        "run": RunSection,
    }
    return Work(**{**values, **{name: kind.model_validate(values[name]) for name, kind in kinds.items()}})


def part_to_json(part: PartPlan) -> dict[str, Any]:
    return {"split": part.split, "part_id": part.part_id, "samples": [asdict(sample) for sample in part.samples]}


def part_from_json(values: Mapping[str, Any]) -> PartPlan:
    samples = tuple(
        Sample(
            **{
                **sample,
                "locator": tuple(sample["locator"]),
                "size": None if sample["size"] is None else tuple(sample["size"]),
            }
        )
        for sample in values["samples"]
    )
    return PartPlan(values["split"], values["part_id"], samples)


def record_to_json(record: PartRecord) -> dict[str, Any]:
    return asdict(record)


def record_from_json(values: Mapping[str, Any]) -> PartRecord:
    return PartRecord(**values)


def failure_to_json(failure: FailedSample) -> dict[str, Any]:
    return asdict(failure)


def failure_from_json(values: Mapping[str, Any]) -> FailedSample:
    return FailedSample(**values)


def error_to_json(error: ArcpipeError) -> dict[str, Any]:
    return {"kind": type(error).__name__, "what": error.what, "details": error.details, "fix": error.fix}


def error_from_json(values: Mapping[str, Any]) -> ArcpipeError:
    kind = getattr(errors, values["kind"], ArcpipeError)
    if not (isinstance(kind, type) and issubclass(kind, ArcpipeError)):
        kind = ArcpipeError
    return kind(values["what"], details=values["details"], fix=values["fix"])
