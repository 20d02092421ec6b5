"""The sections of the page about a store, from its facts; the pictures are in `page`."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.inspect import charts
from arcpipe.inspect.facts import Facts, LatentSample
from arcpipe.inspect.markup import Markup, join, table, tag
from arcpipe.inspect.samples import decibel, finite_mean
from arcpipe.progress import byte_size, counted, duration
from arcpipe.store import content_hash
from arcpipe.store.summary import QUANTILES, failed_by_reason, first_line, next_commands

MOST_ROWS = 40
"""Rows of a table; what comes after is added up in one."""
NAMES_A_REASON = 5


def header(facts: Facts) -> Markup:
    """Name, whether the store is finished, and its numbers."""
    store, name = facts.store, facts.store.storage.name
    psnr = np.concatenate([np.zeros(0), *facts.psnr.values()])
    tiles = {
        "images": f"{facts.images:,}",
        "failed": f"{facts.failed:,}",
        "clouds": f"{len(psnr):,}",
        "mean PSNR": decibel(finite_mean(psnr)),
        "classes": f"{len(store.classes):,}",
        "splits": f"{len(store.splits):,}",
        "size on disk": byte_size(facts.n_bytes),
        "bytes a pixel": f"{facts.n_bytes / facts.pixels:.2f}" if facts.pixels else "none yet",
    }
    drawn = (tag("div", tag("dt", label), tag("dd", value)) for label, value in tiles.items())
    return join((tag("h1", name), _state(facts), tag("dl", *drawn, class_="tiles"), _counts(facts)))


def quality(facts: Facts) -> Markup:
    """Distribution of PSNR in each split."""
    head = ("dB", *QUANTILES, "mean")
    rows = []
    for i, split in enumerate(facts.columns):
        own = facts.summary.splits[split]
        measured = (*own.psnr.values(), own.mean_psnr) if own.psnr else (None,) * (len(head) - 1)
        cells = ("" if value is None else f"{value:.2f}" for value in measured)
        rows.append((join((charts.key(i), split)), *cells))
    about = "Histogram of PSNR for each split."
    known = any(np.isfinite(values).any() for values in facts.psnr.values())
    chart = (
        charts.histogram(facts.psnr, "PSNR of the reconstruction, dB", about) if known else _none("No PSNR is known")
    )
    unknown = sum(int((~np.isfinite(values)).sum()) for values in facts.psnr.values())
    note = f"Without a finite PSNR, and left out: {counted(unknown, 'cloud', 'clouds')}." if unknown and known else ""
    legend = (
        "Share of each split's clouds. Above: least to greatest, 5 % to 95 % (thick), median (dot)." if known else ""
    )
    return section("PSNR", chart, quiet(legend), quiet(note), table(head, rows))


def anchors(facts: Facts) -> Markup:
    """Distribution of the number of latents, each at one anchor."""
    counts = {split: own.anchors for split, own in facts.columns.items()}
    pooled = np.concatenate([np.zeros(0, np.int64), *counts.values()])
    if not len(pooled):
        return section("Latents per image", _none("No cloud"))
    least, most = int(pooled.min()), int(pooled.max())
    each = f"{least:,}" if least == most else f"{least:,} to {most:,}, median {np.median(pooled):,.0f}"
    dim, dtype = facts.store.latent_dim, facts.store.dtype
    words = f"{each} latents in a cloud, {len(pooled):,} clouds; each has {dim} numbers ({dtype}) at its anchor."
    about = "Histogram of latents per cloud for each split."
    chart = charts.histogram(counts, "latents in a cloud", about, whole=True)
    return section("Latents per image", tag("p", words), chart)


def sizes(facts: Facts) -> Markup:
    """Which sizes the images have."""
    every = np.concatenate([np.zeros((0, 2), np.int64), *(own.sizes[own.first] for own in facts.columns.values())])
    if not len(every):
        return section("Sizes of images", _none("No image"))
    found, counts = np.unique(every, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:8]
    rows = [(f"{found[i, 0]:,} × {found[i, 1]:,}", int(counts[i])) for i in order]
    area = np.sort(every.prod(axis=1))
    span = f"{area[0]:,} to {area[-1]:,} pixels" if area[0] < area[-1] else f"{area[0]:,} pixels each"
    words = f"{counted(len(found), 'size', 'sizes')}, {span}."
    shown = f" The {len(rows)} most frequent:" if len(found) > len(rows) else ""
    drawn = charts.size_map(every, "Number of images by width and height.") if len(found) > 3 else ""
    return section("Sizes of images", tag("p", words + shown), bars("height × width", "images", rows), drawn)


def classes(facts: Facts) -> Markup:
    """Images and mean PSNR of each class."""
    images, quality_db = _by_class(facts)
    if not images:
        return section("Images per class", _none("No image"))
    ranked = sorted(images, key=lambda name: -images[name])
    rows = [(name, images[name], decibel(quality_db[name])) for name in ranked[:MOST_ROWS]]
    rest = ranked[MOST_ROWS:]
    note = ""
    if rest:
        note = f"And {len(rest):,} more classes of {images[rest[-1]]:,} to {images[rest[0]]:,} images."
    return section("Images per class", bars("class", "images", rows, "mean PSNR"), quiet(note))


def failures(facts: Facts) -> Markup:
    """Samples that could not be converted, by reason, with the first few of each."""
    if not facts.failed:
        return section("Failures", tag("p", "None." if facts.images else "None so far."))
    reasons = failed_by_reason(facts.summary.failures)
    every = [(split, failure) for split in facts.columns for failure in facts.store.failures(split)]
    parts: list[object] = [bars("reason", "samples", list(reasons.items())[:MOST_ROWS])]
    for reason, count in list(reasons.items())[:MOST_ROWS]:
        own = ((split, failure) for split, failure in every if failure.reason == reason)
        first = list(itertools.islice(own, NAMES_A_REASON))
        shown = [tag("li", tag("span", f"{split}: ", class_="quiet"), first_line(failure)) for split, failure in first]
        more = count - len(shown)
        parts += [tag("h3", reason), tag("ul", *shown), quiet(f"and {more:,} more" if more else "")]
    return section("Failures", *parts)


def latents(facts: Facts) -> Markup:
    """Mean and deviation of each dimension as the store keeps them, and the distribution of values of a few clouds."""
    kept, sample = facts.store.latent_statistics, facts.latents
    if not kept or sample is None:
        return section("Latents", _none("No latent"))
    part_of = "" if facts.store.complete else " that is committed so far"
    words = (
        f"Mean (dot) and standard deviation (bar) of each dimension, over all {kept['count']:,} latents of the split "
        f"{kept['split']}{part_of}; over all dimensions {kept['whole_mean']:.4g} ± {kept['whole_std']:.4g}."
    )
    more = len(kept["mean"]) - charts.MOST_DIMENSIONS
    note = f"The first {charts.MOST_DIMENSIONS} of {len(kept['mean'])} dimensions." if more > 0 else ""
    about = "Mean and standard deviation of every dimension of the latents."
    chart = charts.deviations(kept["mean"], kept["std"], about)
    return section("Latents", tag("p", words), chart, quiet(note), *_values(sample))


def costs(facts: Facts) -> Markup:
    """Seconds by stage and bytes by array, as the closing report of the conversion has them."""
    told = facts.store.totals.get("seconds_by_stage")  # anybody may have written it
    told = told if isinstance(told, Mapping) else {}
    stages = {str(name): float(seconds) for name, seconds in told.items() if type(seconds) in (int, float)}
    stages = stages or dict(facts.summary.seconds_by_stage)  # of an unfinished store, without the time of writing
    total = sum(stages.values())
    spent = ((name, f"{seconds:,.1f}", charts.bar(seconds / (total or 1.0))) for name, seconds in stages.items())
    pixels = max(facts.pixels, 1)
    sized = facts.summary.bytes_by_array
    size_rows = [(name, size, f"{size / pixels:.3f}") for name, size in sized.items()]
    size = bars("array", "bytes", size_rows, "bytes a pixel") if size_rows else _none("No array")
    time = table(("stage", "seconds", ""), spent) if stages else quiet("No time is recorded.")
    together = quiet(f"{duration(total)} of all workers together." if stages else "")
    space = quiet(f"{byte_size(facts.n_bytes)}, {facts.n_bytes / pixels:.2f} bytes a pixel." if size_rows else "")
    drawn = (tag("h3", "Seconds by stage"), together, time, tag("h3", "Bytes by array"), space, size)
    return section("Time and space", *drawn)


def provenance(facts: Facts) -> Markup:
    """What the store was made of and by; nothing here was measured for the page."""
    store, about = facts.store, facts.store.root["decoder"]
    widths = f"{about['n_neighbours']} neighbours, latents of {about['latent_dim']} numbers"
    rows = {
        "store": store.storage,
        "source": _source(facts) or "not recorded",
        "fingerprint of the settings": store.fingerprint,
        "fingerprint of the content": content_hash(store),
        "decoder": f"{store.decoder_sha256} ({store.decoder_kind}; {widths})",
        "channels": f"{store.channels} ({'grey' if store.channels == 1 else 'colour'})",
        "latents stored as": store.dtype,
        "neighbour cache": store.root["neighbours_cache"],
        "seed": store.seed,
        "format": f"{store.root['format']} {store.root['format_version']}",
        "versions": ", ".join(f"{name} {version}" for name, version in store.versions.items()),
        **_run(store.totals),
    }
    settings = [(name, value) for name, value in _flat(store.config) if not name.startswith("content.")]
    return section(
        "Provenance",
        tag("div", table(("", ""), rows.items()), class_="words"),
        tag("details", tag("summary", "All settings"), tag("div", table(("", ""), settings), class_="words")),
    )


def commands(facts: Facts, worst: str | None) -> Markup:
    """What to run next on this store."""
    store = shlex.quote(str(facts.store.storage))
    lines = next_commands(facts.store.storage, facts.summary.splits, len(facts.store.classes), facts.store.decoder_kind)
    if worst is not None:
        lines.insert(1, f"arcpipe inspect {store} {shlex.quote(worst)}")
    again = f"arcpipe convert {shlex.quote(_source(facts) or 'SOURCE')} --out {store}"
    if not facts.store.complete:
        lines = [f"{line} --allow-unfinished" if line.startswith("arcpipe train") else line for line in lines]
        lines.insert(0, f"{again}   # with the options of before: it continues")
    if facts.failed:
        lines.append(f"{again} --retry-failed   # with the options of before, once the images are mended")
    lines.append(f"arcpipe verify {store}")
    return section("Next", tag("pre", join((tag("code", line) for line in lines), "\n")))


def section(title: str, *children: object) -> Markup:
    return tag("section", tag("h2", title), *children)


def quiet(text: str) -> Markup:
    """A remark, or nothing."""
    return tag("p", text, class_="quiet") if text else Markup("")


def bars(what: str, unit: str, rows: Sequence[tuple[Any, ...]], more: str = "") -> Markup:
    """A table of names, counts and, where `more` names it, one more value; each count is drawn as a bar, too."""
    longest = max((count for _, count, *_ in rows), default=0) or 1
    head = (what, unit, *([more] if more else []), "")
    return table(head, ((name, f"{count:,}", *rest, charts.bar(count / longest)) for name, count, *rest in rows))


def _state(facts: Facts) -> Markup:
    store = facts.store
    if store.complete:
        return tag("p", f"Complete: {counted(store.n_planned, 'part', 'parts')}, {facts.planned:,} images planned.")
    done = f"{store.n_committed:,} of {store.n_planned:,} parts are committed"
    images = f"{facts.images + facts.failed:,} of {facts.planned:,} images"
    return tag("p", f"Not finished: {done}, {images}. What follows is about these.", class_="warn")


def _counts(facts: Facts) -> Markup:
    """Images + failed = planned, where the store is finished."""
    head = ("split", "planned", "images", "failed", "clouds", "anchors", "parts")
    rows = []
    for i, split in enumerate(facts.columns):
        own, planned = facts.summary.splits[split], facts.store.root["splits"][split]["samples"]
        counts = (planned, own.samples, own.failed, own.clouds, own.points, own.parts)
        rows.append((join((charts.key(i), split)), *(f"{count:,}" for count in counts)))
    return table(head, rows)


def _none(what: str) -> Markup:
    return quiet(f"{what} yet.")


def _by_class(facts: Facts) -> tuple[dict[str, int], dict[str, float | None]]:
    """Number of images and mean PSNR of each class that has some; two classes of one name are one."""
    labels = np.concatenate([np.zeros(0, np.int64), *(own.labels for own in facts.columns.values())])
    first = np.concatenate([np.zeros(0, np.bool_), *(own.first for own in facts.columns.values())])
    psnr = np.concatenate([np.zeros(0), *(np.asarray(own.psnr, np.float64) for own in facts.columns.values())])
    known = np.isfinite(psnr)
    found, rows = np.unique(labels, return_inverse=True)
    images = np.bincount(rows[first], minlength=len(found))
    sums = np.bincount(rows[known], psnr[known], minlength=len(found))
    counts = np.bincount(rows[known], minlength=len(found))
    names = [facts.store.classes[label] for label in found.tolist()]
    means = [float(s / n) if n else None for s, n in zip(sums, counts, strict=True)]
    return dict(zip(names, images.tolist(), strict=True)), dict(zip(names, means, strict=True))


def _values(sample: LatentSample) -> Iterator[Markup]:
    if not sample.values.size:
        return
    every = sample.n_clouds == sample.of_clouds
    which = "all clouds" if every else f"{sample.n_clouds:,} of the {sample.of_clouds:,} clouds"
    values: NDArray[Any] = sample.values.ravel()
    low, high = np.quantile(values, (0.001, 0.999)).tolist()
    yield tag("h3", "Values")
    yield tag("p", f"Read from {which} of the split {sample.split}: {len(sample.values):,} latents.")
    yield charts.histogram({sample.split: values[(values >= low) & (values <= high)]}, "value", "Histogram of latents.")
    extremes = f"Drawn from the 0.1 % to the 99.9 % quantile; least {values.min():.4g}, greatest {values.max():.4g}."
    yield quiet(extremes)


def _source(facts: Facts) -> str:
    section_ = facts.store.config.get("source")
    return str(section_.get("source") or "") if isinstance(section_, Mapping) else ""


def _run(totals: Mapping[str, Any]) -> dict[str, str]:
    """Who finished the store, and in what time; nothing where it is not finished."""
    seconds, workers = totals.get("seconds"), totals.get("workers")
    if not isinstance(seconds, int | float) or not isinstance(workers, int):
        return {}
    return {"last run": f"{duration(seconds)} on {counted(workers, 'worker', 'workers')}"}


def _flat(values: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    """Settings by their TOML names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", "not set" if value is None else str(value)
