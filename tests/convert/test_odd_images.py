"""odd-images.tar from end to end: every file gets what its manifest says, and the good ones a cloud of their size."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from arcpipe.cluster import Cluster
from arcpipe.convert import run_convert
from arcpipe.store import open_store
from tests.pictures import settings

pytestmark = pytest.mark.data

# A pixel that is made 48 high is cheap; the 1 x 10000 ones would be 480,000 wide. They are to be recorded instead.
SHORTER, MAX_PIXELS = 48, 20_000
IGNORED = {".DS_Store", "._hopper.jpg", "Thumbs.db", "labels.txt", "no_extension"}


def shaped(row: dict[str, str]) -> tuple[int, int]:
    """The size that --shorter gives an image, upright."""
    size = int(row["display_height"]), int(row["display_width"])
    return tuple((2 * side * SHORTER + min(size)) // (2 * min(size)) for side in size)


def test_every_odd_image_gets_what_the_manifest_says(development_images: Path, tmp_path: Path, here: Cluster) -> None:
    with (development_images / "odd-images-manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream) if Path(row["name"]).name not in IGNORED}
    report = run_convert(
        settings(
            development_images / "odd-images.tar",
            tmp_path / "odd.zarr",
            source={"shorter": SHORTER, "max_pixels": MAX_PIXELS, "held_out": 0},
            fit={"latents": 0.05},
            run={"max_failed": 40},
        ),
        cluster=here,
    )
    report.check()  # --max-failed accepts them
    store = open_store(tmp_path / "odd.zarr")
    clouds = {
        f"train/{cloud.path}": cloud for part in store.parts("train") for cloud in store.read_part("train", part.id)
    }
    failures = {f"train/{failure.path}": failure for failure in store.failures("train")}
    assert clouds.keys() | failures.keys() == rows.keys()
    assert report.planned == len(clouds) + len(failures), "never a hole"
    valid = {name for name, row in rows.items() if row["valid"] == "yes"}
    small = {name for name in valid if shaped(rows[name])[0] * shaped(rows[name])[1] <= MAX_PIXELS}
    assert clouds.keys() == small
    assert len(small) > 35
    for name in small:
        assert clouds[name].size == shaped(rows[name]), name
        assert store.classes[clouds[name].label] == name.split("/")[1], name
    for name in valid - small:
        assert failures[name].reason == "too-large", name
    for name in rows.keys() - valid:
        assert failures[name].reason in ("truncated", "unreadable", "too-large"), name
        assert name in failures[name].message
