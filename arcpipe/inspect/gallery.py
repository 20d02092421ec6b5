"""The best, the median and the worst samples of a store, as pictures inside its page."""

from __future__ import annotations

from arcpipe.inspect.charts import error_scale
from arcpipe.inspect.draw import PLAIN, Desk, chosen_panels
from arcpipe.inspect.markup import Markup, join, picture, tag
from arcpipe.inspect.panels import finish
from arcpipe.inspect.report import SampleReport
from arcpipe.inspect.sections import quiet, section
from arcpipe.inspect.sheet import Row

BOX = 256  # pixels of one picture: four side by side on a desk, two on a phone
EACH = 3
ABOUT = {
    "best": "Best: the highest PSNR of all splits",
    "median": "Median: in the middle by PSNR",
    "worst": "Worst: the lowest PSNR of all splits",
}


def gallery(desk: Desk) -> tuple[Markup, list[SampleReport]]:
    """Sheets of original, reconstruction, anchors and error; without the originals where they are gone, and why."""
    panels, reports = chosen_panels(desk, EACH, BOX)
    if not panels:
        return section("Samples", quiet("No cloud with a known PSNR yet.")), reports
    with_originals = not desk.originals.note
    rows, limit = finish(panels, with_originals=with_originals)
    columns = PLAIN if with_originals else PLAIN[1:3]
    drawn: list[Markup] = []
    for tag_, title in ABOUT.items():
        own = [(row, report) for row, report in zip(rows, reports, strict=True) if row.tag == tag_]
        if own:
            drawn += [tag("h3", title), *(_sample(row, columns, report) for row, report in own)]
    note = tag("p", desk.originals.note, class_="warn") if desk.originals.note else ""
    scale = "" if limit is None else join((quiet("Absolute error, one scale for all:"), error_scale(limit)))
    return section("Samples", note, scale, *drawn), reports


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
