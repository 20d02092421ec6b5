"""Headers that are read without Pillow, and tars without `tarfile`: the same answer, or none."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arcpipe.errors import ImageError
from arcpipe.sources.decode import read_header
from arcpipe.sources.files import HEAD_BYTES
from arcpipe.sources.headers import Header, plain_header
from arcpipe.sources.tarheaders import list_plain

Encode = Callable[..., bytes]


def of_pillow(data: bytes) -> Header | None:
    try:
        return read_header(io.BytesIO(data), "x")
    except ImageError:
        return None


def pictures(encoded: Encode) -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (23, 31, 3), np.uint8)
    picture, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6
    return {
        "jpeg": encoded(picture, "JPEG"),
        "grey jpeg": encoded(picture.convert("L"), "JPEG"),
        "progressive": encoded(picture, "JPEG", progressive=True, quality=30),
        "cmyk": encoded(picture.convert("CMYK"), "JPEG"),
        "turned": encoded(picture, "JPEG", exif=exif),
        "png": encoded(picture),
        "grey png": encoded(picture.convert("L")),
        "palette": encoded(picture.convert("P")),
        "alpha": encoded(picture.convert("RGBA")),
        "one bit": encoded(picture.convert("1")),
        "16 bits": encoded(Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)),
        "dots": encoded(picture, "PNG", dpi=(72, 72)),
        "gif": encoded(picture, "GIF"),
    }


def test_plain_images_need_no_pillow_and_the_others_are_left_to_it(encoded: Encode) -> None:
    found = {name: plain_header(data[:HEAD_BYTES]) for name, data in pictures(encoded).items()}
    assert {name for name, header in found.items() if header is None} == {"cmyk", "turned", "one bit", "16 bits", "gif"}
    for name, data in pictures(encoded).items():
        assert found[name] in (None, of_pillow(data)), name


@pytest.mark.parametrize("name", ["jpeg", "grey jpeg", "progressive", "png", "palette", "dots"])
def test_a_damaged_header_is_told_as_pillow_tells_it_or_left_to_it(name: str, encoded: Encode) -> None:
    data = pictures(encoded)[name]
    rng = np.random.default_rng(1)
    answered = 0
    for _ in range(1500):
        changed = bytearray(data)
        for place in rng.integers(0, min(len(data), 700), rng.integers(1, 3)):
            changed[place] = rng.choice([0, 1, 8, 0x11, 0xC0, 0xFF, rng.integers(256)])
        cut = bytes(changed) if rng.random() < 0.8 else bytes(changed[: rng.integers(len(data))])
        header = plain_header(cut[:HEAD_BYTES])
        answered += header is not None
        assert header in (None, of_pillow(cut)), cut[:700].hex()
    assert answered > 20


def members(path: Path) -> list[tuple[str, int, int]]:
    with tarfile.open(path) as tar:
        return [(member.name, member.offset_data, member.size) for member in tar if not member.isdir()]


def listed_or_none(path: Path) -> list[tuple[str, int, int]] | None:
    try:
        return members(path)
    except tarfile.TarError:
        return None


def in_whole_seconds(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Fractions of a second would need a header of their own in the format of POSIX."""
    member.mtime = int(member.mtime)
    return member


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_plain_tar_is_listed_as_tarfile_lists_it(kind: int, tmp_path: Path) -> None:
    folder = tmp_path / "train" / ("deep" * 20)
    folder.mkdir(parents=True)
    for i, nbytes in enumerate((0, 1, 511, 512, 513, 5000)):
        (folder / f"{i}.jpg").write_bytes(b"x" * nbytes)
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
        tar.add(tmp_path / "train", "train", filter=in_whole_seconds)
    assert list_plain(tmp_path / "a.tar") == members(tmp_path / "a.tar")
    (folder / f"{'b' * 40}.jpg").write_bytes(b"y")  # too long for one field: cut in two, or told in a header of its own
    with tarfile.open(tmp_path / "b.tar", "w", format=kind) as tar:
        tar.add(tmp_path / "train", "train", filter=in_whole_seconds)
    assert list_plain(tmp_path / "b.tar") == (members(tmp_path / "b.tar") if kind == tarfile.USTAR_FORMAT else None)


def test_links_damage_and_missing_ends_are_left_to_tarfile(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_bytes(bytes([i]) * 700)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(4):
            tar.add(tmp_path / f"{i}.jpg", f"a/{i}.jpg")
    whole, rng = (tmp_path / "a.tar").read_bytes(), np.random.default_rng(2)
    damaged = tmp_path / "b.tar"
    for _ in range(600):
        changed = bytearray(whole)
        changed[rng.integers(512) + 512 * rng.choice([0, 3, 6])] = rng.choice([0, 32, 48, 55, rng.integers(256)])
        damaged.write_bytes(changed)
        assert list_plain(damaged) in (None, listed_or_none(damaged))
    for cut in (0, 100, 512, 600, 1536, 1600, 3 * 1536, 4 * 1536, 4 * 1536 + 100):
        damaged.write_bytes(whole[:cut])
        assert list_plain(damaged) is None or (cut % 1536 == 0 and list_plain(damaged) == members(damaged))
    (tmp_path / "link").symlink_to("0.jpg")
    with tarfile.open(damaged, "w") as tar:
        tar.add(tmp_path / "link", "a/5.jpg")
    assert list_plain(damaged) is None
