"""Every command line and every TOML block of README and docs is run, on small inputs: what is printed there works."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest

from arcpipe.cluster.jobs import QueueSection
from arcpipe.config import build, read_toml
from arcpipe.convert import run_convert
from arcpipe.pipeline import read_pipeline
from tests.commands import invoke
from tests.pictures import in_process, make_pictures, settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WORD = r"""(?:"[^"]*"|'[^']*'|[^\s`])+"""
LONG = ("arcpipe bench", "arcpipe doctor")
"""They measure for seconds or minutes, and have tests of their own: here their options are checked."""
ELSEWHERE = ("--gpus", "--scheduler", "--cluster", "--device", "--workers")
"""Who does the work: other machines, which are not here."""
WANTED = {"train": {"--epochs": "1"}}
ONE_PART = ["--set", "store.part_samples=64"]
SMALL_SIREN = [*ONE_PART, "--set", "fit.steps=2", "--set", "fit.hidden=[4,4]"]
SMALL_NETWORK = ["--set", "model.channels=[8]", "--set", "model.depths=[1]", "--set", "model.heads=[2]"]
SETS = ("imagenette", "digits", "SOURCE", "FOLDER", "cifar10-10k.tar", "mnist-6k.tar")


def command_lines() -> list[str]:
    """Every `arcpipe COMMAND ...` that a page shows in a block or as words to type, without comments."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^ {4}(arcpipe .*)$", text, re.M)
        spans = re.findall(r"`(arcpipe [^`]+)`", text)
        found += [re.split(r"\s+(?:#|->)", " ".join(line.split()))[0].strip() for line in [*blocks, *spans]]
    whole = {line.replace("[", "").replace("]", "") for line in found if "..." not in line}
    named = {line for line in whole if re.match(r"arcpipe [a-z]+ ", line) or line == "arcpipe settings"}
    return list({tuple(in_small(line)): line for line in sorted(named, reverse=True)}.values())


def toml_blocks() -> list[tuple[str, str]]:
    """Every indented or fenced block that has a TOML table, with the page that it is on."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"```toml\n(.*?)```", text, re.S)
        blocks += [
            re.sub(r"^ {4}", "", block, flags=re.M) for block in re.findall(r"(?:(?:^ {4}.*\n|^\n)+)", text, re.M)
        ]
        found += [(page.name, block) for block in blocks if re.search(r"^\[+\w+(\.\w+)*\]+|^kind = ", block, re.M)]
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, quick_figures: None) -> Iterator[Path]:
    """A folder in which the names of the pages mean something small."""
    folder = tmp_path_factory.mktemp("docs")
    make_pictures(folder / "pets", per_class=4)
    shutil.copy(folder / "pets/train/ants/0.png", folder / "photo.jpg")
    shutil.copytree(ROOT / "pipelines", folder / "pipelines")
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as executor:
        patch.chdir(folder)
        patch.setattr("arcpipe.convert.run._open_workers", lambda *_: in_process(executor))
        fit, one_part = {"recipe": "basis", "latent_dim": 32}, {"part_samples": 64}
        run_convert(settings(folder / "pets", folder / "store/pets.zarr", fit=fit, store=one_part))
        command = ["train", "--store", "store/pets.zarr", "--epochs", "1", "--out", "runs/pets"]
        assert invoke([*command, *SMALL_NETWORK]).exit_code == 0
        yield folder


def in_small(line: str) -> list[str]:
    """The same command on the small inputs; what names other machines is left out."""
    words = shlex.split(line)[1:]
    command, small, rest = words[0], [words[0]], iter(words[1:])
    for word in rest:
        if word in ELSEWHERE or word in WANTED.get(command, {}):
            next(rest)
        elif word in SETS:
            small.append("pets")
        elif command == "convert" and word == "--out":
            next(rest)
        elif word == "STORE" or re.fullmatch(r"(s3://BUCKET/|store/|/shared/)[\w-]+\.zarr|TRAINING-STORE|S", word):
            small.append("store/pets.zarr")
        elif word in ("RUN",) or re.fullmatch(r"runs/[\w-]+", word):
            small.append("runs/pets")
        elif word in ("IMAGE", "photo.png"):
            small.append("photo.jpg")
        elif word in ("FILE.toml", "FILE", "pipelines/NAME.toml") and command == "run":
            small.append("pipelines/exp3-table5-small.toml")
        elif re.fullmatch(r"train/[\w./]+", word):
            small.append("train/1")
        else:
            small.append(word)
    if command == "convert":
        small += [] if "pets" in small else ["pets"]
        small += ["--out", "store/again.zarr", "--overwrite"]
        small += [*ONE_PART, "--decoder", "store/pets.zarr"] if "siren" not in small else SMALL_SIREN
    if command == "train":
        small += [] if "--store" in small else ["--store", "store/pets.zarr"]
        model = small[small.index("--model") + 1] if "--model" in small else "ptv3"
        small += ["--epochs", "1", "--out", f"runs/again-{model}", "--overwrite"]
        small += SMALL_NETWORK if model == "ptv3" else []
    if command == "run":
        small.append("--dry-run")
    if command == "inspect" and "--out" not in small and "--html" not in small:
        small += ["--out", "pictures"]
    return small


@pytest.mark.parametrize("line", command_lines())
def test_a_command_line_of_the_pages_works(home: Path, line: str) -> None:
    if line.startswith(LONG):
        options = [word for word in shlex.split(line) if word.startswith("--")]
        done = invoke([*in_small(line)[: 2 if " bench " in line else 1], "--help"])
        assert (done.exit_code, [name for name in options if name not in done.output]) == (0, [])
        return
    command = in_small(line)
    sirens = not {"dws", "ng-gnn", "ng-t", "scalegmn", "mlp"}.isdisjoint(command)
    if sirens:
        convert = ["convert", "pets", "--recipe", "siren", "--out", "store/sirens.zarr"]
        assert invoke([*convert, *SMALL_SIREN]).exit_code == 0
        command[command.index("--store") + 1] = "store/sirens.zarr"
    done = invoke(command)
    assert done.exit_code == 0, f"arcpipe {shlex.join(command)}\n{done.output}{done.exception or ''}"


@pytest.mark.parametrize(("page", "block"), toml_blocks(), ids=lambda text: text.split("\n")[0][:40])
def test_a_file_of_the_pages_is_understood(home: Path, page: str, block: str) -> None:
    file = home / "block.toml"
    file.write_text(block, encoding="utf-8")
    if page == "clusters.md":
        build(QueueSection, read_toml(file))
        return
    read = read_pipeline(file)
    with mock.patch("arcpipe.convert.run._dry_run"):
        done = invoke(["run", str(file), "--dry-run"]) if read.arms else None
    assert done is None or done.exit_code == 0, done.output


def test_pages_have_commands_and_files() -> None:
    assert len(command_lines()) > 25
    assert len(toml_blocks()) >= 2


def test_the_readme_is_read_in_two_minutes() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60
    assert sum(len(line.split()) for line in lines) < 700


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
