"""`arcpipe inspect` end to end on a small store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from arcpipe.arc.render import render_cloud
from arcpipe.errors import ConfigError, SampleNotFoundError, UnfinishedStoreError
from arcpipe.inspect import run_inspect
from arcpipe.inspect.panels import detail_window
from arcpipe.inspect.samples import CloudPlace, view_sample
from arcpipe.inspect.sheet import CAPTION_WIDTH, GAP, MARGIN
from arcpipe.sources import open_originals
from arcpipe.store import open_store
from benchmarks.hero import draw_hero

Make = Callable[..., Path]


def pixels(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def columns_of(sheet: NDArray[np.uint8], widths: list[int]) -> list[NDArray[np.uint8]]:
    """The part of a sheet below its head, cut into its columns of pictures."""
    left, columns = MARGIN + CAPTION_WIDTH + GAP, []
    for width in widths:
        columns.append(sheet[140:-MARGIN, left : left + width])
        left += width + GAP
    return columns


def test_overview_shows_each_chosen_sample_in_four_columns(store: Path, tmp_path: Path) -> None:
    report = run_inspect(store, [], tmp_path / "out")
    assert [file.name for file in report.files] == ["best-median-worst.png", "psnr.png"]
    assert len(report.samples) == 6
    assert report.samples[0].tag == "best"
    sheet = pixels(report.files[0])
    widths = [272, 272, 272]  # 17 pixels wide, 16 times; the 33 pixels wide one is 264
    assert sheet.shape[1] >= 2 * MARGIN + CAPTION_WIDTH + 3 * (272 + GAP)
    assert all(column.std() > 20 for column in columns_of(sheet, widths))
    assert pixels(report.files[1]).std() > 5
    for sample in report.samples:
        assert sample.psnr_db is not None
        assert sample.measured_db == pytest.approx(sample.psnr_db, abs=0.01)
    assert report.warnings == ()
    assert report.note == ""


def test_a_changed_source_image_is_told(make_store: Make, images: Path, tmp_path: Path) -> None:
    store = make_store()
    Image.new("RGB", (17, 12), "red").save(images / "train/dog/b.png")
    Image.new("RGB", (40, 30), "red").save(images / "test/cat/d.png")
    (images / "train/cat/a 1.png").write_bytes(b"no image any more")
    report = run_inspect(store, ["train/dog/b.png", "test/cat/d.png", "train/cat/a 1.png"], tmp_path / "out")
    assert [w.split(":")[0] for w in report.warnings] == ["train/dog/b.png", "test/cat/d.png", "train/cat/a 1.png"]
    assert "the source image has changed" in report.warnings[0]
    assert "30 × 40 pixels now" in report.warnings[1]
    assert "cannot be read" in report.warnings[2]


def test_without_the_source_there_are_reconstructions_and_a_note(
    make_store: Make, images: Path, tmp_path: Path
) -> None:
    store = make_store()
    shutil.rmtree(images)
    report = run_inspect(store, [], tmp_path / "out")
    assert str(images) in report.note
    assert "Reconstructions only" in report.note
    assert all(s.measured_db is None and s.psnr_db is not None for s in report.samples)
    assert report.warnings == ()
    assert pixels(report.files[0]).shape[1] == 2 * MARGIN + CAPTION_WIDTH + 2 * (272 + GAP)
    values = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert values["samples"][0]["measured_db"] is None
    assert set(values["mean_psnr_db"]) == {"test", "train"}
    assert str(report.files[0]) in "\n".join(report.lines())


def test_the_pictures_are_the_same_with_and_without_the_cache(store: Path, make_store: Make, tmp_path: Path) -> None:
    for i, own in enumerate([store, make_store(cache=False)]):
        run_inspect(own, ["train/dog/c.png"], tmp_path / str(i))
    for name in ("sample-train-dog-c.png", "reconstruction-train-dog-c.png"):
        first = pixels(tmp_path / "0" / name)
        assert first.std() > 5
        assert np.array_equal(first, pixels(tmp_path / "1" / name))


def test_a_named_sample_gets_a_sheet_and_a_full_size_reconstruction(store: Path, tmp_path: Path) -> None:
    report = run_inspect(store, ["train/cat/ünï.png", "train/cat/ünï.png", "test/0"], tmp_path / "out")
    assert [file.name for file in report.files] == [
        "sample-train-cat-ünï.png",
        "reconstruction-train-cat-ünï.png",
        "sample-test-cat-d.png",
        "reconstruction-test-cat-d.png",
    ]
    opened = open_store(store)
    cloud = opened.read_cloud(*opened.find("train/cat/ünï.png"))
    expected = np.rint(render_cloud(cloud, opened.decoder) * 255)
    assert np.array_equal(pixels(report.files[1]), expected)


def test_scale_renders_between_the_pixels(store: Path, tmp_path: Path) -> None:
    report = run_inspect(store, ["train/dog/c.png"], tmp_path / "out", scale=4)
    assert [file.name for file in report.files] == ["sample-train-dog-c-x4.png", "reconstruction-train-dog-c-x4.png"]
    rendered = pixels(report.files[1])
    assert rendered.shape == (80, 36, 3)
    assert len(np.unique(rendered.reshape(-1, 3), axis=0)) > 20 * 9  # more colours than the image has pixels
    assert all(column.std() > 20 for column in columns_of(pixels(report.files[0]), [216] * 3))
    assert run_inspect(store, [], tmp_path / "all", scale=2).files[0].name == "best-median-worst-x2.png"


@pytest.mark.parametrize("scale", [1, 4])
def test_a_window_is_cut_out_of_the_whole_render(store: Path, scale: int) -> None:
    opened = open_store(store)
    cloud = opened.read_cloud(*opened.find("test/dog/e.png"))
    whole = render_cloud(cloud, opened.decoder, scale=scale)
    window = render_cloud(cloud, opened.decoder, scale=scale, window=(10, 4, 7, 21))
    expected = whole[10 * scale : 17 * scale, 4 * scale : 25 * scale]
    assert window == pytest.approx(expected, abs=1e-6)


def test_large_images_show_their_most_detailed_part_when_scaled(store: Path) -> None:
    opened = open_store(store)
    view = view_sample(opened, open_originals(opened.config, 3), CloudPlace(*opened.find("test/dog/e.png")))
    top, left, tall, wide = detail_window(view, 8)
    assert (tall, wide) == (8, 8)
    inside = ((view.cloud.positions >= (top, left)) & (view.cloud.positions < (top + 8, left + 8))).all(axis=1).sum()
    counts = [
        ((view.cloud.positions >= (r, c)) & (view.cloud.positions < (r + 8, c + 8))).all(axis=1).sum()
        for r in range(31 - 7)
        for c in range(33 - 7)
    ]
    assert inside == max(counts)


@pytest.mark.parametrize("edit", ["push", "rotate", "flip", "zoom", "crop", "shear", "mask", "mix"])
def test_every_edit_has_a_sheet_that_depends_on_the_seed_only(edit: str, store: Path, tmp_path: Path) -> None:
    def sheet(seed: int) -> NDArray[np.uint8]:
        return pixels(run_inspect(store, ["train/dog/b.png"], tmp_path, edit=edit, seed=seed).files[0])

    first, other = sheet(0), sheet(1)
    assert first.std() > 20
    if edit in ("push", "mask", "mix"):
        assert np.array_equal(first, sheet(0))
        assert not np.array_equal(first, other)
    else:  # nothing in them is random
        assert np.array_equal(first, other)


def test_without_names_an_edit_is_shown_on_chosen_samples(store: Path, tmp_path: Path) -> None:
    report = run_inspect(store, [], tmp_path, edit="mix")
    assert [file.name for file in report.files] == ["edit-mix.png"]
    assert len(report.samples) > 1


def test_an_unfinished_store_shows_what_is_committed(make_store: Make, tmp_path: Path) -> None:
    report = run_inspect(make_store(splits=("test",)), [], tmp_path / "out")
    assert {sample.name for sample in report.samples} == {"test/cat/d.png", "test/dog/e.png"}
    with pytest.raises(UnfinishedStoreError, match="no cloud yet"):
        run_inspect(make_store("empty.zarr", splits=()), [], tmp_path / "out")


def test_unknown_samples_and_impossible_wishes_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(SampleNotFoundError):
        run_inspect(store, ["train/dog/zebra.png"], tmp_path / "out")
    with pytest.raises(ConfigError, match="cannot be combined"):
        run_inspect(store, [], tmp_path / "out", scale=2, edit="push")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match="cannot be made a folder"):
        run_inspect(store, [], tmp_path / "file")


def test_a_render_beyond_memory_is_refused_with_the_largest_scale(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcpipe.inspect.draw.RENDER_PIXELS", 20 * 9 * 3**2)
    with pytest.raises(ConfigError, match="--scale 4 is too large") as caught:
        run_inspect(store, ["train/dog/c.png"], tmp_path / "out", scale=4)
    assert caught.value.fix == ("--scale 3",)


def test_hero_shows_four_stages(store: Path, tmp_path: Path) -> None:
    draw_hero(open_store(store), ["train/cat/a 1.png", "train/dog/b.png"], tmp_path / "hero.png")
    shown = pixels(tmp_path / "hero.png")
    assert shown.shape[1] > 4 * 2 * 85
    stages = np.array_split(shown[80:-20], 4, axis=1)
    assert all(stage.std() > 20 for stage in stages)


def test_pictures_do_not_go_into_the_store(store: Path) -> None:
    """`verify` would report them as damage."""
    with pytest.raises(ConfigError, match="lies in the store") as caught:
        run_inspect(store, [], store / "pictures")
    assert caught.value.fix == (f"--out with a path outside of {store}",)
    assert not (store / "pictures").exists()
