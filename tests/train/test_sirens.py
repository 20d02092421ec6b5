"""Stores of sine networks in the trainer: they are learned from, and refused by what reads clouds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import arcpipe
from arcpipe.config import ConvertConfig, EvaluateConfig, TrainConfig, build
from arcpipe.convert import run_convert
from arcpipe.errors import ConfigError
from arcpipe.store import open_store
from arcpipe.stream.dataset import CloudStream
from arcpipe.stream.split import Split, normalisation
from arcpipe.train import run_evaluate, run_predict, run_train
from arcpipe.train.checkpoint import load_tensors
from tests.pictures import in_process

pytestmark = pytest.mark.usefixtures("quick_figures")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes: dark above or dark below, with noise."""
    folder, rng = tmp_path_factory.mktemp("halves"), np.random.default_rng(3)
    for split, count in (("train", 24), ("test", 8)):
        for label, name in enumerate(("above", "below")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (8, 8)) + 150
                pixels[:4] -= 140 * (1 - label)
                pixels[4:] -= 140 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def store(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(pictures, tmp_path_factory.mktemp("sirens") / "halves.zarr")


def convert(source: Path, out: Path) -> Path:
    fit = {"recipe": "siren", "hidden": [8, 8], "steps": 60, "lr": 0.003}
    with ThreadPoolExecutor(1) as executor:
        values = {"source": {"source": str(source)}, "out": out, "fit": fit, "store": {"part_samples": 32}}
        run_convert(build(ConvertConfig, values), cluster=in_process(executor))
    return out


def config(store: Path, out: Path, model: str, **sections: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "store": store,
        "out": out,
        "threads": 1,
        "device": "cpu",
        "model": {"model": model},
        "optim": {"epochs": 4, "batch_size": 8},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return build(TrainConfig, values)


def saved(run: Path) -> dict[str, torch.Tensor]:
    (file,) = (run / "checkpoint").glob("*.safetensors")
    return load_tensors(file)


@pytest.mark.parametrize("model", ["mlp", "dws", "ng-gnn", "ng-t", "scalegmn"])
def test_every_classifier_trains_and_is_evaluated(store: Path, tmp_path: Path, model: str) -> None:
    epochs = 6 if model == "mlp" else 2
    report = run_train(config(store, tmp_path / "run", model, optim={"epochs": epochs}), quiet=True)
    assert report.measures is not None
    assert report.train_loss < 0.8
    if model == "mlp":
        assert report.measures.accuracy > 0.9, "with a shared start the classes lie apart"
    again = run_evaluate(EvaluateConfig(run=tmp_path / "run", store=store, batch_size=3, threads=1))
    assert again.measures.accuracy == report.measures.accuracy, "whatever else is in the batch"
    assert again.measures.loss == pytest.approx(report.measures.loss, rel=1e-4)


def test_the_same_settings_make_the_same_run(store: Path, tmp_path: Path) -> None:
    whole = config(store, tmp_path / "whole", "ng-gnn", optim={"epochs": 2})
    run_train(whole, quiet=True)
    twice = config(store, tmp_path / "twice", "ng-gnn", optim={"epochs": 2})
    run_train(twice, quiet=True)
    expected = saved(whole.out)
    assert all(torch.equal(a, expected[name]) for name, a in saved(twice.out).items())


def test_settings_are_those_of_the_model_unless_given(store: Path, tmp_path: Path) -> None:
    dws = config(store, tmp_path, "dws")
    assert (dws.optim.amsgrad, dws.stream.normalise) == (True, "per-dim")
    assert set(dws.augment.apply) == {"translate", "rotate", "jitter", "drop", "stretch"}
    assert dws.augment.rotate == 45
    assert config(store, tmp_path, "scalegmn").augment.apply == ()
    assert config(store, tmp_path, "ng-t").stream.normalise == "per-layer"
    assert config(store, tmp_path, "scalegmn").optim.clip_norm == 10
    assert config(store, tmp_path, "scalegmn", optim={"clip_norm": 1.0}).optim.clip_norm == 1
    assert config(store, tmp_path, "ptv3").augment.apply == ("mask", "arcmix")


def test_normalised_by_layer_every_layer_has_mean_0_and_deviation_1(store: Path) -> None:
    split = Split(open_store(store), "train")
    normalise = normalisation(split, "per-layer")
    rows = np.concatenate([split.read(i, 0, len(p)).latents for i, p in enumerate(split.manifest.points)])
    ends = np.cumsum([0, 16, 8, 64, 8, 8, 1])
    for start, stop in pairwise(ends):
        values = normalise(rows)[:, start:stop].astype(np.float64)
        assert abs(values.mean()) < 1e-4
        assert values.std() == pytest.approx(1, abs=1e-3)
        assert len(np.unique(normalise.std[start:stop])) == 1


def test_from_python_networks_are_streamed_and_trained_on(store: Path, tmp_path: Path) -> None:
    stream = CloudStream(store, batch_size=48, normalise="per-layer")
    (batch,) = stream
    assert abs(batch.latents[:, 16:24].mean()) < 1e-3
    with pytest.raises(ConfigError, match="no points to change"):
        CloudStream(store, augment=["mask"])
    report = arcpipe.train(store, tmp_path / "run", model="mlp", epochs=2, device="cpu", threads=1, quiet=True)
    assert report.epochs == 2


def test_new_images_are_fitted_and_classified(store: Path, pictures: Path, tmp_path: Path) -> None:
    run_train(config(store, tmp_path / "run", "mlp", optim={"epochs": 8}), quiet=True)
    images = [pictures / "test" / name / "0.png" for name in ("above", "below")]
    report = run_predict(tmp_path / "run", images)
    assert [prediction.label for prediction in report.predictions] == ["above", "below"]
    assert all("anchor" not in line and "PSNR" in line for line in report.lines())


@pytest.mark.parametrize(
    ("model", "sections", "message"),
    [
        ("ptv3", {}, "ptv3 reads clouds, and the store holds sine networks"),
        ("dws", {"augment": {"apply": ["mask"]}}, "no points to change"),
        ("dws", {"augment": {"apply": ["rotate", "hue"]}}, "--augment rotate"),
    ],
)
def test_what_reads_clouds_refuses_networks(
    store: Path, tmp_path: Path, model: str, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_train(config(store, tmp_path / "run", model, **sections), quiet=True)
    assert not (tmp_path / "run").exists()


def test_what_reads_networks_refuses_clouds(store_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reads sine networks, and the store holds clouds"):
        run_train(config(store_path, tmp_path / "run", "ng-t"), quiet=True)
    with pytest.raises(ConfigError, match="per-layer is of sine networks"):
        run_train(config(store_path, tmp_path / "run", "ptv3", stream={"normalise": "per-layer"}), quiet=True)
    with pytest.raises(ConfigError, match="--augment translate changes sine networks") as caught:
        run_train(config(store_path, tmp_path / "run", "ptv3", augment={"apply": ["mask", "translate"]}), quiet=True)
    assert "--augment mask" in caught.value.fix


def test_views_of_a_network_are_drawn_as_in_training(store: Path, tmp_path: Path) -> None:
    run_train(config(store, tmp_path / "run", "mlp", augment={"apply": ["jitter"]}), quiet=True)
    plain, views = (
        run_evaluate(EvaluateConfig(run=tmp_path / "run", store=store, views=n, threads=1)).measures.loss
        for n in (1, 3)
    )
    assert plain != views
    assert views < 0.8


def test_networks_have_no_points_to_push(store: Path, tmp_path: Path) -> None:
    run_train(config(store, tmp_path / "run", "mlp", optim={"epochs": 1}), quiet=True)
    with pytest.raises(ConfigError, match="sine networks have none"):
        run_evaluate(EvaluateConfig(run=tmp_path / "run", store=store, push=2.0))
