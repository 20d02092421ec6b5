"""Inputs that hypothesis makes up: any names, any JSON, any numbers."""

from __future__ import annotations

import io
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from arcpipe.config import SourceSection
from arcpipe.errors import ArcpipeError, ConfigError, DamagedStoreError, ImageError, NotAStoreError
from arcpipe.options import with_expert
from arcpipe.pipeline import read_pipeline
from arcpipe.sources import open_source
from arcpipe.sources.decode import decode
from arcpipe.store import open_store, verify
from arcpipe.store.arrivals import Arrivals, Geometry, decode_arrivals, decode_neighbours
from arcpipe.store.schema import group_document

SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PIECES = st.one_of(
    st.sampled_from(["..", ".", "", "train", "val", "cats", "C:", "a\nb", "\x1b[2J"]), st.text(max_size=6)
)
NAMES = st.lists(st.lists(PIECES, min_size=1, max_size=5).map("/".join), min_size=1, max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=12,
)


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(out, "PNG")
    return out.getvalue()


@SETTINGS
@given(names=NAMES, kind=st.sampled_from(["tar", "zip"]))
def test_members_of_any_name(tmp_path: Path, names: list[str], kind: str) -> None:
    """Listed under a name that can be stored and printed and leads nowhere, or passed over."""
    path = tmp_path / f"x.{kind}"
    names = [name + ".png" for name in names if "\0" not in name]
    try:
        if kind == "tar":
            with tarfile.open(path, "w") as tar:
                for name in names:
                    member = tarfile.TarInfo(name)
                    member.size = len(picture())
                    tar.addfile(member, io.BytesIO(picture()))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for name in dict.fromkeys(names):
                    archive.writestr(name, picture())
    except (ValueError, UnicodeError):  # the format cannot say this name
        return
    try:
        inventory = open_source(SourceSection(source=str(path))).inventory()
    except ArcpipeError:
        return
    for sample in (sample for rows in inventory.samples.values() for sample in rows):
        assert not {"..", ".", ""} & set(sample.path.split("/"))
        assert not sample.path.startswith("/")
        assert all(ord(char) >= 0x20 and not 0x7F <= ord(char) < 0xA0 for char in sample.path)
        sample.path.encode()


@SETTINGS
@given(data=st.binary(max_size=200), magic=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"P6 "]))
def test_anything_behind_a_magic_number(data: bytes, magic: bytes) -> None:
    with suppress(ImageError):
        assert decode(magic + data, "x").mode in ("L", "RGB", "F")


@SETTINGS
@given(
    attributes=st.dictionaries(
        st.sampled_from(["format", "format_version", "splits", "classes", "decoder", "config", "complete", "channels"]),
        JSON | st.just("arcpipe-store") | st.just(1),
    )
)
def test_a_sealed_root_of_any_attributes(tmp_path: Path, attributes: dict[str, object]) -> None:
    (tmp_path / "s.zarr" / "decoder").mkdir(parents=True, exist_ok=True)
    try:
        (tmp_path / "s.zarr" / "zarr.json").write_bytes(group_document(attributes))
    except ValueError:  # a float that JSON cannot say
        return
    with pytest.raises((NotAStoreError, DamagedStoreError)):
        open_store(tmp_path / "s.zarr", allow_unfinished=True)
    with suppress(NotAStoreError):
        assert not verify(tmp_path / "s.zarr").ok


@SETTINGS
@given(
    numbers=st.lists(st.integers(0, 2**16 - 1), min_size=8, max_size=8),
    places=st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6),
    coding=st.sampled_from(["sets", "plain", "", "SETS"]),
)
def test_neighbours_of_any_numbers(numbers: list[int], places: list[int], coding: str) -> None:
    """Two images of 1 x 1 and 1 x 3 pixels, two neighbours each: the list of the stored set, or a ValueError."""
    stored = np.array(numbers, np.uint16).reshape(4, 2)
    positions = np.array(places, np.uint32).reshape(3, 2)
    offsets, pixels, sizes = np.array([0, 1, 3]), np.array([0, 1, 4]), np.array([[1, 1], [1, 3]])
    try:
        decoded = decode_neighbours(stored, coding, Geometry(positions, offsets, pixels, sizes))
    except ValueError:
        return
    np.testing.assert_array_equal(np.sort(decoded, axis=1), np.sort(stored, axis=1))


@SETTINGS
@given(
    arrivals=st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), max_size=8),
    counts=st.lists(st.integers(0, 4), min_size=2, max_size=4),
    places=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    n=st.integers(1, 3),
)
def test_arrivals_of_any_numbers(arrivals: list[tuple[int, int]], counts: list[int], places: list[int], n: int) -> None:
    """Two images of 1 x 1 and 2 x 3 pixels: lists of rows that their clouds have, or a ValueError."""
    coded = Arrivals(np.array(arrivals, np.int8).reshape(-1, 2), np.array(counts, np.uint8), np.array([0, 0, 0]))
    positions = np.array(places, np.uint16).reshape(3, 2)
    where = Geometry(positions, np.array([0, 1, 3]), np.array([0, 1, 7]), np.array([[1, 1], [2, 3]]))
    try:
        lists = decode_arrivals(coded, where, n)
    except ValueError:
        return
    assert lists.shape == (7, n)
    assert (lists[:1] < 1).all()
    assert (lists[1:] < 2).all()
    assert all(len(set(row)) == n for row in lists.tolist())


@SETTINGS
@given(text=st.text(max_size=60) | st.dictionaries(st.sampled_from(["convert", "train", "about"]), JSON).map(str))
def test_pipelines_of_any_content(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text, encoding="utf-8", newline="")
    with suppress(ArcpipeError):
        read_pipeline(path)


@SETTINGS
@given(st.text(max_size=30) | st.sampled_from(["=", "a.b=", "fit.lr=nan", "fit=3", "fit.lr.x=1", ".=1", "a..b=1"]))
def test_set_of_any_text(entry: str) -> None:
    values: dict[str, object] = {"fit": {"lr": 1.0}}
    with suppress(ConfigError):
        with_expert(values, [entry])
