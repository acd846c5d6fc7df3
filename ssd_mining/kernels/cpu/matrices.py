"""SIMD on the matrix of 64 anchors and their classes: transpose it; sum its rows.

As in `lanes`, each function is an LLVM intrinsic, and the plain Python function before it takes its place with Numba's
JIT off.
"""

import numpy as np
from llvmlite import ir
from llvmlite.ir import IRBuilder, Value
from numba.core import cgutils, types
from numba.core.base import BaseContext
from numba.core.types import Type
from numba.core.typing import Context, Signature
from numba.np.arrayobj import make_array

from ssd_mining.kernels.cpu.lanes import LANES, Row, Typed, native, splat

_I32, _I64 = ir.IntType(32), ir.IntType(64)

# Columns that are transposed at once: a tile holds a multiple of them.
COLUMNS = 8


def _transpose(row: Row, start: int, stride: int, tile: Row, place: int) -> None:
    for i in range(COLUMNS):
        column = row[start + i : start + i + (LANES - 1) * stride + 1 : stride]
        tile[place + i * LANES : place + (i + 1) * LANES] = column


@native(_transpose)
def transpose(_: Context, row: Type, start: Type, stride: Type, tile: Type, place: Type) -> Typed:
    """Copy 8 columns of 64 rows, which begin `stride` elements apart in `row`, to `place`, one after the other."""

    def codegen(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
        source = make_array(signature.args[0])(context, builder, args[0]).data
        target = make_array(signature.args[3])(context, builder, args[3]).data
        element = context.get_data_type(signature.args[0].dtype)
        for first in range(0, LANES, 2 * COLUMNS):
            halves = []
            for half in (first, first + COLUMNS):
                starts = [builder.add(args[1], builder.mul(args[2], _I64(half + i))) for i in range(COLUMNS)]
                halves.append(_columns(builder, [builder.gep(source, [start]) for start in starts], element))
            for i, pair in enumerate(zip(*halves, strict=True)):  # one store of 16, because the next reader loads 16
                both = builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(_I32, 16), list(range(16))))
                place = builder.gep(target, [builder.add(args[4], _I64(i * LANES + first))])
                stored = builder.store(both, builder.bitcast(place, both.type.as_pointer()))
                stored.align = context.get_abi_sizeof(element)
        return context.get_dummy_value()

    return types.void(row, types.intp, types.intp, tile, types.intp), codegen


def _columns(builder: IRBuilder, pointers: list[Value], element: ir.Type) -> list[Value]:
    """Load 8 elements at each of 8 pointers and transpose them, exchanging halves between pairs in three rounds."""
    vectors = []
    for pointer in pointers:
        vector = builder.load(builder.bitcast(pointer, ir.VectorType(element, COLUMNS).as_pointer()))
        vector.align = 4 if element == ir.FloatType() else 8
        vectors.append(vector)
    # The lanes of a pair that make up its new first and second vector; the last round exchanges whole halves of 4.
    for distance, low, high in (
        (1, [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]),
        (2, [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]),
        (4, [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]),
    ):
        mixed = list(vectors)
        for i in range(COLUMNS):
            if not i & distance:
                pair = vectors[i], vectors[i + distance]
                for j, lanes in ((i, low), (i + distance, high)):
                    mixed[j] = builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(_I32, COLUMNS), lanes))
        vectors = mixed
    # Row 4a + 2b + c of the result stands where the exchanges have left it: at 4a + b + 2c.
    return [vectors[i & 4 | (i & 1) << 1 | (i & 2) >> 1] for i in range(COLUMNS)]


# Elements of a row that are added at once: a register of AVX-512.
STRIP = 16


def _sum_rows(rows: Row, length: int, sums: Row, place: int) -> None:
    whole = length - length % STRIP
    for i in range(LANES):
        row = rows[i * length : (i + 1) * length]
        total = np.zeros(STRIP, rows.dtype)
        total[: length - whole] = row[whole:]
        for first in range(0, whole, STRIP):
            total += row[first : first + STRIP]
        while total.size > 1:
            total = total[: total.size // 2] + total[total.size // 2 :]
        sums[place + i] = total[0]


@native(_sum_rows)
def sum_rows(_: Context, rows: Type, length: Type, sums: Type, place: Type) -> Typed:
    """Sum each of 64 rows, which lie one after the other. Up to 16 elements past the last one are read as well."""

    def codegen(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
        source, target = (make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2))
        element = context.get_data_type(signature.args[0].dtype)
        strip, align = ir.VectorType(element, STRIP), context.get_abi_sizeof(element)

        def load(row: Value, number: Value) -> Value:
            first = builder.gep(row, [builder.mul(number, _I64(STRIP))])
            loaded = builder.load(builder.bitcast(first, strip.as_pointer()))
            loaded.align = align
            return loaded

        num_whole, num_rest = (part(args[1], _I64(STRIP)) for part in (builder.udiv, builder.urem))
        lane = ir.Constant(ir.VectorType(_I64, STRIP), list(range(STRIP)))
        rest = builder.icmp_unsigned("<", lane, splat(builder, num_rest, STRIP))
        with cgutils.for_range(builder, _I64(LANES // STRIP)) as group:
            first = builder.mul(group.index, _I64(STRIP))
            rows = [builder.gep(source, [builder.mul(args[1], builder.add(first, _I64(i)))]) for i in range(STRIP)]
            lasts = [builder.select(rest, load(row, num_whole), ir.Constant(strip, None)) for row in rows]
            totals = [cgutils.alloca_once_value(builder, last) for last in lasts]
            with cgutils.for_range(builder, num_whole) as step:
                for row, total in zip(rows, totals, strict=True):
                    builder.store(builder.fadd(builder.load(total), load(row, step.index)), total)
            vectors, distance = [builder.load(total) for total in totals], STRIP
            while distance > 1:
                distance //= 2
                pairs = zip(vectors[:distance], vectors[distance:], strict=True)
                vectors = [_crossed(builder, x, y, distance) for x, y in pairs]
            there = builder.gep(target, [builder.add(args[3], first)])
            builder.store(vectors[0], builder.bitcast(there, strip.as_pointer())).align = align
        return context.get_dummy_value()

    return types.void(rows, types.intp, sums, types.intp), codegen


def _crossed(builder: IRBuilder, x: Value, y: Value, distance: int) -> Value:
    """Add lanes `distance` apart: those of `x` into the lanes without this bit, those of `y` into the others."""
    own = [lane + (STRIP if lane & distance else 0) for lane in range(STRIP)]
    chosen = (ir.Constant(ir.VectorType(_I32, STRIP), lanes) for lanes in (own, [lane ^ distance for lane in own]))
    return builder.fadd(*(builder.shuffle_vector(x, y, lanes) for lanes in chosen))
