"""Finding one sample of a store by what a person would call it."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from arcpipe.cloud import FailedSample
from arcpipe.errors import SampleNotFoundError

Found = tuple[str, str, int]  # split, part, row
Repeats = dict[int, Found]


class NameIndex:
    """Every name of every sample of one store."""

    def __init__(self, store: object) -> None:
        self._store = store
        self._numbers: dict[tuple[str, int], Repeats] = {}
        self._paths: dict[str, dict[str, Repeats]] = {}  # path -> split -> its repeats
        self._failed: dict[str, dict[str, FailedSample]] = {}

    def add(self, split: str, part: str, sample_ids: NDArray[Any], repeats: NDArray[Any], paths: Sequence[str]) -> None:
        """Add the clouds of a part."""
        for row, (number, repeat, path) in enumerate(zip(sample_ids.tolist(), repeats.tolist(), paths, strict=True)):
            repeats_of = self._paths.setdefault(path, {}).setdefault(split, {})
            repeats_of[repeat] = (split, part, row)
            self._numbers[split, number] = repeats_of

    def add_failures(self, split: str, failures: Sequence[FailedSample]) -> None:
        for failure in failures:
            self._failed.setdefault(failure.path, {})[split] = failure
            self._failed.setdefault(str(failure.sample_id), {})[split] = failure

    def find(self, name: str) -> Found:
        """Look up a name, see `Store.find`."""
        wanted = name.strip().lstrip("./")
        repeats = self._repeats(wanted, name)
        repeat = re.fullmatch(r"(.+)#([0-9]{1,18})", wanted)
        if repeats is None and repeat is not None:  # a path may end in #3 too: it was looked for first
            wanted = repeat[1]
            repeats = self._repeats(wanted, name)
            if repeats is not None and int(repeat[2]) not in repeats:
                raise SampleNotFoundError(
                    f"{name} is not in {self._store}: there is no such repeat.",
                    details=[f"its repeats: {', '.join(map(str, sorted(repeats)))}"],
                    fix=[self._command(f"{wanted}#{max(repeats)}")],
                )
        if repeats is None:
            raise self._not_found(name, wanted)
        return repeats[int(repeat[2]) if repeat is not None and repeat[1] == wanted else min(repeats)]

    def _repeats(self, wanted: str, name: str) -> Repeats | None:
        """The clouds of the sample that `wanted` names; `name` is what was asked for."""
        pieces = wanted.split("/")
        # Longest first: "train/cats/1.jpg" is a path of split train before it is looked for as a bare path.
        for i in range(len(pieces)):
            split, rest = pieces[i], "/".join(pieces[i + 1 :])
            found = self._paths.get(rest, {}).get(split)
            if found is None and _is_number(rest):
                found = self._numbers.get((split, int(rest)))
            if found is not None:
                return found
            if split in self._failed.get(rest, {}):
                raise self._failure(name, self._failed[rest][split])
            if i == 0 and wanted in self._paths:
                places = self._paths[wanted]
                if len(places) > 1:
                    fix = [self._command(f"{split}/{wanted}") for split in sorted(places)]
                    raise SampleNotFoundError(f"{name} is the name of several samples.", fix=fix)
                return next(iter(places.values()))
            if i == 0 and wanted in self._failed:
                raise self._failure(name, next(iter(self._failed[wanted].values())))
        return None

    def _failure(self, name: str, failure: FailedSample) -> SampleNotFoundError:
        return SampleNotFoundError(
            f"{name} is not in {self._store}: it could not be converted.",
            details=[f"{failure.reason}: {failure.message}"],
            fix=["mend the image, then run the conversion again with --retry-failed"],
        )

    def _not_found(self, name: str, wanted: str) -> SampleNotFoundError:
        known = [f"{split}/{path}" for path, splits in self._paths.items() for split in splits]
        last = wanted.rpartition("/")[2]
        near = [name for name in known if last and name.rpartition("/")[2] == last][:3]
        if not near and len(known) < 20_000:
            near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.7)
        split, _, number = wanted.rpartition("/")
        numbers = sorted(i for where, i in self._numbers if where == split) if _is_number(number) else []
        if numbers:
            near = [f"{split}/{min(numbers, key=lambda i: abs(i - int(number)))}"]
        return SampleNotFoundError(
            f"{self._store} has no sample {name or repr(name)}.",
            details=[f"the numbers of {split} lie between {numbers[0]} and {numbers[-1]}"] if numbers else [],
            fix=[self._command(name) for name in near or known[:1]],
        )

    def _command(self, name: str) -> str:
        return shlex.join(["arcpipe", "inspect", str(self._store), name])


def _is_number(text: str) -> bool:
    """Whether `text` may be the number of a sample: Python refuses to read thousands of digits."""
    return text.isdecimal() and len(text) < 19
