"""Damage every file of a store, one after another, and count what `verify` finds and names.

    python benchmarks/flips.py                  # a store of digits, made for this, with every kind of array
    python benchmarks/flips.py STORE --bits 3   # a copy of a small one of yours: it is verified each time

Every file gets single flipped bits at random places, is cut in half, is emptied and is taken away; parts change places,
within their split and across. Found is what `verify` names by its file. Exit code 1 if something is not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from arcpipe.store import content_hash, open_store, verify

CONVERT = shlex.split("convert digits --limit 12 --recipe thesis --steps 20 --latent-dim 8 --dtype int8")
CONVERT += shlex.split("--set store.part_samples=6 --set fit.pretrain_images=6 --set fit.pretrain_steps=20")


def kind_of(name: str) -> str:
    """`train/0001/latents/c/0/0` is data of latents; `train/0001/latents/zarr.json` is metadata of latents."""
    folders, data = name.split("/")[:-1], not name.endswith("zarr.json")
    if data:
        folders = folders[: folders.index("c")]  # where Zarr's chunk keys begin
    if folders[:1] == ["decoder"]:
        label = " ".join(["decoder", *(folder.split("_")[0] for folder in folders[1:])])
    else:
        label = ("root", "split", "part", *folders[2:])[len(folders)]
    return f"{label}, {'data' if data else 'metadata'}"


def named(path: Path) -> set[str]:
    return {problem.where for problem in verify(path).problems}


def damages(data: bytes, bits: int, rng: np.random.Generator) -> Iterator[tuple[str, bytes | None]]:
    """What the file holds instead; None: it is missing."""
    for place in rng.integers(len(data), size=bits):
        yield "bits", data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]
    yield "cut", data[: len(data) // 2]
    yield "emptied", b""
    yield "missing", None


def damage_files(path: Path, bits: int, rng: np.random.Generator) -> tuple[dict[str, Counter[str]], list[str]]:
    """Tried and found by kind of file, and what was not found; the store is whole again."""
    tally: dict[str, Counter[str]] = {}
    silent = []
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        name, data = file.relative_to(path).as_posix(), file.read_bytes()
        row = tally.setdefault(kind_of(name), Counter())
        row["files"] += 1
        for damage, changed in damages(data, bits, rng):
            file.unlink() if changed is None else file.write_bytes(changed)
            row[damage] += 1
            if name in named(path):
                row[f"{damage} found"] += 1
            else:
                silent.append(f"{damage}: {name}")
            file.write_bytes(data)
    return tally, silent


def swap_parts(path: Path) -> tuple[int, list[str]]:
    """Pairs of parts that changed places, and those of which `verify` does not name both."""
    parts = sorted(file.parent for file in path.glob("*/*/zarr.json") if file.parent.parent.name != "decoder")
    silent = []
    pairs = list(itertools.combinations(parts, 2))
    for one, other in pairs:
        swap(one, other)
        if not {part.relative_to(path).as_posix() for part in (one, other)} <= named(path):
            silent.append(f"swapped: {one.relative_to(path)} and {other.relative_to(path)}")
        swap(one, other)
    return len(pairs), silent


def swap(one: Path, other: Path) -> None:
    spare = one.with_name("spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", nargs="?", type=Path)
    parser.add_argument("--bits", type=int, default=10, help="flipped in each file, one at a time (default 10)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.zarr"
        if options.store:
            shutil.copytree(options.store, path)
        else:
            command = [sys.executable, "-m", "arcpipe", *CONVERT, "--out", str(path)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = content_hash(open_store(path))
        if not verify(path).ok:
            sys.exit(f"{options.store} is damaged already: arcpipe verify {options.store}")
        tally, silent = damage_files(path, options.bits, np.random.default_rng(options.seed))
        pairs, unnoticed = swap_parts(path)
        after = verify(path)
        assert after.content == before, "the store is whole again"
    tried = ("bits", "cut", "emptied", "missing")
    print(f"{'kind':26} {'files':>5}" + "".join(f" {name:>9}" for name in tried) + "   found/tried")
    for kind, row in sorted(tally.items()):
        counts = "".join(f" {row[f'{name} found']:>4}/{row[name]:<4}" for name in tried)
        print(f"{kind:26} {row['files']:5}{counts}")
    sums = {name: [sum(row[key] for row in tally.values()) for key in (name, f"{name} found")] for name in tried}
    sums["swapped pairs"] = [pairs, pairs - len(unnoticed)]
    print(json.dumps({"kinds": len(tally), **{name: {"tried": n, "found": k} for name, (n, k) in sums.items()}}))
    for line in [*silent, *unnoticed]:
        print(f"not found: {line}", file=sys.stderr)
    return 1 if silent or unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
