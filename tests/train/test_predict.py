"""New images, from a run folder alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.engine import fit_clouds
from arcpipe.arc.metrics import PSNR_CAP_DB
from arcpipe.arc.pretrain import pretrain_decoder
from arcpipe.cloud import Cloud, CloudBatch
from arcpipe.config import FitSection, SourceSection, StoreSection, TrainConfig
from arcpipe.errors import CheckpointError, ImageError, NotAStoreError, TooManyFailuresError
from arcpipe.store import StoreHeader, create_or_open, fingerprint
from arcpipe.train import run_predict, run_train
from arcpipe.train.run import open_run

FIT = FitSection(latent_dim=4, latents=20, hidden=(16,), steps=60, pretrain_steps=100, lr=0.02)


def stripes(label: int, seed: int) -> np.ndarray:
    """A 12 x 12 picture of horizontal or vertical stripes, 8 bits as a file has them."""
    generator = np.random.default_rng([label, seed])
    wave = 0.5 + 0.5 * np.sin(np.arange(12) * generator.uniform(0.9, 1.4) + generator.uniform(0, 6))
    image = np.tile(wave, (12, 1)) if label else np.tile(wave[:, None], (1, 12))
    return (255 * image).round().astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a real little store, which is deleted: a run folder is enough for new images."""
    return make_run(tmp_path_factory.mktemp("predict"))


def make_run(folder: Path) -> Path:
    images = [stripes(i % 2, i)[..., None] / np.float32(255) for i in range(40)]
    decoder, _ = pretrain_decoder(images[:10], FIT, list(range(10)), 0, 1)
    splits = {"train": {"samples": 40, "parts": 1}}
    source = SourceSection(source="stripes", grey=True)
    config = {
        "source": source.model_dump(mode="json"),
        "fit": FIT.model_dump(mode="json"),
        "store": StoreSection(neighbours_cache="none").model_dump(mode="json"),
        "seed": 0,
    }
    header = StoreHeader(config, fingerprint(config), ("rows", "columns"), 1, splits, neighbours_cache="none")
    writer = create_or_open(folder / "stripes.zarr", header, decoder.to_record())
    fitted = fit_clouds(images, decoder, FIT, list(range(40)))
    clouds = [
        Cloud(
            fit.positions.astype(np.uint16), fit.latents, (12, 12), fit.relative, label=i % 2, sample_id=i, path=f"{i}"
        )
        for i, fit in enumerate(fitted)
    ]
    writer.commit_part("train", "0000", CloudBatch.join(clouds))
    writer.finish()
    values = {
        "store": folder / "stripes.zarr",
        "out": folder / "run",
        "threads": 1,
        "device": "cpu",
        "model": {
            "preset": "small",
            "channels": (8, 8),
            "depths": (1, 1),
            "heads": (2, 2),
            "patch": 20,
            "drop_path": 0.0,
        },
        "optim": {"epochs": 25, "batch_size": 10, "lr": 0.01},
    }
    run_train(TrainConfig.model_validate(values), quiet=True)
    shutil.rmtree(folder / "stripes.zarr")
    return folder / "run"


def save(path: Path, label: int, seed: int) -> Path:
    Image.fromarray(stripes(label, seed)).save(path)
    return path


def test_new_images_are_classified_without_the_store(run: Path, tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", i % 2, 1000 + i) for i in range(20)]
    report = run_predict(run, paths, device="cpu")
    right = [p.label == ("rows", "columns")[i % 2] for i, p in enumerate(report.predictions)]
    assert np.mean(right) >= 0.75  # 15 of 20: one chance in 50 for a guesser
    for prediction in report.predictions:
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
        assert prediction.label == max(prediction.probabilities, key=lambda name: prediction.probabilities[name])
        assert prediction.anchors == 20
        assert prediction.psnr is not None
        assert 10 < prediction.psnr < PSNR_CAP_DB
    json.dumps(report.as_dict(), allow_nan=False)


def test_a_picture_gets_the_same_answer_whatever_its_name_and_company(run: Path, tmp_path: Path) -> None:
    first, second = save(tmp_path / "a.png", 0, 5), save(tmp_path / "b.png", 1, 6)
    copy = Path(shutil.copy(first, tmp_path / "another name.png"))
    together = run_predict(run, [second, first, copy], device="cpu").predictions
    (alone,) = run_predict(run, [first], device="cpu").predictions
    assert together[1] == alone
    assert together[2].probabilities == alone.probabilities
    assert together[0].probabilities != alone.probabilities


def test_a_bad_image_is_an_entry_and_the_others_go_on(run: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(save(tmp_path / "good.png", 0, 1).read_bytes()[:60])
    report = run_predict(run, [tmp_path / "missing.png", tmp_path / "good.png", bad], device="cpu")
    missing, good, broken = report.predictions
    assert missing.error is not None
    assert broken.error is not None
    assert missing.label is None
    assert good.label is not None
    assert "failed" in report.lines()[0]
    assert "No such file" in report.lines()[0]
    with pytest.raises(TooManyFailuresError, match="2 of 3 images"):  # one was classified
        report.check()
    with pytest.raises(ImageError, match="the image could not be classified"):
        run_predict(run, [bad], device="cpu").check()


def test_a_run_that_does_not_know_how_its_clouds_were_made_says_so(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    values = json.loads(path.read_text())
    del values["store"]["convert"]["fit"]
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="how its clouds were made"):
        run_predict(tmp_path / "run", [save(tmp_path / "a.png", 0, 5)], device="cpu")


def test_a_run_on_clouds_of_a_kind_that_is_gone_says_so(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    values = json.loads(path.read_text())
    values["store"]["decoder_kind"] = "blend"
    path.write_text(json.dumps(values))
    with pytest.raises(NotAStoreError, match="the decoder kind blend, which is gone"):
        run_predict(tmp_path / "run", [save(tmp_path / "a.png", 0, 5)], device="cpu")


def test_a_run_of_a_version_with_more_settings_classifies_where_they_changed_nothing(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    values = json.loads(path.read_text())
    values["store"]["convert"]["fit"] |= {"whiten": False, "ridge": 0.0, "alone": 0.3}
    path.write_text(json.dumps(values))
    image = save(tmp_path / "a.png", 0, 5)
    found, expected = (run_predict(place, [image], device="cpu").predictions for place in (tmp_path / "run", run))
    assert found == expected
    values["store"]["convert"]["fit"]["ridge"] = 0.1
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="how its clouds were made"):
        run_predict(tmp_path / "run", [image], device="cpu")


def test_the_decoder_in_the_run_is_that_of_the_store(run: Path) -> None:

    opened = open_run(run)
    assert opened.decoder().sha256 == opened.facts.decoder_sha256
    assert Decoder.from_record(opened.decoder()).channels == 1
