"""What `verify` found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from arcpipe.storage import Storage

Kind = Literal["damage", "stranger", "totals"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: in which file or array of the store (relative to it), and what.

    `kind`: `damage` to what was written, a `stranger` that does not belong, or `totals` of the root that are not
    those of its parts.
    """

    where: str
    what: str
    kind: Kind = "damage"

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class VerifyReport:
    """What `verify` checked and found.

    `complete`: whether the store says it is finished. `content`: the hash of all that was converted (`content_hash`),
    None where there are problems or the store is unfinished.
    """

    storage: Storage
    complete: bool = False
    parts: int = 0
    arrays: int = 0
    chunks: int = 0
    files: int = 0
    bytes: int = 0
    clouds: int = 0
    failed: int = 0
    missing_parts: int = 0
    problems: list[Problem] = field(default_factory=list)
    content: str | None = None

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, where: str, what: str, kind: Kind = "damage") -> None:
        self.problems.append(Problem(where, what, kind))
