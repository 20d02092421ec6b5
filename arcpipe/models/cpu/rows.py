"""What attention does with the rows of tokens, for Numba: everything about a row is known when the code is compiled.

A row holds the channels of up to eight heads, heads last, so the same lane of all its vectors belongs to one head. A
`run` is a tuple with one entry for every eight floats of a row, of which only the length matters: code is unrolled over
it. Where that length is even, a register holds sixteen floats, two channels of each head, and the two halves of a sum
are added at the end: half as many instructions. A `weight` is eight floats, one for each head, and counts for both
halves.
"""

# What writes LLVM's code: its arguments are Numba's and LLVM's objects.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterable

from llvmlite import ir
from numba import types
from numba.core import cgutils

from arcpipe.models.cpu.lanes import LANES, VECTORS, WIDE
from arcpipe.vectors import Vectors, intrinsic


class Row:
    """The vectors of a row, for the code of one intrinsic."""

    def __init__(self, context, builder, run) -> None:
        self._context, self._builder = context, builder
        self.vectors: Vectors = VECTORS if len(run) % 2 else WIDE
        self.count = len(run) * LANES // self.vectors.lanes

    def places(self, kind, array, at):
        """Where the vectors of the row lie that begins at an element of an array."""
        first = self.vectors.address(self._context, self._builder, kind, array, at)
        return [self.vectors.beyond(self._builder, first, v) for v in range(self.count)]

    def loads(self, kind, array, at):
        """The vectors of that row."""
        return [self._builder.load(place, align=4) for place in self.places(kind, array, at)]

    def weight(self, kind, array, at):
        """A vector of the weights that begin at an element."""
        place = VECTORS.address(self._context, self._builder, kind, array, at)
        return self.spread(self._builder.load(place, align=4))

    def spread(self, weight):
        """Eight weights, as wide as a register of the row."""
        return weight if self.vectors is VECTORS else doubled(self._builder, weight)

    def folded(self, value):
        """Eight sums of a register's."""
        return value if self.vectors is VECTORS else halves_added(self._builder, value)


def _lanes(numbers: Iterable[int]) -> ir.Constant:
    chosen = list(numbers)
    return ir.Constant(ir.VectorType(ir.IntType(32), len(chosen)), chosen)


def doubled(builder, value):
    """Eight lanes, twice."""
    return builder.shuffle_vector(value, value, _lanes([*range(LANES), *range(LANES)]))


def halves_added(builder, value):
    """Eight lanes: the lower half of sixteen plus the upper."""
    low = builder.shuffle_vector(value, value, _lanes(range(LANES)))
    high = builder.shuffle_vector(value, value, _lanes(range(LANES, 2 * LANES)))
    return builder.fadd(low, high)


twice = intrinsic(
    lambda typing, value: (WIDE.type(VECTORS.type), lambda _, builder, __, arguments: doubled(builder, arguments[0]))
)
"""`twice(vector)`: eight lanes, and the same again."""
halves = intrinsic(
    lambda typing, value: (VECTORS.type(WIDE.type), lambda _, builder, __, arguments: halves_added(builder, *arguments))
)
"""`halves(wide)`: the lower eight lanes plus the upper eight."""


@intrinsic
def products(typing, a, rows, b, at, run, out, out_at, stride):
    """For every head, the products of some rows of `a`, which begin at `rows` (a tuple), with one row of `b`.

    Those of row r are stored at `out[out_at + r * stride]`.
    """

    def generate(context, builder, signature, arguments):
        a, rows, b, at, _, out, out_at, stride = arguments
        floats, _, b_floats, _, run, out_floats = signature.args[:6]
        row = Row(context, builder, run)
        others = row.loads(b_floats, b, at)
        for place in cgutils.unpack_tuple(builder, rows):
            total = row.vectors.constant(0.0)
            for value, other in zip(row.loads(floats, a, place), others, strict=True):
                total = row.vectors.multiply_add(builder, value, other, total)
            builder.store(row.folded(total), VECTORS.address(context, builder, out_floats, out, out_at), align=4)
            out_at = builder.add(out_at, stride)
        return context.get_dummy_value()

    i = types.intp
    return types.void(a, rows, b, i, run, out, i, i), generate


@intrinsic
def mixture(typing, weights, w, values, rows, shift, n, run, factor, out, at):
    """The weighted sum of n rows, in registers.

    The row of `out` at `at` is `factor` times the sum over j of `weights[w + 8 j:]` times the row of `values` at
    `rows[j] + shift`.
    """

    def generate(context, builder, signature, arguments):
        weights, w, values, rows, shift, n, _, factor, out, at = arguments
        kinds = signature.args
        row = Row(context, builder, kinds[6])
        sums = [cgutils.alloca_once(builder, row.vectors.floats) for _ in range(row.count)]
        for place in sums:
            builder.store(row.vectors.constant(0.0), place)
        numbers = context.make_array(kinds[3])(context, builder, rows).data
        with cgutils.for_range(builder, n) as loop:
            weight = row.weight(kinds[0], weights, builder.add(w, builder.mul(loop.index, n.type(LANES))))
            start = builder.add(builder.load(builder.gep(numbers, [loop.index])), shift)
            for total, value in zip(sums, row.loads(kinds[2], values, start), strict=True):
                builder.store(row.vectors.multiply_add(builder, weight, value, builder.load(total)), total)
        wide = row.spread(factor)
        for total, place in zip(sums, row.places(kinds[8], out, at), strict=True):
            builder.store(builder.fmul(wide, builder.load(total)), place, align=4)
        return context.get_dummy_value()

    i = types.intp
    return types.void(weights, i, values, rows, i, i, run, VECTORS.type, out, i), generate


@intrinsic
def add_rows(typing, weights, w, stride, values, rows, run, out, at):
    """Add to the row of `out` at `at` some rows of `values`, which begin at `rows` (a tuple), row r of them times the
    weights at `w + r * stride`."""

    def generate(context, builder, signature, arguments):
        weights, w, stride, values, rows, _, out, at = arguments
        kinds = signature.args
        row = Row(context, builder, kinds[5])
        totals = row.loads(kinds[6], out, at)
        for start in cgutils.unpack_tuple(builder, rows):
            weight = row.weight(kinds[0], weights, w)
            totals = [
                row.vectors.multiply_add(builder, weight, value, total)
                for total, value in zip(totals, row.loads(kinds[3], values, start), strict=True)
            ]
            w = builder.add(w, stride)
        for total, place in zip(totals, row.places(kinds[6], out, at), strict=True):
            builder.store(total, place, align=4)
        return context.get_dummy_value()

    i = types.intp
    return types.void(weights, i, i, values, rows, run, out, i), generate
