"""Makes `store_samples` importable (pytest's importlib mode puts no folder on the path), and syncs nothing.

`place` is where one store can be made, once in a folder and once in a bucket: what holds for both asks for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arcpipe.storage import Storage

sys.path.insert(0, str(Path(__file__).resolve().parent))


Kill = Callable[..., int]


@pytest.fixture(scope="module")
def kill_a_writer() -> Iterator[Kill]:
    """Start a writer that kills itself: `kill_a_writer(path, "writer.write_file", 1, "before")` is its exit code."""
    here = Path(__file__).resolve()
    command = [sys.executable, str(here.with_name("killed_writer.py"))]
    path = os.pathsep.join([str(here.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def kill(place: Storage, where: str, call: int, moment: str) -> int:
            environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
            asked = {"path": str(place), "where": where, "call": call, "moment": moment, "environment": environment}
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield kill
        process.stdin.close()


@pytest.fixture(autouse=True, scope="session")
def nothing_is_synced() -> object:
    """These tests make thousands of small files; one of them checks what is synced, and when."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A bucket is slow: of the parameters of a test it meets the first ones among the fast tests, all among all."""
    met: set[str] = set()
    for item in items:
        call = getattr(item, "callspec", None)
        if call is not None and call.params.get("place") == "bucket":
            name = item.nodeid.partition("[")[0]
            if name in met:
                item.add_marker(pytest.mark.slow)
            met.add(name)


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Where a store can be made, alone in its surroundings."""
    from store_samples import place_of

    return place_of(request.param, request, tmp_path)
