"""What the attributes of root and parts must look like, checked before anything is done with them.

A seal tells that a document is as it was written, not that it makes sense: anybody can seal one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

MAX_PARTS = 10**7
MAX_COUNT = 2**48
"""More samples, points or pixels than any disk holds: arithmetic with such numbers cannot overflow."""
MAX_LATENT_DIM, MAX_NEIGHBOURS = 2**16, 2**10
MAX_STEP = 1e30
"""Of latents: 127 of them fit into a float32."""

Rule = tuple[str, Callable[[Any], bool]]


def root_problem(root: Mapping[str, Any]) -> str | None:
    """Say what is wrong with a root's attributes, or None."""
    for split, numbers in root["splits"].items():
        if not is_split_name(split) or not _counts(numbers, "samples", "parts") or numbers["parts"] > MAX_PARTS:
            return f"split {split!r}: {numbers}"
    about = root["decoder"]
    if not (
        _counts(about, "n_neighbours", "latent_dim")
        and 1 <= about["n_neighbours"] <= MAX_NEIGHBOURS
        and 1 <= about["latent_dim"] <= MAX_LATENT_DIM
        and isinstance(about.get("sha256"), str)
    ):
        return f"decoder: {about}"
    if not _are_steps(root.get("latent_steps")) or root.get("bits", 8) not in range(2, 9):
        return f"bits {root.get('bits')} or latent_steps"
    if not all(isinstance(name, str) for name in root["classes"]):
        return "a class without a name"
    if root["channels"] not in (1, 3):
        return f"channels: {root['channels']}"
    if root["complete"] and not _totals(root["totals"].get("splits"), root["splits"]):
        return "totals that do not name the splits"
    if not (root.get("replaces") is None or is_file_name(root["replaces"])):
        return f"replaces {root['replaces']!r}"
    return None


def part_problem(own: Mapping[str, Any]) -> str | None:
    """Say what is wrong with a part's attributes, or None."""
    sums = own["latent_sums"]
    rules: list[Rule] = [
        ("samples, clouds, points, pixels", lambda o: _counts(o, "samples", "clouds", "points", "pixels")),
        ("psnr", lambda o: _is_number(o["psnr"].get("sum")) and _counts(o["psnr"], "count")),
        ("latent_sums", lambda _: _counts(sums, "count") and _numbers(sums.get("sum"), sums.get("sum_squares"))),
        ("failures", lambda o: all(map(_is_failure, o["failures"]))),
        ("neighbours_coding", _coding),
        ("positions_coding", lambda o: o.get("positions_coding", "plain") in ("plain", "gaps")),
        ("latent_steps", lambda o: _are_steps(o.get("latent_steps"))),
        ("provenance", lambda o: _is_seconds(o["provenance"].get("seconds", 0.0))),
    ]
    return next((f"attribute {name!r} cannot be understood" for name, holds in rules if not holds(own)), None)


def files_problem(files: Mapping[str, Any]) -> str | None:
    """Say what is wrong with the recorded files of a group, or None: names stay inside it."""
    for name, record in files.items():
        inside = all(map(is_file_name, name.split("/"))) and name != "zarr.json"
        if not inside or not _counts(record, "bytes") or not isinstance(record.get("sha256"), str):
            return f"attribute 'files': {name!r}: {record}"
    return None


def is_split_name(name: str) -> bool:
    """Whether a split may have this name: one folder, not hidden, not the decoder's."""
    return is_file_name(name) and name != "decoder" and not name.startswith(".")


def is_file_name(name: Any) -> bool:
    """Whether this names something inside a folder, and not the folder itself or what is above it."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\0"} & set(name)


def _counts(numbers: Any, *names: str) -> bool:
    return isinstance(numbers, Mapping) and all(
        type(numbers.get(name)) is int and 0 <= numbers[name] <= MAX_COUNT for name in names
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= 1e300


def _numbers(*lists: Any) -> bool:
    sizes = {len(values) for values in lists if isinstance(values, list) and all(map(_is_number, values))}
    return len(sizes) == 1 and all(isinstance(values, list) for values in lists)


def _coding(own: Mapping[str, Any]) -> bool:
    if own["neighbours_coding"] == "arrivals":
        return _counts(own, "n_neighbours") and 1 <= own["n_neighbours"] <= MAX_NEIGHBOURS
    return own["neighbours_coding"] in (None, "plain", "sets")


def _are_steps(steps: Any) -> bool:
    return steps is None or (_numbers(steps) and all(0 <= step <= MAX_STEP for step in steps))


def _is_failure(record: Any) -> bool:
    return (
        _counts(record, "sample_id")
        and all(isinstance(record.get(name), str) for name in ("path", "reason"))
        and isinstance(record.get("message", ""), str)
    )


def _is_seconds(seconds: Any) -> bool:
    """One number, or one for each stage with their total."""
    return all(map(_is_number, seconds.values())) if isinstance(seconds, Mapping) else _is_number(seconds)


def _totals(totals: Any, splits: Mapping[str, Any]) -> bool:
    names = ("samples", "clouds", "failed", "points", "pixels", "bytes")
    return isinstance(totals, Mapping) and all(_counts(totals.get(split), *names) for split in splits)
