"""`arcpipe inspect STORE --html FILE`: one page about a store, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arcpipe.errors import ConfigError
from arcpipe.files import replace_file
from arcpipe.inspect import sections
from arcpipe.inspect.draw import Desk
from arcpipe.inspect.facts import gather
from arcpipe.inspect.gallery import gallery
from arcpipe.inspect.markup import document, join
from arcpipe.inspect.report import InspectReport
from arcpipe.inspect.style import STYLE
from arcpipe.paths import outside_stores
from arcpipe.sources import open_originals
from arcpipe.storage import Place, Storage, storage_at
from arcpipe.store import open_store

SUFFIXES = (".html", ".htm")


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
    pictures, samples = gallery(desk)
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
    _replace(file, document(f"{storage.name}: a store of clouds", STYLE, body))
    means = {split: facts.summary.splits[split].mean_psnr for split in facts.columns}
    return InspectReport(storage, (file,), tuple(samples), means, originals.note)


def _check(file: Path, store: Storage) -> None:
    example = f"--html {store.name.removesuffix('.zarr')}.html"
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--html {file} does not end in .html.", fix=[example])
    outside_stores(file, "--html")
    if file.is_dir():
        raise ConfigError(f"--html {file} is a folder.", fix=[example])


def _replace(file: Path, data: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        details = [f"{error.strerror}: {error.filename}"]
        raise ConfigError(f"--html {file}: its folder cannot be made.", details=details) from None
    replace_file(file, data)
