"""Vectors of floats and products of blocks for the fitting kernels, as wide as this machine's registers.

Sums are taken in one fixed order, so the same code gives the same bits whatever the array lengths are.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils

from arcpipe.vectors import Vectors, intrinsic

LANES = 16 if llvm.get_host_cpu_features().get("avx512f") else 8
"""One register of AVX-512 or AVX2; elsewhere the compiler splits 8 lanes. Both widths pass all tests on Zen 4, where
they are equally fast (it does 16 lanes in two halves)."""
ROWS = 4
"""Rows of a block of a matrix product: with 3 vectors a row, 12 sums, 3 loads and 1 factor fill the 16 registers of
AVX2."""


def padded_length(count: int) -> int:
    """The next multiple of `LANES`."""
    return -(-count // LANES) * LANES


def _open(builder: Any, gate: Any, value: Any) -> Any:
    # "Not at or below 0" rather than "above 0": a NaN passes and is found at the end.
    zero = VECTORS.constant(0.0)
    return builder.select(builder.fcmp_ordered("<=", gate, zero), zero, value)


VECTORS = Vectors(LANES)
load, store, splat, fma = VECTORS.load, VECTORS.store, VECTORS.splat, VECTORS.fma
add, subtract, multiply, divide = VECTORS.add, VECTORS.subtract, VECTORS.multiply, VECTORS.divide
row_dots = VECTORS.row_dots()
place, load_from = VECTORS.place(), VECTORS.load_from()
gated = VECTORS.elementwise(2, _open)
"""`value` where `gate` is above 0 (or NaN), else 0: gated(x, x) is the ReLU, gated(x, gradient) its way back."""
root = VECTORS.elementwise(1, lambda builder, a: VECTORS.call(builder, "llvm.sqrt", a))


@intrinsic
def total(typing: Any, value: Any) -> Any:
    """The sum of all lanes, upper half onto lower half until one is left."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (rest,), width = arguments, LANES
        while width > 1:
            width //= 2
            index = ir.VectorType(ir.IntType(32), width)
            low = builder.shuffle_vector(rest, rest, ir.Constant(index, list(range(width))))
            high = builder.shuffle_vector(rest, rest, ir.Constant(index, list(range(width, 2 * width))))
            rest = builder.fadd(low, high)
        return builder.extract_element(rest, ir.Constant(ir.IntType(32), 0))

    return types.float32(VECTORS.type), generate


@intrinsic
def four_totals(typing: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """The sums of all lanes of four vectors, as four floats: a third of the work of four times `total`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = ir.IntType(32)

        def pick(x: Any, y: Any, lanes: list[int]) -> Any:
            return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(number, len(lanes)), lanes))

        def folded(x: Any, y: Any, first: list[int], second: list[int]) -> Any:
            low = [start + lane for start in range(0, LANES, 4) for lane in first]
            high = [start + lane for start in range(0, LANES, 4) for lane in second]
            return builder.fadd(pick(x, y, low), pick(x, y, high))

        def pair(x: Any, y: Any) -> Any:
            return folded(x, y, [0, LANES, 1, LANES + 1], [2, LANES + 2, 3, LANES + 3])

        rest = folded(
            pair(*arguments[:2]), pair(*arguments[2:]), [0, 1, LANES, LANES + 1], [2, 3, LANES + 2, LANES + 3]
        )
        width = LANES
        while width > 4:
            width //= 2
            rest = builder.fadd(pick(rest, rest, list(range(width))), pick(rest, rest, list(range(width, 2 * width))))
        values = [builder.extract_element(rest, ir.Constant(number, lane)) for lane in range(4)]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(types.float32, 4)(*[VECTORS.type] * 4), generate


def _block(n_vectors: int) -> Any:
    """An intrinsic that multiplies a block: `ROWS` rows by `n_vectors` vectors of columns, all sums in registers.

    `out[i, :] = start[i, :] + sum over k, rising, of a[i, k] * b[k, :]`. Of each matrix: the flat array, the element
    where the block begins, and the steps from row to row (of `a` also from k to k).
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, out_step, start, start_at, start_step, a, a_at, a_row, a_k, b, b_at, b_k, n_k = arguments
        array_type = signature.args[0]

        def element(at: Any, step: Any, row: int, column: int = 0) -> Any:
            moved = builder.add(at, builder.mul(step, step.type(row)))
            return builder.add(moved, step.type(column * LANES))

        def place(array: Any, index: Any) -> Any:
            return VECTORS.address(context, builder, array_type, array, index)

        data = context.make_array(array_type)(context, builder, a).data
        cells = [(row, column) for row in range(ROWS) for column in range(n_vectors)]
        sums = {cell: cgutils.alloca_once(builder, VECTORS.floats) for cell in cells}
        for cell in cells:
            builder.store(builder.load(place(start, element(start_at, start_step, *cell)), align=4), sums[cell])
        with cgutils.for_range(builder, n_k) as loop:
            b_now = builder.add(b_at, builder.mul(b_k, loop.index))
            a_now = builder.add(a_at, builder.mul(a_k, loop.index))
            values = [builder.load(place(b, element(b_now, b_k, 0, c)), align=4) for c in range(n_vectors)]
            factors = [builder.load(builder.gep(data, [element(a_now, a_row, row)])) for row in range(ROWS)]
            splats = [VECTORS.spread(builder, factor) for factor in factors]
            for row, column in cells:
                cell = sums[row, column]
                builder.store(VECTORS.multiply_add(builder, splats[row], values[column], builder.load(cell)), cell)
        for cell in cells:
            builder.store(builder.load(sums[cell]), place(out, element(out_at, out_step, *cell)), align=4)
        return context.get_dummy_value()

    def block(
        typing: Any, out: Any, out_at: Any, out_step: Any, start: Any, start_at: Any, start_step: Any,
        a: Any, a_at: Any, a_row: Any, a_k: Any, b: Any, b_at: Any, b_k: Any, n_k: Any,
    ) -> Any:  # fmt: skip
        i = types.intp
        return types.void(out, i, i, out, i, i, out, i, i, i, out, i, i, i), generate

    return intrinsic(block)


block_1, block_2, block_3 = _block(1), _block(2), _block(3)
