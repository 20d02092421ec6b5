"""From names of files to splits and classes: `split/class/file` or `class/file`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from arcpipe.errors import SourceError
from arcpipe.seeds import derive_seed

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
"""A file is a sample by its extension (any case); what is inside is then decoded by content."""

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
EXPECTED = ("expected SPLIT/CLASS/FILE, for example train/cats/1.jpg", "or CLASS/FILE, for example cats/1.jpg")


@dataclass(frozen=True, slots=True)
class FilePlace:
    """Where one file belongs."""

    split: str
    label: str
    path: str


def is_image(name: str) -> bool:
    """Whether a file becomes a sample: a known extension, nothing hidden in its path (`._x.jpg`, `.git/x.jpg`)."""
    return _looks_like_one(name) and not _is_hidden(name)


def is_hidden_image(name: str) -> bool:
    """Whether a file would be a sample if nothing in its path were hidden; what macOS adds (`._x`) would not."""
    return _looks_like_one(name) and _is_hidden(name) and not name.rpartition("/")[2].startswith("._")


def _looks_like_one(name: str) -> bool:
    last = name.rpartition("/")[2]
    dot = last.rfind(".")
    return dot > 0 and last[dot:].lower() in SUFFIXES


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def place(names: list[str], source: str, held_out: float = 0.0) -> tuple[list[FilePlace | None], list[str]]:
    """Give every image its split and class.

    A leading folder that all images share is skipped (`imagenette2/train/...`). If an image then lies three deep under
    a known split name (`SPLITS`, any case), the layout is `split/class/file`; otherwise it is `class/file`, and all is
    split `train` but for a share of every class, drawn by the names, which is `test`. Only the first level can be a
    split: in `train/valid/x.jpg`, `valid` is a class.

    Args:
        names: image files, `/` between folders.
        source: how messages call the dataset.
        held_out: the share that is `test` where folders name no splits.

    Returns:
        One place for each name, None for images that belong to no class, and a line for each kind passed over.

    Raises:
        SourceError: no image has a class folder, or two folders mean the same split.
    """
    parts = [tuple(name.split("/")) for name in names]
    skip = _shared_folders(parts)
    parts = [p[skip:] for p in parts]
    with_splits = any(len(p) >= 3 and p[0].lower() in SPLITS for p in parts)
    places = [_placed(p, with_splits) for p in parts]
    if with_splits:
        _check_split_names(parts, source)
    if not any(places):
        raise SourceError(
            f"{source} has {len(names)} images, but none lies in a class folder.",
            details=[f"found {', '.join(names[:3])}", *EXPECTED],
            fix=["put the images into one folder for each class"],
        )
    notes = []
    if not with_splits and held_out:
        places = _with_test(places, held_out)
        n = sum(where is not None and where.split == "test" for where in places)
        notes.append(
            f"{source} has no splits: {n} of {len(names)} images, {100 * held_out:.3g} % of every class, are held out "
            "as the split test (--set source.held_out=0 for none)"
        )
    lost = Counter(_why_lost(p) for p, where in zip(parts, places, strict=True) if where is None)
    return places, notes + [f"images passed over: {n} {why}" for why, n in sorted(lost.items())]


def _shared_folders(parts: list[tuple[str, ...]]) -> int:
    """How many leading folders all images share, leaving each a class folder and stopping at a split name."""
    if not parts:
        return 0
    shortest = min(parts, key=len)
    skip = 0
    while len(shortest) - skip >= 3 and all(p[skip] == shortest[skip] for p in parts):
        if shortest[skip].lower() in SPLITS:
            break
        skip += 1
    return skip


def _placed(parts: tuple[str, ...], with_splits: bool) -> FilePlace | None:
    split = SPLITS.get(parts[0].lower()) if with_splits else "train"
    inside = parts[1:] if with_splits else parts
    return FilePlace(split, inside[0], "/".join(inside)) if split and len(inside) >= 2 else None


def _with_test(places: list[FilePlace | None], share: float) -> list[FilePlace | None]:
    """Make images `test` by the hash of their path, so that none depends on the others; of two or more, one at least.

    A class of one image stays in training, and a class is never held out as a whole.
    """
    drawn = {where: derive_seed("held out", where.path) / 2**63 for where in places if where is not None}
    by_class: dict[str, list[FilePlace]] = {}
    for where in sorted(drawn, key=lambda where: (drawn[where], where.path)):
        by_class.setdefault(where.label, []).append(where)
    held: set[FilePlace | None] = set()
    for rows in by_class.values():
        count = sum(drawn[where] < share for where in rows)
        held |= set(rows[: min(max(count, 1), len(rows) - 1)])
    return [replace(where, split="test") if where is not None and where in held else where for where in places]


def _why_lost(parts: tuple[str, ...]) -> str:
    if len(parts) == 1:
        return "beside the folders"
    if parts[0].lower() in SPLITS:
        return f"in {parts[0]}/ without a class folder"
    return f"in {parts[0]}/, which is no split (known: {', '.join(SPLITS)})"


def _check_split_names(parts: list[tuple[str, ...]], source: str) -> None:
    """Refuse `val/` beside `valid/`: merged, two files could have one name."""
    found: dict[str, set[str]] = {}
    for p in parts:
        if len(p) >= 3 and p[0].lower() in SPLITS:
            found.setdefault(SPLITS[p[0].lower()], set()).add(p[0])
    for split, names in found.items():
        if len(names) > 1:
            raise SourceError(
                f"{source} has several folders for the split {split}.",
                details=[f"found {', '.join(sorted(names))}"],
                fix=[f"rename or merge them, so that only {split}/ is left"],
            )
