"""Vectors of floats and products of blocks for the fitting kernels, as wide as this machine's registers."""

# What writes LLVM's code: its arguments are Numba's and LLVM's objects.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from llvmlite import ir
from numba import types

from arcpipe.vectors import LANES as LANES
from arcpipe.vectors import ROWS as ROWS
from arcpipe.vectors import Vectors, intrinsic


def padded_length(count: int) -> int:
    """The next multiple of `LANES`."""
    return -(-count // LANES) * LANES


def _open(builder, gate, value):
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
root, total = VECTORS.root, VECTORS.total
block_1, block_2, block_3 = VECTORS.block(1), VECTORS.block(2), VECTORS.block(3)


@intrinsic
def four_totals(typing, a, b, c, d):
    """The sums of all lanes of four vectors, as four floats: a third of the work of four times `total`."""

    def generate(context, builder, signature, arguments):
        number = ir.IntType(32)

        def pick(x, y, lanes: list[int]):
            return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(number, len(lanes)), lanes))

        def folded(x, y, first: list[int], second: list[int]):
            low = [start + lane for start in range(0, LANES, 4) for lane in first]
            high = [start + lane for start in range(0, LANES, 4) for lane in second]
            return builder.fadd(pick(x, y, low), pick(x, y, high))

        def pair(x, y):
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
