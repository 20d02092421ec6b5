"""The command line in this process: what a test needs where a process of its own is not what is tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from arcpipe.cli import app


@dataclass(frozen=True)
class Done:
    """What a command left, named as `subprocess` names it."""

    returncode: int
    stdout: str
    stderr: str


read_once = cache(get_command)
"""Typer reads commands and options from signatures, for every line anew: longer than many a line takes to run."""


def invoke(arguments: Sequence[str], **more: Any) -> Result:
    """Run `arcpipe ARGUMENTS` in this process, see `typer.testing.CliRunner.invoke`."""
    with mock.patch("typer.testing._get_command", read_once):
        return CliRunner().invoke(app, arguments, **more)


def arcpipe_here(*arguments: object, cwd: Path) -> Done:
    """Run `arcpipe ARGUMENTS` in a folder. An error that the command line does not turn into a message is raised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        result = invoke([*map(str, arguments)], prog_name="arcpipe")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)
