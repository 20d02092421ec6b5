"""From what the user wrote as SOURCE to a source: a name, a folder, a tar or a zip."""

from __future__ import annotations

import difflib
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from arcpipe.config import SourceSection
from arcpipe.errors import ImageError, SourceError
from arcpipe.files import read_plain
from arcpipe.sources.archive import Tar, Zip
from arcpipe.sources.decode import canonical, check_bytes, decode
from arcpipe.sources.files import Container, ImageFiles
from arcpipe.sources.folder import Folder
from arcpipe.sources.inventory import Inventory, Source, Tell, silent
from arcpipe.sources.layout import EXPECTED, is_image
from arcpipe.sources.named import data_folder, open_named
from arcpipe.sources.randomfile import RandomFile
from arcpipe.sources.registry import SETS
from arcpipe.sources.shape import shape_image, shaped_size
from arcpipe.sources.tarheaders import is_tar
from arcpipe.sources.uncompressed import uncompressed

Picture = str | Path | Image.Image | NDArray[Any]
"""What `load_image` takes."""


def open_source(
    section: SourceSection,
    *,
    seed: int = 0,
    progress: Tell | None = None,
    download: bool = True,
    scratch: Path | None = None,
) -> Source:
    """Open the dataset that `section.source` names. Cheap where its files are here: workers call it too.

    A name (of `SETS`) comes first; for a folder of that name write `./mnist`. The first time, a named set may be
    downloaded and a compressed archive decompressed beside itself (docs/images.md).

    Args:
        seed: the run's seed; with `displace` it places the pictures.
        progress: gets lines about downloads, decompression and what is passed over.
        download: whether a missing named set may be fetched.
        scratch: decompress into this folder, for whoever leaves nothing behind.

    Raises:
        SourceError: nothing is there, or it is neither folder nor archive.
        DownloadError: a named set is missing and could not be fetched, or its files are not the pinned ones.
        NoSpaceError: no space to decompress.
    """
    progress = progress or silent
    if section.source in SETS:
        if Path(section.source).exists():
            progress(f"{section.source} is the dataset of that name; for the path write ./{section.source}")
        return open_named(
            SETS[section.source], section, seed=seed, progress=progress, download=download, scratch=scratch
        )
    path = _found(section)
    if path.is_dir():
        return ImageFiles(Folder(path), section, seed=seed, progress=progress)
    if not path.is_file():
        raise _missing(path, data_folder(section))
    return ImageFiles(_archive(path, progress, scratch), section, seed=seed, progress=progress)


def located(section: SourceSection) -> SourceSection:
    """The section with absolute paths, so that workers and later commands find the images from any folder."""
    update: dict[str, object] = {}
    if section.source in SETS:
        if SETS[section.source].files:
            update["data"] = data_folder(section).absolute()
    elif (found := _found(section)).exists():  # what is nowhere stays as it was written, for the error to name it
        update["source"] = str(found.absolute())
    return section.model_copy(update=update)


def only_splits(inventory: Inventory, section: SourceSection) -> Inventory:
    """The inventory with no other splits than `section.splits`; classes, channels and digest stay those of the whole.

    Raises:
        SourceError: the dataset has no such split.
    """
    if section.splits is None:
        return inventory
    for split in section.splits:
        if split not in inventory.samples:
            raise SourceError(
                f"{inventory.name} has no split {split}.", details=[f"splits: {', '.join(inventory.samples)}"]
            )
    kept = {split: samples for split, samples in inventory.samples.items() if split in section.splits}
    return replace(inventory, samples=kept)


def load_image(image: Picture, section: SourceSection, channels: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Decode and shape one picture as a sample would be: (height, width, channels) float32 in [0, 1].

    Args:
        image: A file; an image of Pillow; an array (height, width) or (height, width, channels) of uint8, which stands
            for a file; or such an array of floats in [0, 1], which is taken as it is, in its size.
        section: The shape that images take.
        channels: 1 or 3.
        seed: The run's seed: with `displace` it places the picture, together with the file's name.

    Raises:
        ImageError: it is missing or cannot be used.
    """
    if isinstance(image, np.ndarray):
        if not image.size:
            raise ImageError("the array has no pixels.", details=[f"found {image.dtype} {image.shape}"])
        if image.dtype.kind == "f" and image.ndim in (2, 3):
            if image.min() < -1 or image.max() > 2:  # NaN is told later, and a resampling may leave [0, 1] by a little
                raise ImageError(
                    "the array is no picture: floats lie in [0, 1].",
                    details=[f"found {image.min():g} to {image.max():g}"],
                    fix=["divide it by 255, or give it as uint8"],
                )
            pixels = np.asarray(image, np.float32).reshape(*image.shape[:2], -1)
            return np.repeat(pixels, channels, axis=2) if pixels.shape[2] == 1 else pixels
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)):
            raise ImageError(
                "the array is no picture.",
                details=[f"found {image.dtype} {image.shape}"],
                fix=["uint8, or floats in [0, 1]; (height, width) or (height, width, 1 or 3)"],
            )
        image = Image.fromarray(image[:, :, 0] if image.shape[2:] == (1,) else image)
    if isinstance(image, Image.Image):
        decoded = canonical(image.copy(), "the picture", lambda size: shaped_size(size, section, "the picture"))
        return shape_image(decoded, section, channels, "the picture", seed)
    path = Path(image)
    try:
        check_bytes(path.stat().st_size, str(path))
        data = read_plain(path)
    except OSError as error:
        raise ImageError(f"{path} cannot be read.", details=[str(error)]) from None
    decoded = decode(data, str(path), accept=lambda size: shaped_size(size, section, path.name))
    return shape_image(decoded, section, channels, path.name, seed)


def _archive(path: Path, progress: Tell, scratch: Path | None) -> Container:
    """By content, not by name: a tar first, since its last bytes may look like those of a zip inside it."""
    try:
        plain = uncompressed(path, progress=progress, scratch=scratch)
        if plain.stat().st_size and is_tar(plain):
            return Tar(RandomFile(plain), _stem(path))
        if plain == path and zipfile.is_zipfile(path):
            return Zip(RandomFile(path), _stem(path))
    except OSError as error:
        raise SourceError(f"{path} cannot be read.", details=[str(error)]) from None
    is_one = is_image(path.name)
    raise SourceError(
        f"{path} is {'an image' if is_one else 'no archive'}: a folder, a tar or a zip of images is needed.",
        details=["the file is empty" if not path.stat().st_size else "its content is neither tar nor zip", *EXPECTED],
        fix=["arcpipe predict RUN IMAGE"] if is_one else ["check the file, or fetch it again"],
    )


def _stem(path: Path) -> str:
    """`animals.tar.gz` is `animals`."""
    name = path.name
    for suffix in (".gz", ".bz2", ".xz", ".tgz", ".tbz", ".txz", ".tar", ".zip"):
        name = name.removesuffix(suffix)
    return name or path.name


def _found(section: SourceSection) -> Path:
    """The path as it is written, else below the data folder; as it is written where neither is there."""
    path = Path(section.source).expanduser()
    below = data_folder(section) / path  # an absolute path stays what it is
    return below if below.exists() and not path.exists() else path


def _missing(path: Path, data: Path) -> SourceError:
    """Name what lies near: in the same folder, and among the named sets."""
    try:
        around = [entry.name for entry in path.absolute().parent.iterdir()]
    except OSError:
        around = []
    if os.path.lexists(path):
        what = "leads nowhere" if path.is_symlink() else "is neither a folder nor a file"
        raise SourceError(f"{path} {what}: a folder, a tar or a zip of images is needed.", details=EXPECTED)
    near = [str(path.parent / name) for name in difflib.get_close_matches(path.name, around, n=3)]
    near += difflib.get_close_matches(str(path).lower(), SETS, n=2)
    return SourceError(
        f"there is no dataset {path}.",
        details=[
            f"looked for in {Path.cwd()}"
            + ("" if path.is_absolute() else f" and in the data folder {data.absolute()}"),
            *([f"near it: {', '.join(near)}"] if near else []),
            f"names: {', '.join(SETS)}; otherwise a folder, a tar or a zip",
        ],
        fix=[
            f"arcpipe convert {near[0] if near else 'digits'}",
            *([] if path.is_absolute() else ["--data FOLDER, or ARCPIPE_DATA=FOLDER, if it lies in another folder"]),
        ],
    )
