"""MNIST and Fashion-MNIST in their idx files: a header of big-endian integers, then bytes."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from arcpipe.errors import SourceError
from arcpipe.sources.download import RemoteFile
from arcpipe.sources.inventory import Locator
from arcpipe.sources.named import NamedSet
from arcpipe.sources.randomfile import RandomFile
from arcpipe.sources.rows import Records, Rows, numbered

SIDE = 28
IMAGES_MAGIC, LABELS_MAGIC = 0x00000803, 0x00000801  # unsigned bytes of 3 and of 1 dimensions
IMAGES_HEADER, LABELS_HEADER = 16, 8

DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
# Both sets name their files alike and decompressed files have no pin, so the first ten labels tell them apart.
FIRST_LABELS = {
    "mnist": {"train": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4), "test": (7, 2, 1, 0, 4, 1, 4, 9, 5, 9)},
    "fashion-mnist": {"train": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5), "test": (9, 2, 1, 1, 6, 1, 4, 6, 5, 7)},
}


def open_idx(name: str, classes: tuple[str, ...], paths: list[Path]) -> Records:
    """Records of the four decompressed files, in the order of `FILES`. A locator is (split, offset)."""
    images = {"train": RandomFile(paths[0]), "test": RandomFile(paths[2])}
    labels = {"train": paths[1], "test": paths[3]}
    scan = partial(_scan, name, len(classes), images, labels)
    return Records(name, classes, 1, (SIDE, SIDE), scan, partial(_image, images))


def _scan(name: str, n_classes: int, images: dict[str, RandomFile], labels: dict[str, Path]) -> dict[str, Rows]:
    return {split: _rows(name, split, n_classes, images[split].path, labels[split]) for split in images}


def _rows(name: str, split: str, n_classes: int, images: Path, labels_file: Path) -> Rows:
    labels = _idx(labels_file, LABELS_MAGIC, LABELS_HEADER).astype(np.int64)
    pixels = _idx(images, IMAGES_MAGIC, IMAGES_HEADER)
    if len(pixels) != len(labels) * SIDE * SIDE or labels.max(initial=0) >= n_classes:
        raise _no_idx(images, f"{len(labels)} labels below 10 for {len(pixels)} pixels")
    expected, found = FIRST_LABELS[name][split], tuple(labels[:10].tolist())
    if found != expected:
        raise SourceError(
            f"{labels_file} is not {name}.",
            details=[f"expected the first labels {expected}", f"found {found}"],
            fix=[f"put the files of {name} into a folder named {name}"],
        )
    locators: list[Locator] = [(split, IMAGES_HEADER + row * SIDE * SIDE) for row in range(len(labels))]
    return Rows(labels, numbered(len(labels)), locators, zlib.crc32(pixels.data).to_bytes(4, "little"))


def _image(images: dict[str, RandomFile], locator: Locator, key: str) -> Image.Image:
    data = images[str(locator[0])].read(int(locator[1]), SIDE * SIDE, key)
    return Image.frombytes("L", (SIDE, SIDE), data)


def _idx(path: Path, magic: int, header: int) -> NDArray[np.uint8]:
    """The bytes behind the header of an idx file, once its magic number and its length agree."""
    data = np.fromfile(path, np.uint8)
    sizes = np.frombuffer(data[:header].tobytes(), ">u4") if len(data) >= header else np.zeros(1, ">u4")
    if int(sizes[0]) != magic:
        raise _no_idx(path, f"magic number {int(sizes[0]):#010x}, expected {magic:#010x}")
    if len(data) - header != int(np.prod(sizes[1:].astype(np.int64))):
        raise _no_idx(path, f"{len(data) - header} bytes for the shape {tuple(sizes[1:].tolist())}")
    return data[header:]


def _no_idx(path: Path, why: str) -> SourceError:
    return SourceError(
        f"{path} is no idx file of {SIDE} x {SIDE} images, or is incomplete.",
        details=[f"found {why}"],
        fix=["delete it, and run the same command again to fetch it"],
    )


def _set(name: str, classes: tuple[str, ...], folder: str, address: str, pins: Sequence[tuple[int, str]]) -> NamedSet:
    """A set whose files lie at an address; `pins` are the bytes and the sha256 of each."""
    files = tuple(
        RemoteFile(f"{address}{file}.gz", nbytes, f"sha256:{sha256}", same_as=(file,))
        for file, (nbytes, sha256) in zip(FILES, pins, strict=True)
    )
    return NamedSet(name, partial(open_idx, name, classes), files, folders=(folder,))


MNIST = _set(
    "mnist",
    DIGITS,
    "MNIST/raw",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    (
        (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
)
FASHION_MNIST = _set(
    "fashion-mnist",
    CLOTHES,
    "FashionMNIST/raw",
    # The authors' repository: their other address (s3-website) has no https.
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    (
        (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ),
)
