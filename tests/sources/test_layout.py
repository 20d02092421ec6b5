"""Which split and class a file belongs to (docs/images.md, layout)."""

from __future__ import annotations

import pytest

from arcpipe.errors import SourceError
from arcpipe.sources.layout import FilePlace, is_image, place


def where(*names: str) -> list[FilePlace | None]:
    return place(list(names), "pets")[0]


def test_three_levels_under_split_names_are_split_and_class() -> None:
    found = where("train/cats/1.jpg", "valid/dogs/2.jpg", "Testing/dogs/3.jpg")
    # other names of the three splits are brought to `train`, `val`, `test`
    assert found == [
        FilePlace("train", "cats", "cats/1.jpg"),
        FilePlace("val", "dogs", "dogs/2.jpg"),
        FilePlace("test", "dogs", "dogs/3.jpg"),
    ]


def test_two_levels_are_class_and_file_even_if_a_class_is_called_train() -> None:
    assert where("train/1.jpg", "bus/2.jpg") == [
        FilePlace("train", "train", "train/1.jpg"),
        FilePlace("train", "bus", "bus/2.jpg"),
    ]


def test_only_the_first_level_can_be_a_split() -> None:
    assert where("train/valid/x.png", "train/broken/y.png") == [
        FilePlace("train", "valid", "valid/x.png"),
        FilePlace("train", "broken", "broken/y.png"),
    ]


def test_a_leading_folder_that_all_share_is_skipped() -> None:
    assert where("a/imagenette2/train/n01/x.JPEG") == [FilePlace("train", "n01", "n01/x.JPEG")]
    assert where("pets/cats/1.jpg", "pets/dogs/1.jpg") == [
        FilePlace("train", "cats", "cats/1.jpg"),
        FilePlace("train", "dogs", "dogs/1.jpg"),
    ]


def test_a_single_split_or_class_is_not_mistaken_for_a_leading_folder() -> None:
    assert where("test/kodak/kodim01.png") == [FilePlace("test", "kodak", "kodak/kodim01.png")]
    assert where("cats/1.jpg", "cats/2.jpg")[1] == FilePlace("train", "cats", "cats/2.jpg")


def test_deeper_folders_belong_to_the_name_of_the_image() -> None:
    assert where("train/cats/old/1.jpg", "train/dogs/1.jpg")[0] == FilePlace("train", "cats", "cats/old/1.jpg")


def test_images_without_a_class_are_passed_over_and_said() -> None:
    found, notes = place(["train/cats/1.jpg", "test/2.jpg", "extra/dogs/3.jpg", "4.jpg"], "pets")
    assert found[1:] == [None, None, None]
    assert [note for note in notes if "test/ without a class folder" in note]
    assert [note for note in notes if "extra/, which is no split" in note]
    assert [note for note in notes if "1 beside the folders" in note]


def test_images_without_any_class_folder_are_an_error_that_shows_the_layout() -> None:
    with pytest.raises(SourceError, match="none lies in a class folder") as caught:
        where("1.jpg", "2.jpg")
    assert "SPLIT/CLASS/FILE" in str(caught.value)


def test_two_folders_for_one_split_are_refused() -> None:
    with pytest.raises(SourceError, match="several folders for the split val") as caught:
        where("train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg")
    assert "val, valid" in str(caught.value)


@pytest.mark.parametrize("name", ["a/x.JPG", "a/x.jpeg", "twice.png.jpg", "a/b c #%20.tif", "x.pgm", "ü/🙂.webp"])
def test_images_are_told_by_extension(name: str) -> None:
    assert is_image(name)


@pytest.mark.parametrize(
    "name", ["a/.DS_Store", "a/._x.jpg", ".git/x.png", "a/.jpg", "a/no_extension", "x.txt", "Thumbs.db"]
)
def test_hidden_and_other_files_are_no_images(name: str) -> None:
    assert not is_image(name)
