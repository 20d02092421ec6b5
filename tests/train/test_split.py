"""Part of the training split can be held out: by images, disjoint, and chosen by nothing that training does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from arcpipe.config import EvaluateConfig, build
from arcpipe.errors import SourceError
from arcpipe.store import open_store
from arcpipe.stream.split import Split, normalisation
from arcpipe.train.evaluate import run_evaluate
from arcpipe.train.run import open_run
from tests.train.test_loop import make_config, train


def images_of(split: Split) -> list[int]:
    parts = range(len(split.manifest.parts))
    return [i for part in parts for i in split.read(part, 0, len(split.manifest.points[part])).sample_ids.tolist()]


@pytest.mark.parametrize("cache_mb", [0, 100])
@pytest.mark.parametrize("repeats", [1, 3])
def test_held_out_images_are_on_one_side_with_all_their_fits(
    new_store: Callable[..., Path], repeats: int, cache_mb: int
) -> None:
    store = open_store(new_store(splits={"train": 50, "test": 10}, repeats=repeats))
    whole = Split(store, "train")
    learned = Split(store, "train", without=0.3, cache_mb=cache_mb)
    held_out = Split(store, "train", only=0.3, cache_mb=cache_mb)
    assert len(learned.manifest) + len(held_out.manifest) == len(whole.manifest)
    assert set(images_of(learned)).isdisjoint(images_of(held_out))
    assert sorted(images_of(learned) + images_of(held_out)) == sorted(images_of(whole))
    assert len(held_out.manifest) == pytest.approx(0.3 * len(whole.manifest), abs=repeats * len(whole.manifest.parts))
    assert held_out.name == "validation"
    for split in (learned, held_out):
        for part, points in enumerate(split.manifest.points):
            read = split.read(part, 0, len(points))
            np.testing.assert_array_equal(np.diff(read.offsets), points)
            np.testing.assert_array_equal(read.labels, split.manifest.labels[part])


def test_normalisation_does_not_see_what_is_held_out(new_store: Callable[..., Path]) -> None:
    store = open_store(new_store())
    learned = Split(store, "train", without=0.5)
    latents = [learned.read(part, 0, len(points)).latents for part, points in enumerate(learned.manifest.points)]
    expected = np.concatenate(latents).astype(np.float64)
    np.testing.assert_allclose(normalisation(learned, "per-dim").mean, expected.mean(0), rtol=1e-5)
    assert not np.allclose(normalisation(Split(store, "train"), "per-dim").mean, expected.mean(0), rtol=1e-5)


def test_a_share_that_leaves_nothing_to_learn_is_named(store_path: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no clouds behind what --validation holds out") as caught:
        train(make_config(store_path, tmp_path / "run", stream={"validation": 0.99}))
    assert "a smaller --validation" in caught.value.fix


def test_held_out_images_choose_the_weights(store_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = train(make_config(store_path, out, epochs=3, stream={"validation": 0.3}))
    lines = [line for line in open_run(out).metrics() if line["kind"] == "epoch"]
    accuracies = [line["validation_accuracy"] for line in lines]
    assert report.best["split"] == "validation"
    assert report.best["epoch"] == accuracies.index(max(accuracies)) + 1
    assert report.clouds == 42
    chosen = run_evaluate(build(EvaluateConfig, {"run": out, "store": store_path, "weights": "best"}))
    assert chosen.measures.accuracy == report.best["test_accuracy"]
