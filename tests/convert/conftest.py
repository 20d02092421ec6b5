"""Fixtures of the conversion's tests."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arcpipe.cluster import Cluster
from tests.pictures import in_process, make_pictures


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def here() -> Iterator[Cluster]:
    """Work in this process, one task at a time."""
    with ThreadPoolExecutor(1) as executor:
        yield in_process(executor)
