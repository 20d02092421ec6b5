"""Python, arcpipe's requirements and extras, and the kernel that a fit would use."""

from __future__ import annotations

import platform
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from arcpipe import __version__
from arcpipe.doctor.finding import Finding, ok, problem, warning


def versions() -> Iterator[Finding]:
    """Compare what is installed with what arcpipe asks for."""
    from packaging.requirements import Requirement

    found, wrong = [f"python {platform.python_version()}", f"arcpipe {__version__}"], []
    for line in _requirements():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _installed(requirement.name)
        found.append(f"{requirement.name} {installed or 'absent'}")
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name}{requirement.specifier}")
    if wrong:
        yield problem("versions", ", ".join(found), "pip install " + " ".join(f"'{line}'" for line in wrong))
    else:
        yield ok("versions", ", ".join(found))


def extras() -> Iterator[Finding]:
    """Which optional packages are there; none of them is missed."""
    from packaging.requirements import Requirement

    present, absent = defaultdict(list), defaultdict(list)
    for line in _requirements():
        requirement = Requirement(line)
        for extra in metadata.metadata("arcpipe").get_all("Provides-Extra") or []:
            needed = requirement.marker is not None and requirement.marker.evaluate({"extra": extra})
            if not needed or requirement.name == "arcpipe":
                continue
            installed = _installed(requirement.name)
            if installed is None:
                absent[extra].append(requirement.name)
            else:
                present[extra].append(f"{requirement.name} {installed}")
    texts = [f"[{extra}] {', '.join(names)}" for extra, names in present.items()]
    texts += [f"[{extra}] without {', '.join(names)}" for extra, names in absent.items()]
    yield ok("extras", "; ".join(texts) or "none")


def kernel() -> Iterator[Finding]:
    """Whether the compiled code that fits images can be kept for the next process."""
    from arcpipe.arc.kernels.fused import multiply_rows

    place = getattr(multiply_rows, "stats").cache_path  # noqa: B009  # types know it as the function it was
    if place is not None and _writable(Path(place)):
        yield ok("kernel", f"numba, its compiled code is kept in {place}")
    else:
        yield warning(
            "kernel",
            f"numba, but its compiled code cannot be kept{f' in {place}' if place else ''}",
            "every worker compiles for itself, which takes up to a minute: export NUMBA_CACHE_DIR=FOLDER",
        )


def _requirements() -> list[str]:
    try:
        return metadata.requires("arcpipe") or []
    except metadata.PackageNotFoundError:
        return []


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
