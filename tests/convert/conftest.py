"""Fixtures of the conversion's tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arcpipe.cluster import Cluster
from arcpipe.config import ConvertConfig
from arcpipe.convert import run_convert
from arcpipe.convert.report import ConvertReport
from tests.pictures import Finished, few_parts, in_process, make_pictures


def finish(source: Path, store: Path) -> Finished:
    with ThreadPoolExecutor(1) as executor:
        report = run_convert(few_parts(source, store, run={"max_failed": 0}), cluster=in_process(executor))
    assert isinstance(report, ConvertReport)
    return Finished(source, store, report)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The pictures as `few_parts` converts them."""
    return finish(pictures, tmp_path_factory.mktemp("finished") / "a.zarr")


@pytest.fixture(scope="session")
def with_broken_images(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The same with two images that cannot be read, one of which was a good one of the same size."""
    folder = tmp_path_factory.mktemp("broken")
    ants = make_pictures(folder / "pictures") / "train" / "ants"
    (ants / "bad.png").write_bytes(b"this is no picture")
    (ants / "0.png").write_bytes((ants / "0.png").read_bytes()[:-30] + bytes(30))
    return finish(folder / "pictures", folder / "a.zarr")


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> ConvertConfig:
    """Settings of a conversion that is finished, its store a copy which a test may change."""
    return few_parts(finished.source, shutil.copytree(finished.store, tmp_path / "a.zarr"))


@pytest.fixture
def here() -> Iterator[Cluster]:
    """Work in this process, one task at a time."""
    with ThreadPoolExecutor(1) as executor:
        yield in_process(executor)
