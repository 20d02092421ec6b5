"""Runs on stores of the kind `basis`: exact augmentations, scales as a feature, and what other stores are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arcpipe.config import EvaluateConfig, FeaturesSection, TrainConfig, build
from arcpipe.errors import ConfigError
from arcpipe.store import open_store
from arcpipe.stream.augment import Columns
from arcpipe.stream.features import Features, feature_cache
from arcpipe.stream.split import Split, normalisation
from arcpipe.train import run_evaluate, run_train
from arcpipe.train.run import open_run

IMAGES = ("mask", "rotate", "flip", "zoom", "crop", "brightness", "contrast", "saturation", "hue")


@pytest.fixture
def basis_store(new_store: Callable[..., Path]) -> Path:
    return new_store("basis.zarr", basis=True, channels=3)


def train_config(store: Path, out: Path, *names: str, **sections: Any) -> TrainConfig:
    model = {"channels": (8,), "depths": (1,), "heads": (2,), "patch": 8}
    values = {"store": store, "out": out, "model": model, "augment": {"apply": names}}
    return build(TrainConfig, {**values, "optim": {"epochs": 2, "batch_size": 8}, **sections})


@pytest.mark.parametrize("scale", [False, True])
def test_a_run_augments_as_images_are_and_is_evaluated(basis_store: Path, tmp_path: Path, scale: bool) -> None:
    config = train_config(basis_store, tmp_path / "run", *IMAGES, "arcmix", features={"scale": scale})
    report = run_train(config, quiet=True)
    assert report.measures is not None
    again = run_evaluate(EvaluateConfig(run=tmp_path / "run", store=basis_store))
    assert again.measures.accuracy == report.measures.accuracy
    seen = run_evaluate(EvaluateConfig(run=tmp_path / "run", store=basis_store, views=3))
    assert seen.measures.loss != again.measures.loss
    run = open_run(tmp_path / "run")
    assert run.features.width == 4 + scale
    assert run.features.columns.maps is not None


@pytest.mark.parametrize("cache_mb", [0, 100])
def test_scales_stand_behind_the_latents_and_are_normalised(basis_store: Path, tmp_path: Path, cache_mb: int) -> None:
    store = open_store(basis_store)
    cache = feature_cache(FeaturesSection(scale=True), store, tmp_path / "run")
    split = Split(store, "train", cache_mb=cache_mb, features=cache)
    plain, found = store.read_block("train", split.manifest.parts[1], 2, 5), split.read(1, 2, 5)
    assert plain.scales is not None
    np.testing.assert_array_equal(found.latents, np.column_stack([plain.latents, np.log2(plain.scales)]))
    assert found.scales is None
    assert cache is not None
    np.testing.assert_array_equal(cache.features.describe(plain[1]).latents, found[1].latents)
    assert split.width == cache.features.width == 5
    assert not cache.path.exists()  # nothing was decoded
    chosen = normalisation(split, "per-dim")
    assert chosen.mean[4] == pytest.approx(1.5, abs=0.3)


def test_latents_of_a_basis_alone_change_with_the_picture(basis_store: Path, store_path: Path) -> None:
    of_basis = Features(FeaturesSection(), open_store(basis_store).decoder)
    assert of_basis.columns.maps is not None
    assert Features(FeaturesSection(), open_store(store_path).decoder).columns == Columns()
    decoded = Features(FeaturesSection(kind="decoded"), open_store(basis_store).decoder).columns
    assert decoded.maps is None
    assert decoded.mirror is not None


def test_a_store_of_networks_refuses_what_would_not_change_its_latents(store_path: Path, tmp_path: Path) -> None:
    for name in ("zoom", "brightness", "contrast", "saturation", "hue"):
        with pytest.raises(ConfigError, match=f"--augment {name} needs latents of the kind basis") as refused:
            run_train(train_config(store_path, tmp_path / "run", "mask", "crop", name), quiet=True)
        assert "--augment mask,crop" in str(refused.value)
    assert not (tmp_path / "run").exists()
    assert run_train(train_config(store_path, tmp_path / "run", "mask", "crop"), quiet=True).measures is not None


def test_scales_are_refused_where_there_are_none(store_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="anchors of others have no scale"):
        run_train(train_config(store_path, tmp_path / "run", "mask", features={"scale": True}), quiet=True)


def test_grey_images_have_no_hue(new_store: Callable[..., Path], tmp_path: Path) -> None:
    store = new_store("grey.zarr", basis=True)
    with pytest.raises(ConfigError, match="--augment saturation,hue needs images of three channels") as refused:
        run_train(train_config(store, tmp_path / "run", "contrast", "saturation", "hue"), quiet=True)
    assert "--augment contrast" in str(refused.value)


def test_a_run_made_before_there_were_these_settings_goes_on(store_path: Path, tmp_path: Path) -> None:
    config = train_config(store_path, tmp_path / "run", "mask")
    run_train(config, quiet=True)
    path = tmp_path / "run" / "config.json"
    saved = json.loads(path.read_text())
    for name in ("zoom", "crop", "brightness", "contrast", "saturation", "hue", "exact"):
        del saved["config"]["augment"][name]
    del saved["config"]["features"]["scale"]
    path.write_text(json.dumps(saved))
    assert run_train(config, quiet=True).before
