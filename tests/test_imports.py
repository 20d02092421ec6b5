"""Arrows between rooms point down only, and heavy packages stay in the rooms that need them."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "arcpipe"

# Lower number = lower floor. A module may import lower floors, and its own room.
FLOOR = {
    "__main__": 7,
    "cli": 6,
    "pipeline": 5,
    "bench": 5,
    "convert": 4,
    "doctor": 4,
    "train": 4,
    "inspect": 4,
    "fitter": 3,
    "stream": 3,
    "sources": 2,
    "store": 2,
    "models": 2,
    "cluster": 2,
    "baselines": 2,
    "arc": 1,
    "siren": 0.5,
    "cloud": 0,
    "config": 0,
    "errors": 0,
    "storage": 0,
    "streams": 0,
    "settings": 0,
    "paths": 0,
    "seeds": 0,
    "compiled": 0,
    "vectors": 0,
    "options": 0,
    "progress": 0,
    "threads": 0,
    "devices": 0,
    "machine": 0,
    "interrupts": 0,
    "rooms": 0,
    "files": 0,
    "__init__": 8,
}
# Imports of the ground floor point leftwards only.
GROUND_FLOOR_ORDER = ["rooms", "errors", "files", "paths", "storage", "seeds", "options", "progress", "streams"]
GROUND_FLOOR_ORDER += ["machine", "threads", "devices", "interrupts", "cloud", "config", "settings"]

ONLY_IN = {
    "dask": {"cluster"},
    "distributed": {"cluster"},
    "zarr": {"store", "storage"},
    "typer": {"cli"},
    "pickle": set(),
    "obstore": {"storage"},
    "PIL": {"sources", "inspect"},
}
NEVER_IN = {"store": {"torch"}, "arc": {"zarr", "dask", "typer"}, "models": {"zarr", "dask", "typer"}}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@cache
def imported(path: Path, *, typing: bool = True) -> set[str]:
    """Every module that a file imports, anywhere in it; and what it imports from one, where that may be a module."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    for guard in guards if not typing else []:
        guard.body = [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} uses a relative import"
            if node.module == "arcpipe":
                names |= {f"arcpipe.{alias.name}" for alias in node.names}
            else:
                names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


FILES = sorted(PACKAGE.rglob("*.py"))


def test_arrows_point_down() -> None:
    wrong = []
    for path in FILES:
        here = room(path)
        assert here in FLOOR, f"{here} is a new room: give it a floor"
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("arcpipe.")}
        # What is no room is a name of the package itself: `from arcpipe import __version__`.
        wrong += [
            f"{name_of(path)} imports {there}" for there in rooms & FLOOR.keys() - {here} if not below(there, here)
        ]
    assert wrong == []


def below(there: str, here: str) -> bool:
    """Whether `here` may import `there`."""
    if FLOOR[here] == FLOOR[there] == 0:
        return GROUND_FLOOR_ORDER.index(there) < GROUND_FLOOR_ORDER.index(here)
    return FLOOR[there] < FLOOR[here]


def test_no_imports_go_in_circles() -> None:
    """Also those inside of functions; the face and what only a type checker reads are not looked at."""
    names = {".".join(("arcpipe", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    known = set(names) - {"arcpipe"}
    needs = {name: imported(names[name], typing=False) & known for name in known}
    # `from arcpipe.train import checkpoint` is about a module of the package, not about the package.
    needs = {
        name: {own for own in of if not any(other.startswith(f"{own}.") for other in of)} for name, of in needs.items()
    }
    tuple(TopologicalSorter(needs).static_order())  # raises CycleError, which names the circle


def test_packages_stay_in_their_rooms() -> None:
    wrong = []
    for path in FILES:
        packages, here = {name.split(".")[0] for name in imported(path)}, room(path)
        strange = {name for name in packages if here not in ONLY_IN.get(name, {here})} | packages & NEVER_IN.get(
            here, set()
        )
        wrong += [f"{name_of(path)} imports {package}" for package in strange]
    assert wrong == []


def test_nobody_asks_which_kind_of_storage_it_is() -> None:
    # A part is read back from the local folder that it was written in, wherever it goes.
    allowed = {"store/writer.py": {"LocalStorage"}}
    kinds = {"BucketStorage", "LocalStorage"}
    asking = {name_of(path): {name.split(".")[-1] for name in imported(path)} & kinds for path in FILES}
    assert [
        name for name, asked in asking.items() if asked - allowed.get(name, set()) and room(PACKAGE / name) != "storage"
    ] == []


def test_help_imports_neither_torch_nor_dask() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom arcpipe.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print(sorted({'torch', 'dask', 'distributed', 'zarr', 'numpy', 'numba'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
