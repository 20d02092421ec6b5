"""What a check says: a state, what was found, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from arcpipe.progress import counted

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line. `advice` is empty where the state is `ok`."""

    check: str
    state: State
    found: str
    advice: str = ""


def ok(check: str, found: str) -> Finding:
    return Finding(check, "ok", found)


def warning(check: str, found: str, advice: str) -> Finding:
    """Something works, but slower or less safely than it could."""
    return Finding(check, "warning", found, advice)


def problem(check: str, found: str, advice: str) -> Finding:
    """A conversion or training would fail."""
    return Finding(check, "problem", found, advice)


@dataclass(frozen=True)
class DoctorReport:
    """All findings, in the order of the checks."""

    findings: tuple[Finding, ...]
    seconds: float

    @property
    def problems(self) -> int:
        return sum(finding.state == "problem" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": not self.problems,
            "problems": self.problems,
            "warnings": sum(finding.state == "warning" for finding in self.findings),
            "findings": [asdict(finding) for finding in self.findings],
            "seconds": round(self.seconds, 1),
        }

    def lines(self) -> list[str]:
        width = max(len(finding.check) for finding in self.findings)
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.state:8} {finding.check:{width}}  {finding.found}")
            if finding.advice:
                lines.append(f"{'':8} {'':{width}}  -> {finding.advice}")
        counts = self.as_dict()
        said = counted(counts["problems"], "problem", "problems"), counted(counts["warnings"], "warning", "warnings")
        lines.append(f"{', '.join(said)}, in {self.seconds:.0f} s")
        return lines


def guarded(check: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a check; one that breaks is a finding too, so that the others still run."""
    try:
        return list(look())
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        return [problem(check, f"{type(error).__name__}: {text[0]}", "this check itself failed; see the message")]
