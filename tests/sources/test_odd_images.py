"""Every file of odd-images.tar gets what its manifest expects (66 files, most from Pillow's own tests)."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest

from arcpipe.config import SourceSection
from arcpipe.errors import ImageError
from arcpipe.sources import Inventory, Sample, Source, open_source

pytestmark = pytest.mark.data
IGNORED = {".DS_Store", "._hopper.jpg", "Thumbs.db", "labels.txt", "no_extension"}
REASONS = {
    "truncated.jpg": "truncated",
    "truncated.png": "truncated",
    "truncated_half.jpg": "truncated",
    "bomb_30000x30000.png": "too-large",
    "bomb_gif_4e9px.gif": "too-large",
    "warn_10000x10000.png": "too-large",
}


@pytest.fixture(scope="module")
def odd(development_images: Path) -> tuple[Source, Inventory, dict[str, Sample]]:
    source = open_source(SourceSection(source=str(development_images / "odd-images.tar"), held_out=0))
    found = source.inventory()
    return source, found, {sample.key: sample for sample in found.samples["train"]}


@pytest.fixture(scope="module")
def manifest(development_images: Path) -> list[dict[str, str]]:
    with (development_images / "odd-images-manifest.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_classes_are_the_folders_below_the_split(odd: tuple, manifest: list[dict[str, str]]) -> None:
    _, found, samples = odd
    assert found.classes == ("broken", "limit", "valid")
    assert found.channels == 3
    assert len(manifest) == 66
    assert set(samples) == {row["name"] for row in manifest if Path(row["name"]).name not in IGNORED}


def test_valid_images_load_upright_at_their_display_size(odd: tuple, manifest: list[dict[str, str]]) -> None:
    source, _, samples = odd
    for row in (row for row in manifest if row["valid"] == "yes" and row["name"] in samples):
        sample = samples[row["name"]]
        if row["name"].endswith("big_48mp.jpg"):
            continue
        size = (int(row["display_height"]), int(row["display_width"]))
        assert (sample.size, sample.reason) == (size, None), row["name"]
        pixels = source.read(sample, 3)
        assert pixels.shape == (*size, 3), row["name"]
        assert np.isfinite(pixels).all(), row["name"]
        assert 0 <= pixels.min() <= pixels.max() <= 1, row["name"]


def test_broken_and_oversized_images_fail_alone_with_their_reason(odd: tuple, manifest: list[dict[str, str]]) -> None:
    source, _, samples = odd
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        for row in (row for row in manifest if row["class"] in ("broken", "limit")):
            with pytest.raises(ImageError) as caught:
                source.read(samples[row["name"]], 3)
            assert row["name"] in str(caught.value)
            assert caught.value.reason == REASONS.get(Path(row["name"]).name, "unreadable"), row["name"]
    assert not leaked


def test_a_photograph_over_max_pixels_says_how_to_make_it_fit(odd: tuple, development_images: Path) -> None:
    _, _, samples = odd
    big = samples["train/valid/big_48mp.jpg"]
    assert big.size is None
    assert "too large to fit: 6000 x 8000" in str(big.reason)
    smaller = open_source(SourceSection(source=str(development_images / "odd-images.tar"), shorter=64, held_out=0))
    sample = {s.path: s for s in smaller.inventory().samples["train"]}["valid/big_48mp.jpg"]
    assert sample.size == (64, 85)
    assert smaller.read(sample, 3).shape == (64, 85, 3)


def test_the_eight_orientations_show_one_photograph(odd: tuple) -> None:
    source, _, samples = odd
    thumbnails = [
        source.read(samples[f"train/valid/Landscape_{number}.jpg"], 1)[::40, ::40, 0] for number in range(1, 9)
    ]
    for number, thumbnail in enumerate(thumbnails[1:], start=2):
        assert np.corrcoef(thumbnail.ravel(), thumbnails[0].ravel())[0, 1] > 0.9, number


def test_sixteen_bit_ramps_are_ramps(odd: tuple) -> None:
    source, _, samples = odd
    ramp = source.read(samples["train/valid/gray16_ramp.png"], 1)[:, :, 0]
    steps = ramp.ravel() if (np.diff(ramp, axis=0) != 0).any() else ramp[0]
    assert steps[0] == 0
    assert steps[-1] == 1
    assert len(np.unique(ramp)) > 256  # more than 8 bits are left
    assert source.read(samples["train/valid/gray12in16.tif"], 1).max() < 0.1  # 12 bits in 16: dark, as documented
