"""1,797 real handwritten digits that scikit-learn carries, enlarged from 8 x 8 to 32 x 32: the embedded dataset."""

from __future__ import annotations

import importlib.util
import warnings
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from arcpipe.errors import SourceError
from arcpipe.seeds import generator
from arcpipe.sources.inventory import Locator
from arcpipe.sources.named import NamedSet
from arcpipe.sources.rows import Records, Rows, numbered

SIDE, ENLARGED = 8, 32
WHITE = 16
"""Pixels are counts of dark cells, 0 to 16."""
TEST_SHARE = 0.2


def _scan() -> dict[str, Rows]:
    """A locator is the row in scikit-learn's order, and so is the name."""
    table = digits_table()
    labels = table[:, -1].astype(np.int64)
    names = numbered(len(table))
    splits = {}
    for split, rows in split_rows(labels).items():
        locators: list[Locator] = [(row,) for row in rows.tolist()]
        evidence = zlib.crc32(table[rows].tobytes()).to_bytes(4, "little")
        splits[split] = Rows(labels[rows], [names[row] for row in rows], locators, evidence)
    return splits


def _image(locator: Locator, key: str) -> Image.Image:
    pixels = digits_table()[int(locator[0]), :-1].reshape(SIDE, SIDE) / np.float32(WHITE)
    large = Image.fromarray(pixels).resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC)
    return Image.fromarray(np.clip(np.asarray(large), 0, 1))


def split_rows(labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """The fixed split: of every class, a fifth (rounded) of its rows is `test`, drawn by a seed that never changes."""
    test = np.zeros(len(labels), bool)
    for label in range(int(labels.max()) + 1):
        rows = np.flatnonzero(labels == label)
        shuffled = generator("digits-split", label).permutation(rows)
        test[shuffled[: round(TEST_SHARE * len(rows))]] = True
    return {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}


@cache
def digits_table() -> NDArray[np.float32]:
    """(1797, 65) float32: 64 pixels of 0 to 16 and the label.

    From scikit-learn's own file, without importing it (0.8 s of every worker), or from it where that file is gone.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise SourceError("digits needs scikit-learn, which holds them.", fix=["pip install scikit-learn"])
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        return np.loadtxt(path, delimiter=",", dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sklearn.datasets import load_digits

        bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.float32)


RECORDS = Records("digits", tuple("0123456789"), 1, (ENLARGED, ENLARGED), _scan, _image)
DIGITS = NamedSet("digits", lambda paths: RECORDS)
