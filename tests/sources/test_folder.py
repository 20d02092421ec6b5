"""Folders: links, odd names and what cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arcpipe.config import SourceSection
from arcpipe.errors import ImageError, SourceError
from arcpipe.sources import open_source

Make = Callable[..., Path]


def keys(root: Path, lines: list[str] | None = None) -> list[str]:
    progress = lines.append if lines is not None else None
    found = open_source(SourceSection(source=str(root)), progress=progress).inventory()
    return [sample.key for rows in found.samples.values() for sample in rows]


def test_links_are_followed_inside_the_folder_only(tmp_path: Path, make_folder: Make, pets: dict) -> None:
    root = make_folder(tmp_path / "pets", pets)
    outside = make_folder(tmp_path / "outside", {"secret.png": pets["train/cats/1.png"]})
    (root / "train/dogs/inside.png").symlink_to(root / "train/cats/1.png")
    (root / "train/dogs/outside.png").symlink_to(outside / "secret.png")
    (root / "train/birds").symlink_to(outside)
    (root / "train/dogs/nowhere.png").symlink_to(root / "missing.png")
    lines: list[str] = []
    found = keys(root, lines)
    assert "train/dogs/inside.png" in found
    assert len(found) == 7
    assert any("3 entries passed over" in line and "outside or nowhere" in line for line in lines)


def test_loops_of_links_end(tmp_path: Path, make_folder: Make, pets: dict) -> None:
    root = make_folder(tmp_path / "pets", pets)
    (root / "train/cats/up").symlink_to(root)
    (root / "train/cats/self").symlink_to(root / "train/cats")
    assert len(keys(root)) == 6


def test_a_linked_root_is_read(tmp_path: Path, make_folder: Make, pets: dict) -> None:
    (tmp_path / "link").symlink_to(make_folder(tmp_path / "pets", pets))
    assert len(keys(tmp_path / "link")) == 6


def test_odd_names_keep_their_own_name(tmp_path: Path, make_folder: Make, png: Callable[..., bytes]) -> None:
    names = ["ünïcode_图像_🙂.png", "percent%20#hash+plus.png", "UPPER and space.PNG", "twice.png", "twice.png.jpg"]
    root = make_folder(tmp_path, {f"train/a/{name}": png(seed=n) for n, name in enumerate(names)})
    assert sorted(keys(root)) == sorted(f"train/a/{name}" for name in names)


def test_a_name_that_is_not_utf8_is_shown_and_read(tmp_path: Path, png: Callable[..., bytes]) -> None:
    (tmp_path / "a").mkdir()
    with open(os.fsencode(tmp_path / "a") + b"/\xff.png", "wb") as stream:
        stream.write(png(3, 2))
    source = open_source(SourceSection(source=str(tmp_path)))
    [sample] = source.inventory().samples["train"]
    assert sample.path == "a/\\xff.png"
    assert source.read(sample, 3).shape == (3, 2, 3)


def test_pipes_and_other_kinds_are_never_opened(tmp_path: Path, make_folder: Make, pets: dict) -> None:
    root = make_folder(tmp_path, pets)
    os.mkfifo(root / "train/cats/pipe.png")
    assert len(keys(root)) == 6


def test_an_unreadable_folder_is_named(
    tmp_path: Path, make_folder: Make, pets: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path, pets)
    scandir = os.scandir

    def refuse(path: Path):  # tests may run as root, who may read everything
        if Path(path).name == "dogs":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"train/dogs cannot be read") as caught:
        keys(root)
    assert "chmod" in str(caught.value)


def test_a_file_that_vanished_is_a_failed_sample(tmp_path: Path, make_folder: Make, pets: dict) -> None:
    source = open_source(SourceSection(source=str(make_folder(tmp_path, pets))))
    sample = source.inventory().samples["train"][0]
    (tmp_path / "train/cats/1.png").unlink()
    with pytest.raises(ImageError, match=r"train/cats/1.png cannot be read"):
        source.read(sample, 3)


def test_one_class_is_said_but_allowed(tmp_path: Path, make_folder: Make, png: Callable[..., bytes]) -> None:
    lines: list[str] = []
    assert keys(make_folder(tmp_path, {"test/kodak/1.png": png()}), lines) == ["test/kodak/1.png"]
    assert any("one class only (kodak)" in line for line in lines)


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path, make_folder: Make) -> None:
    root = make_folder(tmp_path / "empty", {"a/x.txt": b"", "a/y.txt": b"", "z.csv": b""})
    with pytest.raises(SourceError, match="empty holds no images") as caught:
        keys(root)
    assert "3 files were passed over: 2 *.txt, 1 *.csv" in str(caught.value)


def test_a_link_through_a_folder_that_may_not_be_read_is_passed_over(
    tmp_path: Path, make_folder: Make, pets: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of /proc: `os.path.realpath` then raises."""
    root = make_folder(tmp_path / "pets", pets)
    (root / "train/cats/link.png").symlink_to(tmp_path / "elsewhere")

    realpath = os.path.realpath

    def refuses(path: str | Path, **options: Any) -> str:
        if str(path).endswith("link.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return realpath(path, **options)

    monkeypatch.setattr(os.path, "realpath", refuses)
    lines: list[str] = []
    assert len(keys(root, lines)) == 6
    assert any("train/cats/link.png: a link that leads outside or nowhere" in line for line in lines)
