"""Whether a conversion stays flat: python benchmarks/many.py [--images N] [--side S] [--scratch DIR]

Makes a tar of N small PNG images (100,000 of 16 x 16 by default) with a few classes, plans it (`--dry-run`) and
converts it, a tenth of it first and then all of it, and prints for both: milliseconds a sample of the plan and of the
conversion, the time that Python and Dask take to start among them, and the most memory that the command and its workers
had at a time. Nothing grows with the number of images where the second line has no more of anything than the first.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

CLASSES = 10
EVERY_S = 0.25


def make(path: Path, count: int, side: int) -> None:
    """A tar of `count` pictures: coarse noise, enlarged."""
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            coarse = rng.integers(0, 256, (side // 4, side // 4, 3), np.uint8)
            data = io.BytesIO()
            Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(data, "PNG", compress_level=1)
            info = tarfile.TarInfo(f"train/{i % CLASSES}/{i:06}.png")
            info.size = data.tell()
            data.seek(0)
            tar.addfile(info, data)


def run(arguments: list[str]) -> tuple[float, list[int]]:
    """Run `arcpipe convert`; its seconds, and the most bytes of the command and of all its workers."""
    started, most = time.perf_counter(), [0, 0]
    with subprocess.Popen(
        [sys.executable, "-m", "arcpipe", "convert", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        process = psutil.Process(child.pid)
        while child.poll() is None:
            own, others = 0, 0
            try:
                own = process.memory_info().rss
                others = sum(worker.memory_info().rss for worker in process.children(recursive=True))
            except psutil.Error:
                pass  # it has just ended
            most = [max(most[0], own), max(most[1], others)]
            time.sleep(EVERY_S)
    if child.returncode:
        raise SystemExit(child.returncode)
    return time.perf_counter() - started, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args()
    print(f"{'images':>8} {'plan, ms':>9} {'convert, ms':>12} {'command, MB':>12} {'workers, MB':>12}   (ms a sample)")
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        whole = Path(folder) / "many.tar"
        make(whole, options.images, options.side)
        decoder = str(Path(folder) / "decoder.zarr")
        run([str(whole), "--limit", "200", "--out", decoder])  # learned once, and not measured
        for count in (options.images // 10, options.images):
            limit = [] if count == options.images else ["--limit", str(count)]
            common = [str(whole), *limit, "--decoder", decoder, "--out", str(Path(folder) / f"{count}.zarr")]
            plan_s, _ = run([*common, "--dry-run"])
            convert_s, (own, others) = run(common)
            print(
                f"{count:>8,} {1e3 * plan_s / count:>9.3f} {1e3 * convert_s / count:>12.3f} {own / 1e6:>12.0f} "
                f"{others / 1e6:>12.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
