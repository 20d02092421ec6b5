"""Write docs/results.md from results folders, so that no number in it was copied by hand.

    python benchmarks/results.py results/exp3-table5-small results/exp6-table10-small ... > docs/results.md
    python benchmarks/results.py --into docs/results.md results/exp3-table5-small

Each folder is one that `arcpipe run` made. Prints Markdown: the tables, what they cost, and whether the arms come in
the thesis's order as far as the spread over seeds can tell. With --into a page keeps the tables whose results are not
given, and those of the given results take their places in it, or come behind them. With --again as well, a table of
more seeds stays: it gets the card of the given results, which are of the same experiment, and what they measured.
The field's table is drawn beside the page, in results.png.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from arcpipe.pipeline.card import Card
from arcpipe.pipeline.results import Row, read_rows
from arcpipe.pipeline.table import markdown
from arcpipe.progress import duration

HEAD = """\
# Results

Every table was made by `arcpipe run pipelines/NAME.toml`, and this page by `python benchmarks/results.py results/*`:
no number here was copied by hand. Ours are mean ± deviation over seeds (their number in brackets), each measured once,
at the last epoch, on the reported split, which chose nothing unless it is said below. The thesis's are its own
measurements, on more images and for more epochs than the small scale has: what compares is the order of the rows."""

FIELD_HEAD = """\
## Where this stands

Classifiers that read an image's latents and never its pixels. In bold ours, of the tables below; the others are their
authors' own numbers. What they may see differs, and moves the number more than the method does: labels in the training
of the encoding, and many encodings of an image, made of crops and flips of its pixels. `numbers`: of one encoding."""

WORDS = {
    "labels": "labels are seen",
    "teacher": "other networks",
    "views": "views",
    "fits": "fits of an image",
    "numbers": "numbers of an image",
    "bytes": "bytes of an image in the store",
    "psnr": "dB",
    "augment": "augmented by",
    "model": "model",
    "head": "head",
    "epochs": "epochs",
    "chosen_by": "weights chosen by",
    "device": "device",
    "command": "command",
}
"""What the page calls the facts of a card; the others stand in its table."""

FIGURE = "results.png"
"""The field's table as bars, beside the page."""

DATA = {"cifar10": "CIFAR-10", "mnist": "MNIST", "imagenette": "Imagenette"}
"""What a source's name begins with, and the data set's name."""


@dataclass(frozen=True)
class Entry:
    """A row of the field's table. `accuracy` %, `psnr` dB; `source`: who measured it."""

    data: str
    method: str
    accuracy: float
    psnr: str
    numbers: str
    labels: str
    views: str
    head: str
    source: str

    def cells(self) -> list[str]:
        return [f"{cell:.1f}" if isinstance(cell, float) else cell for cell in astuple(self)]


FIELD = (
    Entry("CIFAR-10", "LH-NeF", 91.2, "44.4", "2,048", "no", "50", "ConvNeXt", "arXiv 2606.08204"),
    Entry("CIFAR-10", "Spatial Functa", 90.3, "39.0", "1,024", "no", "50", "transformer", "in arXiv 2606.08204"),
    Entry("CIFAR-10", "MetaLF", 83.3, "37.8", "1,024", "yes", "flips", "mean, linear", "arXiv 2610.08075"),
    Entry("CIFAR-10", "ENF", 82.1, "42.2", "1,600", "no", "50", "equivariant attention", "in arXiv 2606.08204"),
    Entry("CIFAR-10", "MWT", 64.7, "30.9", "SIREN weights", "yes", "crops", "transformer", "CVPR 2025"),
    Entry("CIFAR-10", "ARC, the thesis", 58.47, "30.2", "1,632", "no", "1", "PTv3", "its table 3"),
    Entry("CIFAR-10", "ScaleGMN", 38.82, "", "SIREN weights", "no", "1", "graph network", "the thesis's table 3"),
    Entry("MNIST", "MWT", 98.8, "", "SIREN weights", "yes", "crops", "transformer", "CVPR 2025"),
    Entry("MNIST", "ScaleGMN", 96.59, "", "SIREN weights", "no", "1", "graph network", "the thesis's table 3"),
    Entry("MNIST", "ARC, the thesis", 92.69, "", "", "no", "1", "PTv3", "its table 3"),
    Entry("Imagenette", "ARC, the thesis, full size", 75.92, "", "", "no", "1", "PTv3", "its table 2"),
    Entry("Imagenette", "MWT", 60.8, "", "SIREN weights", "yes", "crops", "transformer", "CVPR 2025"),
)
"""What others report."""

MADE = re.compile(r"^\* `([^`]+)`: \d+ trainings", re.MULTILINE)
"""The line of a table that names its experiment."""

ELSEWHERE = re.compile(r"arcpipe run /\S*/pipelines/")
"""The command of somebody who was in another folder."""


def main() -> None:
    """Print the page, or write it into a file that has one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="results folders that arcpipe run made")
    parser.add_argument("--into", type=Path, help="a page whose other tables stay")
    parser.add_argument(
        "--again", action="store_true", help="the tables stay, and get cards and what was measured again"
    )
    wanted = parser.parse_args()
    documents = [json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in wanted.folders]
    former = wanted.into.read_text(encoding="utf-8") if wanted.into else ""
    made = page_again(documents, former) if wanted.again else page(documents, former)
    made = ELSEWHERE.sub("arcpipe run pipelines/", made)
    if wanted.into:
        wanted.into.write_text(made, encoding="utf-8")
        draw_field(made, wanted.into.with_name(FIGURE))
    else:
        print(made, end="")


def page(documents: Sequence[Mapping[str, Any]], former: str) -> str:
    """The whole page: the tables of `former`, which is such a page or empty, with those of the documents among them."""
    names = [document["name"] for document in documents]
    sections = {name: text for text in former.split("\n## ") for name in MADE.findall(text)}
    sections |= {document["name"]: "\n".join(section(document)).removeprefix("## ") for document in documents}
    kept = [entry for entry in former_entries(former) if entry.source.strip("`") not in names]
    parts = [HEAD, "\n".join(field(documents, kept)), *(f"## {text.strip()}" for text in sections.values())]
    return "\n\n".join(parts) + "\n"


def page_again(documents: Sequence[Mapping[str, Any]], former: str) -> str:
    """The page with the cards of experiments that were run again, and what they measured, below their older tables."""
    for document in documents:
        line = next((line for line in former.splitlines() if line.startswith(f"* `{document['name']}`: ")), None)
        if line is None:
            raise SystemExit(f"the page has no table of {document['name']}")
        rows = read_rows(document)
        shown = list(current(document, rows))
        repeated = [more for column in document["columns"] for more in measured_again(document, rows, column)]
        former = former.replace(line, "\n".join([*card_lines(cards_of(document, shown)), line, *repeated]))
    return former


def measured_again(document: Mapping[str, Any], rows: Sequence[Row], column: str) -> list[str]:
    """A line of one column: its means, and where they were measured. None where nothing was."""
    cells = {row.name: row.cells[column] for row in rows if column in row.cells}
    measured = {name: cell for name, cell in cells.items() if cell.mean is not None}
    if not measured:
        return []
    seeds = max(len(cell.values) for cell in measured.values())
    means = "; ".join(f"{name} {cell.mean:.1f}" for name, cell in measured.items())
    return [f"* Measured again (*{column}*, {seeds} seed{'s' * (seeds > 1)}, {document['machine']['cpu']}): {means}."]


def cards_of(document: Mapping[str, Any], shown: Sequence[Mapping[str, Any]]) -> dict[str, Card]:
    """The card of each arm, from results that the table shows."""
    return {
        entry["arm"]: Card.from_dict(entry.get("card", {}), f"the arm {entry['arm']} of {document['name']}")
        for entry in shown
    }


def card_lines(cards: Mapping[str, Card]) -> list[str]:
    """Lines for a page: what the cards of all arms have in common, then what each has of its own."""
    told = {arm: {name: _told(getattr(card, name)) for name in WORDS} for arm, card in cards.items()}
    common = {name for name in WORDS if len({facts[name] for facts in told.values()}) == 1}
    lines = []
    for arm, facts in ({"Card": next(iter(told.values()))} | told).items() if told else ():
        names = [name for name in WORDS if (name in common) == (arm == "Card")]
        if names:
            lines.append(f"* {arm}: " + "; ".join(f"{WORDS[name]}: {facts[name]}" for name in names) + ".")
    return lines


def _told(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,.1f}".removesuffix(".0")


def draw_field(page: str, path: Path) -> None:
    """Draw the accuracies of the field's table of a page, a panel for each data set; ours are dark."""
    from matplotlib.figure import Figure

    entries = entries_of([*FIELD, *former_entries(page)])
    data = [name for name in DATA.values() if any(entry.data == name for entry in entries)]
    counts = [sum(entry.data == name for entry in entries) for name in data]
    figure = Figure(figsize=(9, 0.9 * len(data) + 0.36 * len(entries)), layout="constrained")
    for axes, name in zip(figure.subplots(len(data), 1, height_ratios=counts, squeeze=False)[:, 0], data, strict=True):
        rows = [entry for entry in entries if entry.data == name][::-1]
        ours = ["arcpipe" in entry.method for entry in rows]
        bars = axes.barh(
            [entry.method.strip("*") for entry in rows],
            [entry.accuracy for entry in rows],
            color=["#1f5fa8" if own else "#c4c4c4" for own in ours],
        )
        axes.bar_label(bars, [f"{entry.accuracy:.1f}" for entry in rows], padding=4, fontsize=12)
        for label, own in zip(axes.get_yticklabels(), ours, strict=True):
            label.set(fontsize=12, fontweight="bold" if own else "normal")
        axes.set_title(f"{name}, % of test images", loc="left", fontsize=14)
        axes.margins(y=0.02)
        axes.set_xlim(0, 108)
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    figure.savefig(path, dpi=100)


def entries_of(entries: Sequence[Entry]) -> list[Entry]:
    """By data set, the best first."""
    order = list(DATA.values())
    return sorted(entries, key=lambda entry: (order.index(entry.data), -entry.accuracy))


def former_entries(page: str) -> list[Entry]:
    """Our rows in the table of the field of a page."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if " | **arcpipe" in line]
    return [Entry(data, method, float(accuracy), *rest) for data, method, accuracy, *rest in rows]


def field(documents: Sequence[Mapping[str, Any]], kept: Sequence[Entry] = ()) -> list[str]:
    """The table of the field: theirs, and our best for each recipe and number of training images."""
    best: dict[tuple[str, str], Entry] = {}
    for entry in [*kept, *(entry for document in documents for entry in own_entries(document))]:
        key = entry.data, entry.method
        if key not in best or entry.accuracy > best[key].accuracy:
            best[key] = entry
    if not best:
        return []
    entries = entries_of([*FIELD, *best.values()])
    head = ["data", "method", "accuracy", "dB", "numbers", "labels in the encoding", "views", "read by", "measured by"]
    lines = [" | ".join(cells) for cells in (head, ["---"] * 2 + ["--:"] * 3 + ["---"] * 4)]
    lines += [" | ".join(entry.cells()) for entry in entries]
    drawn = f"![Accuracies of the table below, ours dark]({FIGURE})"
    return [*FIELD_HEAD.split("\n"), "", drawn, "", *(f"| {line} |" for line in lines)]


def own_entries(document: Mapping[str, Any]) -> list[Entry]:
    """A row for every arm of an experiment on clouds that were solved for, or fitted as in the thesis."""
    means = {row.name: row.cells["accuracy"].mean for row in read_rows(document) if "accuracy" in row.cells}
    entries = []
    for result in current(document, read_rows(document)):
        convert = result["settings"]["convert"]
        source, mean = convert["source"]["source"], means.get(result["arm"])
        data = [name for start, name in DATA.items() if source.startswith(start)]
        recipe = convert["fit"]["recipe"]
        if recipe not in ("basis", "thesis") or not data or mean is None:
            continue
        card = Card.from_dict(result["card"], f"the arm {result['arm']} of {document['name']}")
        method = f"**arcpipe, {'thesis, ' * (recipe == 'thesis')}{result['training']['images']:,} training images**"
        labels, views = "no" if card.labels.endswith("alone") else "yes", "1" if card.fits == 1 else str(card.fits)
        made = f"`{document['name']}`"
        numbers = f"{card.numbers:,.0f}"
        entries.append(Entry(data[0], method, mean, f"{card.psnr:.1f}", numbers, labels, views, card.model, made))
    return entries


def section(document: Mapping[str, Any]) -> list[str]:
    """One experiment: title, table, order, cost."""
    rows, machine = read_rows(document), document["machine"]
    lines = [f"## {document['title'] or document['name']}", "", " ".join(document["about"].split()), ""]
    numbered = [row for row in rows if any((cell.mean, cell.thesis) != (None, None) for cell in row.cells.values())]
    lines += markdown("", document["thesis"], document["columns"], numbered)
    lines += ["", *(line for column in document["columns"] for line in order(rows, column))]
    shown = list(current(document, rows))
    seconds = {entry["run"]: entry["training"]["seconds"] for entry in shown}
    cost = f"{len(seconds)} trainings, {duration(sum(seconds.values()))} in all on {machine['cores']} cores"
    lines += card_lines(cards_of(document, shown))
    waiting = [row.name for row in rows if row not in numbered]
    lines += [f"* Arms that have not been run: {'; '.join(waiting)}."] if waiting else []
    lines += [f"* `{document['name']}`: {cost} ({machine['cpu']}), arcpipe {document['arcpipe']}."]
    return lines + [f"* Failed: {failure}" for failure in document["failed"]]


def current(document: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[Mapping[str, Any]]:
    """The results that the table shows: those of former settings of its arms are in the document as well."""
    cells = {(row.name, column): cell for row in rows for column, cell in row.cells.items()}
    for entry in document["results"]:
        cell = cells.get((entry["arm"], entry["column"]))
        if cell is not None and any(abs(value - 100 * entry["accuracy"]) < 1e-6 for value in cell.values):
            yield entry


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
            below = (high.thesis or 0) - (low.thesis or 0)
            against.append(f"{low_name} above {high_name} by {-gap:.1f} (thesis: below by {below:.1f})")
    line = f"* Order of *{column}*: {same} of {len(pairs)} pairs of arms as in the thesis"
    line += f", {unclear} undecided within the spread" if unclear else ""
    line += f", {len(against)} the other way round beyond it: {'; '.join(against)}" if against else ""
    if any(cell.deviation is None for _, cell in known):
        line += " (with one seed there is no spread, and nothing counts against the order)"
    return [line + "."]


if __name__ == "__main__":
    main()
