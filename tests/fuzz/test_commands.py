"""No command line ends in a traceback, hangs, has an exit code of its own, or changes what it did not name."""

from __future__ import annotations

from tests.fuzz.commands import COMMANDS, fuzz_commands


def test_every_command_is_made_up() -> None:
    assert {"convert", "train", "evaluate", "predict", "inspect", "verify", "run", "settings", "doctor"} <= set(
        COMMANDS
    )


def test_command_lines_of_any_kind() -> None:
    outcome = fuzz_commands(100, 0)
    assert outcome.bugs == []
    assert outcome.lines >= 100
    assert outcome.codes[0] >= 3
    assert outcome.codes[2] > 25
