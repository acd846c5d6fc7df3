"""Sixty-four anchors at a time: compare a block of a row, get one bit per anchor.

Plain loops that compact or branch per anchor cost 3 microseconds per row of 8732; these words cost a tenth of that
(benchmarks/test_mining.py). Each function lowers to a few instructions on AVX-512, AVX2 and generic x86 alike. Blocks
that reach past the end of their row, and every block when Numba's JIT is off, take a plain loop.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import config, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

from ssd_mining._jit import helper, inlined

LANES = 64

# Asked for ahead of use: costs nothing from the cache, twice as fast from memory (benchmarks/test_mining.py, 24564).
PREFETCH_BYTES = 8192

ONE = np.uint64(1)
_JITTED = not config.DISABLE_JIT
_I1, _I8, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))

Row = NDArray[Any]
Word = Any  # np.uint64: bit i speaks of the element start + i


def _block(context: Any, builder: Any, row_type: Any, row: Any, start: Any) -> tuple[Any, Any, int]:
    """Return a pointer to 64 elements as one vector, the vector's type, and the size of an element."""
    element = context.get_data_type(row_type.dtype)
    vector = ir.VectorType(element, LANES)
    data = make_array(row_type)(context, builder, row).data
    pointer = builder.bitcast(builder.gep(data, [start]), vector.as_pointer())
    return pointer, vector, context.get_abi_sizeof(element)


def _load(context: Any, builder: Any, row_type: Any, row: Any, start: Any) -> Any:
    pointer, _, size = _block(context, builder, row_type, row, start)
    loaded = builder.load(pointer)
    loaded.align = size  # rows start anywhere: only the elements are aligned
    return loaded


def _splat(builder: Any, value: Any) -> Any:
    vector = ir.VectorType(value.type, LANES)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))


def _comparison(operator: str) -> Any:
    """Make the intrinsic ``(row, start, value) -> word``; on floats the comparison is also true of NaN."""

    def compare(_: Any, row: Any, start: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            block = _load(context, builder, signature.args[0], args[0], args[1])
            is_float = isinstance(signature.args[0].dtype, types.Float)
            method = builder.fcmp_unordered if is_float else builder.icmp_unsigned
            return builder.bitcast(method(operator, block, _splat(builder, args[2])), _I64)

        return types.uint64(row, types.intp, row.dtype), codegen

    return intrinsic(compare)


_reaching64 = _comparison(">=")
_above64 = _comparison(">")
_equal64 = _comparison("==")


@intrinsic
def _sum64(_: Any, row: Any, start: Any, word: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block = _load(context, builder, signature.args[0], args[0], args[1])
        chosen = builder.bitcast(args[2], ir.VectorType(_I1, LANES))
        block = builder.select(chosen, block, ir.Constant(block.type, None))
        if block.type.element != ir.DoubleType():
            block = builder.fpext(block, ir.VectorType(ir.DoubleType(), LANES))
        lanes = LANES
        while lanes > 1:  # halves onto each other: one fixed tree of additions on every processor
            lanes //= 2
            low, high = (_part(builder, block, first, lanes) for first in (0, lanes))
            block = builder.fadd(low, high)
        return builder.extract_element(block, _I32(0))

    return types.float64(row, types.intp, types.uint64), codegen


def _part(builder: Any, vector: Any, first: int, number: int) -> Any:
    indices = ir.Constant(ir.VectorType(_I32, number), list(range(first, first + number)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), indices)


@intrinsic
def _store64(_: Any, mask: Any, start: Any, word: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, vector, size = _block(context, builder, signature.args[0], args[0], args[1])
        bits = builder.bitcast(args[2], ir.VectorType(_I1, LANES))
        builder.store(builder.zext(bits, vector), pointer).align = size
        return context.get_dummy_value()

    return types.void(mask, types.intp, types.uint64), codegen


@intrinsic
def _prefetch64(_: Any, row: Any, start: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, _, size = _block(context, builder, signature.args[0], args[0], args[1])
        pointer = builder.bitcast(pointer, _I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        for line in range(size):  # 64 elements of so many bytes are as many cache lines of 64 bytes
            ahead = builder.gep(pointer, [_I64(PREFETCH_BYTES + line * LANES)])
            builder.call(function, [ahead, _I32(0), _I32(3), _I32(1)])  # to read, keep in all caches, data
        return context.get_dummy_value()

    return types.void(row, types.intp), codegen


@intrinsic
def _count64(_: Any, word: Any) -> Any:
    return types.intp(types.uint64), lambda _context, builder, _signature, args: builder.ctpop(args[0])


@intrinsic
def _lowest64(_: Any, word: Any) -> Any:
    return types.intp(types.uint64), lambda _context, builder, _signature, args: builder.cttz(args[0], _I1(0))


@inlined
def reaching(row: Row, start: int, value: Any) -> Word:
    """Bits of the elements that are not below `value`; NaN is not below anything."""
    if _JITTED and start + LANES <= row.shape[0]:
        return _reaching64(row, start, value)
    return _reaching_tail(row, start, value)


@helper
def _reaching_tail(row: Row, start: int, value: Any) -> Word:
    word = np.uint64(0)
    for j in range(start, min(start + LANES, row.shape[0])):
        word |= np.uint64(not (row[j] < value)) << np.uint64(j - start)
    return word


@inlined
def above(row: Row, start: int, value: Any) -> Word:
    """Bits of the elements that are above `value`, NaN among them."""
    if _JITTED and start + LANES <= row.shape[0]:
        return _above64(row, start, value)
    return _above_tail(row, start, value)


@helper
def _above_tail(row: Row, start: int, value: Any) -> Word:
    word = np.uint64(0)
    for j in range(start, min(start + LANES, row.shape[0])):
        word |= np.uint64(not (row[j] <= value)) << np.uint64(j - start)
    return word


@inlined
def equal(row: Row, start: int, value: Any) -> Word:
    """Bits of the integers that equal `value`."""
    if _JITTED and start + LANES <= row.shape[0]:
        return _equal64(row, start, value)
    return _equal_tail(row, start, value)


@helper
def _equal_tail(row: Row, start: int, value: Any) -> Word:
    word = np.uint64(0)
    for j in range(start, min(start + LANES, row.shape[0])):
        word |= np.uint64(row[j] == value) << np.uint64(j - start)
    return word


@inlined
def nan(row: Row, start: int) -> Word:
    """Bits of the NaN: what is above +inf."""
    return above(row, start, row.dtype.type(np.inf))


@inlined
def inside(row: Row, start: int) -> Word:
    """Bits of the elements that exist: all but those past the end of the row."""
    if start + LANES <= row.shape[0]:
        return ~np.uint64(0)
    return (ONE << np.uint64(row.shape[0] - start)) - ONE


@inlined
def total(row: Row, start: int, word: Word) -> Any:
    """Sum the elements whose bits are set, in float64; the block must lie inside the row."""
    if _JITTED:
        return _sum64(row, start, word)
    chosen = [row[start + i] for i in range(LANES) if (word >> np.uint64(i)) & ONE]
    return np.float64(np.sum(chosen, dtype=np.float64))


@inlined
def store(mask: Row, start: int, word: Word) -> None:
    """Write the bits of a word as 64 booleans."""
    if _JITTED and start + LANES <= mask.shape[0]:
        _store64(mask, start, word)
    else:
        _store_tail(mask, start, word)


@helper
def _store_tail(mask: Row, start: int, word: Word) -> None:
    for j in range(start, min(start + LANES, mask.shape[0])):
        mask[j] = (word >> np.uint64(j - start)) & ONE != 0


@inlined
def prefetch(row: Row, start: int) -> None:
    """Ask for a block some pages ahead of this one; any address is safe to ask for."""
    if _JITTED:
        _prefetch64(row, start)


@inlined
def count(word: Word) -> Any:
    """Count the bits that are set."""
    if _JITTED:
        return _count64(word)
    return int(word).bit_count()


@inlined
def lowest(word: Word) -> Any:
    """Find the lowest bit that is set; 64 where none is."""
    if _JITTED:
        return _lowest64(word)
    return (int(word) & -int(word)).bit_length() - 1 if word else LANES


@helper
def first(word: Word, number: int) -> Word:
    """Return the word with only the lowest `number` of its set bits."""
    kept = np.uint64(0)
    for _ in range(number):
        kept |= word & ~(word - ONE)
        word &= word - ONE
    return kept
