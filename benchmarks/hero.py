"""Draw the README's picture from the demo's store: python benchmarks/hero.py [store/digits.zarr] [docs/hero.png]"""

from __future__ import annotations

import sys
from pathlib import Path

from arcpipe.inspect import draw_hero
from arcpipe.store import open_store

SAMPLES = ("train/2", "train/3", "train/8", "train/5", "train/1", "train/4")

if __name__ == "__main__":
    store = open_store(Path(sys.argv[1] if len(sys.argv) > 1 else "store/digits.zarr"))
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "docs/hero.png")
    draw_hero(store, SAMPLES, out)
    print(out)
