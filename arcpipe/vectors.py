"""Vectors of floats for Numba: what the compiler cannot be relied on to find by itself, said outright.

`Vectors(8)` are the operations on 8 float32 in one register, as functions for compiled code. Indices are element
numbers of flat float32 arrays; nothing is bounds-checked. Sums are taken in one fixed order, so the same code gives the
same bits whatever the array lengths are.
"""

# What writes LLVM's code: its arguments are Numba's and LLVM's objects.
# mypy: disable-error-code="no-untyped-def"

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


class Vector(types.Type):
    """So many float32 in one register."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(f"Vector{lanes}")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is one LLVM value."""

    def __init__(self, manager, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(ir.FloatType(), vector.lanes))


def intrinsic(function: Callable[..., Any]):
    """Numba's decorator; what it makes is called without the typing context, which its type hints do not know."""
    return numba_intrinsic(function)


class Vectors:
    """Operations on `lanes` float32.

    For compiled code: `load(array, index)` is `array[index:index + lanes]`, `store(array, index, vector)` writes it,
    `splat(value)` is the same float in every lane; `add`, `subtract`, `multiply`, `divide`, `root`; `fma(a, b, c)` is
    a * b + c; `total(vector)` is the sum of all lanes. `elementwise` and `block` make more of them. The other methods
    write LLVM's code.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.type = Vector(lanes)
        self.floats, self.integers = (ir.VectorType(kind, lanes) for kind in (ir.FloatType(), ir.IntType(32)))
        self.load, self.store, self.splat, self.total = self._load(), self._store(), self._splat(), self._total()
        self.add = self.elementwise(2, lambda builder, a, b: builder.fadd(a, b))
        self.subtract = self.elementwise(2, lambda builder, a, b: builder.fsub(a, b))
        self.multiply = self.elementwise(2, lambda builder, a, b: builder.fmul(a, b))
        self.divide = self.elementwise(2, lambda builder, a, b: builder.fdiv(a, b))
        self.fma = self.elementwise(3, self.multiply_add)
        self.root = self.elementwise(1, lambda builder, a: self.call(builder, "llvm.sqrt", a))

    def block(self, n_vectors: int, *, start_is_column: bool = False):
        """An intrinsic that multiplies a block: `ROWS` rows by `n_vectors` vectors of columns, all sums in registers.

        `out[i, :] = start[i, :] + sum over k, rising, of a[i, k] * b[k, :]`. Of each matrix: the flat array, the
        element where the block begins, and the steps from row to row (of `a` also from k to k). `start` may be a column
        instead: one number for each row.
        """

        def generate(context, builder, signature, arguments):
            out, out_at, out_step, start, start_at, start_step, a, a_at, a_row, a_k, b, b_at, b_k, n_k = arguments
            array_type = signature.args[0]

            def element(at, step, row: int, column: int = 0):
                return self.after(builder, builder.add(at, builder.mul(step, step.type(row))), column)

            def place(array, index):
                return self.address(context, builder, array_type, array, index)

            def number(array, index):
                data = context.make_array(array_type)(context, builder, array).data
                return self.spread(builder, builder.load(builder.gep(data, [index])))

            cells = [(row, column) for row in range(ROWS) for column in range(n_vectors)]
            sums = {cell: cgutils.alloca_once(builder, self.floats) for cell in cells}
            for row, column in cells:
                if start_is_column:
                    first = number(start, element(start_at, start_step, row))
                else:
                    first = builder.load(place(start, element(start_at, start_step, row, column)), align=4)
                builder.store(first, sums[row, column])
            with cgutils.for_range(builder, n_k) as loop:
                b_now = builder.add(b_at, builder.mul(b_k, loop.index))
                a_now = builder.add(a_at, builder.mul(a_k, loop.index))
                values = [builder.load(place(b, element(b_now, b_k, 0, c)), align=4) for c in range(n_vectors)]
                factors = [number(a, element(a_now, a_row, row)) for row in range(ROWS)]
                for row, column in cells:
                    cell = sums[row, column]
                    builder.store(self.multiply_add(builder, factors[row], values[column], builder.load(cell)), cell)
            for cell in cells:
                builder.store(builder.load(sums[cell]), place(out, element(out_at, out_step, *cell)), align=4)
            return context.get_dummy_value()

        def block(typing, out, out_at, out_step, start, start_at, start_step, a, a_at, a_row, a_k, b, b_at, b_k, n_k):
            i = types.intp
            return types.void(out, i, i, out, i, i, out, i, i, i, out, i, i, i), generate

        return intrinsic(block)

    def row_dots(self):
        """An intrinsic: products of a row of `colours` x `vectors` vectors in memory with one row of `vectors`.

        `row_dots(address, latents, at, parts, parts_at, vectors, colours)` stores, for each colour, the lanes of the
        sum over the vectors. Of the last two arguments, tuples, only the lengths matter, so that all is unrolled.
        """

        def generate(context, builder, signature, arguments):
            address, latents, at, parts, parts_at, _, _ = arguments
            n_vectors, n_colours = len(signature.args[5]), len(signature.args[6])
            row = builder.inttoptr(address, self.floats.as_pointer())
            first = self.address(context, builder, signature.args[1], latents, at)
            numbers = [builder.load(self.beyond(builder, first, v), align=4) for v in range(n_vectors)]
            place = self.address(context, builder, signature.args[3], parts, parts_at)
            for c in range(n_colours):
                total = self.constant(0.0)
                for v in range(n_vectors):
                    value = builder.load(self.beyond(builder, row, c * n_vectors + v), align=4)
                    total = self.multiply_add(builder, value, numbers[v], total)
                builder.store(total, self.beyond(builder, place, c), align=4)
            return context.get_dummy_value()

        def dots(typing, address, latents, at, parts, parts_at, vectors, colours):
            i = types.intp
            return types.void(i, latents, i, parts, i, vectors, colours), generate

        return intrinsic(dots)

    def place(self):
        """An intrinsic: `place(array, index)` is the address of an element: a function may take rows of any array."""

        def generate(context, builder, signature, arguments):
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            return builder.ptrtoint(builder.gep(data, [arguments[1]]), ir.IntType(64))

        return intrinsic(lambda typing, array, index: (types.intp(array, types.intp), generate))

    def load_from(self):
        """An intrinsic: `load_from(address, index)` is the vector that begins so many elements after an address."""

        def generate(context, builder, signature, arguments):
            start = builder.inttoptr(arguments[0], ir.FloatType().as_pointer())
            place = builder.bitcast(builder.gep(start, [arguments[1]]), self.floats.as_pointer())
            return builder.load(place, align=4)

        return intrinsic(lambda typing, address, index: (self.type(types.intp, types.intp), generate))

    def beyond(self, builder, pointer, count: int):
        """The vector that lies so many vectors after the one at `pointer`."""
        return builder.gep(pointer, [ir.Constant(ir.IntType(64), count)])

    def after(self, builder, index, count: int):
        """The element that lies so many vectors after an element."""
        return builder.add(index, index.type(count * self.lanes))

    def elementwise(self, n_arguments: int, operation: Callable[..., Any]):
        """An intrinsic of 1 to 3 vectors to a vector; `operation(builder, *arguments)` writes its code."""

        def generate(context, builder, signature, arguments):
            return operation(builder, *arguments)

        signature = self.type(*[self.type] * n_arguments)
        if n_arguments == 1:
            return intrinsic(lambda typing, a: (signature, generate))
        if n_arguments == 2:
            return intrinsic(lambda typing, a, b: (signature, generate))
        return intrinsic(lambda typing, a, b, c: (signature, generate))

    def address(self, context, builder, array_type, array, index):
        """Where the vector begins whose first lane is element `index` of a flat array."""
        data = context.make_array(array_type)(context, builder, array).data
        return builder.bitcast(builder.gep(data, [index]), self.floats.as_pointer())

    def constant(self, value: float):
        """The same number, known when the code is compiled, in every lane."""
        return ir.Constant(self.floats, [value] * self.lanes)

    def spread(self, builder, value):
        """The same float in every lane."""
        one = builder.insert_element(ir.Constant(self.floats, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, one, ir.Constant(self.integers, [0] * self.lanes))

    def call(self, builder, name: str, *arguments):
        """Call one of LLVM's own functions of vectors to a vector."""
        kind = ir.FunctionType(self.floats, [self.floats] * len(arguments))
        function = cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{self.lanes}f32")
        return builder.call(function, arguments)

    def multiply_add(self, builder, a, b, c):
        """`a * b + c`, rounded once where the machine can; `llvm.fma` would call a slow function where it cannot."""
        return self.call(builder, "llvm.fmuladd", a, b, c)

    def _load(self):
        def generate(context, builder, signature, arguments):
            return builder.load(self.address(context, builder, signature.args[0], *arguments), align=4)

        return intrinsic(lambda typing, array, index: (self.type(array, types.intp), generate))

    def _store(self):
        def generate(context, builder, signature, arguments):
            address = self.address(context, builder, signature.args[0], *arguments[:2])
            builder.store(arguments[2], address, align=4)
            return context.get_dummy_value()

        return intrinsic(lambda typing, array, index, value: (types.void(array, types.intp, self.type), generate))

    def _splat(self):
        def generate(context, builder, signature, arguments):
            return self.spread(builder, arguments[0])

        return intrinsic(lambda typing, value: (self.type(types.float32), generate))

    def _total(self):
        """The sum of all lanes, upper half onto lower half until one is left."""

        def generate(context, builder, signature, arguments):
            (rest,), width = arguments, self.lanes
            while width > 1:
                width //= 2
                index = ir.VectorType(ir.IntType(32), width)
                low = builder.shuffle_vector(rest, rest, ir.Constant(index, list(range(width))))
                high = builder.shuffle_vector(rest, rest, ir.Constant(index, list(range(width, 2 * width))))
                rest = builder.fadd(low, high)
            return builder.extract_element(rest, ir.Constant(ir.IntType(32), 0))

        return intrinsic(lambda typing, value: (types.float32(self.type), generate))
