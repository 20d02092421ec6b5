"""`arcpipe inspect STORE --html FILE`: one page about a store, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arcpipe.errors import ConfigError
from arcpipe.files import replace_file
from arcpipe.inspect import sections
from arcpipe.inspect.charts import error_scale
from arcpipe.inspect.draw import PLAIN, Desk, chosen_panels
from arcpipe.inspect.facts import gather
from arcpipe.inspect.markup import Markup, document, join, picture, tag
from arcpipe.inspect.panels import finish
from arcpipe.inspect.report import InspectReport, SampleReport
from arcpipe.inspect.sheet import Row
from arcpipe.inspect.style import STYLE
from arcpipe.paths import outside_stores
from arcpipe.sources import open_originals
from arcpipe.storage import Place, Storage, storage_at
from arcpipe.store import open_store

SUFFIXES = (".html", ".htm")
BOX = 256  # pixels of one picture: four side by side on a desk, two on a phone
ABOUT = {
    "best": "Best: the highest PSNR of all splits",
    "median": "Median: in the middle by PSNR",
    "worst": "Worst: the lowest PSNR of all splits",
}


def write_page(place: Place, file: Path, *, besides: Sequence[str] = ()) -> InspectReport:
    """Write the page about a store, finished or not, also one that holds no cloud yet.

    The file replaces what has its name in one step, and holds pictures, style and all else: nothing is loaded, no
    script runs. `besides` names options that were given, too: the page chooses for itself what it shows.

    Raises:
        ConfigError: anything in `besides`, a name that does not end in `.html`, or a place inside the store.
        NotAStoreError, DamagedStoreError: as `open_store` says.
    """
    if besides:
        raise ConfigError(
            f"--html cannot be combined with {' and '.join(besides)}.",
            details=["the page is about the whole store, and chooses what it shows"],
            fix=[f"arcpipe inspect {place} --html {file}", "the same without --html"],
        )
    storage = storage_at(place)
    _check(file, storage)
    store = open_store(storage, allow_unfinished=True)
    facts = gather(store)
    originals = open_originals(store.config, store.channels)
    desk = Desk(store, facts.psnr, originals, file.parent, scale=1)
    pictures, samples = _gallery(desk)
    worst = samples[-1].name if samples else None
    body = join(
        (
            sections.header(facts),
            sections.quality(facts),
            pictures,
            sections.anchors(facts),
            sections.sizes(facts),
            sections.classes(facts),
            sections.failures(facts),
            sections.latents(facts),
            sections.costs(facts),
            sections.provenance(facts),
            sections.commands(facts, worst),
        ),
        "\n",
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        details = [f"{error.strerror}: {error.filename}"]
        raise ConfigError(f"--html {file}: its folder cannot be made.", details=details) from None
    replace_file(file, document(f"{storage.name}: a store of clouds", STYLE, body))
    means = {split: facts.summary.splits[split].mean_psnr for split in facts.columns}
    return InspectReport(storage, (file,), tuple(samples), means, originals.note)


def _gallery(desk: Desk) -> tuple[Markup, list[SampleReport]]:
    """Sheets of original, reconstruction, anchors and error; without the originals where they are gone, and why."""
    panels, reports = chosen_panels(desk, each=3, box=BOX)
    if not panels:
        return sections.section("Samples", sections.quiet("No cloud with a known PSNR yet.")), reports
    with_originals = not desk.originals.note
    rows, limit = finish(panels, with_originals=with_originals)
    columns = PLAIN if with_originals else PLAIN[1:3]
    drawn: list[Markup] = []
    for tag_, title in ABOUT.items():
        own = [(row, report) for row, report in zip(rows, reports, strict=True) if row.tag == tag_]
        if own:
            drawn += [tag("h3", title), *(_sample(row, columns, report) for row, report in own)]
    note = tag("p", desk.originals.note, class_="warn") if desk.originals.note else ""
    scale = "" if limit is None else join((sections.quiet("Absolute error, one scale for all:"), error_scale(limit)))
    return sections.section("Samples", note, scale, *drawn), reports


def _sample(row: Row, columns: tuple[str, ...], report: SampleReport) -> Markup:
    name, *facts = row.caption
    figures = [
        tag("figure", picture(panel, f"{column} of {name}"), tag("figcaption", column))
        for column, panel in zip(columns, row.panels, strict=True)
    ]
    warning = tag("p", row.warning, class_="warn") if row.warning else ""
    shape = "panels" if max(report.size) <= BOX else "panels smooth"  # pixels of small images stay squares
    return tag(
        "div",
        tag("p", tag("strong", name)),
        tag("p", " · ".join(facts), class_="quiet"),
        warning,
        tag("div", *figures, class_=shape),
        class_="sample",
    )


def _check(file: Path, store: Storage) -> None:
    example = f"--html {store.name.removesuffix('.zarr')}.html"
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--html {file} does not end in .html.", fix=[example])
    outside_stores(file, "--html")
    if file.is_dir():
        raise ConfigError(f"--html {file} is a folder.", fix=[example])
