"""The page about a store: one file that loads nothing, runs nothing, and says what the store says."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from arcpipe.arc.decoder import Decoder
from arcpipe.cloud import CloudBatch, FailedSample
from arcpipe.config import FitSection
from arcpipe.convert import run_convert
from arcpipe.errors import ConfigError, NoSpaceError, NotAStoreError
from arcpipe.inspect import charts, facts, write_page
from arcpipe.inspect.markup import LONGEST_TEXT, escaped, tag
from arcpipe.progress import byte_size
from arcpipe.sources import Sample
from arcpipe.storage import storage_at
from arcpipe.store import StoreHeader, content_hash, create_or_open, open_store
from tests.commands import arcpipe_here
from tests.inspect.conftest import cloud_of
from tests.pictures import in_process, make_pictures, settings

Make = Callable[..., Path]
EVIL = "<script>alert(1)</script>\"'><img src=//evil.example/x onerror=alert(1)>&amp;"
NO_TAGS = {"script", "link", "iframe", "object", "embed", "base", "form", "a", "audio", "video", "source", "input"}
LOADS = {"src", "href", "xlink:href", "srcset", "action", "poster", "background", "data", "style", "ping", "manifest"}
VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a browser would see: tags with attributes, text, and tables by the heading above them."""

    def __init__(self, file: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = file.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.style = self.text = self.heading = ""
        self.tables: dict[str, list[list[str]]] = {}
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)
        if name in ("h2", "h3"):
            self.heading = ""
        if name == "tr":
            self.tables.setdefault(self.heading, []).append([])
        if name in ("td", "th"):
            self.tables[self.heading][-1].append("")

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, text: str) -> None:
        self.text += text
        if "style" in self.open:
            self.style += text
        elif self.open and self.open[-1] in ("h2", "h3"):
            self.heading += text
        elif "td" in self.open or "th" in self.open:
            self.tables[self.heading][-1][-1] += text

    def pictures(self, of: str = "") -> list[str | None]:
        """What stands in place of each picture, for readers that cannot see it."""
        return [own["alt"] for name, own in self.tags if name == "img" and of in (own["alt"] or "")]

    def row(self, heading: str, name: str) -> list[str]:
        return next(cells[1:] for cells in self.tables[heading] if cells and cells[0] == name)


def check_self_contained(page: Page) -> None:
    names = {name for name, _ in page.tags}
    assert not names & NO_TAGS
    for _, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in LOADS:
                assert (value or "").startswith(("data:image/png;base64,", "#"))
            if "url(" in (value or ""):
                assert (value or "").startswith("url(#")
    assert "url(" not in page.style
    assert "@import" not in page.style
    policies = [own for name, own in page.tags if own.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    allowed = dict(rule.strip().split(" ", 1) for rule in (policies[0]["content"] or "").split(";"))
    own_hash = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert allowed["default-src"] == "'none'"
    assert allowed["style-src"] == f"'sha256-{own_hash}'"
    assert allowed["img-src"] == "data:"
    assert set(allowed) == {"default-src", "style-src", "img-src", "base-uri", "form-action"}
    assert page.tags.index(("meta", policies[0])) < [name for name, _ in page.tags].index("style")


def write_hostile(path: Path, *, channels: int = 3, names: str = EVIL, classes: int = 2) -> Path:
    """A store whose every text is `names`: split, classes, paths, settings, versions, failures."""
    fit = FitSection(latent_dim=5, hidden=(16,))
    split = names.replace("/", "")
    decoder = Decoder.initial(fit, channels, seed=0).to_record()
    header = StoreHeader(
        config={"source": {"source": names}, "fit": {"recipe": names, names: {names: names}}},
        fingerprint=names,
        classes=[f"{names}{i}" for i in range(classes)],
        channels=channels,
        splits={split: {"samples": 5, "parts": 1}},
        versions={names: names},
    )
    rng = np.random.default_rng(3)
    clouds = [
        cloud_of(
            rng.random((9 + i, 12, channels), np.float32),
            Sample("s", i % 2, f"{names}{i}", i, (0,), (9 + i, 12)),
            decoder,
            True,
        )
        for i in range(3)
    ]
    failures = [FailedSample(3 + i, f"{names}{i}", names, f"{names}\n{names}") for i in range(2)]
    writer = create_or_open(path, header, decoder)
    writer.commit_part(split, "0000", CloudBatch.join(clouds), failures, {"seconds": {names: 1.5, "total": 1.5}})
    writer.finish({"seconds_by_stage": {names: names}, "seconds": names, "workers": names})
    return path


def test_the_page_is_one_file_that_loads_and_runs_nothing(store: Path, tmp_path: Path) -> None:
    report = write_page(store, tmp_path / "new" / "a.html")
    assert report.files == (tmp_path / "new" / "a.html",)
    assert os.listdir(tmp_path / "new") == ["a.html"]
    page = Page(report.files[0])
    check_self_contained(page)
    assert "prefers-color-scheme: dark" in page.style
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [own for _, own in page.tags]
    for column in ("original", "reconstruction", "anchors", "absolute error"):
        assert len(page.pictures(f"{column} of")) == 6
    assert "Best: the highest PSNR of all splits" in page.text
    assert [sample.name for sample in report.samples] == [
        alt.removeprefix("anchors of ") for alt in page.pictures("anchors of")
    ]  # type: ignore[union-attr]


def test_what_a_store_says_is_text_and_nothing_else(tmp_path: Path) -> None:
    page = Page(write_page(write_hostile(tmp_path / f"{EVIL.replace('/', '')}.zarr"), tmp_path / "a.html").files[0])
    check_self_contained(page)
    assert page.text.count("<script>alert(1)") > 20
    assert "<script" not in page.source
    assert "<img src=//" not in page.source
    assert "'><" not in page.source
    assert f": {EVIL}0: {EVIL}" in page.text  # a failure: its path and the first line of what was said
    assert page.row("Images per class", f"{EVIL}0")[0] == "2"


def test_names_that_are_no_text_or_very_long_do_no_harm(tmp_path: Path) -> None:
    names = "a\u202eb\x00\x1b[31m\udcff" + "x" * 5000
    page = Page(write_page(write_hostile(tmp_path / "odd.zarr", names="o\x1b\u202e"), tmp_path / "a.html").files[0])
    assert not {"\x1b", "\u202e"} & set(page.source)
    shown = escaped(names)
    assert shown.startswith("a?b??[31m?x")
    assert len(shown) == LONGEST_TEXT + 1
    assert tag("p", tag("b", "<"), "<", title='"') == '<p title="&quot;"><b>&lt;</b>&lt;</p>'


def test_many_classes_are_cut_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arcpipe.inspect.sections.MOST_ROWS", 1)
    page = Page(write_page(write_hostile(tmp_path / "a.zarr", classes=9), tmp_path / "a.html").files[0])
    assert len(page.tables["Images per class"]) == 2
    assert "And 1 more classes of 1 to 1 images." in page.text


def test_an_unfinished_store_says_so(make_store: Make, tmp_path: Path) -> None:
    store = make_store(splits=("test",))
    report = write_page(store, tmp_path / "a.html")
    page = Page(report.files[0])
    check_self_contained(page)
    assert "Not finished: 1 of 2 parts are committed, 2 of 6 images." in page.text
    assert f"--out {store}   # with the options of before: it continues" in page.text
    assert report.mean_psnr_db["train"] is None
    assert page.row("PSNR", "train") == [""] * 6
    assert {sample.name for sample in report.samples} == {"test/cat/d.png", "test/dog/e.png"}


def test_a_store_without_a_part_has_a_page(make_store: Make, tmp_path: Path) -> None:
    report = write_page(make_store(splits=()), tmp_path / "a.html")
    page = Page(report.files[0])
    check_self_contained(page)
    assert "Not finished: 0 of 2 parts are committed, 0 of 6 images." in page.text
    assert page.pictures() == []
    assert "No cloud" in page.text
    assert "arcpipe train" not in page.text
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["mean_psnr_db"] == {"train": None, "test": None}


def test_without_the_source_there_are_reconstructions_and_why(make_store: Make, images: Path, tmp_path: Path) -> None:
    store = make_store()
    shutil.rmtree(images)
    page = Page(write_page(store, tmp_path / "a.html").files[0])
    assert "Reconstructions only, the source images cannot be opened" in page.text
    assert str(images) in page.text
    assert len(page.pictures("reconstruction of")) == len(page.pictures("anchors of")) == 6
    assert len(page.pictures()) == 12


def test_a_source_image_that_changed_is_told(make_store: Make, images: Path, tmp_path: Path) -> None:
    store = make_store()
    Image.new("RGB", (17, 12), "red").save(images / "train/dog/b.png")
    assert "the source image has changed" in Page(write_page(store, tmp_path / "a.html").files[0]).text


def test_grey_stores_have_pages(tmp_path: Path) -> None:
    page = Page(
        write_page(write_hostile(tmp_path / "grey.zarr", channels=1, names="plain"), tmp_path / "a.html").files[0]
    )
    assert page.row("Provenance", "channels") == ["1 (grey)"]
    assert len(page.pictures("reconstruction of")) == 3


def test_the_numbers_are_those_of_the_closing_report(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "pictures", per_class=2)
    (pictures / "train" / "ants" / "broken.png").write_bytes(b"no image")
    changes: dict[str, Any] = {"fit": {"repeats": 2}, "run": {"max_failed": 1}}
    with ThreadPoolExecutor(1) as executor:
        told = run_convert(settings(pictures, tmp_path / "a.zarr", **changes), cluster=in_process(executor)).as_dict()
    page = Page(write_page(tmp_path / "a.zarr", tmp_path / "a.html").files[0])
    n_bytes, n_pixels = sum(told["bytes_by_array"].values()), sum(own["pixels"] for own in told["splits"].values())
    for split, own in told["splits"].items():
        counts = [own[name] for name in ("planned", "samples", "failed", "clouds", "points", "parts")]
        assert page.row("", split) == [f"{count:,}" for count in counts]
        assert page.row("PSNR", split) == [f"{value:.2f}" for value in (*own["psnr"].values(), own["mean_psnr"])]
    assert {name: page.row("Bytes by array", name)[0] for name in told["bytes_by_array"]} == {
        name: f"{size:,}" for name, size in told["bytes_by_array"].items()
    }
    assert {name: page.row("Seconds by stage", name)[0] for name in told["seconds_by_stage"]} == {
        name: f"{seconds:,.1f}" for name, seconds in told["seconds_by_stage"].items()
    }
    assert page.row("Failures", "unreadable")[0] == str(told["failed_by_reason"]["unreadable"]) == "1"
    assert re.search(r"train: \S*ants/broken\.png", page.text)
    assert f"bytes a pixel{n_bytes / n_pixels:.2f}" in page.text
    assert f"size on disk{byte_size(n_bytes)}" in page.text
    assert f"images{told['planned'] - told['failed']}" in page.text
    assert [int(page.row("Images per class", name)[0]) for name in ("ants", "bees", "cats")] == [4, 4, 4]
    store = open_store(tmp_path / "a.zarr")
    assert page.row("Provenance", "fingerprint of the content") == [content_hash(store)]
    assert page.row("Provenance", "decoder")[0].startswith(store.decoder_sha256)
    assert f"over all {store.latent_statistics['count']:,} latents of the split train" in page.text
    assert all(command in page.text for command in told["next"])


def test_no_more_latents_are_read_than_a_bound(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_store(store)
    monkeypatch.setattr(facts, "SAMPLED_POINTS", 25)  # the clouds of the split have 10, 10, 10 and 9
    sample = facts.gather(opened).latents
    assert sample is not None
    assert (sample.n_clouds, sample.of_clouds, len(sample.values)) == (2, 4, 20)
    page = Page(write_page(store, tmp_path / "a.html").files[0])
    assert "Read from 2 of the 4 clouds of the split train: 20 latents." in page.text
    monkeypatch.setattr(facts, "SAMPLED_POINTS", 1)  # one cloud is always read
    sample = facts.gather(opened).latents
    assert sample is not None
    assert sample.n_clouds == 1


def test_charts_are_whole_and_hold_every_value() -> None:
    """An outline that ends before its foot was cut."""
    values = {"train": np.random.default_rng(0).normal(30, 3, 9000), "test": np.array([20.0, np.nan, 44.5])}
    drawn = charts.histogram(values, "PSNR", "about")
    outlines = re.findall(r'd="([^"]+)" class="area', drawn)
    assert len(outlines) == 2
    assert all(outline.endswith("Z") and outline.count("H") == 60 for outline in outlines)
    whole = charts.histogram({"a": np.array([7, 7, 7])}, "anchors", "about", whole=True)
    assert ">7</text>" in whole
    assert "nan" not in charts.deviations([0.0] * 300, [0.0] * 300, "about")
    assert charts.deviations([0.0] * 300, [1.0] * 300, "about").count("<rect") == charts.MOST_DIMENSIONS
    assert charts.size_map(np.array([[1, 1], [500, 3], [40, 700]]), "about").count("<rect") == 3


def test_a_failed_write_leaves_the_former_page(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "a.html").write_text("former")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(NoSpaceError, match="no space"):
            write_page(store, folder / "a.html")
    assert (folder / "a.html").read_text() == "former"
    assert os.listdir(folder) == ["a.html"]
    write_page(store, folder / "a.html")
    assert (folder / "a.html").read_text() != "former"


def test_what_cannot_be_is_refused_before_anything_is_read(store: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").write_text("no folder")
    for file, message in (
        (store / "a.html", "lies in the store"),
        (tmp_path / "a.zarr", r"does not end in \.html"),
        (tmp_path / "folder.html", "is a folder"),
        (tmp_path / "file" / "a.html", "its folder cannot be made"),
    ):
        with pytest.raises(ConfigError, match=message):
            write_page(store, file)
    with pytest.raises(ConfigError, match="--html cannot be combined with SAMPLE and --scale") as caught:
        write_page(store, tmp_path / "a.html", besides=["SAMPLE", "--scale"])
    assert caught.value.fix[0] == f"arcpipe inspect {store} --html {tmp_path / 'a.html'}"
    with pytest.raises(NotAStoreError):
        write_page(tmp_path / "nothing.zarr", tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize("more", [["train/dog/b.png"], ["--scale", "2"], ["--edit", "push"], ["--out", "sheets"]])
def test_the_command_refuses_what_the_page_cannot_heed(store: Path, tmp_path: Path, more: list[str]) -> None:
    done = arcpipe_here("inspect", store, *more, "--html", "a.html", cwd=tmp_path)
    name = more[0] if more[0].startswith("--") else "SAMPLE"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ConfigError: --html cannot be combined with {name}.")
    assert not (tmp_path / "a.html").exists()


def test_a_store_in_a_bucket_has_the_same_page(bucket: str, store: Path, tmp_path: Path) -> None:
    here, there = storage_at(store), storage_at(f"{bucket}/small.zarr")
    there.each(lambda name: there.replace(name, here.read(name)), here.files())
    pages = [Page(write_page(place, tmp_path / f"{i}.html").files[0]) for i, place in enumerate((here, there))]
    assert pages[0].pictures() == pages[1].pictures()
    assert pages[0].tables["PSNR"] == pages[1].tables["PSNR"]
    assert pages[1].row("Provenance", "store") == [str(there)]
