"""Vectors of floats for Numba: what the compiler cannot be relied on to find by itself, said outright.

`Vectors(8)` are the operations on 8 float32 in one register, as functions for compiled code. Indices are element
numbers of flat float32 arrays; nothing is bounds-checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, register_model


class Vector(types.Type):
    """So many float32 in one register."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(f"Vector{lanes}")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is one LLVM value."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(ir.FloatType(), vector.lanes))


def intrinsic(function: Callable[..., Any]) -> Any:
    """Numba's decorator; what it makes is called without the typing context, which its type hints do not know."""
    return numba_intrinsic(function)


class Vectors:
    """Operations on `lanes` float32.

    For compiled code: `load(array, index)` is `array[index:index + lanes]`, `store(array, index, vector)` writes it,
    `splat(value)` is the same float in every lane; `add`, `subtract`, `multiply`, `divide`; `fma(a, b, c)` is
    a * b + c. `elementwise` makes more of them. The other methods write LLVM's code.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.type = Vector(lanes)
        self.floats, self.integers = (ir.VectorType(kind, lanes) for kind in (ir.FloatType(), ir.IntType(32)))
        self.load, self.store, self.splat = self._load(), self._store(), self._splat()
        self.add = self.elementwise(2, lambda builder, a, b: builder.fadd(a, b))
        self.subtract = self.elementwise(2, lambda builder, a, b: builder.fsub(a, b))
        self.multiply = self.elementwise(2, lambda builder, a, b: builder.fmul(a, b))
        self.divide = self.elementwise(2, lambda builder, a, b: builder.fdiv(a, b))
        self.fma = self.elementwise(3, self.multiply_add)

    def row_dots(self) -> Any:
        """An intrinsic: products of a row of `colours` x `vectors` vectors in memory with one row of `vectors`.

        `row_dots(address, latents, at, parts, parts_at, vectors, colours)` stores, for each colour, the lanes of the
        sum over the vectors. Of the last two arguments, tuples, only the lengths matter, so that all is unrolled.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address, latents, at, parts, parts_at, _, _ = arguments
            n_vectors, n_colours = len(signature.args[5]), len(signature.args[6])
            row, numbers = (
                self.pointer(builder, address),
                [
                    builder.load(
                        self.address(context, builder, signature.args[1], latents, self.after(builder, at, v)), align=4
                    )
                    for v in range(n_vectors)
                ],
            )
            for c in range(n_colours):
                total = self.constant(0.0)
                for v in range(n_vectors):
                    value = builder.load(self.beyond(builder, row, c * n_vectors + v), align=4)
                    total = self.multiply_add(builder, value, numbers[v], total)
                place = self.address(context, builder, signature.args[3], parts, self.after(builder, parts_at, c))
                builder.store(total, place, align=4)
            return context.get_dummy_value()

        def dots(
            typing: Any, address: Any, latents: Any, at: Any, parts: Any, parts_at: Any, vectors: Any, colours: Any
        ) -> Any:
            i = types.intp
            return types.void(i, latents, i, parts, i, vectors, colours), generate

        return intrinsic(dots)

    def place(self) -> Any:
        """An intrinsic: `place(array, index)` is the address of an element: a function may take rows of any array."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            return builder.ptrtoint(builder.gep(data, [arguments[1]]), ir.IntType(64))

        return intrinsic(lambda typing, array, index: (types.intp(array, types.intp), generate))

    def load_from(self) -> Any:
        """An intrinsic: `load_from(address, index)` is the vector that begins so many elements after an address."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            start = builder.inttoptr(arguments[0], ir.FloatType().as_pointer())
            place = builder.bitcast(builder.gep(start, [arguments[1]]), self.floats.as_pointer())
            return builder.load(place, align=4)

        return intrinsic(lambda typing, address, index: (self.type(types.intp, types.intp), generate))

    def pointer(self, builder: Any, address: Any) -> Any:
        """The vector at an address."""
        return builder.inttoptr(address, self.floats.as_pointer())

    def beyond(self, builder: Any, pointer: Any, count: int) -> Any:
        """The vector that lies so many vectors after the one at `pointer`."""
        return builder.gep(pointer, [ir.Constant(ir.IntType(64), count)])

    def after(self, builder: Any, index: Any, count: int) -> Any:
        """The element that lies so many vectors after an element."""
        return builder.add(index, index.type(count * self.lanes))

    def elementwise(self, n_arguments: int, operation: Callable[..., Any]) -> Any:
        """An intrinsic of 1 to 3 vectors to a vector; `operation(builder, *arguments)` writes its code."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return operation(builder, *arguments)

        signature = self.type(*[self.type] * n_arguments)
        if n_arguments == 1:
            return intrinsic(lambda typing, a: (signature, generate))
        if n_arguments == 2:
            return intrinsic(lambda typing, a, b: (signature, generate))
        return intrinsic(lambda typing, a, b, c: (signature, generate))

    def address(self, context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
        """Where the vector begins whose first lane is element `index` of a flat array."""
        data = context.make_array(array_type)(context, builder, array).data
        return builder.bitcast(builder.gep(data, [index]), self.floats.as_pointer())

    def constant(self, value: float) -> Any:
        """The same number, known when the code is compiled, in every lane."""
        return ir.Constant(self.floats, [value] * self.lanes)

    def spread(self, builder: Any, value: Any) -> Any:
        """The same float in every lane."""
        one = builder.insert_element(ir.Constant(self.floats, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, one, ir.Constant(self.integers, [0] * self.lanes))

    def call(self, builder: Any, name: str, *arguments: Any) -> Any:
        """Call one of LLVM's own functions of vectors to a vector."""
        kind = ir.FunctionType(self.floats, [self.floats] * len(arguments))
        function = cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{self.lanes}f32")
        return builder.call(function, arguments)

    def multiply_add(self, builder: Any, a: Any, b: Any, c: Any) -> Any:
        """`a * b + c`, rounded once where the machine can; `llvm.fma` would call a slow function where it cannot."""
        return self.call(builder, "llvm.fmuladd", a, b, c)

    def _load(self) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.load(self.address(context, builder, signature.args[0], *arguments), align=4)

        return intrinsic(lambda typing, array, index: (self.type(array, types.intp), generate))

    def _store(self) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = self.address(context, builder, signature.args[0], *arguments[:2])
            builder.store(arguments[2], address, align=4)
            return context.get_dummy_value()

        return intrinsic(lambda typing, array, index, value: (types.void(array, types.intp, self.type), generate))

    def _splat(self) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return self.spread(builder, arguments[0])

        return intrinsic(lambda typing, value: (self.type(types.float32), generate))
