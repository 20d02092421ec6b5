"""What was not checked is not called sound, and what is called finished was looked at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from arcpipe.cli import app
from arcpipe.cluster import Cluster
from arcpipe.config import SourceSection, TrainConfig
from arcpipe.convert import run_convert
from arcpipe.convert.task import read_sample
from arcpipe.convert.work import Work
from arcpipe.errors import CheckpointError, DamagedStoreError, TooManyFailuresError
from arcpipe.sources import open_source
from arcpipe.storage import storage_at
from arcpipe.store import open_store
from arcpipe.store.root import read_root
from arcpipe.store.schema import group_document
from arcpipe.train import run_train
from arcpipe.train.predict import Prediction, PredictReport
from tests.pictures import in_process, make_pictures, settings

MODEL = {"channels": (8,), "depths": (1,), "heads": (1,), "patch": 8}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `pictures` and the store `a.zarr` of some of them."""
    folder = tmp_path_factory.mktemp("soundness")
    make_pictures(folder / "pictures")
    with ThreadPoolExecutor(1) as executor:
        cluster: Cluster = in_process(executor)
        source = {"source": str(folder / "pictures"), "limit": 9}
        run_convert(settings(folder / "pictures", folder / "a.zarr", source=source), cluster=cluster)
    return folder


@pytest.fixture
def away(converted: Path) -> Iterator[Path]:
    """A place for images that are taken away; they come back."""
    place = converted / "away"
    place.mkdir()
    yield place
    for file in place.iterdir():
        file.rename(converted / file.name.replace("~", "/"))
    place.rmdir()


def verify(store: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["verify", str(store), *options])
    return done.exit_code, done.output


def test_the_images_of_a_limited_store_are_found_by_their_path(converted: Path, away: Path) -> None:
    """`--limit` chooses anew where one image is missing: of the others, hardly one was found again."""
    (converted / "pictures/train/ants/0.png").rename(away / "pictures~train~ants~0.png")
    done = CliRunner().invoke(app, ["verify", str(converted / "a.zarr"), "--decode", "100", "--json"])
    report = json.loads(done.stdout)
    assert done.exit_code == 0
    assert report["checked"]["decoded samples"] >= report["checked"]["clouds"] - 1
    assert report["checked"]["not checked"] <= 1


def test_a_comparison_with_nothing_is_a_failure(converted: Path, away: Path) -> None:
    (converted / "pictures").rename(away / "pictures")
    code, told = verify(converted / "a.zarr", "--decode", "3")
    assert code == 1
    assert "--decode has compared nothing" in told
    assert verify(converted / "a.zarr")[0] == 0


def test_repair_is_not_advised_where_it_cannot_help(store_path: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(store_path, tmp_path / "a.zarr"))
    root = bytearray((store / "zarr.json").read_bytes())
    root[len(root) // 2] ^= 1
    (store / "zarr.json").write_bytes(root)
    code, told = verify(store)
    assert code == 6
    assert "--repair" not in told
    assert "from a copy of the store" in told


def test_a_label_without_a_class_is_damage(store_path: Path, tmp_path: Path) -> None:
    """A root that was sealed again with fewer classes ended a training with an IndexError."""
    store = Path(shutil.copytree(store_path, tmp_path / "a.zarr"))
    root = read_root(storage_at(store))
    (store / "zarr.json").write_bytes(group_document({**root, "classes": root["classes"][:1]}))
    with pytest.raises(DamagedStoreError, match="labels"):
        open_store(store).labels("train")
    assert CliRunner().invoke(app, ["train", "--store", str(store), "--out", str(tmp_path / "run")]).exit_code == 6


def test_the_split_that_is_trained_on_is_not_reported(store_path: Path, tmp_path: Path) -> None:
    command = ["train", "--store", str(store_path), "--out", str(tmp_path / "run"), "--test-split", "train"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "--validation 0.1" in done.output
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_looked_at_before_it_is_called_so(store_path: Path, tmp_path: Path) -> None:
    values = {"store": store_path, "out": tmp_path / "run", "threads": 1, "model": MODEL, "optim": {"epochs": 1}}
    config = TrainConfig.model_validate(values)
    run_train(config, quiet=True)
    assert run_train(config, quiet=True).before
    (weights,) = (tmp_path / "run/checkpoint").glob("step-*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-3:] = bytes(byte ^ 0xFF for byte in data[-3:])
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        run_train(config, quiet=True)


def test_an_image_that_is_replaced_while_it_is_converted_is_a_record(tmp_path: Path) -> None:
    config = settings(make_pictures(tmp_path / "pictures"), tmp_path / "a.zarr")
    source = open_source(config.source)
    sample = source.inventory().samples["train"][0]
    work = Work(config, channels=3, threads=1, device="cpu")
    assert read_sample(source, sample, work)[1] is None
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "pictures" / "train" / sample.path)
    image, failure = read_sample(open_source(SourceSection(source=config.source.source)), sample, work)
    assert image is None
    assert failure is not None
    assert failure.reason == "changed"
    assert "20 x 30 now" in failure.message


def test_a_prediction_of_some_images_says_so_with_its_exit_code() -> None:
    good, bad = Prediction("a.png", "cats", {"cats": 1.0}, 30.0, 9), Prediction("b.png", error="cannot be decoded")
    PredictReport(Path("run"), (good,)).check()
    with pytest.raises(TooManyFailuresError, match="1 of 2 images"):
        PredictReport(Path("run"), (good, bad)).check()
    assert TooManyFailuresError.exit_code == 5
