"""The Triton kernels, compiled for GPUs that are not here: what they take, and that they hold nothing atomic.

Triton compiles for a named architecture on any machine; its package brings NVIDIA's assembler, which tells the spills.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed: make gpu-check")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton is interpreted in this run, so it compiles nothing", allow_module_level=True)

from arcpipe.arc.kernels import basis_triton as kernels  # noqa: E402
from arcpipe.arc.kernels import nearest_triton, steps_triton  # noqa: E402

SHARED_BYTES = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
"""Shared memory that a block may have."""
POINTERS = {"fp32": "*fp32", "int32": "*i32", "uint8": "*u8", "int64": "*i64"}
SIZES = {"N": 4, "C": 3, "Z": 32, "L": kernels.CHUNK, "Q": 3 * kernels.CHUNK, "MOST": 6}
KINDS = {
    "int64": ("squares",),
    "int32": (
        *("places", "anchors", "pairs", "orders", "starts", "points", "of_point", "levels", "frames", "patch_places"),
        *("boxes", "run_starts", "run_firsts", "run_stops", "run_image", "found"),
        *("near", "ends", "image_ends", "anchor_ends", "users", "user_starts", "longest"),
    ),
    "uint8": ("sines",),
}
NUMBERS = {"count": "i32", "knots": "i32", "per_scale": "fp32", "patch": "fp32", "damping": "fp32"}
NUMBERS |= {"steps": "i32", "images": "i32", "room": "i32", "slow": "fp32", "slower": "fp32", "eps": "fp32"}
THESIS = {"R": 16, "H": 144, "W": 16, "P": steps_triton.PIXELS, "U": steps_triton.UNITS}
THESIS |= {"PRODUCTS": steps_triton.PRODUCTS}
CASES = [
    (nearest_triton.find_nearest, nearest_triton.WARPS, {"N": 4, "P": nearest_triton.POINTS}),
    (nearest_triton.find_nearest, nearest_triton.WARPS, {"N": 5, "P": nearest_triton.POINTS}),
    (kernels.solve_anchors, kernels.WARPS, {"PRODUCTS": kernels.PRODUCTS}),
    (kernels.measure_pixels, kernels.WARPS, {"P": kernels.PIXELS}),
    (steps_triton.take_steps, steps_triton.WARPS, {**THESIS, "K": 64}),
    (steps_triton.take_steps, steps_triton.WARPS, {**THESIS, "K": steps_triton.MOST_ANCHORS}),
]


def type_of(name: str) -> str:
    """The type of a kernel's argument, by its name."""
    if name in NUMBERS:
        return NUMBERS[name]
    return POINTERS[next((kind for kind, names in KINDS.items() if name in names), "fp32")]


def compile_for(architecture: int, kernel: Any, warps: int, **constants: Any) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(kernel.arg_names)
    chosen = {name: value for name, value in {**SIZES, **constants}.items() if name in names}
    signature = {name: "constexpr" if name in chosen else type_of(name) for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in chosen.items()})
    return triton.compile(
        source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps, **kernels.FUSED}
    )


def assembled(ptx: str, architecture: int, folder: Path) -> str:
    """What NVIDIA's assembler says of a kernel: registers, spills."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    tool = tools / ("ptxas-blackwell" if architecture >= 90 else "ptxas")
    (folder / "kernel.ptx").write_text(ptx)
    name = re.search(r"\.target (sm_\w+)", ptx)
    assert name is not None
    command = [str(tool), "-v", f"--gpu-name={name[1]}", "kernel.ptx", "-o", "kernel.cubin"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


@pytest.mark.parametrize("architecture", sorted(SHARED_BYTES))
@pytest.mark.parametrize(("kernel", "warps", "constants"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_kernels_fit_their_gpus(
    kernel: Any,
    warps: int,
    constants: dict[str, Any],
    architecture: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled = compile_for(architecture, kernel, warps, **constants)
    ptx = compiled.asm["ptx"]
    assert not re.search(r"\b(atom|red)\.", ptx)
    assert compiled.metadata.shared <= SHARED_BYTES[architecture]
    told = assembled(ptx, architecture, tmp_path)
    assert "0 bytes spill stores, 0 bytes spill loads" in told, told
    print(architecture, kernel.__name__, compiled.metadata.shared, re.findall(r"Used \d+ registers", told))
