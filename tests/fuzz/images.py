"""Image files, archives and binary datasets, damaged; made by Pillow here, with real ones where they are present."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from arcpipe.config import SourceSection
from arcpipe.errors import ImageError, SourceError
from arcpipe.sources import open_source
from arcpipe.sources.cifar import RECORD_BYTES, open_cifar
from arcpipe.sources.decode import decode, read_header
from arcpipe.sources.inventory import Source
from arcpipe.sources.mnist import CLOTHES, DIGITS, FIRST_LABELS, open_idx
from arcpipe.sources.rows import ImageRows
from arcpipe.sources.shape import shape_image
from tests.fuzz.mutate import INTERESTING, mutate

Rng = np.random.Generator
MAX_REAL_BYTES = 60_000
MODES: dict[str, tuple[str, ...]] = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "P", "LA", "RGB", "RGBA", "I;16"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("L", "P"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F"),
    "PPM": ("1", "L", "RGB"),
}
VARIANTS: dict[str, tuple[dict[str, object], ...]] = {
    "JPEG": ({}, {"progressive": True}, {"quality": 5, "subsampling": 2}),
    "PNG": ({}, {"optimize": True}),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "packbits"}),
    "WEBP": ({}, {"lossless": True}),
}


def _picture(mode: str, height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[height // 3 :, : width // 2] = 40
    image = Image.fromarray(pixels)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)  # type: ignore[arg-type]
    return out.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def pictures(kind: str) -> list[bytes]:
    """Files of one format: every mode, its variants, EXIF, animation, and small real ones."""
    made = [
        _encoded(_picture(mode, 13, 17), kind, **options)
        for mode in MODES[kind]
        for options in VARIANTS.get(kind, ({},))
        if not (options.get("compression") and mode in ("F", "I;16"))
    ]
    if kind in ("JPEG", "PNG", "WEBP"):
        made += [_encoded(_picture("RGB", 13, 17), kind, exif=_exif(turn)) for turn in (3, 6)]
    if kind in ("GIF", "WEBP", "PNG", "TIFF"):
        frames = [_picture("RGB", 9, 8, seed) for seed in (1, 2)]
        made.append(_encoded(frames[0], kind, save_all=True, append_images=frames))
    return made + _real(kind)


jpeg, png, bmp, gif, webp, tiff, ppm = (
    lambda folder, kind=kind: pictures(kind) for kind in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
)


def _real(kind: str) -> list[bytes]:
    """Of odd-images.tar and cifar10-10k.tar, where they are present."""
    here = Path(__file__).resolve().parents[2]
    folders = [os.environ.get("ARCPIPE_TEST_DATA"), here.parent / "shared" / "data"]
    found: list[bytes] = []
    for name in ("odd-images.tar", "cifar10-10k.tar", "mnist-6k.tar"):
        for folder in (folder for folder in folders if folder and (Path(folder) / name).is_file()):
            with tarfile.open(Path(folder) / name) as tar:
                members = [m for m in tar.getmembers()[:120] if m.isreg() and 0 < m.size < MAX_REAL_BYTES]
                data = [tar.extractfile(m).read() for m in members]  # type: ignore[union-attr]
            found += [d for d in data if _is_of(d, kind)][:12]
            break
    return found


def _is_of(data: bytes, kind: str) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=[kind]):
            return True
    except Exception:  # the odd ones
        return False


def first(corpus: list[bytes], folder: Path) -> bytes:
    return corpus[0]


def damaged(rng: Rng, corpus: list[bytes], folder: Path) -> bytes:
    return mutate(_one(corpus, rng), rng, _one(corpus, rng))


def _one(corpus: list[bytes], rng: Rng) -> bytes:
    return corpus[int(rng.integers(len(corpus)))]


def read_image(data: bytes) -> None:
    """Header and pixels agree, and the pixels are what the network may be given."""
    image = decode(data, "x")
    header = read_header(io.BytesIO(data), "x")
    assert image.mode in ("L", "RGB", "F"), image.mode
    assert (image.height, image.width) == header.size, (image.size, header)
    for channels in (1, 3):
        pixels = shape_image(image, SourceSection(source="x", size=8), channels, "x")
        assert pixels.shape == (8, 8, channels)
        assert pixels.dtype == np.float32
        assert 0 <= pixels.min() <= pixels.max() <= 1, (pixels.min(), pixels.max())


def _files() -> dict[str, bytes]:
    kinds = {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "webp": "WEBP", "tif": "TIFF"}
    files = {
        f"{split}/{name}/{i}.{ending}": _encoded(_picture("RGB", 6 + i, 7, i), kind)
        for split in ("train", "val")
        for name in ("cats", "dogs")
        for i, (ending, kind) in enumerate(kinds.items())
    }
    return {**files, "train/ü/🙂.png": _encoded(_picture("L", 4, 4), "PNG"), "notes.txt": b"x"}


def folder_files(folder: Path) -> dict[str, bytes]:
    return _files()


def whole_folder(corpus: dict[str, bytes], folder: Path) -> Path:
    return _write(folder / "files", corpus)


def damaged_folder(rng: Rng, corpus: dict[str, bytes], folder: Path) -> Path:
    """One file damaged, another under an odd name or in an odd place, some a link or a pipe."""
    files = dict(corpus)
    names = list(files)
    victim = names[int(rng.integers(len(names)))]
    files[victim] = mutate(files[victim], rng)
    odd = ["new\nline/a.png", "train/\x1b[2J/a.png", ".hidden/a.png", "a.png", "x" * 200 + "/a.png", "train/-rf/ .png"]
    files[odd[int(rng.integers(len(odd)))]] = files[victim]
    root = _write(folder / "files", files)
    kind = int(rng.integers(6))
    place = root / "train" / "cats" / "odd.png"
    if kind == 0:
        place.symlink_to(["..", "odd.png", "/dev/zero", "nowhere", "../dogs", "/etc/passwd"][int(rng.integers(6))])
    elif kind == 1:
        os.mkfifo(place)
    elif kind == 2:
        (root / "train" / "cats" / os.fsdecode(b"\xff\xfe.png")).write_bytes(files[victim])
    elif kind == 3:
        place.mkdir()
    return root


def _write(root: Path, files: dict[str, bytes]) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def tars(folder: Path) -> list[tuple[str, bytes]]:
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for mode in ("w", "w:gz", "w:bz2", "w:xz") if form == tarfile.PAX_FORMAT else ("w",):
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode=mode, format=form) as tar:  # type: ignore[call-overload]
                for name, data in _files().items():
                    _add(tar, name, data)
                if form != tarfile.USTAR_FORMAT:
                    _add(tar, f"train/cats/{'long' * 60}.png", _files()["train/ü/🙂.png"])
            made.append(("x.tar", out.getvalue()))
    return made


def _add(tar: tarfile.TarFile, name: str, data: bytes, **changes: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in changes.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data))


def zips(folder: Path) -> list[tuple[str, bytes]]:
    made = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, data in _files().items():
                archive.writestr(name, data)
            archive.comment = b"a comment"
        made.append(("x.zip", out.getvalue()))
    return made


def whole_archive(corpus: list[tuple[str, bytes]], folder: Path) -> Path:
    return _archive(folder, *corpus[0])


def damaged_archive(rng: Rng, corpus: list[tuple[str, bytes]], folder: Path) -> Path:
    name, data = corpus[int(rng.integers(len(corpus)))]
    other = corpus[int(rng.integers(len(corpus)))][1]
    if name.endswith(".tar") and data[257:262] == b"ustar" and rng.random() < 0.5:
        return _archive(folder, name, _with_checksums(mutate(data, rng, other)))
    return _archive(folder, name, mutate(data, rng, other))


def odd_tar(rng: Rng, corpus: list[tuple[str, bytes]], folder: Path) -> Path:
    """A tar whose headers are valid and lie: sizes, types, links, names, pax records."""
    out = io.BytesIO()
    names = [
        "../x.png",
        "/etc/x.png",
        "cats/\ud800.png",
        "cats/\n.png",
        "c" * 300 + "/x.png",
        "cats//x.png",
        "cats/x.png",
    ]
    kinds = [tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE]
    kinds += [tarfile.GNUTYPE_SPARSE, tarfile.DIRTYPE, b"Z"]
    with tarfile.open(fileobj=out, mode="w", format=int(rng.choice([0, 1, 2])), errors="surrogateescape") as tar:
        for name, data in list(_files().items())[:6]:
            _add(tar, name, data)
            if rng.random() < 0.5:
                continue
            pax = {}
            if rng.random() < 0.5:
                keys = [
                    "size",
                    "path",
                    "linkpath",
                    "GNU.sparse.map",
                    "GNU.sparse.major",
                    "GNU.sparse.realsize",
                    "mtime",
                ]
                values = ["-1", "99999999999999999999", "0,1,x", "1", "", "../../x.png", "nan", "1e400"]
                pax = {str(rng.choice(keys)): str(rng.choice(values)) for _ in range(2)}
            odd = names[int(rng.integers(len(names)))]
            kind = kinds[int(rng.integers(len(kinds)))]
            try:
                _add(tar, odd, data, type=kind, linkname="train/cats/0.jpg", pax_headers=pax)
            except (ValueError, UnicodeError):  # this form of tar cannot say it
                continue
    data = bytearray(out.getvalue())
    for at in _headers(bytes(data)):
        if rng.random() < 0.03:  # a size of up to 2**95 bytes, or a negative one
            number = INTERESTING[int(rng.integers(len(INTERESTING)))]
            field = b"\x80" + bytes(3) + struct.pack(">Q", number << int(rng.integers(33)))
            data[at + 124 : at + 136] = field if rng.random() < 0.5 else b"%011o\0" % (number % 8**11)
    return _archive(folder, "x.tar", _with_checksums(bytes(data)))


def _headers(data: bytes) -> list[int]:
    return [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]


def _with_checksums(data: bytes) -> bytes:
    """Headers are valid again, so that what they say is believed."""
    mended = bytearray(data)
    for at in _headers(data):
        header = mended[at : at + 512]
        header[148:156] = b" " * 8
        mended[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    return bytes(mended)


def _archive(folder: Path, name: str, data: bytes) -> Path:
    for old in folder.glob("x.*"):
        old.unlink()
    (folder / name).write_bytes(data)
    return folder / name


def read_source(path: Path) -> None:
    _read_all(open_source(SourceSection(source=str(path), max_pixels=2**22)))


def _read_all(source: Source) -> None:
    """Every sample is read, or refused by itself."""
    inventory = source.inventory()
    for samples in inventory.samples.values():
        for sample in samples[:30]:
            sample.key.encode()  # a name that can be stored
            try:
                pixels = source.read(sample, inventory.channels)
            except ImageError as error:
                str(error).encode()
                continue
            assert sample.reason is None, f"{sample} was read"
            assert pixels.shape == (*(sample.size or ()), inventory.channels), (pixels.shape, sample)


def idx_files(folder: Path) -> list[bytes]:
    """Train images, train labels, test images, test labels: those of mnist, 12 pictures each."""
    files = []
    for split in ("train", "test"):
        labels = bytes(FIRST_LABELS["mnist"][split]) + b"\x01\x02"
        pixels = np.random.default_rng(3).integers(0, 256, 12 * 784, dtype=np.uint8).tobytes()
        files += [struct.pack(">4I", 0x803, 12, 28, 28) + pixels, struct.pack(">2I", 0x801, 12) + labels]
    return files


def whole_idx(corpus: list[bytes], folder: Path) -> list[Path]:
    paths = [folder / f"idx-{i}" for i in range(4)]
    for path, data in zip(paths, corpus, strict=True):
        path.write_bytes(data)
    return paths


def damaged_idx(rng: Rng, corpus: list[bytes], folder: Path) -> list[Path]:
    changed = list(corpus)
    victim = int(rng.integers(4))
    changed[victim] = mutate(changed[victim], rng, changed[int(rng.integers(4))])
    if rng.random() < 0.3:  # the sizes agree with the file again
        header = 16 if victim % 2 == 0 else 8
        body = changed[victim][header:]
        rows = len(body) // (784 if header == 16 else 1)
        sizes = (rows, 28, 28) if header == 16 else (rows,)
        changed[victim] = struct.pack(f">I{len(sizes)}I", 0x803 if header == 16 else 0x801, *sizes) + body
    return whole_idx(changed, folder)


def read_mnist(paths: list[Path]) -> None:
    for name, classes in (("mnist", DIGITS), ("fashion-mnist", CLOTHES)):
        source = ImageRows(open_idx(name, classes, paths), SourceSection(source=name))
        if name == "mnist":
            _read_all(source)
        else:  # the labels tell that it is another set
            with suppress(SourceError):
                _read_all(source)


def cifar_files(folder: Path) -> list[bytes]:
    """The six batches, of three pictures each; the first ones as a folder, then as a tar."""
    rng = np.random.default_rng(4)
    return [
        b"".join(bytes([k % 10]) + rng.integers(0, 256, RECORD_BYTES - 1, dtype=np.uint8).tobytes() for k in range(3))
        for _ in range(6)
    ]


def whole_cifar(corpus: list[bytes], folder: Path) -> Path:
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    return _write(folder / "cifar", dict(zip(names, corpus, strict=True)))


def damaged_cifar(rng: Rng, corpus: list[bytes], folder: Path) -> Path:
    changed = list(corpus)
    if rng.random() < 0.6:
        victim = int(rng.integers(6))
        changed[victim] = mutate(changed[victim], rng)
        return whole_cifar(changed, folder)
    files = whole_cifar(changed, folder)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for file in sorted(files.iterdir()):
            _add(tar, f"cifar-10-batches-bin/{file.name}", file.read_bytes())
    data = mutate(out.getvalue(), rng)
    return _archive(folder, "x.tar", _with_checksums(data) if rng.random() < 0.5 else data)


def read_cifar(path: Path) -> None:
    _read_all(ImageRows(open_cifar([path]), SourceSection(source="cifar10")))
