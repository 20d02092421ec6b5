"""Pipeline files, damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from arcpipe import pipeline
from tests.fuzz.mutate import mutate

Rng = np.random.Generator


def pipelines(folder: Path) -> list[str]:
    root = Path(__file__).resolve().parents[2] / "pipelines"
    return [file.read_text(encoding="utf-8") for file in sorted(root.glob("*.toml"))]


def whole(corpus: list[str], folder: Path) -> Path:
    return _written(corpus[0].encode(), folder)


def damaged(rng: Rng, corpus: list[str], folder: Path) -> Path:
    """Bytes, lines in another order, or another value behind a key."""
    text = corpus[int(rng.integers(len(corpus)))]
    kind = int(rng.integers(3))
    if kind == 0:
        return _written(mutate(text.encode(), rng, corpus[0].encode()), folder)
    lines = text.splitlines()
    if kind == 1:
        at = int(rng.integers(len(lines)))
        lines.insert(int(rng.integers(len(lines))), lines.pop(at))
        lines.append(lines[at % len(lines)])
        return _written("\n".join(lines).encode(), folder)
    values = ["nan", "-1", "0", "1e400", '"x"', "[]", "{}", "true", "9" * 400, '"\\u0000"', "1979-05-27", "[[1]]"]
    keyed = [i for i, line in enumerate(lines) if "=" in line]
    at = keyed[int(rng.integers(len(keyed)))]
    lines[at] = f"{lines[at].split('=')[0]}= {values[int(rng.integers(len(values)))]}"
    return _written("\n".join(lines).encode(), folder)


def _written(data: bytes, folder: Path) -> Path:
    (folder / "x.toml").write_bytes(data)
    return folder / "x.toml"


def read_pipeline(path: Path) -> None:
    pipeline.read_pipeline(path)
