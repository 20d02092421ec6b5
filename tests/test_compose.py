"""The compose file's commands, run here: a scheduler and workers as processes of their own, on loopback."""

from __future__ import annotations

import json
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
from tests.far_cluster import FarCluster, eventually, parts
from tests.pictures import contents, in_process, make_pictures, settings

# Parts of one image, each of which is waited for (`faults`): there is time to come and go.
ONE_EACH = {"store": {"part_samples": 1}}
OPTIONS = ["--latents", "0.2", "--latent-dim", "4", "--set", "store.part_samples=1"]
OPTIONS += ["--set", "fit.pretrain_images=4", "--set", "fit.pretrain_steps=8"]
FAULTS = Path(__file__).with_name("convert") / "faults"


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
        run_convert(settings(pictures, folder / "near.zarr", **ONE_EACH), cluster=in_process(executor))
    return pictures, contents(folder / "near.zarr")


@pytest.mark.timeout(600)
def test_workers_come_and_go_and_one_is_of_other_versions(
    far: FarCluster, near: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    pictures, expected = near
    store, other = tmp_path / "far.zarr", tmp_path / "other"
    (other / "numba-0.1.dist-info").mkdir(parents=True)
    (other / "numba-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: numba\nVersion: 0.1\n")
    plan = tmp_path / "plan.json"
    names = [file.relative_to(pictures).as_posix() for file in pictures.glob("*/*/*")]
    plan.write_text(json.dumps({name: {"does": "wait"} for name in names}))
    found = [str(FAULTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    slowly = {"ARCPIPE_TEST_FAULTS": str(plan), "PYTHONPATH": os.pathsep.join(found)}
    differs = {**slowly, "PYTHONPATH": os.pathsep.join([str(other), *found])}
    command = [sys.executable, "-m", "arcpipe", "convert", pictures, "--out", store, "--scheduler", far.address]
    said = tmp_path / "said"
    with said.open("w") as told, subprocess.Popen([*command, *OPTIONS], cwd=tmp_path, stderr=told) as converting:
        first = far.worker("127.0.0.1", **slowly)  # the client came first, and waits
        far.worker("127.0.0.3", **differs)
        eventually(lambda: parts(store) >= 1, "the first part", converting)
        eventually(lambda: "gets no work: it runs other versions" in said.read_text(), "a refusal", converting)
        far.worker("127.0.0.2", **slowly)
        first.kill()  # the nanny; its worker follows
        assert converting.wait(timeout=300) == 0, said.read_text()
    errors = said.read_text()
    assert "127.0.0.3" in errors
    assert re.search(r"^numba +\S+ +0\.1$", errors, re.MULTILINE)
    assert contents(store) == expected
