"""The compose file's commands, run here: a scheduler and workers as processes of their own, on loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from arcpipe.convert import run_convert
from tests.far_cluster import OPTIONS, SETTINGS, FarCluster, eventually, parts
from tests.pictures import contents, in_process, make_pictures, settings


@pytest.fixture
def far(tmp_path: Path) -> Iterator[FarCluster]:
    with ExitStack() as stack:
        yield FarCluster(tmp_path, stack)


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A folder of pictures, and the store that one process makes of it."""
    folder = tmp_path_factory.mktemp("near")
    pictures = make_pictures(folder / "pictures", per_class=2)
    with ThreadPoolExecutor(1) as executor:
        run_convert(settings(pictures, folder / "near.zarr", **SETTINGS), cluster=in_process(executor))
    return pictures, contents(folder / "near.zarr")


@pytest.mark.timeout(600)
def test_workers_come_and_go_and_one_is_of_other_versions(
    far: FarCluster, near: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    pictures, expected = near
    store, other = tmp_path / "far.zarr", tmp_path / "other"
    (other / "numba-0.1.dist-info").mkdir(parents=True)
    (other / "numba-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: numba\nVersion: 0.1\n")
    command = [sys.executable, "-m", "arcpipe", "convert", pictures, "--out", store, "--scheduler", far.address]
    said = tmp_path / "said"
    with said.open("w") as told, subprocess.Popen([*command, *OPTIONS], cwd=tmp_path, stderr=told) as converting:
        first = far.worker("127.0.0.1")  # the client came first, and waits
        far.worker("127.0.0.3", PYTHONPATH=f"{other}:{os.environ.get('PYTHONPATH', '')}")
        eventually(lambda: parts(store) >= 1, "the first part", converting)
        eventually(lambda: "gets no work: it runs other versions" in said.read_text(), "a refusal", converting)
        far.worker("127.0.0.2")
        first.kill()  # the nanny; its worker follows
        assert converting.wait(timeout=300) == 0, said.read_text()
    errors = said.read_text()
    assert "127.0.0.3" in errors
    assert re.search(r"^numba +\S+ +0\.1$", errors, re.MULTILINE)
    assert contents(store) == expected
