"""Eight float32 in one register, for Numba: the compiler does not find them in loops over arrays that might overlap.

Eight on every machine, for they are eight heads or eight channels; `WIDE` is for where two of these go together.
"""

# What writes LLVM's code: its arguments are Numba's and LLVM's objects.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.core import cgutils

from arcpipe.vectors import Vectors, intrinsic

LANES = 8
VECTORS, WIDE = Vectors(LANES), Vectors(2 * LANES)
load, store, splat, fma = VECTORS.load, VECTORS.store, VECTORS.splat, VECTORS.fma
add, subtract, multiply, divide = VECTORS.add, VECTORS.subtract, VECTORS.multiply, VECTORS.divide

LOG2_E, LN2_HIGH, LN2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
"""ln 2 in two pieces, the first short enough that its multiples up to 2**7 are exact."""
EXPONENTIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
"""Cephes' expf: e**r = 1 + r + r**2 p(r) for |r| <= ln 2 / 2, highest power first."""
LOWEST = -87.0
"""Below it e**x is no normal float32 any more; it is taken as e**-87, 1.6e-38."""


def _exponential(vectors: Vectors):
    def exponential(builder, x):
        integers, constant = vectors.integers, vectors.constant
        x = builder.select(builder.fcmp_ordered("<", x, constant(LOWEST)), constant(LOWEST), x)
        power = vectors.call(builder, "llvm.nearbyint", builder.fmul(x, constant(LOG2_E)))
        rest = vectors.multiply_add(builder, power, constant(-LN2_HIGH), x)
        rest = vectors.multiply_add(builder, power, constant(-LN2_LOW), rest)
        series = constant(EXPONENTIAL[0])
        for factor in EXPONENTIAL[1:]:
            series = vectors.multiply_add(builder, series, rest, constant(factor))
        value = vectors.multiply_add(builder, series, builder.fmul(rest, rest), builder.fadd(rest, constant(1.0)))
        biased = builder.add(builder.fptosi(power, integers), ir.Constant(integers, [127] * vectors.lanes))
        scale = builder.bitcast(builder.shl(biased, ir.Constant(integers, [23] * vectors.lanes)), vectors.floats)
        return builder.fmul(value, scale)

    return exponential


def _folded(distance: int):
    def fold(builder, value):
        index = ir.Constant(VECTORS.integers, [lane ^ distance for lane in range(LANES)])
        return builder.fadd(value, builder.shuffle_vector(value, value, index))

    return fold


larger = VECTORS.elementwise(2, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
"""`a` where it is above `b`, else `b`; a NaN in `a` is lost, one in `b` stays."""
fold_4, fold_2, fold_1 = (VECTORS.elementwise(1, _folded(distance)) for distance in (4, 2, 1))
"""Add to every lane the one so far away: after `fold_4` the lanes 0 to 3 and 4 to 7 agree, and so on."""
exponentials = WIDE.elementwise(1, _exponential(WIDE))
"""e**x for x <= 0 within 2e-7 of its value, and NaN for NaN, of sixteen lanes."""


def _rows(builder, context, array_type, rows, first, n: int, width):
    """Where n rows of a matrix begin, given the array of row numbers and the first one's place in it."""
    data = context.make_array(array_type)(context, builder, rows).data
    places = [builder.load(builder.gep(data, [builder.add(first, first.type(r))])) for r in range(n)]
    return [builder.mul(place, width) for place in places]


def _pair(builder, context, array_type, array, at):
    """Where the two vectors lie that begin at an element of a flat array."""
    ends = [builder.add(at, at.type(half * LANES)) for half in range(2)]
    return [VECTORS.address(context, builder, array_type, array, end) for end in ends]


def _add_products(builder, rows, n, terms: Callable[..., tuple]) -> None:
    """Add n products of a number and a pair of vectors to every row, a pair in memory too; all sums in registers.

    `terms(k)`: where the pair of product k lies, which all rows share, and where the number of each row does.
    """
    cells = [(place, cgutils.alloca_once(builder, VECTORS.floats)) for row in rows for place in row]
    for place, total in cells:
        builder.store(builder.load(place, align=4), total)
    with cgutils.for_range(builder, n) as loop:
        pair, numbers = terms(loop.index)
        halves = [builder.load(place, align=4) for place in pair]
        for r, number in enumerate(numbers):
            factor = VECTORS.spread(builder, builder.load(number))
            for half, (_, total) in zip(halves, cells[2 * r :], strict=False):
                builder.store(VECTORS.multiply_add(builder, factor, half, builder.load(total)), total)
    for place, total in cells:
        builder.store(builder.load(total), place, align=4)


def _gathered(n_rows: int):
    """An intrinsic that adds to rows of `out` the product of rows of `a` and a matrix, all sums in registers.

    For r below `n_rows`: `out[targets[p + r], o:o + 16] += sum over k, rising, of a[sources[p + r], k] b[k, o:o + 16]`.
    """

    def generate(context, builder, signature, arguments):
        out, targets, out_width, o, a, sources, a_width, p, b, b_at, n_k = arguments
        floats, rows = signature.args[0], signature.args[1]
        out_rows = _rows(builder, context, rows, targets, p, n_rows, out_width)
        a_rows = _rows(builder, context, rows, sources, p, n_rows, a_width)
        a_data = context.make_array(floats)(context, builder, a).data

        def terms(k):
            b_now = builder.add(builder.add(b_at, builder.mul(out_width, k)), o)
            numbers = [builder.gep(a_data, [builder.add(row, k)]) for row in a_rows]
            return _pair(builder, context, floats, b, b_now), numbers

        places = [_pair(builder, context, floats, out, builder.add(row, o)) for row in out_rows]
        _add_products(builder, places, n_k, terms)
        return context.get_dummy_value()

    def gathered(typing, out, targets, out_width, o, a, sources, a_width, p, b, b_at, n_k):
        i = types.intp
        return types.void(out, targets, i, i, out, targets, i, i, out, i, i), generate

    return intrinsic(gathered)


gathered_1, gathered_4 = _gathered(1), _gathered(4)


@intrinsic
def outer_4(typing, grad, at, a, sources, a_width, i, g, targets, g_width, o, first, last):
    """Sum outer products of rows in registers: 4 channels of `a` by 16 of `g`, over the pairs `first` to `last`.

    `grad[at + r * g_width + o + c] += sum over p, rising, of a[sources[p], i + r] * g[targets[p], o + c]`.
    """

    def generate(context, builder, signature, arguments):
        grad, at, a, sources, a_width, i, g, targets, g_width, o, first, last = arguments
        floats, rows = signature.args[0], signature.args[3]
        a_data = context.make_array(floats)(context, builder, a).data

        def terms(k):
            p = builder.add(first, k)
            (a_row,) = _rows(builder, context, rows, sources, p, 1, a_width)
            (g_row,) = _rows(builder, context, rows, targets, p, 1, g_width)
            numbers = [builder.gep(a_data, [builder.add(builder.add(a_row, i), i.type(r))]) for r in range(4)]
            return _pair(builder, context, floats, g, builder.add(g_row, o)), numbers

        starts = [builder.add(builder.add(at, builder.mul(g_width, at.type(r))), o) for r in range(4)]
        places = [_pair(builder, context, floats, grad, start) for start in starts]
        _add_products(builder, places, builder.sub(last, first), terms)
        return context.get_dummy_value()

    n = types.intp
    return types.void(grad, n, grad, sources, n, n, grad, sources, n, n, n, n), generate
