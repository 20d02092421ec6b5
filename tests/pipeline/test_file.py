"""A pipeline file is checked as a whole before any work, and its messages name the arm and the nearest key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from arcpipe.config import AugmentSection, ConvertConfig, FitSection, build
from arcpipe.errors import ConfigError
from arcpipe.pipeline import read_pipeline
from arcpipe.pipeline.file import lay_over
from arcpipe.pipeline.plan import of_conversion, plan_jobs, same_settings
from tests.pipeline.conftest import ARMS

FILES = sorted((Path(__file__).parents[2] / "pipelines").glob("*.toml"))
PLAIN = '[convert]\nsource = "digits"\n[train]\n'


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_pipeline_file_is_valid_and_says_what_it_is(path: Path) -> None:
    pipeline = read_pipeline(path)
    assert pipeline.about
    if pipeline.plain is None:
        assert plan_jobs(pipeline)
        assert "/" not in pipeline.arms[0].convert.source.source, "files are looked for in the data folder"


def test_arms_change_the_shared_settings_and_only_those_that_they_name(write: Callable[..., Path]) -> None:
    none, push = read_pipeline(write(ARMS)).arms
    assert (none.train.augment.apply, push.train.augment.apply) == (AugmentSection().apply, ("push",))
    assert none.train.optim == push.train.optim
    assert none.convert == push.convert
    assert push.thesis == {"intact": 51.79, "pushed": 69.06}
    assert [column.section.push for column in push.columns] == [0, 2]


def test_the_same_conversion_is_one_store_and_another_one_another(write: Callable[..., Path]) -> None:
    arms = ARMS + '[[arm]]\nname = "wide"\nconvert.fit.latent_dim = 8\n'
    jobs = plan_jobs(read_pipeline(write(arms)), seeds=[0])
    stores = [job.convert.out for job in jobs]
    assert stores[0] == stores[1] != stores[2]
    assert len({job.train.out for job in jobs}) == 3
    # whatever the file and the arm are called
    other = plan_jobs(
        read_pipeline(write(ARMS.replace('"push"\nthesis', '"pushed"\nthesis'), name="b.toml")), seeds=[0]
    )
    assert [job.train.out for job in other] == [job.train.out for job in jobs[:2]]


def test_an_evaluation_on_another_conversion_has_the_arms_decoder(write: Callable[..., Path]) -> None:
    text = ARMS.replace("push = 2\n", 'split = "test"\nconvert.source.pad = 20\n', 1)
    job = plan_jobs(read_pipeline(write(text)))[0]
    own, other = job.evaluations
    assert own.convert is None
    assert other.convert is not None
    assert other.convert.fit.decoder == str(job.convert.out)
    assert (other.convert.source.pad, other.convert.source.splits) == (20, ("test",))
    assert other.config.store == other.convert.out != job.convert.out


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ('[[arm]]\nname = "a"\ntrain.optim.epoch = 2\n', "arm a.*train.optim.epoch: unknown key", "train.optim.epochs"),
        ('[[arm]]\nname = "a"\nconvert.fit.step = 2\n', "arm a", "convert.fit.steps"),
        ('[[arm]]\nnam = "a"\n', "arm 1.*nam: unknown key", "name"),
        ('[[arm]]\nname = "a"\n[[arm]]\nname = "a"\n', "two arms of one name", "own name"),
        ('[[arm]]\nname = "a,b"\n', "comma", None),
        (ARMS + '[[arm]]\nname = "c"\nthesis = 5\n', "one number of the thesis for 2 columns", "intact"),
        (ARMS + '[[arm]]\nname = "c"\nthesis = { pushd = 5 }\n', "a column that is not there: pushd", "pushed"),
        ("[[evaluate]]\npush = 1\n[[evaluate]]\npush = 2\n", "needs its own name", "name ="),
        ('[[evaluate]]\nname = "a"\npushh = 1\n', "evaluate.0.pushh: unknown key", "evaluate.0.push"),
        ('[arm]\nname = "a"\n', "no list of tables", "[[arm]]"),
        ('[[evaluate]]\nname = "a"\nconvert.source.pod = 3\n', "evaluation a.*source.pod: unknown key", "source.pad"),
    ],
)
def test_mistakes_are_named_with_their_arm(
    write: Callable[..., Path], text: str, message: str, fix: str | None
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}") as caught:
        read_pipeline(write(text))
    assert caught.value.exit_code == 2
    assert fix is None or any(fix in line for line in caught.value.fix), caught.value.fix


def test_a_plain_file_keeps_its_plain_paths(write: Callable[..., Path]) -> None:
    plain = read_pipeline(write("[evaluate]\n", shared=PLAIN, name="mine.toml")).plain
    assert plain is not None
    assert plain.train is not None
    assert (str(plain.convert.out), str(plain.train.store)) == ("store/mine.zarr", "store/mine.zarr")
    assert plain.train.out == Path("runs/mine")


def test_an_unknown_arm_or_two_stores_of_one_name(write: Callable[..., Path]) -> None:
    pipeline = read_pipeline(write(ARMS))
    with pytest.raises(ConfigError, match="there is no arm 'pusch'") as caught:
        plan_jobs(pipeline, ["pusch"])
    assert "none, push" in caught.value.details[0]
    wide = ARMS + '[[arm]]\nname = "wide"\nconvert.fit.latent_dim = 8\n'
    shared_out = write(wide, shared='[convert]\nsource = "digits"\nout = "one.zarr"\n[train]\n')
    with pytest.raises(ConfigError, match=r"share convert.out = one.zarr"):
        plan_jobs(read_pipeline(shared_out))


def test_laying_over_changes_neither() -> None:
    base, changes = {"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}, "d": 3}
    assert lay_over(base, changes) == {"a": {"b": 1, "c": [2]}, "d": 3}
    assert (base, changes) == ({"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}, "d": 3})


def test_a_result_stands_for_its_settings_and_a_setting_that_is_new_has_its_default(write: Callable[..., Path]) -> None:
    job = plan_jobs(read_pipeline(write(ARMS)))[0]
    wanted = job.evaluations[1].settings
    recorded = json.loads(json.dumps(wanted))
    assert same_settings(recorded, wanted)
    del recorded["train"]["optim"]["warmup"], recorded["convert"]["fit"]["whiten"]  # as an older version wrote it
    assert same_settings(recorded, wanted)
    recorded["train"]["optim"]["retired"] = 1
    assert not same_settings(recorded, wanted), "it was made with a setting that is no more"
    for section, key, value in (("train", "seed", 1), ("evaluate", "push", 0.0), ("convert", "seed", 5)):
        other = json.loads(json.dumps(wanted))
        other[section][key] = value
        assert not same_settings(other, wanted)
    assert not same_settings(None, wanted)


def test_a_setting_that_is_0_as_before_it_existed_is_not_its_default() -> None:
    """`fit.patch = 0` is left out of what is recorded, and the recipe's own value is another one."""
    settings = [
        {"convert": of_conversion(build(ConvertConfig, {"source": {"source": "a"}, "out": "b", "fit": fit}))}
        for fit in ({"recipe": "basis", "patch": 0.0}, {"recipe": "basis"}, {"recipe": "thesis"})
    ]
    for i, recorded in enumerate(settings):
        assert [same_settings(recorded, wanted) for wanted in settings] == [i == j for j in range(3)]


def test_another_recipe_makes_the_same_table_under_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(
        'about = "A."\n[table]\ntitle = "T"\n'
        '[convert]\nsource = "digits"\n[convert.fit]\nrecipe = "thesis"\nlatents = 9\n[train]\n[[arm]]\nname = "one"\n'
    )
    own, other = read_pipeline(path), read_pipeline(path, recipe="basis")
    assert (own.name, own.arms[0].convert.fit.recipe) == ("small", "thesis")
    assert (other.name, other.arms[0].convert.fit.recipe) == ("small-basis", "basis")
    assert other.arms[0].convert.fit.latents == 9
    assert (own.table.title, own.about) == ("T", "A.")
    assert (own.command, other.command) == (f"arcpipe run {path}", f"arcpipe run {path} --recipe basis")
    assert (other.table.title, other.about) == (
        "T: recipe basis",
        "Here with the recipe basis in place of the file's. A.",
    )


def test_another_recipe_leaves_out_what_it_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(
        '[convert]\nsource = "digits"\n[convert.fit]\nrecipe = "thesis"\nsteps = 275\nlatents = 9\n[train]\n'
        '[[arm]]\nname = "one"\nconvert.fit = { betas = [0.8, 0.9], latent_dim = 7 }\n'
        '[[arm]]\nname = "two"\nconvert.fit = { recipe = "thesis", steps = 9 }\n'
    )
    one, two = (arm.convert.fit for arm in read_pipeline(path, recipe="basis").arms)
    assert (one.recipe, one.steps, one.latents, one.latent_dim) == ("basis", 1, 9, 7)
    assert (two.recipe, two.steps, two.latents) == ("thesis", 9, 9)


def test_a_store_of_the_recipe_fast_is_one_of_the_thesis_with_its_settings() -> None:
    recorded = {**FitSection().model_dump(), "recipe": "fast", "steps": 275, "lr": 0.01, "betas": (0.8, 0.9)}
    assert FitSection.model_validate(recorded) == FitSection(steps=275, lr=0.01, betas=(0.8, 0.9))
    with pytest.raises(ConfigError, match="recipe"):
        build(FitSection, {"recipe": "fast"}, "a file")


def test_a_conversion_without_a_recipe_takes_the_basis(tmp_path: Path) -> None:
    path = tmp_path / "plain.toml"
    path.write_text('[convert]\nsource = "digits"\n[convert.fit]\nlatents = 9\n')
    read = read_pipeline(path)
    assert read.plain is not None
    assert read.plain.convert.fit.decoder_kind == "basis"
