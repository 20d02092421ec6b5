"""Read every file of odd-images.tar in a process with a limit of memory, and compare with its manifest.

    python benchmarks/odd_images.py FOLDER            # of odd-images.tar and odd-images-manifest.csv
    python benchmarks/odd_images.py FOLDER --mib 400  # more than the process has before it reads

Prints what became of each kind, and how many of all are as the manifest expects. Exit code 1 if one is not.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

from arcpipe.config import SourceSection
from arcpipe.errors import ImageError
from arcpipe.sources import open_source

MAX_PIXELS = 2**25
"""The default of `--max-pixels`: larger images are refused by their headers, also sound ones."""
SECONDS = 200


def read_all(tar: Path, mib: int) -> dict[str, object]:
    """What becomes of every sample: its shape, or the reason that its record would have; with a limit of memory."""
    source = open_source(SourceSection(source=str(tar), held_out=0))
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + mib * 2**20,) * 2)
    try:
        bytearray((mib + 64) * 2**20)
    except MemoryError:
        pass
    else:
        raise RuntimeError("the limit of memory does not hold")
    found: dict[str, object] = {}
    for sample in source.inventory().samples["train"]:
        try:
            found[sample.key] = list(source.read(sample, 3).shape)
        except ImageError as error:
            found[sample.key] = error.reason if sample.key in str(error) else f"{error.reason}, and not named"
    return found


def expected(row: dict[str, str]) -> tuple[str, list[object]]:
    """In words, and the outcomes that are right: a shape, reasons, or None for what is no sample."""
    if row["valid"] == "not an image" or not Path(row["name"]).suffix:
        return "passed over", [None]
    if row["valid"] == "yes":
        height, width = int(row["display_height"]), int(row["display_width"])
        if height * width > MAX_PIXELS:
            return "refused by --max-pixels", ["too-large"]
        return "read at its display size", [[height, width, 3]]
    if row["class"] == "limit":
        return "refused: a bomb", ["too-large", "unreadable"]
    cut = "truncated" in row["what"] or "cut" in row["what"]
    return "recorded as broken", ["truncated"] if cut else ["unreadable"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mib", type=int, default=400, help="of memory (default 400)")
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    tar = options.folder / "odd-images.tar"
    if options.read:
        print(json.dumps(read_all(tar, options.mib)))
        return 0
    command = [sys.executable, __file__, str(options.folder), "--mib", str(options.mib), "--read"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode or done.stderr:
        print(f"the process ended with {done.returncode}:\n{done.stderr}", file=sys.stderr)
        return 1
    found = json.loads(done.stdout)
    with (options.folder / "odd-images-manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    right: Counter[str] = Counter()
    for row in rows:
        words, outcomes = expected(row)
        outcome = found.pop(row["name"], None)
        if outcome in outcomes:
            right[words] += 1
        else:
            print(f"{row['name']}: expected to be {words}, found {outcome}", file=sys.stderr)
    for name in found:
        print(f"{name}: not in the manifest", file=sys.stderr)
    for words, count in right.most_common():
        print(f"{words:26} {count:3}")
    print(f"as expected: {right.total()} of {len(rows)}, within {options.mib} MiB")
    return 0 if right.total() == len(rows) and not found else 1


if __name__ == "__main__":
    sys.exit(main())
