"""Command lines that hypothesis makes up, run in this process: nonsense, extremes, wrong kinds, foreign paths.

`python -m tests.fuzz.commands COUNT SEED` prints what became of so many as one JSON object.

The commands and options are those of the application itself, so that a new one is fuzzed at once. What is promised of
every line: no traceback, no hang, a documented exit code, and nothing changed that the line did not name as its output.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import Signature, signature
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from unittest import mock

import typer
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st
from typer.models import OptionInfo

from arcpipe.cli import app
from arcpipe.settings import all_settings
from arcpipe.storage import storage_at
from arcpipe.store.root import read_root
from arcpipe.store.schema import group_document
from tests.commands import invoke
from tests.pictures import in_process, make_pictures

EXIT_CODES = {0, 1, 2, 3, 4, 5, 6, 7}
"""What README and docs/commands.md say; 130 and 143 are of signals, which nobody sends here."""
HANGS_S = 90
ROOT = Path(__file__).resolve().parents[2]
LINES_A_PROCESS = 250
SLOW = {"doctor", "bench fit", "bench train", "bench stream"}
"""Measure for seconds where nothing is wrong with the line: there, every line has something wrong."""
PICTURE = "pictures/train/ants/0.png"
PLACES = [
    "s.zarr", "bent.zarr", "torn.zarr", "sound", "bent-run", "torn-run", "piped-run", "pictures", "pictures/train",
    PICTURE, "notes.txt", "pipe", "loop", "empty", "p.toml", "arms.toml", "bad.toml", "nowhere",
    "nowhere/else", "s.zarr/train", "s.zarr/zarr.json", "sound/config.json", "notes.txt/x", ".", "..", "", " ", "/",
    "/dev/null", "/dev/zero", "/proc/self/mem", "/proc", "new.zarr", "new-run", "new.html", "s3://", "s3://b",
    "s3://b/../x", "gs://x/y", "http://127.0.0.1:1/x", "a\nb", "ä ö", "x" * 250, "x" * 5000, "-", "--", "-1", "digits",
]  # fmt: skip
NUMBERS = ["0", "1", "2", "3", "-1", "-0", "1e30", "1e-30", "nan", "inf", "-inf", "0.5", "0.99", "1.5", "7", "1000"]
NUMBERS += [str(2**31), str(2**63), str(2**71), "1" * 5000, "", " ", "x", "1,2", "0x10", "१", "1_000", "true"]
WORDS = ["train", "test", "val", "none", "mask", "mask,arcmix", "train/0", "train/99", "test/x", "0", "cpu", "cuda"]
WORDS += ["cuda:99", "meta", "auto", "2GiB", "1B", "-1GiB", "32x32", "0x0", "9x", "1e9x1e9", "127.0.0.1:1", "tcp://"]
WIDE = {"/", "/proc"}
TEXTS = st.text(st.characters(exclude_characters="\0~/", exclude_categories=("Cs",)), max_size=12)


@dataclass(frozen=True)
class Parameter:
    """An option (with its names) or an argument (without)."""

    name: str
    kind: type[Any]
    names: tuple[str, ...]
    required: bool
    choices: tuple[str, ...] = ()
    several: bool = False

    @classmethod
    def of(cls, name: str, annotation: Any, default: Any) -> Parameter:
        inner, info = get_args(annotation)
        choice = get_origin(inner) in (UnionType, Union)
        parts = [part for part in get_args(inner) if part is not type(None)] if choice else [inner]
        several = get_origin(parts[0]) is list
        kind = get_args(parts[0])[0] if several else parts[0]
        choices = tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()
        names: tuple[str, ...] = ()
        if isinstance(info, OptionInfo):
            written = (info.default, *(info.param_decls or ()))  # Typer takes the first one for a default, at first
            given = tuple(text for text in written if isinstance(text, str) and text.startswith("--"))
            names = given or (f"--{name.replace('_', '-')}",)
        return cls(name, str if choices else kind, names, default is Signature.empty, choices, several)

    def values(self) -> st.SearchStrategy[str]:
        """Mostly what the parameter may mean, with extremes; sometimes what it cannot."""
        if self.name == "expert":
            keys = st.sampled_from([entry.key for entry in all_settings()]) | TEXTS
            return st.builds("{}={}".format, keys, st.sampled_from(NUMBERS + WORDS + PLACES) | TEXTS) | TEXTS
        if self.choices:
            return st.sampled_from([*self.choices, *WORDS[:3]])
        if self.kind in (int, float):
            return st.sampled_from(NUMBERS)
        if self.name == "source":  # a disk full of folders takes its time, and is no mistake
            return st.sampled_from([place for place in PLACES if place not in WIDE]) | TEXTS
        likely = PLACES if self.kind is Path or self.name == "decoder" else WORDS
        return st.sampled_from(likely) | st.sampled_from(likely) | st.sampled_from(NUMBERS + PLACES + WORDS) | TEXTS


def _commands(group: typer.Typer, before: str = "") -> dict[str, list[Parameter]]:
    """Name -> parameters, of the application as it is."""
    found = {}
    for entry in group.registered_commands:
        assert entry.callback is not None
        hints, own = get_type_hints(entry.callback, include_extras=True), signature(entry.callback).parameters
        parameters = [Parameter.of(name, hints[name], one.default) for name, one in own.items()]
        found[before + (entry.name or entry.callback.__name__)] = parameters
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        found |= _commands(inner.typer_instance, f"{before}{inner.name} ")
    return found


COMMANDS = _commands(app)
FAST = sorted(COMMANDS.keys() - SLOW)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """One line: a command, its arguments, and up to four options."""
    name = draw(st.sampled_from([*FAST, *FAST, *FAST, *sorted(SLOW)]))
    line = name.split()
    options = [one for one in COMMANDS[name] if one.names]
    for argument in COMMANDS[name]:
        if not argument.names:
            least = 0 if draw(st.integers(0, 9)) == 0 else 1
            line += draw(st.lists(argument.values(), min_size=least, max_size=3 if argument.several else 1))
    chosen = [one for one in options if one.required and draw(st.integers(0, 9))]
    chosen += draw(st.lists(st.sampled_from(options), max_size=4))
    for option in chosen:
        line.append(draw(st.sampled_from(option.names)))
        if option.kind is not bool:
            line.append(draw(option.values()))
    return line + _small(name)


def _small(name: str) -> list[str]:
    """What keeps a line that can be carried out within a second; the last word wins."""
    if name == "convert":
        small: dict[str, Any] = {
            "fit.pretrain_steps": 2,
            "fit.pretrain_images": 2,
            "source.limit": 2,
            "store.part_samples": 2,
        }
        return [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    if name == "train":
        small = {"optim.epochs": 1, "model.channels": [8], "model.depths": [1], "model.heads": [1]}
        return [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    if name == "run":
        return ["--dry-run"]
    return ["--no-such-option"] if name in SLOW else []


@dataclass
class Workshop:
    """A folder with sound, foreign and tampered things in it, and what they were."""

    folder: Path
    before: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> Workshop:
        from tests.fuzz.runs import run_folder  # loads torch

        make_pictures(folder / "pictures", per_class=2)
        run_folder(folder)
        for name in ("bent", "torn"):
            shutil.copytree(folder / "s.zarr", folder / f"{name}.zarr")
            shutil.copytree(folder / "sound", folder / f"{name}-run")
        root = read_root(storage_at(folder / "bent.zarr"))
        (folder / "bent.zarr/zarr.json").write_bytes(group_document({**root, "classes": root["classes"][:1]}))
        (folder / "torn.zarr/zarr.json").write_bytes((folder / "s.zarr/zarr.json").read_bytes()[:-90])
        config = json.loads((folder / "bent-run/config.json").read_bytes())
        config["config"]["model"]["channels"] = [10**6] * 4
        (folder / "bent-run/config.json").write_text(json.dumps(config))
        for file in (folder / "torn-run/checkpoint").glob("*.safetensors"):
            file.write_bytes(file.read_bytes()[:-3])
        (folder / "piped-run").mkdir()
        os.mkfifo(folder / "piped-run/config.json")
        os.mkfifo(folder / "pipe")
        (folder / "loop").symlink_to("loop")
        (folder / "empty").mkdir()
        (folder / "notes.txt").write_text("mine")
        (folder / "p.toml").write_text('[convert]\nsource = "pictures"\n[train]\n')
        (folder / "arms.toml").write_text('[convert]\nsource = "pictures"\n[train]\n[[arm]]\nname = "a"\n')
        (folder / "bad.toml").write_text("[convert\n")
        return cls(folder, _state(folder))

    def changed(self, line: list[str]) -> list[str]:
        """What is not as it was, but for new things and for what the line says to write."""
        after = _state(self.folder)
        lost = [name for name, was in self.before.items() if after.get(name) != was]
        named = {word.partition("/")[0] for before, word in pairwise(line) if before == "--out"}
        named |= {word.partition("/")[0] for word in line if "--repair" in line or "--overwrite" in line}
        return [name for name in lost if name.split("/")[0] not in named or name.startswith(("pictures", "notes"))]

    def renew(self, template: Path) -> None:
        """Bring everything back."""
        for entry in self.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        _copy(template, self.folder)
        self.before = _state(self.folder)


def _copy(source: Path, target: Path) -> None:
    for entry in source.iterdir():
        to = target / entry.name
        if entry.is_symlink():
            to.symlink_to(os.readlink(entry))
        elif entry.is_fifo():
            os.mkfifo(to)
        elif entry.is_dir():
            to.mkdir()
            _copy(entry, to)
        else:
            shutil.copy2(entry, to)


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file; locks are empty and come and go."""
    state, start = {}, len(f"{folder}{os.sep}")
    for place, _, names in os.walk(folder):
        for name in names:
            if not name.endswith(".lock"):
                path = os.path.join(place, name)
                status = os.lstat(path)
                state[path[start:]] = (status.st_size, status.st_mtime_ns)
    return state


@dataclass
class Outcome:
    """What became of the lines: how many, their exit codes, the slowest, and what broke the promise."""

    lines: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest: str = ""
    bugs: list[str] = field(default_factory=list)


class Hang(BaseException):
    """A line took too long."""


def _hang(*_: Any) -> None:
    raise Hang


@contextmanager
def workshop() -> Iterator[tuple[Workshop, Path]]:
    """A workshop that is the working folder, and the template that renews it. Conversions work in this process."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="commands-") as name, ThreadPoolExecutor(1) as executor:
        template = Path(name) / "template"
        template.mkdir()
        Workshop.make(template)
        (Path(name) / "work").mkdir()
        made = Workshop(Path(name) / "work")
        made.renew(template)
        os.chdir(made.folder)
        before = signal.signal(signal.SIGALRM, _hang)
        try:
            with mock.patch("arcpipe.convert.run._open_workers", return_value=in_process(executor)):
                yield made, template
        finally:
            signal.signal(signal.SIGALRM, before)
            os.chdir(here)


def try_line(
    made: Workshop, template: Path, line: list[str], environment: dict[str, str | None], into: Outcome
) -> None:
    """Run one line and note what became of it."""
    began = time.monotonic()
    signal.alarm(HANGS_S)
    problem = ""
    code: int | None = None
    try:
        done = invoke(line, env=environment)
        code = done.exit_code
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            problem = "".join(traceback.format_exception(done.exception))
        elif "Traceback (most recent call last)" in done.output:
            problem = done.output
        elif code not in EXIT_CODES:
            problem = f"exit code {code}"
    except Hang:
        problem = f"no end in {HANGS_S} s"
    finally:
        signal.alarm(0)
    changed = made.changed(line)
    if changed:
        problem = f"{problem}\nchanged: {', '.join(changed[:5])}"
    if _state(made.folder) != made.before:
        made.renew(template)
    seconds = time.monotonic() - began
    into.lines += 1
    if seconds > into.slowest_s:
        into.slowest_s, into.slowest = seconds, shlex.join(line)[:200]
    if code is not None:
        into.codes[code] += 1
    if problem:
        into.bugs.append(f"arcpipe {shlex.join(line)[:400]}  ({environment})\n{problem[-2500:]}")


def fuzz_commands(count: int, first_seed: int) -> Outcome:
    """Make up and run so many lines."""
    outcome = Outcome()
    environments = st.sampled_from(
        [
            {},
            {},
            {},
            {"HOME": None},
            {"ARCPIPE_DATA": "/nowhere"},
            {"ARCPIPE_DATA": ""},
            {"COLUMNS": "1"},
            {"LANG": "C"},
        ]
    )
    with workshop() as (made, template):

        @seed(first_seed)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(command_lines(), environments)
        @example(["settings"], {})  # what succeeds is seldom drawn
        @example(["verify", "s.zarr"], {})
        @example(["inspect", "s.zarr"], {})
        def run(line: list[str], environment: dict[str, str | None]) -> None:
            try_line(made, template, line, environment, outcome)

        # A new installation compiles its kernels first, for which a line on a busy machine has not the time.
        invoke(["predict", "sound", PICTURE])
        run()
    return outcome


def fuzz_in_processes(count: int, first_seed: int) -> Outcome:
    """As `fuzz_commands`, in several processes: one that dies is a bug, and the next goes on."""
    whole = Outcome()
    for start in range(0, count, LINES_A_PROCESS):
        n = min(LINES_A_PROCESS, count - start)
        command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.commands", str(n), str(first_seed + start)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        last = done.stdout.rpartition('{"lines"')
        if done.returncode or not last[1]:
            whole.bugs.append(f"{shlex.join(command)} ended with {done.returncode}\n{done.stderr[-2500:]}")
            continue
        found = json.loads(last[1] + last[2])
        whole.lines += found["lines"]
        whole.codes.update({int(code): n for code, n in found["codes"].items()})
        whole.bugs += found["bugs"]
        if found["slowest_s"] > whole.slowest_s:
            whole.slowest_s, whole.slowest = found["slowest_s"], found["slowest"]
    return whole


if __name__ == "__main__":
    faulthandler.enable()
    found = fuzz_commands(int(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps(vars(found)))
