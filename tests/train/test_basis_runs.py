"""Runs on stores of the kind `basis`: exact augmentations, scales as a feature, and what other stores are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arcpipe.arc.maps import Maps
from arcpipe.config import EvaluateConfig, TrainConfig, build
from arcpipe.errors import ConfigError
from arcpipe.store import open_store
from arcpipe.stream.changes import columns_of
from arcpipe.train import run_evaluate, run_train

IMAGES = ("mask", "rotate", "flip", "zoom", "crop", "brightness", "contrast", "saturation", "hue")


@pytest.fixture
def basis_store(new_store: Callable[..., Path]) -> Path:
    return new_store("basis.zarr", basis=True, channels=3)


def train_config(store: Path, out: Path, *names: str, **sections: Any) -> TrainConfig:
    model = {"channels": (8,), "depths": (1,), "heads": (2,), "patch": 8}
    values = {"store": store, "out": out, "model": model, "augment": {"apply": names}}
    return build(TrainConfig, {**values, "optim": {"epochs": 2, "batch_size": 8}, **sections})


def test_a_run_augments_as_images_are_and_is_evaluated(basis_store: Path, tmp_path: Path) -> None:
    config = train_config(basis_store, tmp_path / "run", *IMAGES, "arcmix")
    report = run_train(config, quiet=True)
    assert report.measures is not None
    again = run_evaluate(EvaluateConfig(run=tmp_path / "run", store=basis_store))
    assert again.measures.accuracy == report.measures.accuracy
    seen = run_evaluate(EvaluateConfig(run=tmp_path / "run", store=basis_store, views=3))
    assert seen.measures.loss != again.measures.loss


def test_latents_of_a_basis_alone_change_with_the_picture(basis_store: Path, store_path: Path) -> None:
    assert isinstance(columns_of(open_store(basis_store).decoder), Maps)
    assert columns_of(open_store(store_path).decoder) is None


def test_a_store_of_networks_refuses_what_would_not_change_its_latents(store_path: Path, tmp_path: Path) -> None:
    for name in ("zoom", "brightness", "contrast", "saturation", "hue"):
        with pytest.raises(ConfigError, match=f"--augment {name} needs latents of the kind basis") as refused:
            run_train(train_config(store_path, tmp_path / "run", "mask", "crop", name), quiet=True)
        assert "--augment mask,crop" in str(refused.value)
    assert not (tmp_path / "run").exists()
    assert run_train(train_config(store_path, tmp_path / "run", "mask", "crop"), quiet=True).measures is not None


@pytest.mark.parametrize("features", [{"kind": "decoded"}, {"kind": "both"}, {"scale": True}])
def test_features_that_are_gone_are_refused_and_latents_pass(
    store_path: Path, tmp_path: Path, features: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="a classifier reads latents"):
        train_config(store_path, tmp_path / "run", "mask", features=features)
    old = train_config(store_path, tmp_path / "run", "mask", features={"kind": "latents", "windows": [7], "order": 3})
    assert old == train_config(store_path, tmp_path / "run", "mask")


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
    saved["config"]["features"] = {"kind": "latents", "windows": [7], "order": 3, "cache": None}
    path.write_text(json.dumps(saved))
    assert run_train(config, quiet=True).before
