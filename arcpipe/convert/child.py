"""The processes in which a part is tried whose workers died: they say what they begin, so that their end names it.

`isolate` starts one in a worker. It loads the libraries, which takes seconds, and then forks for every request (a line
on its standard input), so that each attempt begins in a clean process at once; it has no threads of its own until
then. On its standard output an attempt says where it is, and the first process how the attempt ended. Nothing is
unpickled. When the worker is gone, its input closes and both end.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import numpy as np

from arcpipe.cloud import FailedSample
from arcpipe.config import ConvertConfig, Section
from arcpipe.convert.plan import PartPlan
from arcpipe.convert.task import Group, Image, Making, open_images, read_sample
from arcpipe.convert.work import Work, lift_memory_limit, limit_memory, prepare, within
from arcpipe.errors import ArcpipeError
from arcpipe.sources import Sample
from arcpipe.store import open_writer

if TYPE_CHECKING:
    from arcpipe.fitter import Fitter

LOOK_EVERY_S = 0.05
SUSPECT_PIXELS = 2**18
"""Smaller groups than a worker's: what dies with a group is fitted again, and its limit of time is shorter."""


def encode(message: Mapping[str, Any]) -> bytes:
    """One line of JSON. Settings and records are mappings of their fields; names of files that are no UTF-8 survive."""
    return json.dumps(message, ensure_ascii=True, default=_plain).encode("ascii") + b"\n"


def _plain(value: Any) -> dict[str, Any]:
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _read_work(values: Mapping[str, Any]) -> Work:
    return Work(**{**values, "config": ConvertConfig.model_validate(values["config"])})


def _read_part(values: Mapping[str, Any]) -> PartPlan:
    samples = (
        Sample(**{**each, "locator": tuple(each["locator"]), "size": each["size"] and tuple(each["size"])})
        for each in values["samples"]
    )
    return PartPlan(values["split"], values["part_id"], tuple(samples))


def main() -> None:
    """Fork for every request, see `isolate`."""

    says = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no message
    asks = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)  # unbuffered: `select` must see what is there
    while line := asks.readline():
        _load(_read_work(json.loads(line)["work"]))
        pid = os.fork()
        if pid == 0:
            _attempt(line, says)
        while not (ended := os.wait4(pid, os.WNOHANG))[0]:
            if select.select([asks], [], [], LOOK_EVERY_S)[0]:  # nothing is asked before the answer: it is the end
                os.kill(pid, signal.SIGKILL)
                os._exit(1)
        code = os.waitstatus_to_exitcode(ended[1])
        says.write(encode({"ended": code, "peak_bytes": ended[2].ru_maxrss * 1024}))


def _load(work: Work) -> None:
    """Import what the attempt will need: once for all of them, and without starting a thread."""
    import arcpipe.fitter
    from arcpipe.sources.floats import fill_floats

    fill_floats(np.zeros(1, np.uint8), np.empty(1, np.float32))  # Numba's first call imports for half a second
    if work.needs_torch:
        import arcpipe.arc.factorised  # noqa: F401  (with torch)


def _attempt(line: bytes, says: BinaryIO) -> NoReturn:
    """The life of a forked process; where it ends otherwise, that is what is to be found out."""
    code = 1
    try:
        _serve(json.loads(line), says)
        code = 0
    except ArcpipeError as error:
        says.write(encode({"error": error.told}))
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _serve(request: Mapping[str, Any], says: BinaryIO) -> None:
    work, part = _read_work(request["work"]), _read_part(request["part"])
    known = {int(row): FailedSample(**failure) for row, failure in request["failures"].items()}
    device = prepare(work)
    memory = request["memory_bytes"] if device == "cpu" else None  # CUDA's address space is not its memory
    if request["writer"] is None:
        limit_memory(memory)
        _read_all(work, part, known, says)
        return
    making = Making(work, part, open_writer(request["writer"]))
    making.failures += known.values()
    _warm_up(making.fitter)
    limit_memory(memory)
    _convert(making, request["first"], known, says)


def _warm_up(fitter: Fitter) -> None:
    """Load and compile everything, so that the limit of memory counts images and not libraries."""
    image = np.zeros((8, 8, fitter.decoder.channels), np.float32)
    fit = fitter.settings.model_copy(update={"steps": 1, "latents": float(fitter.settings.neighbours)})
    replace(fitter, settings=fit).clouds([image], [0])


def _read_all(work: Work, part: PartPlan, known: Mapping[int, FailedSample], says: BinaryIO) -> None:
    """Read every image and say so; for pretraining, whose samples are in no part."""
    source = open_images(work)
    for row, sample in enumerate(part.samples):
        if row not in known:
            says.write(encode({"stage": "read", "rows": [row]}))
            try:
                read_sample(source, sample, work)
            except (ArcpipeError, OSError):
                raise
            except Exception:  # ends no process: pretraining will meet it, and say so
                continue
    says.write(encode({"record": None}))


def _convert(making: Making, first: Sequence[Sequence[int]], known: Mapping[int, FailedSample], says: BinaryIO) -> None:
    """Convert and commit the part without the samples that are `known` to fail; the suspects come `first`."""
    part = making.part
    for rows in _groups(part, first, known, making.work.fit.clouds_an_image):
        group: list[tuple[int, Sample, Image]] = []
        for row in rows:
            says.write(encode({"stage": "read", "rows": [row]}))
            group += [(row, *picture) for picture in _read(making, part.samples[row])]
        _fit(making, group, says)
    says.write(encode({"stage": "commit", "rows": []}))
    # No sample is to be found out here, and the threads that write map far more than they use.
    lift_memory_limit()
    says.write(encode({"record": making.commit()}))


def _read(making: Making, sample: Sample) -> Group:
    """Read one image, if it can be read."""
    try:
        return making.read([sample])
    except (ArcpipeError, OSError):
        raise
    except Exception as error:
        making.failures.append(_unforeseen(sample, error, "read"))
        return []


def _unforeseen(sample: Sample, error: Exception, done: str) -> FailedSample:
    what = f"{sample.key} could not be {done}: {type(error).__name__}: {error}"
    return FailedSample(sample.sample_id, sample.path, "error", what)


def _fit(making: Making, group: Sequence[tuple[int, Sample, Image]], says: BinaryIO) -> None:
    """Fit a group; where that raises something, each of its images by itself: then it is known which one it was."""
    if not group:
        return
    says.write(encode({"stage": "fit", "rows": [row for row, _, _ in group]}))
    pictures = [(sample, image) for _, sample, image in group]
    try:
        with within(making.work.fit_limit_s([sample for sample, _ in pictures])):
            making.fit(pictures)
    except (ArcpipeError, OSError):
        raise
    except Exception as error:
        if len(group) == 1:
            making.failures.append(_unforeseen(pictures[0][0], error, "fitted"))
            return
        for one in group:
            _fit(making, [one], says)


def _groups(
    part: PartPlan, first: Sequence[Sequence[int]], known: Mapping[int, FailedSample], repeats: int
) -> Iterator[Sequence[int]]:
    """Rows of the part in groups: the suspects as they are given, then all others."""
    yield from first
    seen = known.keys() | {row for rows in first for row in rows}
    group: list[int] = []
    n_pixels = 0
    for row, sample in enumerate(part.samples):
        if row in seen:
            continue
        area = math.prod(sample.size or ()) * repeats
        if group and n_pixels + area > SUSPECT_PIXELS:
            yield group
            group, n_pixels = [], 0
        group.append(row)
        n_pixels += area
    if group:
        yield group
