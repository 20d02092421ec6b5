"""Archives and folders that somebody made to do harm: bombs, lies, pipes, tangles of links, names that are no names."""

from __future__ import annotations

import io
import os
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from arcpipe.config import SourceSection
from arcpipe.errors import ImageError, SourceError
from arcpipe.sources import Source, load_image, open_source
from arcpipe.sources import folder as folder_module
from arcpipe.sources import uncompressed as uncompressing

Png = Callable[..., bytes]
Make = Callable[..., Path]


def opened(path: Path, lines: list[str] | None = None) -> Source:
    return open_source(SourceSection(source=str(path), held_out=0), progress=None if lines is None else lines.append)


def paths(source: Source) -> list[str]:
    return [sample.path for rows in source.inventory().samples.values() for sample in rows]


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **changes: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in changes.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data))


def sized(header: bytes, nbytes: int) -> bytes:
    """A tar header that says another size, with a valid checksum."""
    changed = bytearray(header)
    changed[124:136] = b"\x80" + bytes(3) + struct.pack(">Q", nbytes)
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:512])
    return bytes(changed)


def test_a_member_that_claims_a_terabyte(tmp_path: Path, make_tar: Make, pets: dict, png: Png) -> None:
    whole = make_tar(tmp_path / "x.tar", {"train/cats/bomb.png": b"x", **pets}).read_bytes()
    (tmp_path / "x.tar").write_bytes(sized(whole[:512], 2**40) + whole[512:])
    with pytest.raises(SourceError, match="damaged or incomplete"):
        opened(tmp_path / "x.tar").inventory()


def test_a_member_of_a_terabyte_of_zeros_fails_alone(tmp_path: Path, make_tar: Make, pets: dict) -> None:
    """The tar really has them: a sparse file, as large as any."""
    before = make_tar(tmp_path / "x.tar", pets).read_bytes()
    end = before.rindex(b"ustar") - 257
    size = int(before[end + 124 : end + 135], 8)
    after = end + 512 + -(-size // 512) * 512
    with (tmp_path / "x.tar").open("r+b") as stream:
        stream.seek(after)
        member = tarfile.TarInfo("train/cats/zeros.png").tobuf()
        stream.write(sized(member, 2**40))
        stream.truncate(after + 512 + 2**40 + 1024)
    source = opened(tmp_path / "x.tar")
    samples = {sample.path: sample for sample in source.inventory().samples["train"]}
    assert len(samples) == 5
    tracemalloc.start()
    with pytest.raises(ImageError, match="more than") as caught:
        source.read(samples["cats/zeros.png"], 3)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    assert caught.value.reason == "too-large"
    assert "more than" in str(samples["cats/zeros.png"].reason)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_of_gigabytes_is_not_read(tmp_path: Path, make_tar: Make, pets: dict, kind: bytes) -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type = kind
    rest = make_tar(tmp_path / "pets.tar", pets).read_bytes()
    with (tmp_path / "x.tar").open("wb") as stream:
        stream.write(sized(member.tobuf(), 2**33))
        stream.truncate(512 + 2**33)  # sparse: the bytes are there, and are zeros
        stream.seek(0, os.SEEK_END)
        stream.write(rest)
    tracemalloc.start()
    with pytest.raises(SourceError, match=r"damaged|no archive"):
        opened(tmp_path / "x.tar").inventory()
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()


def test_a_compressed_tar_that_grows_without_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_tar: Make
) -> None:
    path = make_tar(tmp_path / "x.tgz", {"a/1.png": bytes(30_000_000)}, "w:gz")
    monkeypatch.setattr(uncompressing, "RATIO_FROM_BYTES", 2**20)
    with pytest.raises(SourceError, match="grows without end"):
        opened(path)
    assert os.listdir(tmp_path) == ["x.tgz"]


def test_a_zip_of_bombs_is_inflated_no_further_than_headers(tmp_path: Path, png: Png) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"a/{number}.png", bytes(2**24 + 1))
        archive.writestr("b/large.png", png(5, 4) + bytes(2**24))
        archive.writestr("b/small.png", png())
    source = opened(tmp_path / "x.zip")
    tracemalloc.start()
    samples = {sample.path: sample for sample in source.inventory().samples["train"]}
    assert tracemalloc.get_traced_memory()[1] < 6 * 2**20
    tracemalloc.stop()
    assert "no image" in str(samples["a/3.png"].reason)
    assert source.read(samples["b/large.png"], 3).shape == (5, 4, 3)


def test_a_deflated_header_that_is_damaged_fails_alone(tmp_path: Path, png: Png) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", png() + bytes(2**25))
        archive.writestr("b/1.png", png())
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[37:77] = b"\xff" * 40
    (tmp_path / "x.zip").write_bytes(data)
    damaged, whole = opened(tmp_path / "x.zip").inventory().samples["train"]
    assert "damaged in the zip" in str(damaged.reason)
    assert whole.reason is None


def test_archives_inside_archives_are_only_files(tmp_path: Path, make_tar: Make, pets: dict, png: Png) -> None:
    inner = make_tar(tmp_path / "inner.tar", pets).read_bytes()
    path = make_tar(tmp_path / "x.tar", {"a/inner.tar": inner, "a/inner.png": inner, "a/1.png": png()})
    good, nested = opened(path).inventory().samples["train"]
    assert good.reason is None
    assert "no image" in str(nested.reason)


def test_long_names_and_extended_headers_that_lie(tmp_path: Path, png: Png) -> None:
    for number, (records, listed) in enumerate(
        (
            ({"size": "-1"}, False),
            ({"size": "9" * 30}, False),
            ({"path": "../../x.png"}, True),
            ({"path": "/x.png"}, True),
        )
    ):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            add(tar, "a/1.png", png())
            add(tar, "a/2.png", png(), pax_headers=records)
        if listed:
            assert paths(opened(path)) == ["a/1.png"]
        else:
            with pytest.raises(SourceError, match="damaged"):
                opened(path).inventory()


ODD_NAMES = ("new\nline.png", "bell\x07.png", "\x1b[2Jclear.png", "tab\t.png", "ü 图像 🙂.png", "-rf.png", "%s {x}.png")


def test_names_are_stored_and_printed_as_text(tmp_path: Path, make_folder: Make, make_tar: Make, png: Png) -> None:
    files = {f"cats/{name}": png() for name in (*ODD_NAMES, os.fsdecode(b"\xff\xfe.png"))}
    expected = sorted(
        ["cats/new\\x0aline.png", "cats/bell\\x07.png", "cats/\\x1b[2Jclear.png", "cats/tab\\x09.png"]
        + [f"cats/{name}" for name in ODD_NAMES[4:]]
        + ["cats/\\xff\\xfe.png"]
    )
    with tarfile.open(tmp_path / "x.tar", "w", errors="surrogateescape") as tar:
        for name, data in files.items():
            add(tar, name, data)
    for source in (opened(make_folder(tmp_path / "x", files)), opened(tmp_path / "x.tar")):
        assert sorted(paths(source)) == expected
        for sample in source.inventory().samples["train"]:
            assert source.read(sample, 3).shape == (5, 4, 3)


def test_pipes_sockets_and_devices_are_never_opened(tmp_path: Path, make_folder: Make, png: Png) -> None:
    root = make_folder(tmp_path / "x", {"cats/1.png": png(), "dogs/1.png": png()})
    os.mkfifo(root / "cats" / "pipe.png")
    (root / "cats" / "null.png").symlink_to("/dev/zero")
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(root / "cats")  # the path of a socket is short
        try:
            listening.bind("socket.png")
        finally:
            os.chdir(here)
        lines: list[str] = []
        assert paths(opened(root, lines)) == ["cats/1.png", "dogs/1.png"]
    assert any("3 entries passed over" in line and "neither file nor folder" in line for line in lines)
    with pytest.raises(SourceError, match="neither a folder nor a file"):
        opened(root / "cats" / "pipe.png")
    with pytest.raises(ImageError):
        load_image(root / "cats" / "pipe.png", SourceSection(source="x"), 3)


def test_a_file_that_becomes_a_pipe_fails_as_a_sample(tmp_path: Path, make_folder: Make, png: Png) -> None:
    source = opened(make_folder(tmp_path / "x", {"cats/1.png": png(), "dogs/1.png": png()}))
    sample = source.inventory().samples["train"][0]
    (tmp_path / "x" / "cats" / "1.png").unlink()
    os.mkfifo(tmp_path / "x" / "cats" / "1.png")
    with pytest.raises(ImageError, match="no file any more"):
        source.read(sample, 3)


def test_links_of_links_do_not_multiply_without_end(
    tmp_path: Path, make_folder: Make, png: Png, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty levels of two links each are 2**40 ways to one picture, and no loop."""
    monkeypatch.setattr(folder_module, "MAX_VISITS", 8)
    root = make_folder(tmp_path / "x", {"cats/1.png": png(), "level40/1.png": png()})
    for level in range(40):
        (root / f"level{level}").mkdir()
        for side in "ab":
            (root / f"level{level}" / side).symlink_to(f"../level{level + 1}")
    with pytest.raises(SourceError, match="more than 8 links lead to the folder"):
        opened(root).inventory()


def test_folders_may_be_deeper_than_calls(tmp_path: Path, png: Png) -> None:
    root = tmp_path / "x"
    (root / "cats").mkdir(parents=True)
    (root / "dogs").mkdir()
    (root / "dogs" / "1.png").write_bytes(png())
    here = os.open(root / "cats", os.O_RDONLY)
    for _ in range(1300):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    handle = os.open("1.png", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    os.write(handle, png())
    os.close(handle)
    os.close(here)
    try:
        source = opened(root)
        sample = source.inventory().samples["train"][0]
        assert sample.path.count("/d") > 1000
        assert source.read(sample, 3).shape == (5, 4, 3)
    finally:
        subprocess.run(["rm", "-rf", str(root)], check=True)  # shutil calls itself once for each folder


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_what_another_user_may_not_read(png: Png) -> None:
    """A folder is an error before any work, with the command that helps; a file is a failed sample."""
    home = Path(tempfile.mkdtemp(prefix="arcpipe-"))
    try:
        home.chmod(0o755)
        for name in ("cats", "dogs", "owls"):
            (home / "x" / name).mkdir(parents=True)
            (home / "x" / name / "1.png").write_bytes(png())
        (home / "x" / "dogs" / "1.png").chmod(0)
        code = (
            "import os, sys\n"
            "from arcpipe.config import SourceSection; from arcpipe.sources import open_source\n"
            "from arcpipe.errors import ArcpipeError\n"
            "open_source(SourceSection(source=sys.argv[2])).inventory()\n"  # imports whatever reading needs
            "os.setgid(65534); os.setuid(65534)\n"
            "try:\n"
            "    for s in open_source(SourceSection(source=sys.argv[1])).inventory().samples['train']:\n"
            "        print(s.path, s.reason)\n"
            "except ArcpipeError as error:\n"
            "    print(type(error).__name__, error)\n"
        )
        shutil.copytree(home / "x", home / "warm")
        command = [sys.executable, "-c", code, str(home / "x"), str(home / "warm")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert "dogs/1.png train/dogs/1.png cannot be read. [Errno 13]" in done.stdout, done.stderr
        assert "cats/1.png None" in done.stdout
        (home / "x" / "owls").chmod(0o700)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.stdout.startswith("SourceError the folder"), done.stderr
        assert "owls cannot be read" in done.stdout
        assert "try: chmod -R u+rX" in done.stdout
    finally:
        shutil.rmtree(home)


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(tmp_path: Path, make_folder: Make) -> None:
    from PIL import Image

    out = io.BytesIO()
    Image.new("1", (9000, 9000)).save(out, "PNG")  # 81 million pixels in a few kB, below the decoder's own limit
    root = make_folder(tmp_path / "x", {"cats/1.png": out.getvalue(), "dogs/1.png": out.getvalue()})
    source = open_source(SourceSection(source=str(root), max_pixels=10**8))
    sample = source.inventory().samples["train"][0]
    small = open_source(SourceSection(source=str(root), max_pixels=10**6))
    with pytest.raises(ImageError, match="too large to fit"):
        small.read(sample, 3)
    tracemalloc.start()  # from now on no module is loaded by the way
    with pytest.raises(ImageError, match="too large to fit"):
        small.read(sample, 3)
    assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    tracemalloc.stop()
    with pytest.raises(ImageError, match="too large to fit"):
        load_image(root / "cats" / "1.png", SourceSection(source="x", max_pixels=10**6), 3)


def test_a_zip_member_without_a_name_is_passed_over(tmp_path: Path, png: Png) -> None:
    """Found by fuzzing: zipfile itself looks at the last letter of every name."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a/1.png", png())
        archive.writestr("b", b"")
    data = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(data[: data.rindex(b"b")] + b"\0" + data[data.rindex(b"b") + 1 :])
    assert paths(opened(tmp_path / "x.zip")) == ["a/1.png"]
