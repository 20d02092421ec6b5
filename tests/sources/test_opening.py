"""What SOURCE may be, and what is said about everything else."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arcpipe.config import SourceSection
from arcpipe.errors import ImageError, SourceError
from arcpipe.sources import load_image, located, only_splits, open_source
from arcpipe.sources.registry import SETS

Make = Callable[..., Path]


def test_names_are_those_of_the_contract() -> None:
    assert tuple(SETS) == ("digits", "mnist", "fashion-mnist", "cifar10", "imagenette", "imagenette320")


def test_a_missing_path_lists_near_names(tmp_path: Path, make_folder: Make, pets: dict) -> None:
    make_folder(tmp_path / "animals", pets)
    with pytest.raises(SourceError, match="there is no dataset") as caught:
        open_source(SourceSection(source=str(tmp_path / "animal")))
    assert str(tmp_path / "animals") in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_misspelt_name_finds_the_named_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError) as caught:
        open_source(SourceSection(source="imagenete"))
    assert "arcpipe convert imagenette" in str(caught.value)
    # the suggested command names something that exists
    assert "imagenette" in SETS


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("x.bin", b"\x80\x05 no archive" * 100, "no archive"),
        ("x.tar", b"", "the file is empty"),
        ("x.png", b"\x89PNG", "is an image"),
        ("x.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00", "no archive"),
    ],
)
def test_a_file_that_is_no_archive_is_named(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError) as caught:
        open_source(SourceSection(source=str(tmp_path / name)))
    assert words in str(caught.value)


def test_a_name_wins_over_a_folder_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    lines: list[str] = []
    assert open_source(SourceSection(source="digits"), progress=lines.append).inventory().name == "digits"
    assert any("./digits" in line for line in lines)


def test_a_source_need_not_be_scanned_to_be_read(
    tmp_path: Path, make_tar: Make, pets: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers open their own source and get samples from the plan."""
    section = SourceSection(source=str(make_tar(tmp_path / "p.tar", pets)))
    sample = open_source(section).inventory().samples["val"][0]
    worker = open_source(section)
    monkeypatch.setattr("tarfile.open", None)  # a scan would need it
    assert worker.read(sample, 3).shape == (7, 6, 3)


def test_opening_a_zip_for_a_worker_reads_no_directory(
    tmp_path: Path, png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", png(3, 2))
    section = SourceSection(source=str(path))
    [sample] = open_source(section).inventory().samples["train"]
    worker = open_source(section)
    monkeypatch.setattr("zipfile.ZipFile", None)
    assert worker.read(sample, 3).shape == (3, 2, 3)


def test_load_image_is_what_read_gives(tmp_path: Path, make_folder: Make, pets: dict) -> None:
    section = SourceSection(source=str(make_folder(tmp_path, pets)), size=8)
    source = open_source(section)
    sample = source.inventory().samples["train"][0]
    np.testing.assert_array_equal(load_image(tmp_path / "train/cats/1.png", section, 3), source.read(sample, 3))


def test_load_image_of_nothing_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"missing.png cannot be read"):
        load_image(tmp_path / "missing.png", SourceSection(source="x"), 3)


def test_a_file_is_found_below_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelines name their archives without the path of any machine."""
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    for place in ("data/pets", "here/pets"):
        for name in ("train/a/0.png", "train/b/0.png", "test/a/1.png"):
            (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / place / name)
    monkeypatch.chdir(tmp_path)
    section = SourceSection(source="pets", data=Path("data"))
    assert located(section).source == str(tmp_path / "data" / "pets")
    inventory = open_source(section).inventory()
    only = only_splits(inventory, SourceSection(source="pets", splits=("test",)))
    assert (list(only.samples), only.classes, only.digest) == (["test"], ("a", "b"), inventory.digest)
    with pytest.raises(SourceError, match=r"(?s)no split val.*test, train"):
        only_splits(inventory, SourceSection(source="pets", splits=("val",)))
    monkeypatch.chdir(tmp_path / "here")  # what lies here comes first
    assert located(SourceSection(source="pets", data=tmp_path / "data")).source == str(tmp_path / "here" / "pets")
    missing = SourceSection(source="pots", data=tmp_path / "data")
    with pytest.raises(SourceError) as caught:
        open_source(located(missing))
    assert f"looked for in {tmp_path / 'here'} and in the data folder {tmp_path / 'data'}" in str(caught.value)
    assert "--data FOLDER" in str(caught.value)
