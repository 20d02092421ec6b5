"""Settings refuse what they do not know and say what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from arcpipe.config import (
    AugmentSection,
    ConvertConfig,
    FitSection,
    SourceSection,
    TrainConfig,
    build,
    differences,
    read_toml,
)
from arcpipe.errors import ConfigError
from arcpipe.pipeline import PipelineConfig


def test_unknown_key_names_the_nearest_one() -> None:
    values = {"source": {"source": "digits"}, "out": "x.zarr", "fit": {"stepz": 3}}
    with pytest.raises(ConfigError) as caught:
        build(ConvertConfig, values, "pipeline.toml")
    assert caught.value.exit_code == 2
    assert caught.value.details == ("fit.stepz: unknown key",)
    assert caught.value.fix == ("fit.steps",)


def test_the_nearest_key_is_found_inside_optional_sections() -> None:
    """`train` and `evaluate` of a pipeline may be left out."""
    convert = {"source": {"source": "digits"}, "out": "x.zarr"}
    train = {"store": "x.zarr", "out": "run", "optim": {"epoch": 3}}
    with pytest.raises(ConfigError) as caught:
        build(PipelineConfig, {"convert": convert, "train": train, "evaluate": {"pushh": 1}})
    assert caught.value.fix == ("train.optim.epochs", "evaluate.0.push")


def test_a_value_in_the_place_of_a_table() -> None:
    with pytest.raises(ConfigError, match=r"convert: expected a table of settings, found 'digits'"):
        build(PipelineConfig, {"convert": "digits"})
    sirens = {"source": {"source": "digits"}, "out": "x.zarr", "fit": {"recipe": "siren"}, "store": "float16"}
    with pytest.raises(ConfigError, match=r"store: expected a table of settings, found 'float16'"):
        build(ConvertConfig, sirens)
    with pytest.raises(ConfigError, match=r"optim: expected a table of settings, found 3"):
        build(TrainConfig, {"store": "x.zarr", "out": "run", "model": {"model": "dws"}, "optim": 3})
    with pytest.raises(ConfigError, match=r"train: expected a table of settings, found 'ptv3'"):
        build(PipelineConfig, {"convert": {**sirens, "store": {}}, "train": "ptv3"})


def test_evaluation_without_training_is_refused_rather_than_ignored() -> None:
    convert = {"source": {"source": "digits"}, "out": "x.zarr"}
    with pytest.raises(ConfigError, match=r"\[evaluate\] needs \[train\]"):
        build(PipelineConfig, {"convert": convert, "evaluate": {}})


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_numbers_that_are_none_are_refused(number: float) -> None:
    with pytest.raises(ConfigError, match="noise"):
        build(AugmentSection, {"noise": number})


def test_augmentations_are_one_set_whatever_the_order_of_the_words() -> None:
    assert build(AugmentSection, {"apply": ["arcmix", "mask", "mask"]}).apply == ("mask", "arcmix")
    with pytest.raises(ConfigError) as caught:
        build(AugmentSection, {"apply": ["arcmx"]})
    assert caught.value.fix == ("arcmix",)


def test_wrong_value_says_expected_and_found() -> None:
    with pytest.raises(ConfigError, match=r"steps: input should be greater than or equal to 1, found 0"):
        build(FitSection, {"steps": 0})


def test_too_few_latents_for_the_neighbours() -> None:
    with pytest.raises(ConfigError, match="expected at least --neighbours = 4"):
        build(FitSection, {"latents": 3})


@pytest.mark.parametrize(
    ("values", "message"),
    [({"size": 8, "shorter": 8}, "--size and --shorter"), ({"displace": True}, "--displace needs --pad")],
)
def test_shapes_that_contradict_each_other(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(SourceSection, {"source": "digits", **values})


def test_the_thesis_numbers_are_the_defaults() -> None:
    fit = FitSection()
    assert (fit.latents, fit.latent_dim, fit.neighbours, fit.steps, fit.lr) == (0.05, 32, 4, 500, 0.005)
    assert (fit.pixel_share, fit.init, fit.pretrain_images, fit.hidden_widths) == (0.25, 1e-4, 100, (136,))


def test_differences_name_the_setting_and_both_values() -> None:
    assert differences({"fit": {"steps": 500, "lr": 1}}, {"fit": {"steps": 200, "lr": 1}}) == [
        "fit.steps: was 500, now 200"
    ]


def test_broken_toml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("a = = 1")
    with pytest.raises(ConfigError, match="cannot be read as TOML") as caught:
        read_toml(path)
    assert "line 1" in str(caught.value)


def test_places_survive_json() -> None:
    """As a process that is started gets its settings."""
    for store in ("store/a.zarr", "s3://photos/a.zarr"):
        config = TrainConfig.model_validate({"store": store, "out": "runs/a"})
        again = TrainConfig.model_validate_json(config.model_dump_json())
        assert again == config
        assert (str(again.store), type(again.store)) == (store, type(config.store))


@pytest.mark.parametrize(
    ("recipe", "name", "value", "advice"),
    [
        ("basis", "lr", 0.1, "--recipe thesis"),
        ("basis", "hidden", [8], "--recipe thesis"),
        ("thesis", "damping", 1, "--recipe basis"),
    ],
)
def test_a_setting_that_the_recipe_does_not_read_is_refused(recipe: str, name: str, value: object, advice: str) -> None:
    with pytest.raises(ConfigError, match=f"the recipe {recipe} does not read fit.{name}") as caught:
        FitSection.model_validate({"recipe": recipe, name: value})
    assert advice in caught.value.fix
