"""Numbers, limit, digest and channels of an inventory: what seeds, fingerprints and resuming rely on."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from arcpipe.config import SourceSection
from arcpipe.errors import SourceError
from arcpipe.sources import Inventory, open_source
from arcpipe.sources.inventory import choose

Make = Callable[..., Path]


def inventory(path: Path, **values: object) -> Inventory:
    return open_source(SourceSection(source=str(path), **values)).inventory()


def test_samples_are_sorted_and_numbered_within_their_split(tmp_path: Path, make_folder: Make, pets: dict) -> None:
    found = inventory(make_folder(tmp_path / "pets", pets))
    assert found.classes == ("cats", "dogs")
    assert [(s.sample_id, s.path, s.label) for s in found.samples["train"]] == [
        (0, "cats/1.png", 0),
        (1, "cats/2.png", 0),
        (2, "dogs/1.png", 1),
        (3, "dogs/2.png", 1),
    ]
    assert found.samples["val"][0].key == "val/cats/3.png"
    assert [s.size for s in found.samples["train"]] == [(5, 6), (6, 6), (5, 6), (6, 6)]
    assert found.name == "pets"


def test_folder_tar_and_zip_of_the_same_files_are_one_inventory(
    tmp_path: Path, make_folder: Make, make_tar: Make, pets: dict
) -> None:
    folder = inventory(make_folder(tmp_path / "pets", pets))
    tar = inventory(make_tar(tmp_path / "pets.tar", pets))
    assert folder.digest == tar.digest
    assert [(s.key, s.size) for rows in folder.samples.values() for s in rows] == [
        (s.key, s.size) for rows in tar.samples.values() for s in rows
    ]


@pytest.mark.parametrize("change", ["pixels", "name", "class", "new", "grey", "limit"])
def test_the_digest_changes_with_the_source(
    change: str, tmp_path: Path, make_folder: Make, png: Callable[..., bytes], pets: dict
) -> None:
    before = inventory(make_folder(tmp_path / "before", pets)).digest
    files, values = dict(pets), {}
    if change == "pixels":
        files["train/cats/1.png"] = png(5, 6, seed=9)
    elif change == "name":
        files["train/cats/0.png"] = files.pop("train/cats/1.png")
    elif change == "class":
        files["train/dogs/3.png"] = files.pop("train/cats/1.png")
    elif change == "new":
        files["val/dogs/9.png"] = png()
    else:
        values = {"grey": True} if change == "grey" else {"limit": 1}
    assert inventory(make_folder(tmp_path / "after", files), **values).digest != before


def test_the_digest_does_not_depend_on_dates_and_places(tmp_path: Path, make_folder: Make, pets: dict) -> None:
    first = make_folder(tmp_path / "a", pets)
    second = make_folder(tmp_path / "elsewhere" / "b", pets)
    os.utime(second / "train/cats/1.png", (0, 0))
    assert inventory(first).digest == inventory(second).digest


def test_one_channel_only_if_all_images_are_grey(tmp_path: Path, make_folder: Make, png: Callable[..., bytes]) -> None:
    files = {"a/1.png": png(mode="L"), "b/1.png": png(mode="L"), "b/broken.png": b"no image"}
    assert inventory(make_folder(tmp_path / "grey", files)).channels == 1  # what cannot be read has no say
    files["b/2.png"] = png()
    colour = make_folder(tmp_path / "colour", files)
    assert inventory(colour).channels == 3
    assert inventory(colour, grey=True).channels == 1


def test_a_broken_image_is_a_sample_with_a_reason(tmp_path: Path, make_folder: Make, pets: dict) -> None:
    found = inventory(make_folder(tmp_path, {**pets, "train/cats/0.png": b"<html>"}))
    broken = found.samples["train"][0]
    assert broken.size is None
    assert broken.reason is not None
    assert broken.reason.startswith("train/cats/0.png is no image")
    assert found.samples["train"][1].reason is None


def test_no_usable_image_stops_before_any_work(tmp_path: Path, make_folder: Make, pets: dict) -> None:
    with pytest.raises(SourceError, match="none of the 6 images") as caught:
        inventory(make_folder(tmp_path, pets), center_crop=64)
    assert "smaller than --center-crop 64" in str(caught.value)


def test_limit_keeps_numbers_and_classes_even(tmp_path: Path, make_folder: Make, png: Callable[..., bytes]) -> None:
    data = png()
    files = {f"{split}/{c}/{n}.png": data for split in ("train", "test") for c in "abc" for n in range(9)}
    folder = make_folder(tmp_path / "x", files)
    whole, part = inventory(folder), inventory(folder, limit=6)
    assert part == inventory(folder, limit=6)
    for split in ("train", "test"):
        assert Counter(s.label for s in part.samples[split]) == {0: 2, 1: 2, 2: 2}
        assert set(part.samples[split]) < set(whole.samples[split])
    assert inventory(folder, limit=99).samples == whole.samples


def test_limit_chooses_evenly_from_uneven_classes_and_within_larger_limits() -> None:
    labels = np.repeat([0, 1, 2], [50, 3, 20])
    kept = choose(labels, 15, "train")
    assert Counter(labels[kept].tolist()) == {0: 6, 1: 3, 2: 6}
    assert (np.diff(kept) > 0).all()
    assert set(kept) <= set(choose(labels, 16, "train"))
    assert set(choose(labels, 15, "test")) != set(kept)


def test_a_limit_below_the_number_of_classes_takes_other_classes_than_the_first() -> None:
    labels = np.arange(1000)
    kept = labels[choose(labels, 60, "train")]
    assert len(set(kept)) == 60
    assert kept.max() > 500


def test_a_source_travels_to_a_worker(tmp_path: Path, make_tar: Make, pets: dict) -> None:
    lines: list[str] = []
    source = open_source(
        SourceSection(source=str(make_tar(tmp_path / "p.tar", pets))), progress=lambda text: lines.append(text)
    )
    found = source.inventory()
    there = pickle.loads(pickle.dumps(source))
    for sample in found.samples["train"]:
        np.testing.assert_array_equal(there.read(sample, 3), source.read(sample, 3))
