"""Tars and zips are read in place, and nothing in them leads outside."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from arcpipe.config import SourceSection
from arcpipe.errors import ImageError, NoSpaceError, SourceError
from arcpipe.sources import Inventory, Source, open_source
from arcpipe.sources import uncompressed as uncompressing

Make = Callable[..., Path]


def opened(path: Path, lines: list[str] | None = None) -> Source:
    return open_source(SourceSection(source=str(path), held_out=0), progress=None if lines is None else lines.append)


def keys(found: Inventory) -> list[str]:
    return [sample.key for rows in found.samples.values() for sample in rows]


def make_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz", "stored zip", "deflated zip"])
def test_every_archive_gives_the_pixels_of_the_folder(
    kind: str, tmp_path: Path, make_folder: Make, make_tar: Make, pets: dict
) -> None:
    folder = opened(make_folder(tmp_path / "pets", pets))
    if "zip" in kind:
        method = zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED
        archive = opened(make_zip(tmp_path / "pets.zip", pets, method))
    else:
        archive = opened(make_tar(tmp_path / f"pets.{kind}", pets, f"w:{kind[4:]}"))
    expected, found = folder.inventory(), archive.inventory()
    assert found.name == expected.name == "pets"
    assert keys(found) == keys(expected)
    for split, rows in found.samples.items():
        for there, here in zip(rows, expected.samples[split], strict=True):
            np.testing.assert_array_equal(archive.read(there, 3), folder.read(here, 3))


def test_nothing_is_extracted(tmp_path: Path, make_tar: Make, pets: dict) -> None:
    source = opened(make_tar(tmp_path / "pets.tar", pets))
    for sample in source.inventory().samples["train"]:
        source.read(sample, 3)
    assert os.listdir(tmp_path) == ["pets.tar"]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_outside_are_refused(
    kind: str, tmp_path: Path, make_tar: Make, pets: dict, png: Callable[..., bytes]
) -> None:
    evil = {name: png() for name in ("/etc/cats/a.png", "../cats/a.png", "train/../../b.png", "C:/cats/c.png")}
    path = tmp_path / f"x.{kind}"
    path = make_tar(path, {**pets, **evil}) if kind == "tar" else make_zip(path, {**pets, **evil})
    lines: list[str] = []
    found = opened(path, lines).inventory()
    assert len(keys(found)) == 6
    assert any("4 entries passed over" in line for line in lines)


def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, pets: dict) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in pets.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(f"train/cats/link{number}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    lines: list[str] = []
    found = opened(path, lines).inventory()
    assert not [key for key in keys(found) if "link" in key]
    assert any("4 entries passed over" in line for line in lines)


def test_links_in_a_zip_are_refused(tmp_path: Path, pets: dict) -> None:
    path = make_zip(tmp_path / "x.zip", pets)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("train/cats/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert len(keys(opened(path).inventory())) == 6


def test_of_two_members_with_one_name_the_later_counts(
    tmp_path: Path, make_tar: Make, png: Callable[..., bytes]
) -> None:
    path = make_tar(tmp_path / "x.tar", {"a/1.png": png(2, 2), "./a/1.png": png(7, 7), "b/1.png": png()})
    lines: list[str] = []
    found = opened(path, lines).inventory()
    assert found.samples["train"][0].size == (7, 7)
    assert "1 entry passed over: a/1.png: twice in the archive, the later one counts" in lines


def test_unicode_and_long_names_in_a_tar(tmp_path: Path, make_tar: Make, png: Callable[..., bytes]) -> None:
    names = [f"train/{'x' * 120}/{'y' * 150}.png", "train/ü/图像_🙂.png"]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form) as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(png())
                tar.addfile(member, io.BytesIO(png()))
        assert keys(opened(path).inventory()) == names


def test_a_tar_that_ends_too_early_is_an_error(tmp_path: Path, make_tar: Make, pets: dict) -> None:
    path = make_tar(tmp_path / "x.tar", pets)
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    with pytest.raises(SourceError, match="damaged or incomplete"):
        opened(path).inventory()


def test_a_broken_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path, make_tar: Make, pets: dict) -> None:
    path = make_tar(tmp_path / "x.tar", pets)
    data = bytearray(path.read_bytes())
    at = data.index(b"val/cats")
    data[at : at + 4] = b"????"
    path.write_bytes(data)
    with pytest.raises(SourceError, match="damaged or incomplete") as caught:
        opened(path).inventory()
    assert "no tar header" in str(caught.value)


def test_a_tar_that_shrank_later_fails_as_samples(tmp_path: Path, make_tar: Make, pets: dict) -> None:
    path = make_tar(tmp_path / "x.tar", pets)
    source = opened(path)
    last = source.inventory().samples["val"][-1]
    os.truncate(path, 1000)
    with pytest.raises(ImageError, match="shorter than it was") as caught:
        source.read(last, 3)
    assert caught.value.reason == "truncated"


def test_a_damaged_zip_member_fails_alone(tmp_path: Path, png: Callable[..., bytes]) -> None:
    path = make_zip(tmp_path / "x.zip", {"a/1.png": png(seed=1), "b/2.png": png(seed=2)}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF
    path.write_bytes(data)
    source = opened(path)
    damaged, whole = source.inventory().samples["train"]
    assert damaged.reason is not None
    with pytest.raises(ImageError, match="CRC-32"):
        source.read(damaged, 3)
    assert source.read(whole, 3).shape == (5, 4, 3)


def test_a_zip_member_never_inflates_beyond_its_promise(tmp_path: Path, png: Callable[..., bytes]) -> None:
    path = make_zip(tmp_path / "x.zip", {"a/1.png": bytes(10_000_000), "b/2.png": png()})
    data = bytearray(path.read_bytes())
    for at in range(len(data)):
        if data[at : at + 4] == (10_000_000).to_bytes(4, "little"):
            data[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    source = opened(path)
    liar = source.inventory().samples["train"][0]
    tracemalloc.start()
    with pytest.raises(ImageError, match="length"):
        source.read(liar, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_encrypted_and_oddly_compressed_members_fail_as_samples(tmp_path: Path, png: Callable[..., bytes]) -> None:
    path = make_zip(tmp_path / "x.zip", {"a/1.png": png()})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_LZMA) as archive:
        archive.writestr("b/2.png", png())
        archive.writestr("b/3.png", png(), zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    last = data.rindex(b"PK\x01\x02")
    data[last + 8] |= 1  # the flag of an encrypted member
    path.write_bytes(data)
    good, lzma, locked = opened(path).inventory().samples["train"]
    assert good.reason is None
    assert "compressed by method 14" in str(lzma.reason)
    assert "is encrypted" in str(locked.reason)


def test_a_zip_inside_a_tar_does_not_make_the_tar_a_zip(tmp_path: Path, make_tar: Make, pets: dict) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"a/1.png": b""}).read_bytes()
    assert len(keys(opened(make_tar(tmp_path / "x.tar", {**pets, "z.zip": inner})).inventory())) == 6


def test_a_compressed_tar_is_decompressed_once(tmp_path: Path, make_tar: Make, pets: dict) -> None:
    path = make_tar(tmp_path / "pets.tgz", pets, "w:gz")
    lines: list[str] = []
    first = opened(path, lines).inventory()
    assert [line for line in lines if "decompressing it once" in line]
    [cache] = [p for p in tmp_path.iterdir() if p != path]
    assert cache.name.endswith(".uncompressed")
    made = cache.stat().st_mtime_ns
    lines.clear()
    assert opened(path, lines).inventory() == first
    assert not [line for line in lines if "decompressing" in line]
    assert cache.stat().st_mtime_ns == made


def test_another_archive_of_the_same_name_gets_its_own_cache(
    tmp_path: Path, make_tar: Make, png: Callable[..., bytes]
) -> None:
    path = tmp_path / "x.tgz"
    make_tar(path, {"a/1.png": png(2, 2), "b/1.png": png()}, "w:gz")
    before = opened(path).inventory()
    make_tar(path, {"a/1.png": png(9, 9), "b/1.png": png()}, "w:gz")
    os.utime(path, (1, 1))
    after = opened(path).inventory()
    assert (before.samples["train"][0].size, after.samples["train"][0].size) == ((2, 2), (9, 9))


def test_a_folder_that_cannot_be_written_uses_the_users_cache(
    tmp_path: Path, make_tar: Make, pets: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_tar(tmp_path / "pets.tgz", pets, "w:gz")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(uncompressing.os, "access", lambda *_: False)
    assert len(keys(opened(path).inventory())) == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "pets.tgz"]
    assert len(list((tmp_path / "cache" / "arcpipe").iterdir())) == 1


def test_a_cut_off_compressed_tar_leaves_nothing(tmp_path: Path, make_tar: Make, pets: dict) -> None:
    path = make_tar(tmp_path / "pets.tgz", pets, "w:gz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SourceError, match="damaged or incomplete"):
        opened(path)
    assert os.listdir(tmp_path) == ["pets.tgz"]


def test_decompression_stops_before_the_disk_is_full(
    tmp_path: Path, make_tar: Make, pets: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_tar(tmp_path / "pets.tgz", pets, "w:gz")
    monkeypatch.setattr(uncompressing, "SPARE_BYTES", 2**62)
    with pytest.raises(NoSpaceError, match=r"no space to decompress pets.tgz"):
        opened(path)
    assert os.listdir(tmp_path) == ["pets.tgz"]
