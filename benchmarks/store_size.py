"""What a store takes: python benchmarks/store_size.py SOURCE --settings "..." --settings "..." [--limit N] [--json]

Converts a set once for each `--settings`, which are options of `arcpipe convert` in one text ("" for none), and prints
bytes a pixel by array, the total without the neighbour cache, and the mean PSNR of all splits:

    python benchmarks/store_size.py cifar10-10k.tar --limit 500 \\
        --settings "" --settings "--dtype int8 --set store.bits=6"
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

GROUPS = {
    "latents": ("latents", "latent_scale"),
    "positions": ("positions", "position_gaps"),
    "scales": ("scales",),
    "neighbours": ("neighbours", "arrivals", "arrival_counts", "arrival_offsets", "pixel_offsets"),
}


def sizes(path: Path) -> dict[str, Any]:
    """Bytes a pixel of a store by group of arrays; `rest` is all else: labels, paths, metadata, decoder."""
    from arcpipe.store import open_store

    store = open_store(path)
    found: Counter[str] = Counter()
    pixels, total_db, clouds = 0, 0.0, 0
    for split in store.splits:
        for info in store.parts(split):
            own = store.part(split, info.id).attributes
            pixels += own["pixels"]
            total_db += own["psnr"]["sum"]
            clouds += own["psnr"]["count"]
            for name, record in own["files"].items():
                group = next((group for group, names in GROUPS.items() if name.split("/")[0] in names), "rest")
                found[group if not name.endswith("zarr.json") else "rest"] += record["bytes"]
    whole = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    found["rest"] = whole - sum(found[group] for group in GROUPS)
    table = {name: found[name] / pixels for name in (*GROUPS, "rest")}
    return {**table, "without_neighbours": (whole - found["neighbours"]) / pixels, "db": total_db / clouds}


def convert(source: str, options: list[str], out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "arcpipe", "convert", source, *options, "--out", str(out)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return sizes(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--settings", action="append", help="options of arcpipe convert; may be given several times")
    parser.add_argument("--limit", help="images of each split")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    table: dict[str, dict[str, Any]] = {}
    for text in options.settings or [""]:
        with tempfile.TemporaryDirectory() as folder:
            limit = ["--limit", options.limit] if options.limit else []
            table[text] = convert(options.source, [*shlex.split(text), *limit], Path(folder) / "s.zarr")
    if options.json:
        print(json.dumps(table))
        return
    columns = (*GROUPS, "rest", "without_neighbours", "db")
    print("bytes a pixel:", ", ".join(columns[:-1]), "| mean dB")
    for text, row in table.items():
        print(*(f"{row[name]:.4f}" for name in columns[:-1]), f"| {row['db']:.2f} |", text or "(defaults)")


if __name__ == "__main__":
    main()
