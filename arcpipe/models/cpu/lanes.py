"""Eight float32 in one register, for Numba: the compiler does not find them in loops over arrays that might overlap.

Eight on every machine, for they are eight heads or eight channels. Indices are element numbers of flat float32 arrays;
nothing is bounds-checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, register_model

LANES = 8
FLOAT = ir.FloatType()
VECTOR, INTEGERS = ir.VectorType(FLOAT, LANES), ir.VectorType(ir.IntType(32), LANES)


class Lanes(types.Type):
    """`LANES` float32."""


lanes = Lanes("Lanes")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """One LLVM value."""

    def __init__(self, manager: Any, front_end_type: Any) -> None:
        super().__init__(manager, front_end_type, VECTOR)


def intrinsic(function: Callable[..., Any]) -> Any:
    """Numba's decorator; what it makes is called without the typing context, which its type hints do not know."""
    return numba_intrinsic(function)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), VECTOR.as_pointer())


def _constant(value: float) -> Any:
    return ir.Constant(VECTOR, [value] * LANES)


def _llvm(builder: Any, name: str, *arguments: Any) -> Any:
    """Call one of LLVM's own functions of vectors to a vector."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * len(arguments))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{LANES}f32"), arguments)


def _splat(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(INTEGERS, [0] * LANES))


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """`array[index:index + LANES]`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *arguments), align=4)

    return lanes(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """`array[index:index + LANES] = value`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _address(context, builder, signature.args[0], *arguments[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), generate


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """The same float in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _splat(builder, arguments[0])

    return lanes(types.float32), generate


def _elementwise(n_arguments: int, operation: Callable[..., Any]) -> Any:
    """An intrinsic of vectors to a vector."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return operation(builder, *arguments)

    signature = lanes(*[lanes] * n_arguments)
    if n_arguments == 1:
        return intrinsic(lambda typing, a: (signature, generate))
    if n_arguments == 2:
        return intrinsic(lambda typing, a, b: (signature, generate))
    return intrinsic(lambda typing, a, b, c: (signature, generate))


LOG2_E, LN2_HIGH, LN2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
"""ln 2 in two pieces, the first short enough that its multiples up to 2**7 are exact."""
EXPONENTIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
"""Cephes' expf: e**r = 1 + r + r**2 p(r) for |r| <= ln 2 / 2, highest power first."""
LOWEST = -87.0
"""Below it e**x is no normal float32 any more; it is taken as e**-87, 1.6e-38."""


def _exponential(builder: Any, x: Any) -> Any:
    def fma(a: Any, b: Any, c: Any) -> Any:
        return _llvm(builder, "llvm.fmuladd", a, b, c)

    x = builder.select(builder.fcmp_ordered("<", x, _constant(LOWEST)), _constant(LOWEST), x)
    power = _llvm(builder, "llvm.nearbyint", builder.fmul(x, _constant(LOG2_E)))
    rest = fma(power, _constant(-LN2_LOW), fma(power, _constant(-LN2_HIGH), x))
    series = _constant(EXPONENTIAL[0])
    for factor in EXPONENTIAL[1:]:
        series = fma(series, rest, _constant(factor))
    value = fma(series, builder.fmul(rest, rest), builder.fadd(rest, _constant(1.0)))
    biased = builder.add(builder.fptosi(power, INTEGERS), ir.Constant(INTEGERS, [127] * LANES))
    scale = builder.bitcast(builder.shl(biased, ir.Constant(INTEGERS, [23] * LANES)), VECTOR)
    return builder.fmul(value, scale)


def _folded(distance: int) -> Callable[..., Any]:
    def fold(builder: Any, value: Any) -> Any:
        index = ir.Constant(INTEGERS, [lane ^ distance for lane in range(LANES)])
        return builder.fadd(value, builder.shuffle_vector(value, value, index))

    return fold


add = _elementwise(2, lambda builder, a, b: builder.fadd(a, b))
subtract = _elementwise(2, lambda builder, a, b: builder.fsub(a, b))
multiply = _elementwise(2, lambda builder, a, b: builder.fmul(a, b))
divide = _elementwise(2, lambda builder, a, b: builder.fdiv(a, b))
fma = _elementwise(3, lambda builder, a, b, c: _llvm(builder, "llvm.fmuladd", a, b, c))
"""`a * b + c`."""
larger = _elementwise(2, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
"""`a` where it is above `b`, else `b`; a NaN in `a` is lost, one in `b` stays."""
fold_4, fold_2, fold_1 = (_elementwise(1, _folded(distance)) for distance in (4, 2, 1))
"""Add to every lane the one so far away: after `fold_4` the lanes 0 to 3 and 4 to 7 agree, and so on."""
exponential = _elementwise(1, _exponential)
"""e**x for x <= 0 within 2e-7 of its value, and NaN for NaN."""


def _rows(builder: Any, context: Any, array_type: Any, rows: Any, first: Any, n: int, width: Any) -> list[Any]:
    """Where n rows of a matrix begin, given the array of row numbers and the first one's place in it."""
    data = context.make_array(array_type)(context, builder, rows).data
    places = [builder.load(builder.gep(data, [builder.add(first, first.type(r))])) for r in range(n)]
    return [builder.mul(place, width) for place in places]


def _gathered(n_rows: int) -> Any:
    """An intrinsic that adds to rows of `out` the product of rows of `a` and a matrix, all sums in registers.

    For r below `n_rows`: `out[targets[p + r], o:o + 16] += sum over k, rising, of a[sources[p + r], k] b[k, o:o + 16]`.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, targets, out_width, o, a, sources, a_width, p, b, b_at, n_k = arguments
        floats, rows = signature.args[0], signature.args[1]
        out_rows = _rows(builder, context, rows, targets, p, n_rows, out_width)
        a_rows = _rows(builder, context, rows, sources, p, n_rows, a_width)

        def out_place(row: int, half: int) -> Any:
            index = builder.add(builder.add(out_rows[row], o), o.type(half * LANES))
            return _address(context, builder, floats, out, index)

        a_data = context.make_array(floats)(context, builder, a).data
        cells = [(row, half) for row in range(n_rows) for half in range(2)]
        sums = {cell: cgutils.alloca_once(builder, VECTOR) for cell in cells}
        for cell in cells:
            builder.store(builder.load(out_place(*cell), align=4), sums[cell])
        with cgutils.for_range(builder, n_k) as loop:
            b_now = builder.add(builder.add(b_at, builder.mul(out_width, loop.index)), o)
            halves = [
                builder.load(_address(context, builder, floats, b, builder.add(b_now, o.type(half * LANES))), align=4)
                for half in range(2)
            ]
            for row in range(n_rows):
                factor = _splat(builder, builder.load(builder.gep(a_data, [builder.add(a_rows[row], loop.index)])))
                for half in range(2):
                    cell = sums[row, half]
                    builder.store(_llvm(builder, "llvm.fmuladd", factor, halves[half], builder.load(cell)), cell)
        for cell in cells:
            builder.store(builder.load(sums[cell]), out_place(*cell), align=4)
        return context.get_dummy_value()

    def gathered(
        typing: Any, out: Any, targets: Any, out_width: Any, o: Any, a: Any, sources: Any, a_width: Any, p: Any,
        b: Any, b_at: Any, n_k: Any,
    ) -> Any:  # fmt: skip
        i = types.intp
        return types.void(out, targets, i, i, out, targets, i, i, out, i, i), generate

    return intrinsic(gathered)


gathered_1, gathered_4 = _gathered(1), _gathered(4)


@intrinsic
def outer_4(
    typing: Any, grad: Any, at: Any, a: Any, sources: Any, a_width: Any, i: Any, g: Any, targets: Any, g_width: Any,
    o: Any, first: Any, last: Any,
) -> Any:  # fmt: skip
    """Sum outer products of rows in registers: 4 channels of `a` by 16 of `g`, over the pairs `first` to `last`.

    `grad[at + r * g_width + o + c] += sum over p, rising, of a[sources[p], i + r] * g[targets[p], o + c]`.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        grad, at, a, sources, a_width, i, g, targets, g_width, o, first, last = arguments
        floats, rows = signature.args[0], signature.args[3]

        def place(row: int, half: int) -> Any:
            index = builder.add(
                builder.add(at, builder.mul(g_width, at.type(row))), builder.add(o, o.type(half * LANES))
            )
            return _address(context, builder, floats, grad, index)

        a_data = context.make_array(floats)(context, builder, a).data
        cells = [(row, half) for row in range(4) for half in range(2)]
        sums = {cell: cgutils.alloca_once(builder, VECTOR) for cell in cells}
        for cell in cells:
            builder.store(builder.load(place(*cell), align=4), sums[cell])
        with cgutils.for_range(builder, builder.sub(last, first)) as loop:
            p = builder.add(first, loop.index)
            (a_row,) = _rows(builder, context, rows, sources, p, 1, a_width)
            (g_row,) = _rows(builder, context, rows, targets, p, 1, g_width)
            a_now, g_now = builder.add(a_row, i), builder.add(g_row, o)
            halves = [
                builder.load(_address(context, builder, floats, g, builder.add(g_now, o.type(half * LANES))), align=4)
                for half in range(2)
            ]
            for row in range(4):
                index = builder.add(a_now, a_now.type(row))
                factor = _splat(builder, builder.load(builder.gep(a_data, [index])))
                for half in range(2):
                    cell = sums[row, half]
                    builder.store(_llvm(builder, "llvm.fmuladd", factor, halves[half], builder.load(cell)), cell)
        for cell in cells:
            builder.store(builder.load(sums[cell]), place(*cell), align=4)
        return context.get_dummy_value()

    n = types.intp
    return types.void(grad, n, grad, sources, n, n, grad, sources, n, n, n, n), generate
