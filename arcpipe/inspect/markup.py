"""HTML and SVG whose text cannot be anything but text: every string is escaped unless it is markup already."""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Iterable

from PIL import Image

from arcpipe.inspect.sheet import printable

LONGEST_TEXT = 400
"""Letters of one piece of text: names and messages come from files that anybody may have made."""
VOID = frozenset(("img", "meta"))


class Markup(str):
    """Finished HTML. Made by `tag` and `join` only."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """Text as HTML, on one line, cut where it is longer than `LONGEST_TEXT` letters. Markup stays as it is."""
    if isinstance(text, Markup):
        return text
    shown = str(text)[: LONGEST_TEXT + 1]
    if len(shown) > LONGEST_TEXT:
        shown = shown[:LONGEST_TEXT] + "…"
    return Markup(html.escape(printable(shown.replace("\n", " ")), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Children and attributes are escaped; attributes that are None are left out.

    `class_` means `class`, and other underscores are hyphens: `stroke_width=2`.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[object], between: str = "") -> Markup:
    """Children in a row, escaped where they are not markup."""
    return Markup(between.join(map(escaped, children)))


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> Markup:
    """A table that scrolls sideways where the screen is narrow. The first column holds the names of the rows."""
    top = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = []
    for first, *rest in rows:
        body.append(tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in rest)))
    return tag("div", tag("table", tag("thead", top), tag("tbody", *body)), class_="wide", tabindex=0)


def picture(image: Image.Image, about: str) -> Markup:
    """An image inside the page, without loss."""
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    # Not escaped, which would cut it: base64 has no letter that HTML reads.
    source = Markup("data:image/png;base64," + base64.b64encode(data.getvalue()).decode())
    return tag("img", src=source, alt=about, width=image.width, height=image.height, loading="lazy")


def document(title: str, style: str, body: Markup) -> bytes:
    """A whole page that may load nothing and run nothing: its policy allows this `style` and pictures inside it."""
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{allowed}'; img-src data:; base-uri 'none'; form-action 'none'"
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=Markup(policy)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    page = tag("html", tag("head", *head), tag("body", body), lang="en")
    return f"<!DOCTYPE html>\n{page}\n".encode()
