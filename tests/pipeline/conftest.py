"""A folder with pictures and pipeline files; the real converter and trainer, in this process and small."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

import arcpipe.convert
from arcpipe.convert import run_convert
from arcpipe.pipeline import read_pipeline
from arcpipe.pipeline.plan import plan_jobs
from tests.pictures import in_process, make_pictures

SHARED = """
seeds = [0, 1]
table = { title = "Pushed clouds", thesis = "thesis table 6" }
[convert]
source = "pictures"
store = { part_samples = 6 }
[convert.fit]
recipe = "thesis"
steps = 8
latents = 0.2
latent_dim = 4
pretrain_images = 4
pretrain_steps = 8
[train]
threads = 1
device = "cpu"
model = { channels = [8], depths = [1], heads = [2], patch = 8 }
optim = { epochs = 1, batch_size = 8 }
"""

ARMS = """
[[evaluate]]
name = "intact"
[[evaluate]]
name = "pushed"
push = 2
[[arm]]
name = "none"
thesis = { intact = 79.32, pushed = 17.39 }
[[arm]]
name = "push"
train.augment.apply = ["push"]
thesis = { intact = 51.79, pushed = 69.06 }
"""


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_pictures(folder / "pictures", per_class=4)
    return folder


@pytest.fixture
def data(picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_figures: None) -> Iterator[Path]:
    """The data folder; the working folder is empty, and conversions need no other processes."""
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(1) as executor:
        monkeypatch.setattr(arcpipe.convert, "run_convert", partial(run_convert, cluster=in_process(executor)))
        yield picture_folder


@pytest.fixture(scope="session")
def finished_stores(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `store` after the conversion that the shared settings ask for."""
    folder = tmp_path_factory.mktemp("converted")
    file = folder / "try.toml"
    file.write_text(SHARED + ARMS)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as executor:
        patch.chdir(folder)
        run_convert(plan_jobs(read_pipeline(file, picture_folder))[0].convert, cluster=in_process(executor))
    return folder / "store"


@pytest.fixture
def converted(data: Path, finished_stores: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As `data`, and the working folder has the store of the shared settings already. Tables leave empty pictures."""
    shutil.copytree(finished_stores, "store")
    monkeypatch.setattr("arcpipe.pipeline.run.draw_results", lambda path, *_: path.touch())
    return data


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a pipeline file: `write(ARMS)` puts the shared settings before it."""

    def file(text: str, shared: str = SHARED, name: str = "try.toml") -> Path:
        (tmp_path / name).write_text(shared + text)
        return tmp_path / name

    return file
