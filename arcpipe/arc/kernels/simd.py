"""Vectors of floats for Numba: what the compiler cannot be relied on to find by itself, said outright.

A `Vector` holds `LANES` float32 and lives in a register. Sums are taken in one fixed order, so the same code gives the
same bits whatever the array lengths are. Indices are element numbers of flat float32 arrays; nothing is bounds-checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, register_model

LANES = 16 if llvm.get_host_cpu_features().get("avx512f") else 8
"""One register of AVX-512 or AVX2; elsewhere the compiler splits 8 lanes. Both widths pass all tests on Zen 4, where
they are equally fast (it does 16 lanes in two halves)."""
ROWS = 4
"""Rows of a block of a matrix product: with 3 vectors a row, 12 sums, 3 loads and 1 factor fill the 16 registers of
AVX2."""
FLOAT, VECTOR = ir.FloatType(), ir.VectorType(ir.FloatType(), LANES)


class Vector(types.Type):
    """`LANES` float32."""


vector = Vector("Vector")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is one LLVM value."""

    def __init__(self, manager: Any, front_end_type: Any) -> None:
        super().__init__(manager, front_end_type, VECTOR)


def intrinsic(function: Callable[..., Any]) -> Any:
    """Numba's decorator; what it makes is called without the typing context, which its type hints do not know."""
    return numba_intrinsic(function)


def padded_length(count: int) -> int:
    """The next multiple of `LANES`."""
    return -(-count // LANES) * LANES


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), VECTOR.as_pointer())


def _splat(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _llvm(builder: Any, name: str, *arguments: Any) -> Any:
    """Call one of LLVM's own functions of vectors to a vector."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * len(arguments))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{LANES}f32"), arguments)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    # Rounded once where the machine can; `llvm.fma` would call a slow function where it cannot.
    return _llvm(builder, "llvm.fmuladd", a, b, c)


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """`array[index:index + LANES]`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *arguments), align=4)

    return vector(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """`array[index:index + LANES] = value`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _address(context, builder, signature.args[0], *arguments[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """The same float in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _splat(builder, arguments[0])

    return vector(types.float32), generate


def _elementwise(n_arguments: int, operation: Callable[..., Any]) -> Any:
    """An intrinsic of vectors to a vector."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return operation(builder, *arguments)

    signature = vector(*[vector] * n_arguments)
    if n_arguments == 1:
        return intrinsic(lambda typing, a: (signature, generate))
    if n_arguments == 2:
        return intrinsic(lambda typing, a, b: (signature, generate))
    return intrinsic(lambda typing, a, b, c: (signature, generate))


def _open(builder: Any, gate: Any, value: Any) -> Any:
    # "Not at or below 0" rather than "above 0": a NaN passes and is found at the end.
    zero = ir.Constant(VECTOR, [0.0] * LANES)
    return builder.select(builder.fcmp_ordered("<=", gate, zero), zero, value)


add = _elementwise(2, lambda builder, a, b: builder.fadd(a, b))
subtract = _elementwise(2, lambda builder, a, b: builder.fsub(a, b))
multiply = _elementwise(2, lambda builder, a, b: builder.fmul(a, b))
divide = _elementwise(2, lambda builder, a, b: builder.fdiv(a, b))
fma = _elementwise(3, _fma)
"""`a * b + c`."""
gated = _elementwise(2, _open)
"""`value` where `gate` is above 0 (or NaN), else 0: gated(x, x) is the ReLU, gated(x, gradient) its way back."""
root = _elementwise(1, lambda builder, a: _llvm(builder, "llvm.sqrt", a))


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

    return types.float32(vector), generate


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
            return _address(context, builder, array_type, array, index)

        data = context.make_array(array_type)(context, builder, a).data
        cells = [(row, column) for row in range(ROWS) for column in range(n_vectors)]
        sums = {cell: cgutils.alloca_once(builder, VECTOR) for cell in cells}
        for cell in cells:
            builder.store(builder.load(place(start, element(start_at, start_step, *cell)), align=4), sums[cell])
        with cgutils.for_range(builder, n_k) as loop:
            b_now = builder.add(b_at, builder.mul(b_k, loop.index))
            a_now = builder.add(a_at, builder.mul(a_k, loop.index))
            values = [builder.load(place(b, element(b_now, b_k, 0, c)), align=4) for c in range(n_vectors)]
            factors = [builder.load(builder.gep(data, [element(a_now, a_row, row)])) for row in range(ROWS)]
            splats = [_splat(builder, factor) for factor in factors]
            for row, column in cells:
                cell = sums[row, column]
                builder.store(_fma(builder, splats[row], values[column], builder.load(cell)), cell)
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
