"""The command line in this process: what a test needs where a process of its own is not what is tested."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from arcpipe.cli import app


@dataclass(frozen=True)
class Done:
    """What a command left, named as `subprocess` names it."""

    returncode: int
    stdout: str
    stderr: str


def arcpipe_here(*arguments: object, cwd: Path) -> Done:
    """Run `arcpipe ARGUMENTS` in a folder. An error that the command line does not turn into a message is raised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        result = CliRunner().invoke(app, [*map(str, arguments)], prog_name="arcpipe")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)
