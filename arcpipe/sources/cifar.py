"""CIFAR-10 in its binary release: records of one label byte and 3 x 32 x 32 pixel bytes, channel by channel."""

from __future__ import annotations

import tarfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from arcpipe.errors import SourceError
from arcpipe.sources.download import RemoteFile
from arcpipe.sources.inventory import Locator
from arcpipe.sources.named import NamedSet
from arcpipe.sources.randomfile import RandomFile
from arcpipe.sources.rows import Records, Rows, numbered
from arcpipe.sources.tarheaders import open_tar

SIDE = 32
PIXEL_BYTES = 3 * SIDE * SIDE
RECORD_BYTES = 1 + PIXEL_BYTES
SPLITS = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def open_cifar(paths: list[Path]) -> Records:
    """Records of the decompressed tar, or of the folder `cifar-10-batches-bin`.

    A locator is (file name, offset of the pixels); the file is the tar, or the batch in the folder.
    """
    [path] = paths
    names = [name for names in SPLITS.values() for name in names]
    places = [path / name for name in names if (path / name).is_file()] if path.is_dir() else [path]
    if path.is_dir() and len(places) < len(names):
        raise _damaged(path, f"found {len(places)} of the files {', '.join(names)}")
    files = {place.name: RandomFile(place) for place in places}
    return Records("cifar10", CLASSES, 3, (SIDE, SIDE), partial(_scan, files), partial(_image, files))


def _scan(files: dict[str, RandomFile]) -> dict[str, Rows]:
    batches = _batches(files)
    return {split: _rows([batches[name] for name in names], files) for split, names in SPLITS.items()}


def _image(files: dict[str, RandomFile], locator: Locator, key: str) -> Image.Image:
    data = files[str(locator[0])].read(int(locator[1]), PIXEL_BYTES, key)
    planes = np.frombuffer(data, np.uint8).reshape(3, SIDE, SIDE)
    return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))


def _batches(files: dict[str, RandomFile]) -> dict[str, tuple[str, int, int]]:
    """Of each batch: file, offset and bytes."""
    if len(files) > 1:
        found = {name: (name, 0, file.path.stat().st_size) for name, file in files.items()}
    else:
        [(file_name, file)] = files.items()
        try:
            with open_tar(file.path) as tar:
                found = {
                    member.name.rsplit("/", 1)[-1]: (file_name, member.offset_data, member.size)
                    for member in tar
                    if member.isreg()
                }
        except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, IndexError) as error:
            raise _damaged(file.path, str(error)) from None
    for name in (name for names in SPLITS.values() for name in names):
        nbytes = found[name][2] if name in found else 0
        if nbytes == 0 or nbytes % RECORD_BYTES:
            raise _damaged(
                next(iter(files.values())).path,
                f"{name} has {nbytes} bytes, expected a multiple of {RECORD_BYTES}",
            )
    return found


def _rows(batches: list[tuple[str, int, int]], files: dict[str, RandomFile]) -> Rows:
    labels, locators, crc = [], [], 0
    for file, offset, nbytes in batches:
        records = np.fromfile(files[file].path, np.uint8, nbytes, offset=offset).reshape(-1, RECORD_BYTES)
        crc = zlib.crc32(records.data, crc)
        labels.append(records[:, 0].astype(np.int64))
        locators += [(file, offset + row * RECORD_BYTES + 1) for row in range(len(records))]
    joined = np.concatenate(labels)
    if joined.max(initial=0) >= len(CLASSES):
        raise _damaged(files[batches[0][0]].path, f"a label of {joined.max()}")
    return Rows(joined, numbered(len(joined)), list(locators), crc.to_bytes(4, "little"))


def _damaged(path: Path, why: str) -> SourceError:
    return SourceError(
        f"{path} is not the binary release of CIFAR-10, or is incomplete.",
        details=[why],
        fix=["delete it, and run the same command again to fetch it"],
    )


CIFAR10 = NamedSet(
    "cifar10",
    open_cifar,
    (
        RemoteFile(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            170052171,
            "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            same_as=("cifar-10-batches-bin",),
        ),
    ),
)
