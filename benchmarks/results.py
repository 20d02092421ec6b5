"""Write docs/results.md from results folders, so that no number in it was copied by hand.

    python benchmarks/results.py results/exp3-table5-small results/exp6-table10-small ... > docs/results.md

Each folder is one that `arcpipe run` made. Prints Markdown: the tables, what they cost, and whether the arms come in
the thesis's order as far as the spread over seeds can tell.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from arcpipe.pipeline.card import Card, card_lines
from arcpipe.pipeline.results import Row, read_rows
from arcpipe.pipeline.table import markdown
from arcpipe.progress import duration

HEAD = """\
# Results

Every table was made by `arcpipe run pipelines/NAME.toml`, and this page by `python benchmarks/results.py results/*`:
no number here was copied by hand. Ours are mean ± deviation over seeds (their number in brackets), each measured once,
at the last epoch, on the reported split, which chose nothing unless it is said below. The thesis's are its own
measurements, on more images and for more epochs than the small scale has: what compares is the order of the rows."""


def main(folders: list[str]) -> None:
    """Print the page."""
    documents = [json.loads((Path(folder) / "results.json").read_text(encoding="utf-8")) for folder in folders]
    print(HEAD)
    for document in documents:
        print("\n" + "\n".join(section(document)))


def section(document: Mapping[str, Any]) -> list[str]:
    """One experiment: title, table, order, cost."""
    rows, machine = read_rows(document), document["machine"]
    lines = [f"## {document['title'] or document['name']}", "", " ".join(document["about"].split()), ""]
    lines += markdown("", document["thesis"], document["columns"], rows)
    lines += ["", *(line for column in document["columns"] for line in order(rows, column))]
    seconds = {entry["run"]: entry["training"]["seconds"] for entry in document["results"]}
    cost = f"{len(seconds)} trainings, {duration(sum(seconds.values()))} in all on {machine['cores']} cores"
    cards = {
        entry["arm"]: Card.from_dict(entry.get("card", {}), f"the arm {entry['arm']} of {document['name']}")
        for entry in document["results"]
    }
    lines += card_lines(cards)
    lines += [f"* `{document['name']}`: {cost} ({machine['cpu']}), arcpipe {document['arcpipe']}."]
    return lines + [f"* Failed: {failure}" for failure in document["failed"]]


def order(rows: Sequence[Row], column: str) -> list[str]:
    """Compare the order of the arms with the thesis's, pair by pair.

    A pair counts against the thesis only where our two means differ by more than their two deviations together.
    """
    known = [(row.name, row.cells[column]) for row in rows if column in row.cells]
    known = [(name, cell) for name, cell in known if cell.mean is not None and cell.thesis is not None]
    pairs = [pair for pair in combinations(known, 2) if pair[0][1].thesis != pair[1][1].thesis]
    if not pairs:
        return []
    same, unclear, against = 0, 0, []
    for pair in pairs:
        (low_name, low), (high_name, high) = sorted(pair, key=lambda entry: entry[1].thesis or 0)
        gap = (high.mean or 0) - (low.mean or 0)
        spread = None if low.deviation is None or high.deviation is None else low.deviation + high.deviation
        if gap > 0:
            same += 1
        elif spread is None or -gap <= spread:
            unclear += 1
        else:
            against.append(
                f"{low_name} above {high_name} by {-gap:.1f} (thesis: below by {high.thesis - low.thesis:.1f})"
            )
    line = f"* Order of *{column}*: {same} of {len(pairs)} pairs of arms as in the thesis"
    line += f", {unclear} undecided within the spread" if unclear else ""
    line += f", {len(against)} the other way round beyond it: {'; '.join(against)}" if against else ""
    if any(cell.deviation is None for _, cell in known):
        line += " (with one seed there is no spread, and nothing counts against the order)"
    return [line + "."]


if __name__ == "__main__":
    main(sys.argv[1:])
