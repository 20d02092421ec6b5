"""`arcpipe inspect`: choose samples, draw their sheets and write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from arcpipe.arc.render import render_cloud
from arcpipe.errors import ConfigError, UnfinishedStoreError
from arcpipe.inspect.charts import draw_psnr
from arcpipe.inspect.edits import draw_edit
from arcpipe.inspect.panels import finish, plain_panels, scaled_panels
from arcpipe.inspect.pixels import save_picture, to_picture
from arcpipe.inspect.report import InspectReport, SampleReport
from arcpipe.inspect.samples import (
    CloudPlace,
    View,
    best_median_worst,
    cloud_name,
    decibel,
    file_stems,
    finite_mean,
    in_order,
    nearest_median,
    place_of,
    view_sample,
)
from arcpipe.inspect.sheet import Row, Sheet, draw_sheet
from arcpipe.paths import outside_stores
from arcpipe.sources import Originals, open_originals
from arcpipe.storage import Place
from arcpipe.store import Store, open_store

OVERVIEW_BOX, SAMPLE_BOX = 288, 512  # pixels of a sheet that one picture gets: among nine samples, and alone
EDIT_BOX = 288
PLAIN = ("original", "reconstruction", "anchors", "absolute error")
RENDER_PIXELS = 2**26  # a render of 67 megapixels takes about 1 GB


@dataclass(frozen=True, slots=True)
class Desk:
    """A store laid out for drawing: its PSNR (one value per cloud of each split) and its originals."""

    store: Store
    psnr: dict[str, NDArray[Any]]
    originals: Originals
    out: Path
    scale: int

    def view(self, place: CloudPlace) -> View:
        return view_sample(self.store, self.originals, place)

    def ending(self) -> str:
        return ".png" if self.scale == 1 else f"-x{self.scale}.png"


def run_inspect(
    place: Place,
    samples: Sequence[str],
    out: Path,
    *,
    scale: int = 1,
    edit: str | None = None,
    seed: int = 0,
) -> InspectReport:
    """Draw sheets of a store, finished or not, into the folder `out`.

    Without `samples`: `best-median-worst.png` over all splits, and `psnr.png`. With them: `sample-NAME.png` and the
    full-size `reconstruction-NAME.png` of each. `scale` renders between the pixels and adds `-x4` to the file names.
    `edit` (push, rotate, flip, mask, noise, mix) draws `edit-EDIT.png` instead, of the given samples or of three median
    ones; what is random about it derives from `seed`.

    Raises:
        ConfigError: `scale` and `edit` together, a render that is too large, or `out` inside the store.
        UnfinishedStoreError: the store holds no cloud yet.
        NotAStoreError, SampleNotFoundError: as `open_store` and `Store.find` say.
    """
    if edit and scale != 1:
        raise ConfigError("--scale and --edit cannot be combined.", fix=["give only one of them"])
    store = open_store(place, allow_unfinished=True)
    if edit and store.decoder_kind == "siren":
        raise ConfigError(
            f"--edit {edit} moves the points of clouds, and a sine network has none.",
            details=[f"{store.storage} is of the kind siren"],
            fix=["arcpipe convert ... --recipe basis"],
        )
    desk = _desk(store, out, scale)
    places = list({place.key: place for place in (_asked(store, name) for name in samples)}.values())
    outside_stores(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        details = [f"{error.strerror}: {error.filename}"]
        raise ConfigError(f"--out {out} cannot be made a folder.", details=details, fix=["--out FOLDER"]) from None
    if edit:
        files, views = _draw_edits(desk, places, edit, seed)
    elif places:
        files, views = _draw_named(desk, places)
    else:
        files, views = _draw_overview(desk)
    means = {split: finite_mean(values) for split, values in desk.psnr.items()}
    return InspectReport(store.storage, tuple(files), tuple(views), means, desk.originals.note)


def _asked(store: Store, name: str) -> CloudPlace:
    """Where a sample is; a number is a row of its split, which is said where its name looks otherwise."""
    place = CloudPlace(*store.find(name))
    row = name.partition("#")[0].rpartition("/")[2]
    own = store.read_cloud(*place.key).path.rpartition("/")[2]
    return replace(place, tag=f"row {row}") if row.isdecimal() and row != own.partition(".")[0] else place


def best_to_worst(store: Store) -> Image.Image:
    """The sheet of the best, the median and the worst cloud of a store.

    Raises:
        UnfinishedStoreError: the store holds no cloud yet.
    """
    return _overview(_desk(store, Path(), 1), each=1)[0]


def _desk(store: Store, out: Path, scale: int) -> Desk:
    psnr = {split: np.asarray(store.psnr(split)) for split in in_order(store.splits)}
    if not any(len(values) for values in psnr.values()):
        raise UnfinishedStoreError(
            f"{store.storage} holds no cloud yet.", fix=["run its arcpipe convert command again"]
        )
    return Desk(store, psnr, open_originals(store.config, store.channels), out, scale)


def _draw_overview(desk: Desk) -> tuple[list[Path], list[SampleReport]]:
    drawn, reports = _overview(desk, each=3)
    clouds = sum(len(values) for values in desk.psnr.values())
    sheet, histogram = desk.out / f"best-median-worst{desk.ending()}", desk.out / "psnr.png"
    save_picture(drawn, sheet)
    draw_psnr(desk.psnr, f"{desk.store.storage.name}: PSNR of {clouds:,} clouds", histogram)
    return [sheet, histogram], reports


def _overview(desk: Desk, each: int) -> tuple[Image.Image, list[SampleReport]]:
    panels, reports = chosen_panels(desk, each, OVERVIEW_BOX)
    clouds = sum(len(values) for values in desk.psnr.values())
    title = f"{desk.store.storage.name}: best, median and worst of {clouds:,} clouds"
    return draw_sheet(_sheet(desk, title, panels)), reports


def chosen_panels(desk: Desk, each: int, box: int) -> tuple[list[Row], list[SampleReport]]:
    """The best, the median and the worst `each` clouds, in `box` pixels; whole images are there one at a time."""
    panels, reports = [], []
    for tag, split, i in best_median_worst(desk.psnr, each):
        view = desk.view(place_of(desk.store, split, i, tag))
        panels.append(_panels(desk, view, box))
        reports.append(SampleReport.of(view))
    return panels, reports


def _draw_named(desk: Desk, places: Sequence[CloudPlace]) -> tuple[list[Path], list[SampleReport]]:
    files, reports = [], []
    stems = file_stems([cloud_name(place.split, desk.store.read_cloud(*place.key)) for place in places])
    for place in places:
        view = desk.view(place)
        stem = stems[view.name]
        sheet, full = (desk.out / f"{kind}-{stem}{desk.ending()}" for kind in ("sample", "reconstruction"))
        save_picture(to_picture(_rendered(desk, view)), full)
        panels = _panels(desk, view, SAMPLE_BOX)
        save_picture(draw_sheet(_sheet(desk, f"{desk.store.storage.name}: {view.name}", [panels])), sheet)
        files += [sheet, full]
        reports.append(SampleReport.of(view))
    return files, reports


def _draw_edits(
    desk: Desk, places: Sequence[CloudPlace], edit: str, seed: int
) -> tuple[list[Path], list[SampleReport]]:
    places = list(places) or _medians(desk, 2 if edit == "mix" else 3)
    if edit == "mix" and len(places) == 1:
        places += [place for place in _medians(desk, 2) if place.key != places[0].key][:1]
    views = [desk.view(place) for place in places]
    file = desk.out / f"edit-{edit}.png"
    sheet = draw_edit(desk.store.decoder, views, edit, seed, EDIT_BOX)
    title = f"{desk.store.storage.name}: {sheet.title}"
    save_picture(draw_sheet(replace(sheet, title=title, subtitle=(_facts(desk), *sheet.subtitle))), file)
    return [file], [SampleReport.of(view) for view in views]


def _medians(desk: Desk, count: int) -> list[CloudPlace]:
    """Clouds of middling PSNR, of different classes if some of the nearest thirty are."""
    near = [place_of(desk.store, split, i, "median") for split, i in nearest_median(desk.psnr, 10 * count)]
    by_class: dict[int, CloudPlace] = {}
    for place in near:
        by_class.setdefault(desk.store.read_cloud(*place.key).label, place)
    return list(dict.fromkeys([*by_class.values(), *near]))[:count]


def _rendered(desk: Desk, view: View) -> NDArray[np.float32]:
    """The reconstruction at the scale asked for, whole."""
    if desk.scale == 1:
        return view.image
    pixels = view.image.shape[0] * view.image.shape[1]
    if pixels * desk.scale**2 > RENDER_PIXELS:
        largest = max(1, int((RENDER_PIXELS / pixels) ** 0.5))
        raise ConfigError(
            f"--scale {desk.scale} is too large for {view.name}.",
            details=[f"expected at most {RENDER_PIXELS:,} pixels", f"found {pixels * desk.scale**2:,}"],
            fix=[f"--scale {largest}"],
        )
    return render_cloud(view.cloud, desk.store.decoder, scale=desk.scale)


def _panels(desk: Desk, view: View, box: int) -> Row:
    with_originals = not desk.originals.note
    if desk.scale == 1:
        return plain_panels(view, box, with_originals=with_originals)
    return scaled_panels(view, desk.store.decoder, desk.scale, box, with_originals=with_originals)


def _sheet(desk: Desk, title: str, panels: list[Row]) -> Sheet:
    with_originals = not desk.originals.note
    columns: tuple[str, ...]
    if desk.scale == 1:
        rows, limit = finish(panels, with_originals=with_originals)
        columns = PLAIN if with_originals else PLAIN[1:3]
    else:
        rows, limit = finish(panels, with_originals=False)
        columns = (
            "original" if with_originals else "reconstruction",
            f"bicubic × {desk.scale}",
            f"decoded between the pixels × {desk.scale}",
        )
    notes = (desk.originals.note,) if desk.originals.note else ()
    return Sheet(title, columns, rows, (_facts(desk),), notes, limit)


def _facts(desk: Desk) -> str:
    """Decoder, recipe, mean PSNR of every split, and whether the store is finished."""
    store = desk.store
    counts = [f"{split} {decibel(finite_mean(values))} ({len(values):,})" for split, values in desk.psnr.items()]
    facts = [f"decoder {store.decoder.sha256[:8]}", f"recipe {store.config.get('fit', {}).get('recipe', 'unknown')}"]
    facts += [f"mean PSNR (clouds): {', '.join(counts)}"]
    facts += [] if store.complete else ["not finished: only what is committed"]
    return " · ".join(facts)
