"""Evaluation: the same numbers every time, one vote per image, and only on clouds that the run understands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from arcpipe.cloud import Cloud
from arcpipe.config import EvaluateConfig, TrainConfig
from arcpipe.errors import CheckpointError, ConfigError, FileAccessError, MissingSplitError, StoreMismatchError
from arcpipe.store import open_store
from arcpipe.stream.augment import cloud_keys
from arcpipe.train import run_evaluate, run_train
from arcpipe.train.evaluate import moves
from arcpipe.train.measures import average_repeats, first_repeats, measure
from arcpipe.train.run import open_run
from tests.made_up import augment_cloud


@pytest.fixture(scope="module")
def run(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained until it knows its classes."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train(out, store_path)
    return out


def train(out: Path, store: Path, *names: str) -> None:
    values = {
        "store": store,
        "out": out,
        "augment": {"apply": names},
        "threads": 1,
        "device": "cpu",
        "model": {"channels": (8, 8), "depths": (1, 1), "heads": (2, 2), "patch": 8, "drop_path": 0.0},
        "optim": {"epochs": 10, "batch_size": 16, "lr": 0.01},
    }
    run_train(TrainConfig.model_validate(values), quiet=True)


def config(run: Path, store: Path, **values: object) -> EvaluateConfig:
    return EvaluateConfig.model_validate({"run": run, "store": store, "device": "cpu", **values})


def test_evaluation_repeats_what_training_reported(run: Path, store_path: Path) -> None:
    reported = json.loads((run / "summary.json").read_text())["measures"]
    report = run_evaluate(config(run, store_path))
    assert report.measures.accuracy == reported["accuracy"]
    assert report.measures.loss == pytest.approx(reported["loss"], rel=1e-6)
    assert report.measures.confusion == reported["confusion"]
    assert report.split == "test"


def test_twice_the_same_and_whatever_the_batch_size(run: Path, store_path: Path) -> None:
    first = run_evaluate(config(run, store_path, push=3, shift=2))
    assert run_evaluate(config(run, store_path, push=3, shift=2)) == first
    one = run_evaluate(config(run, store_path, push=3, shift=2, batch_size=1))
    assert one.measures.loss == pytest.approx(first.measures.loss, rel=1e-4)  # a prediction has no batch mates
    assert one.measures.confusion == first.measures.confusion


def test_push_moves_points_as_the_seed_says_and_the_classifier_ignores_a_shift(run: Path, store_path: Path) -> None:
    plain, pushed, other, shifted = (
        run_evaluate(config(run, store_path, **moved)).measures.loss
        for moved in ({}, {"push": 4}, {"push": 4, "seed": 1}, {"shift": 4})
    )
    assert len({plain, pushed, other}) == 3
    # PTv3's grid begins at a cloud's own first point (METHOD 3), so moving a whole cloud changes nothing but rounding
    assert shifted == pytest.approx(plain, rel=1e-3)


def test_shift_reaches_the_batches() -> None:
    assert moves(EvaluateConfig(run=Path("r"), store=Path("s"))).apply == ()
    section = moves(EvaluateConfig(run=Path("r"), store=Path("s"), shift=3))
    cloud = Cloud(np.zeros((5, 2), np.uint16), np.zeros((5, 1), np.float16), (9, 9), sample_id=3)
    moved = augment_cloud(cloud, 3, section).positions - cloud.positions
    assert 0 < abs(moved).max() <= 3


def test_another_split_may_be_named(run: Path, store_path: Path) -> None:
    report = run_evaluate(config(run, store_path, split="train"))
    assert (report.split, report.measures.n) == ("train", 60)
    with pytest.raises(MissingSplitError):
        run_evaluate(config(run, store_path, split="val"))


def test_a_store_of_another_decoder_is_refused(run: Path, new_store: Callable[..., Path]) -> None:
    with pytest.raises(StoreMismatchError) as caught:
        run_evaluate(config(run, new_store(decoder_seed=1)))
    assert caught.value.exit_code == 3
    assert "decoder: the run has" in str(caught.value)
    assert "--decoder" in str(caught.value)
    assert "arcpipe convert made-up" in str(caught.value)  # the source of that store


def test_a_store_of_other_classes_is_refused(run: Path, new_store: Callable[..., Path]) -> None:
    with pytest.raises(StoreMismatchError, match="classes: the run has class-0, class-1, class-2, the store"):
        run_evaluate(config(run, new_store(n_classes=2)))


def test_a_folder_without_a_run_is_refused(store_path: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no run"):
        run_evaluate(config(tmp_path, store_path))
    (tmp_path / "config.json").write_text('{"format": "something else", "version": 1}')
    with pytest.raises(CheckpointError, match="not a run folder"):
        run_evaluate(config(tmp_path, store_path))


def test_repeats_of_an_image_vote_together(run: Path, new_store: Callable[..., Path]) -> None:
    report = run_evaluate(config(run, new_store(splits={"train": 6, "test": 12}, repeats=3)))
    assert report.clouds == 36
    assert report.measures.n == 12
    assert "12 images (36 clouds, averaged for each image)" in "\n".join(report.lines())


def test_the_report_is_plain_json(run: Path, store_path: Path) -> None:
    values = json.loads(json.dumps(run_evaluate(config(run, store_path)).as_dict(), allow_nan=False))
    assert set(values) == {
        *("run", "store", "split", "push", "shift", "displace", "views", "files", "clouds", "calibration"),
        *("n", "accuracy", "loss", "calibration_error", "per_class", "confusion"),
    }
    assert sum(map(sum, values["confusion"])) == values["n"] == 30


def test_averaging_takes_the_mean_over_clouds_of_one_image() -> None:
    probabilities = np.array([[1, 0], [0, 1], [0.5, 0.5], [0, 1]])
    mean, labels = average_repeats(probabilities, np.array([1, 0, 1, 1]), np.array([9, 4, 9, 9]))
    np.testing.assert_allclose(mean, [[0, 1], [0.5, 0.5]])
    assert labels.tolist() == [0, 1]


def test_measures_of_a_known_case() -> None:
    probabilities = np.array([[0.8, 0.2, 0], [0.6, 0.4, 0], [0.1, 0.9, 0]])
    measures = measure(probabilities, np.array([0, 1, 1]), ("a", "b", "c"))
    assert measures.accuracy == pytest.approx(2 / 3)
    assert measures.per_class == {"a": 1.0, "b": 0.5, "c": None}
    assert measures.confusion == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert measures.loss == pytest.approx(-np.log([0.8, 0.4, 0.9]).mean())
    assert measures.calibration_error == pytest.approx((0.2 + 0.6 + 0.1) / 3)


def test_a_calibrated_guesser_has_no_calibration_error() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, 200_000)
    labels = (generator.random(200_000) > confidence).astype(np.int64)
    assert measure(np.stack([confidence, 1 - confidence], 1), labels, ("a", "b")).calibration_error < 0.005


def test_only_the_first_repeats_are_averaged() -> None:
    kept = first_repeats(np.array([9, 4, 9, 9, 4]), 2)
    assert kept.tolist() == [True, True, True, False, True]


def test_one_of_several_repeats_is_another_answer_from_fewer_clouds(run: Path, new_store: Callable[..., Path]) -> None:
    store = new_store(repeats=3)
    everything, one = (run_evaluate(config(run, store, repeats=repeats)) for repeats in (None, 1))
    assert (everything.clouds, one.clouds) == (90, 30)
    assert everything.measures.n == one.measures.n == 30
    assert everything.measures.loss != one.measures.loss
    assert run_evaluate(config(run, store, repeats=5)).measures == everything.measures


def test_the_bins_of_calibration_count_every_image(run: Path, store_path: Path, tmp_path: Path) -> None:
    report = run_evaluate(config(run, store_path, displace=True, out=tmp_path / "figures"))
    bins = report.measures.calibration
    assert sum(n for n, _, _ in bins) == 30
    error = sum(n * abs(share - confidence) for n, confidence, share in bins) / 30
    assert error == pytest.approx(report.measures.calibration_error)
    assert [path.name for path in report.files] == ["calibration.png", "confusion.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in report.files)
    assert "displaced" in report.lines()[0]
    (tmp_path / "file").touch()
    with pytest.raises(FileAccessError, match="cannot be made a folder"):
        run_evaluate(config(run, store_path, out=tmp_path / "file"))


def test_views_average_what_the_model_says_of_clouds_changed_one_by_one(store_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, store_path, "mask", "flip", "arcmix")
    report = run_evaluate(config(out, store_path, views=3, seed=5))
    assert report.clouds == report.measures.n == 30
    assert "seen 3 times" in report.lines()[0]
    run, store = open_run(out), open_store(store_path)
    clouds = [cloud for part in store.parts("test") for cloud in store.read_part("test", part.id)]
    model = run.model().eval()
    run.load_weights(model)
    losses = []
    for cloud in clouds:
        answers = []
        for view in range(3):
            [key] = cloud_keys(5, view, np.array([cloud.sample_id]), np.array([cloud.repeat]))
            seen = augment_cloud(cloud, int(key), run.config.augment) if view else cloud
            latents = torch.from_numpy(run.normalisation(seen.latents))
            positions = torch.from_numpy(seen.positions.astype(np.float32))
            with torch.inference_mode():
                logits = model(latents, positions, torch.tensor([0, len(positions)]))
            answers.append(logits.double().softmax(1)[0, cloud.label].item())
        losses.append(-np.log(np.mean(answers)))
    assert report.measures.loss == pytest.approx(np.mean(losses), rel=1e-4)
    assert run_evaluate(config(out, store_path, views=1)).measures.loss != pytest.approx(report.measures.loss, rel=1e-3)


def test_views_without_changes_to_draw_are_refused(run: Path, store_path: Path) -> None:
    with pytest.raises(ConfigError, match="--views has no changes to draw") as refused:
        run_evaluate(config(run, store_path, views=2))
    assert "trained on clouds as they are" in str(refused.value)
    with pytest.raises(ConfigError, match="--views has no changes to draw"):
        run_evaluate(config(run, store_path, views=2, push=1))
