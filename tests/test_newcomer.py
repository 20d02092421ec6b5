"""What a person meets who is new here: a split to test on, words for numbers, a list of settings, advice that works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from arcpipe import errors
from arcpipe.cli import app
from arcpipe.config import (
    Augmentation,
    AugmentSection,
    ConvertConfig,
    FitSection,
    SourceSection,
    TrainConfig,
    build,
    differences,
)
from arcpipe.errors import ConfigError, install
from arcpipe.progress import listed, quality_words
from arcpipe.settings import all_settings, find_settings
from arcpipe.sources import open_source
from arcpipe.sources.layout import place
from arcpipe.train.loop import CHANGES, unread
from tests.pictures import make_pictures

ROOT = Path(__file__).resolve().parents[1]


def test_class_folders_without_splits_get_a_held_out_share(tmp_path: Path) -> None:
    told: list[str] = []
    make_pictures(tmp_path / "all", per_class=20)
    folder = tmp_path / "all" / "train"
    inventory = open_source(SourceSection(source=str(folder / "..")), progress=told.append).inventory()
    assert len(inventory.samples["test"]) == 6, "folders that name splits keep them"
    folder.rename(tmp_path / "pets")
    inventory = open_source(SourceSection(source=str(tmp_path / "pets")), progress=told.append).inventory()
    assert set(inventory.samples) == {"train", "test"}
    assert {sample.label for sample in inventory.samples["test"]} == {0, 1, 2}
    (line,) = (line for line in told if "held out" in line)
    assert f"{len(inventory.samples['test'])} of 60 images" in line
    assert "source.held_out=0" in line
    whole = open_source(SourceSection(source=str(tmp_path / "pets"), held_out=0)).inventory()
    assert set(whole.samples) == {"train"}


def test_the_held_out_images_do_not_depend_on_the_others() -> None:
    names = [f"{label}/{i}.png" for label in ("a", "b") for i in range(200)]
    before = {where.path for where in place(names, "x", 0.2)[0] if where and where.split == "test"}
    after = {where.path for where in place(names[7:-9], "x", 0.2)[0] if where and where.split == "test"}
    assert after == before & {*names[7:-9]}
    assert 50 < len(before) < 110


def test_small_classes_are_divided_too() -> None:
    places, _ = place(["a/1.png", "b/1.png", "b/2.png"], "x", 0.9)
    assert [where.split for where in places if where and where.label == "a"] == ["train"]
    assert sorted(where.split for where in places if where and where.label == "b") == ["test", "train"]


def test_images_in_hidden_folders_are_told(tmp_path: Path) -> None:
    told: list[str] = []
    make_pictures(tmp_path / "pets")
    (tmp_path / "pets/train/ants").rename(tmp_path / "pets/train/..ants")
    open_source(SourceSection(source=str(tmp_path / "pets")), progress=told.append).inventory()
    assert any("begins with a dot" in line and "..ants" in line for line in told)


@pytest.mark.parametrize("kind", [ConvertConfig, TrainConfig])
def test_every_setting_is_listed_with_default_bounds_and_meaning(kind: type) -> None:
    entries = [entry for entry in all_settings() if entry.of == {ConvertConfig: "convert", TrainConfig: "train"}[kind]]
    names = {f"{name}.{inner}" for name, f in kind.model_fields.items() for inner in _inside(f.annotation)}
    assert names <= {entry.key for entry in entries}
    assert [entry.key for entry in entries if not (entry.meaning and entry.default and entry.values != "a value")] == []


def _inside(annotation: object) -> list[str]:
    return list(getattr(annotation, "model_fields", {}))


def test_settings_are_found_by_any_of_their_names() -> None:
    assert {entry.key for entry in find_settings(["lr"]).settings} == {"fit.lr", "optim.lr"}
    assert {entry.key.split(".")[0] for entry in find_settings(["augment"]).settings} == {"augment"}
    done = CliRunner().invoke(app, ["settings", "optim.clip_norm"])
    assert (done.exit_code, "at most" in done.output) == (0, True)
    done = CliRunner().invoke(app, ["settings", "clip_nrom"])
    assert (done.exit_code, "arcpipe settings clip_norm" in done.output) == (2, True)
    assert json.loads(CliRunner().invoke(app, ["settings", "--json"]).stdout)["settings"][0]["key"] == "source.source"


def test_a_default_that_is_listed_is_the_one_that_is_used() -> None:
    made = build(ConvertConfig, {"source": {"source": "digits"}, "out": "x.zarr"}).model_dump(mode="json")
    for entry in all_settings():
        section, _, name = entry.key.rpartition(".")
        if entry.of == "convert" and section:
            assert entry.default in ("has to be given", "not set") or entry.default == _shown(made[section][name])


def _shown(value: object) -> str:
    if isinstance(value, list):
        return json.dumps(value)
    return json.dumps(value) if isinstance(value, bool) else str(value)


def test_every_change_of_clouds_has_a_word() -> None:
    assert set(CHANGES) == set(get_args(Augmentation))


def test_words_for_decibels() -> None:
    assert quality_words(12) == "barely recognisable"
    assert quality_words(36.6) == "hardly told from the image"


def test_a_number_is_a_row_and_the_sheet_says_so(store_path: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["inspect", str(store_path), "train/17", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "(row 17)" in done.output


def test_what_is_proposed_for_a_wrong_name_is_near_it(store_path: Path) -> None:
    done = CliRunner().invoke(app, ["inspect", str(store_path), "train/99999"])
    assert "train/59" in done.output
    done = CliRunner().invoke(app, ["inspect", str(store_path), "test/class-1/0004.png"])
    assert done.exit_code == 2
    assert "0004.png" in done.output.partition("try:")[2]


def test_nothing_is_said_to_be_on_an_index_of_packages() -> None:
    """Nothing is published: extras are installed from the checkout."""
    assert install("cluster") == "pip install -e '.[cluster]', in the checkout of arcpipe"
    files = [*ROOT.glob("arcpipe/**/*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md"]
    assert [
        file.name for file in files if re.search(r"pip install \S*'?arcpipe", file.read_text(encoding="utf-8"))
    ] == []


def test_every_exit_code_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    assert codes <= {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.M)}


def test_advice_about_a_file_speaks_of_its_keys() -> None:
    values = {"source": {"source": "digits", "displace": True}, "out": "x.zarr"}
    with pytest.raises(ConfigError) as caught:
        build(ConvertConfig, values, "a.toml")
    assert str(caught.value) == "a.toml: displace needs pad.\n  try: add pad = S, for example pad = 100"
    with pytest.raises(ConfigError, match="--displace needs --pad"):
        build(ConvertConfig, values)


def test_advice_about_a_pair_is_what_can_be_typed() -> None:
    with pytest.raises(ConfigError) as caught:
        build(AugmentSection, {"zoom": [1, 0.5]})
    assert caught.value.fix == ("--set augment.zoom=[0.5,1]",)


def test_a_list_is_called_a_list_and_a_wrong_item_is_told_once() -> None:
    with pytest.raises(ConfigError, match=r"fit\.hidden: input should be a list, found 'wide'"):
        build(ConvertConfig, {"source": {"source": "digits"}, "out": "x.zarr", "fit": {"hidden": "wide"}})
    with pytest.raises(ConfigError) as caught:
        build(FitSection, {"recipe": "thesis", "hidden": [0]})
    assert caught.value.details == ("hidden.0: input should be greater than or equal to 1, found 0",)
    with pytest.raises(ConfigError, match="hidden: the list should have at least 1 item, found "):
        build(FitSection, {"recipe": "siren", "hidden": []})


def test_what_was_not_given_is_called_so() -> None:
    assert differences({"views": 2}, {}) == ["views: was 2, now not set"]


def test_a_sentence_lists_what_there_is_once() -> None:
    assert listed(["moved", "turned", "moved", "noisy"]) == "moved, turned and noisy"
    assert listed(["mixed"]) == "mixed"


def test_the_number_nearest_to_a_wrong_one_is_proposed(store_path: Path) -> None:
    for number, near in (("75", "train/59"), ("9" * 5000, "train/")):
        done = CliRunner().invoke(app, ["inspect", str(store_path), f"train/{number}"])
        assert done.exit_code == 2, done.exception
        assert near in done.output.partition("try:")[2]


def test_a_strength_that_nothing_reads_is_told() -> None:
    section = build(AugmentSection, {"apply": ["mask", "noise-published"], "rotate": 5, "jitter": 0.2, "shift": 1})
    assert unread(section) == [("shift", "push"), ("rotate", "rotate")]
    assert unread(AugmentSection()) == []
    assert unread(AugmentSection(apply=(), rotate=45), "dws") == [], "what a network brings along was not asked for"
