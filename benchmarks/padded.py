"""What black around a picture costs the picture.

    python benchmarks/padded.py cifar10-10k.tar [--limit 64] [--pads 100 1024] [--recipes thesis basis]

Converts some images as they are, and padded with black, in the middle and at random places; every recipe pretrains its
decoder on the images as they are. Prints anchors an image, the dB of whole images, and the dB inside the smallest box
that holds all of a picture's pixels that are not black: means over the test split.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import arcpipe as ap
from arcpipe.arc.metrics import psnr
from arcpipe.sources.originals import open_originals


def main() -> None:
    """Print a line for each recipe and padding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--limit", type=int, default=64, help="Images of each split.")
    parser.add_argument("--pads", type=int, nargs="+", default=[100, 1024])
    parser.add_argument("--recipes", nargs="+", default=["thesis", "basis"])
    parser.add_argument("--data", type=Path, default=None)
    given = parser.parse_args()
    shapes: list[tuple[str, dict[str, Any]]] = [("as they are", {})]
    shapes += [(f"padded to {pad}", {"pad": pad}) for pad in given.pads]
    shapes += [(f"displaced in {pad}", {"pad": pad, "displace": True}) for pad in given.pads]
    print(f"{'recipe':8} {'pictures':18} {'anchors':>8} {'dB':>7} {'dB inside':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for recipe in given.recipes:
            first = Path(folder) / f"{recipe}-0.zarr"
            for i, (words, shape) in enumerate(shapes):
                out = Path(folder) / f"{recipe}-{i}.zarr"
                changes: dict[str, Any] = {**shape, "decoder": str(first)} if i else shape
                ap.convert(given.source, out, recipe=recipe, limit=given.limit, data=given.data, workers=1, **changes)
                anchors, whole, inside = measured(out)
                print(f"{recipe:8} {words:18} {anchors:8.0f} {whole:7.2f} {inside:10.2f}", flush=True)


def measured(folder: Path) -> tuple[float, float, float]:
    """Mean anchors, dB and dB inside of the test split."""
    store = ap.open_store(folder)
    originals = open_originals(store.config, store.channels)
    rows = []
    for name in store.sample_names("test"):
        cloud = store[name]
        original = originals.load("test", cloud.path)
        assert original is not None
        decoded = ap.decode(cloud)
        box = around(original)
        rows.append((len(cloud.positions), psnr(original, decoded), psnr(original[box], decoded[box])))
    anchors, whole, inside = np.mean(rows, axis=0)
    return anchors, whole, inside


def around(pixels: NDArray[np.float32]) -> tuple[slice, slice]:
    """The smallest box with all pixels that are not black."""
    bright = pixels.max(2) > 0
    rows, columns = bright.any(1).nonzero()[0], bright.any(0).nonzero()[0]
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


if __name__ == "__main__":
    main()
