"""docs/results.md: made from results.json alone, and honest about the order of the arms."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from arcpipe.errors import ConfigError
from arcpipe.pipeline.card import Card
from arcpipe.pipeline.results import Cell, Row

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "results.py"


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # data classes look for their module there
    spec.loader.exec_module(module)
    return module


CARD = Card(
    labels="in training", teacher="none", views="none", fits=1, numbers=1734.0, bytes=3000.5, psnr=36.4,
    augment="mask", model="PTv3", head="linear", parameters=10, epochs=15,
    chosen_by="nothing", seconds=150.0, device="cpu", command="arcpipe run exp.toml",
)  # fmt: skip


def row(name: str, values: tuple[float, ...], thesis: float | None) -> Row:
    return Row(name, {"accuracy": Cell(values, thesis)})


def test_pairs_count_against_the_thesis_only_beyond_the_spread(page: ModuleType) -> None:
    rows = [row("a", (40.0, 42.0), 30), row("b", (50.0, 50.2), 40), row("c", (39.9, 41.9), 35), row("d", (), 50)]
    (line,) = page.order(rows, "accuracy")
    assert "2 of 3 pairs" in line  # b above a, b above c
    assert "1 undecided within the spread" in line  # a above c by 0.1
    (line,) = page.order([row("a", (60.0, 60.5), 30), row("b", (50.0, 50.2), 40)], "accuracy")
    assert "0 of 1 pairs" in line
    assert "beyond it: a above b by 10.1 (thesis: below by 10.0)" in line
    (line,) = page.order([row("a", (60.0,), 30), row("b", (50.0,), 40)], "accuracy")
    assert "with one seed there is no spread" in line
    assert page.order([row("a", (60.0,), None)], "accuracy") == []


def test_a_section_has_table_and_cost(page: ModuleType) -> None:
    facts: dict[str, Any] = {"images": 8000, "clouds": 8000, "psnr": 31.25, "epochs": 15, "minutes": 2.5}
    cells = {"accuracy": {"values": [38.0, 40.0], "mean": 39.0, "deviation": 1.41, "thesis": 38.12}}
    document = {
        "name": "exp",
        "title": "Augmentations",
        "about": "what\nit is",
        "thesis": "thesis table 5",
        "failed": [],
        "columns": ["accuracy"],
        "arcpipe": "0.1",
        "machine": {"cores": 2, "cpu": "X"},
        "rows": [
            {"name": "none", "reference": False, "cells": cells, "facts": facts},
            {"name": "waiting", "reference": False, "cells": {}, "facts": {}},
        ],
        "results": [
            {"run": f"r{i}", "training": {"seconds": 150.0}, "arm": "none", "card": CARD.as_dict(), **found}
            for i, accuracy in enumerate((0.38, 0.40, 0.31))  # the last one is of former settings
            for found in [{"column": "accuracy", "accuracy": accuracy}]
        ],
    }
    lines = page.section(document)
    assert "| none | 39.00 ± 1.41 (2) | 38.12 | 8,000 | 8,000 | 31.2 | 15 | 2.5 |" in lines
    assert not any(line.startswith("| waiting |") for line in lines)
    assert "* Arms that have not been run: waiting." in lines
    assert any("2 trainings, 5 min 00 s in all on 2 cores (X)" in line for line in lines)


def test_a_number_without_its_card_is_refused(page: ModuleType) -> None:
    facts = CARD.as_dict()
    assert Card.from_dict(facts, "here") == CARD
    del facts["chosen_by"]
    with pytest.raises(ConfigError, match=r"the arm a of exp has no complete card[\s\S]*missing: chosen_by"):
        Card.from_dict(facts, "the arm a of exp")


def test_facts_of_all_arms_are_told_once(page: ModuleType) -> None:
    both = {"a": CARD, "b": replace(CARD, augment="none", epochs=3)}
    first, last = page.card_lines({"a": CARD}), page.card_lines(both)
    assert len(first) == 1
    assert "numbers of an image: 1,734;" in first[0]
    assert "augmented by" not in last[0]
    assert last[1:] == ["* a: augmented by: mask; epochs: 15.", "* b: augmented by: none; epochs: 3."]
    assert page.card_lines({}) == []


def test_the_table_of_the_field_has_the_best_of_ours_among_theirs(page: ModuleType) -> None:
    fit = {"fit": {"recipe": "basis"}, "source": {"source": "cifar10-10k.tar"}}

    def document(name: str, accuracy: float, convert: dict[str, Any]) -> dict[str, Any]:
        cells = {"accuracy": {"values": [accuracy], "mean": accuracy, "deviation": None, "thesis": None}}
        card = replace(CARD, labels="in the training of the classifier alone").as_dict()
        found = {"column": "accuracy", "accuracy": accuracy / 100}
        result = {**found, "arm": "a", "settings": {"convert": convert}, "training": {"images": 8000}, "card": card}
        rows = [{"name": "a", "reference": False, "cells": cells, "facts": {}}]
        return {"name": name, "rows": rows, "results": [result]}

    other = {**fit, "fit": {"recipe": "thesis"}}
    lines = page.field([document("low", 60.0, fit), document("high", 70.0, fit), document("other", 60.0, other)])
    own, thesis = [line for line in lines if "arcpipe" in line]
    assert own == "| CIFAR-10 | **arcpipe, 8,000 training images** | 70.0 | 36.4 | 1,734 | no | 1 | PTv3 | `high` |"
    assert (
        thesis
        == "| CIFAR-10 | **arcpipe, thesis, 8,000 training images** | 60.0 | 36.4 | 1,734 | no | 1 | PTv3 | `other` |"
    )
    place = lines.index(own)
    assert "| ENF | 82.1 |" in lines[place - 1]
    assert "| MWT | 64.7 |" in lines[place + 1]
    unknown = {**fit, "fit": {"recipe": "blend"}}
    assert page.field([document("gone", 80.0, unknown)]) == []


def document_of(name: str, accuracy: float) -> dict[str, Any]:
    facts: dict[str, Any] = {"images": 8000, "clouds": 8000, "psnr": 31.25, "epochs": 15, "minutes": 2.5}
    cell = {"values": [accuracy], "mean": accuracy, "deviation": None, "thesis": None}
    settings = {"convert": {"fit": {"recipe": "basis"}, "source": {"source": "mnist-6k.tar"}}}
    training = {"seconds": 150.0, "images": int(accuracy)}
    found = {"arm": "a", "column": "accuracy", "accuracy": accuracy / 100, "run": "r", "card": CARD.as_dict()}
    return {
        "name": name,
        "title": f"About {name}",
        "about": "",
        "thesis": "",
        "failed": [],
        "arcpipe": "0.1",
        "columns": ["accuracy"],
        "machine": {"cores": 2, "cpu": "X"},
        "rows": [{"name": "a", "reference": False, "cells": {"accuracy": cell}, "facts": facts}],
        "results": [{**found, "settings": settings, "training": training}],
    }


def test_a_page_keeps_the_tables_whose_results_are_not_given(page: ModuleType) -> None:
    whole = page.page([document_of("first", 90.0), document_of("second", 80.0)], "")
    assert page.page([], whole) == whole
    renewed = page.page([document_of("first", 70.0), document_of("third", 60.0)], whole)
    assert [line for line in renewed.splitlines() if line.startswith("## ")] == [
        "## Where this stands", "## About first", "## About second", "## About third",
    ]  # fmt: skip
    assert "90.0" not in renewed  # neither in its table nor in that of the field
    assert {entry.source: entry.accuracy for entry in page.former_entries(renewed)} == {
        "`first`": 70.0, "`second`": 80.0, "`third`": 60.0,
    }  # fmt: skip


def test_a_table_of_more_seeds_gets_the_card_of_a_later_run(page: ModuleType) -> None:
    former = page.page([document_of("first", 40.0), document_of("second", 50.0)], "").replace(
        "40.00", "39.00 ± 1.00 (3)"
    )
    lines = [line for line in former.splitlines() if not line.startswith("* Card")]
    made = page.page_again([document_of("first", 41.0)], "\n".join(lines))
    assert "| a | 39.00 ± 1.00 (3) |" in made
    card, cost, again = (line for line in made.partition("## About second")[0].splitlines() if line.startswith("* "))
    assert card.startswith("* Card: labels are seen: in training;")
    assert cost.startswith("* `first`: 1 trainings")
    assert again == "* Measured again (*accuracy*, 1 seed, X): a 41.0."
    with pytest.raises(SystemExit, match="no table of third"):
        page.page_again([document_of("third", 41.0)], made)


def test_the_table_of_the_field_is_drawn_with_our_rows(page: ModuleType, tmp_path: Path) -> None:
    row = "| CIFAR-10 | **arcpipe, 10 training images** | 20.0 | 30.0 | 1 | no | 1 | PTv3 | `exp` |"
    sizes = []
    for name, text in (("theirs.png", ""), ("ours.png", row)):
        page.draw_field(text, tmp_path / name)
        with Image.open(tmp_path / name) as image:
            sizes.append(image.size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] < sizes[1][1], "a bar more"
