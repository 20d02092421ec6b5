"""Features: decoded once, kept, read in place of latents; the trainer learns, resumes and evaluates with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.stencil import stencil_features
from arcpipe.config import AugmentSection, EvaluateConfig, FeaturesSection, TrainConfig, build
from arcpipe.errors import ConfigError
from arcpipe.store import open_store
from arcpipe.stream.features import FeatureCache, Features, feature_cache
from arcpipe.stream.split import Split, normalisation
from arcpipe.train import run_evaluate, run_train
from arcpipe.train.checkpoint import load_tensors
from tests.made_up import augment_cloud

SMALL = FeaturesSection(kind="decoded", windows=(3, 5), order=1)


def open_cache(store_path: Path, folder: Path, section: FeaturesSection = SMALL) -> FeatureCache:
    cache = feature_cache(section, open_store(store_path), folder / "run")
    assert cache is not None
    return cache


def test_latents_need_no_cache(store_path: Path, tmp_path: Path) -> None:
    assert feature_cache(FeaturesSection(), open_store(store_path), tmp_path) is None


@pytest.mark.parametrize("cache_mb", [0, 100])
@pytest.mark.parametrize("kind", ["decoded", "both"])
def test_a_split_reads_features_in_place_of_latents(store_path: Path, tmp_path: Path, kind: Any, cache_mb: int) -> None:
    store = open_store(store_path)
    cache = open_cache(store_path, tmp_path, SMALL.model_copy(update={"kind": kind}))
    split = Split(store, "train", cache_mb=cache_mb, features=cache)
    part = split.manifest.parts[0]
    plain, found = store.read_block("train", part, 2, 5), split.read(0, 2, 5)
    decoder = Decoder.from_record(store.decoder)
    stencils = np.concatenate([stencil_features(cloud, decoder, (3, 5), 1) for cloud in plain]).astype(np.float16)
    expected = stencils if kind == "decoded" else np.concatenate([plain.latents, stencils], axis=1)
    np.testing.assert_array_equal(found.latents.astype(np.float16), expected)
    assert split.width == found.latents.shape[1] == cache.features.mirror.shape[1]
    np.testing.assert_array_equal(cache.features.describe(plain[1]).latents.astype(np.float16), found[1].latents)


def test_features_are_decoded_once(store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Split(open_store(store_path), "train", features=open_cache(store_path, tmp_path))
    monkeypatch.setattr(Features, "of", lambda *_: pytest.fail("decoded again"))
    Split(open_store(store_path), "train", features=open_cache(store_path, tmp_path))


def test_a_part_that_a_kill_left_unwritten_is_made_again(store_path: Path, tmp_path: Path) -> None:
    cache = open_cache(store_path, tmp_path)
    cache.fill("train")
    files = sorted(cache.path.glob("train-*.npy"))
    content = files[0].read_bytes()
    files[0].rename(files[0].with_name(f"{files[0].name}.partial"))
    cache.fill("train", threads=2)
    assert files[0].read_bytes() == content
    assert not list(cache.path.glob("*.partial"))


def test_other_settings_have_another_cache(store_path: Path, tmp_path: Path) -> None:
    other = SMALL.model_copy(update={"order": 2})
    assert open_cache(store_path, tmp_path).path != open_cache(store_path, tmp_path, other).path
    both = SMALL.model_copy(update={"kind": "both"})
    assert open_cache(store_path, tmp_path).path == open_cache(store_path, tmp_path, both).path


def test_normalisation_is_that_of_the_features(store_path: Path, tmp_path: Path) -> None:
    split = Split(open_store(store_path), "train", features=open_cache(store_path, tmp_path))
    blocks = [split.read(i, 0, len(points)).latents for i, points in enumerate(split.manifest.points)]
    values = np.concatenate(blocks).astype(np.float64)
    found = normalisation(split, "per-dim")
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.std, values.std(0), rtol=1e-4)


def test_a_flip_turns_features_that_know_left_from_right(store_path: Path, tmp_path: Path) -> None:
    split = Split(open_store(store_path), "train", features=open_cache(store_path, tmp_path))
    cloud = split.read(0, 0, 1)[0]
    features = open_cache(store_path, tmp_path).features
    signs = features.mirror
    for chance, expected in ((1.0, cloud.latents * signs[1]), (0.0, cloud.latents)):
        section = AugmentSection(apply=("flip",), flip=chance, flip_axes="columns")
        np.testing.assert_array_equal(augment_cloud(cloud, 0, section, features.columns).latents, expected)
    assert (signs[1] < 0).any()


def train_config(store: Path, out: Path, **sections: Any) -> TrainConfig:
    model = {"channels": (8,), "depths": (1,), "heads": (2,), "patch": 8}
    augment = {"apply": ("flip", "mask", "arcmix")}
    values = {"store": store, "out": out, "features": SMALL.model_dump(), "model": model, "augment": augment}
    return build(TrainConfig, {**values, "optim": {"epochs": 2, "batch_size": 8}, **sections})


def test_a_run_on_decoded_features_trains_and_is_evaluated(store_path: Path, tmp_path: Path) -> None:
    report = run_train(train_config(store_path, tmp_path / "run"), quiet=True)
    assert report.measures is not None
    again = run_evaluate(EvaluateConfig(run=tmp_path / "run", store=store_path))
    assert again.measures.accuracy == report.measures.accuracy
    weights = load_tensors(next((tmp_path / "run" / "checkpoint").glob("*.safetensors")))
    assert weights["model.stem.weight"].shape.numel() % (2 * 3 * 1) == 0
    assert torch.isfinite(weights["model.stem.weight"]).all()


def test_moved_clouds_are_refused_where_features_would_not_move(store_path: Path, tmp_path: Path) -> None:
    run_train(train_config(store_path, tmp_path / "run"), quiet=True)
    with pytest.raises(ConfigError, match="trained on latents"):
        run_evaluate(EvaluateConfig(run=tmp_path / "run", store=store_path, push=1.0))


@pytest.mark.parametrize(
    ("values", "message"), [({"windows": (4,)}, "odd"), ({"windows": (3,), "order": 3}, "too high")]
)
def test_windows_that_cannot_be_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(FeaturesSection, values)


def test_the_cache_may_be_anywhere(store_path: Path, tmp_path: Path, new_store: Callable[..., Path]) -> None:
    section = SMALL.model_copy(update={"cache": tmp_path / "elsewhere"})
    first, second = open_cache(store_path, tmp_path, section), open_cache(new_store(seed=9), tmp_path, section)
    assert first.path.parent == second.path.parent == tmp_path / "elsewhere"
    assert first.path != second.path
