"""Vectors in compiled code, and that Numba's cache cannot hide a change of them."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from arcpipe.vectors import Vectors

PACKAGE = Path(__file__).resolve().parents[1] / "arcpipe"
BUILT_ON = {
    "arc/kernels/basis_loops.py": ["arc/kernels/simd.py", "vectors.py"],
    "arc/kernels/basis_solve.py": ["arc/kernels/basis_loops.py", "arc/kernels/simd.py", "vectors.py"],
    "arc/kernels/basis_learn.py": [
        "arc/kernels/basis_loops.py",
        "arc/kernels/basis_solve.py",
        "arc/kernels/simd.py",
        "vectors.py",
    ],
    "arc/kernels/fused.py": ["arc/kernels/simd.py", "vectors.py"],
    "arc/kernels/squares.py": ["vectors.py"],
    "models/cpu/attention_loops.py": ["models/cpu/lanes.py", "models/cpu/rows.py", "vectors.py"],
    "models/cpu/conv_loops.py": ["models/cpu/lanes.py", "vectors.py"],
    "siren/loops.py": ["vectors.py"],
}


@pytest.mark.parametrize("name", BUILT_ON)
def test_a_change_of_what_is_compiled_in_is_a_change_of_the_file(name: str) -> None:
    content = b"".join((PACKAGE / other).read_bytes() for other in BUILT_ON[name])
    found = hashlib.sha256(content).hexdigest()
    line = f'BUILT_ON_SHA256 = "{found}"'
    assert line in (PACKAGE / name).read_text(encoding="utf-8").splitlines(), f"write {line} into {name}"


def test_every_file_that_is_built_on_vectors_is_listed() -> None:
    vectors = {"arcpipe.vectors", "arcpipe.arc.kernels.simd", "arcpipe.models.cpu.lanes", "arcpipe.models.cpu.rows"}
    for path in PACKAGE.rglob("*.py"):
        imports = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
        modules = {node.module for node in imports}
        if "arcpipe.compiled" in modules and modules & vectors:
            assert path.relative_to(PACKAGE).as_posix() in BUILT_ON


@pytest.mark.parametrize("lanes", [8, 16])
def test_operations_are_those_of_arrays(lanes: int) -> None:
    vectors = Vectors(lanes)
    load, store, splat, fma = vectors.load, vectors.store, vectors.splat, vectors.fma
    add, subtract, multiply, divide = vectors.add, vectors.subtract, vectors.multiply, vectors.divide
    larger = vectors.elementwise(1, lambda builder, a: builder.fadd(a, vectors.constant(1.0)))

    @njit
    def compute(a, b, out):  # type: ignore[no-untyped-def]
        x, y = load(a, 1), load(b, 0)
        store(out, 2, divide(subtract(multiply(x, y), add(x, splat(np.float32(3)))), fma(y, y, larger(x))))

    rng = np.random.default_rng(lanes)
    a, b = rng.random(lanes + 1, np.float32), rng.random(lanes, np.float32)
    out = np.full(lanes + 3, -1, np.float32)
    compute(a, b, out)
    x = a[1:]
    np.testing.assert_allclose(out[2 : 2 + lanes], (x * b - (x + 3)) / (b * b + x + 1), rtol=1e-6)
    assert out[:2].tolist() == [-1, -1]
    assert out[-1] == -1
