"""No damaged input crashes or hangs a reader, takes more memory than allowed, or raises what is not an ArcpipeError."""

from __future__ import annotations

import pytest

from tests.fuzz.harness import HEADER, Tally, fuzz, fuzz_each
from tests.fuzz.targets import COUNTS, TARGETS

FAST = {name: 6 if count <= 200 else 26 for name, count in COUNTS.items()}


def test_the_long_run_is_long_and_the_short_one_is_short() -> None:
    assert sum(COUNTS.values()) >= 10_000
    assert 400 <= sum(FAST.values()) <= 600


@pytest.fixture(scope="module")
def tallies() -> dict[str, Tally]:
    return fuzz_each(FAST, seed=1)


@pytest.mark.parametrize("reader", TARGETS)
def test_a_few_damaged_inputs(reader: str, tallies: dict[str, Tally]) -> None:
    tally = tallies[reader]
    assert tally.bugs == []
    assert tally.inputs == FAST[reader]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("reader", TARGETS)
def test_many_damaged_inputs(reader: str) -> None:
    tally = fuzz(reader, COUNTS[reader], seed=0)
    print(f"\n{HEADER}\n{tally.row()}")
    assert tally.bugs == []
    assert tally.inputs == COUNTS[reader]
