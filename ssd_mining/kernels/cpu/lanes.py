"""SIMD on 64 anchors: words of comparisons, compaction, prefetching; and a counter that threads share.

Loops that branch or compact per anchor cost several times as much (docs/decisions/0004-words.md). Each function is an
LLVM intrinsic of a few lines that lowers well on AVX-512, AVX2 and generic x86. With Numba's JIT off, the plain Python
function before it takes its place.

A row has at least 64 elements. Its last block may reach past its end; the bits past the end are 0.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.ir import IRBuilder, Value
from numba.core import cgutils, config, types
from numba.core.base import BaseContext
from numba.core.types import Array, Type
from numba.core.typing import Context, Signature
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

LANES = 64
ONE = np.uint64(1)

# How far ahead to prefetch, into the L2 cache: costs little, halves a pass over a batch in memory (0004-words.md).
PREFETCH_BYTES = 8192

Row = NDArray[Any]
Word = np.uint64  # bit i stands for the element start + i
Typed = tuple[Signature, Callable[..., Value]]  # what an intrinsic is: its types, and what writes its code

_I1, _I8, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
_DOUBLE = ir.DoubleType()


def native(plain: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Decorate the typing function of an intrinsic. With the JIT off, `plain` takes its place."""
    return lambda typing: plain if config.DISABLE_JIT else intrinsic(typing)


def _load(context: BaseContext, builder: IRBuilder, row_type: Array, row: Value, start: Value) -> tuple[Value, Value]:
    """Load 64 elements. Return them, and by how many elements the block was moved back to stay inside the row."""
    view = make_array(row_type)(context, builder, row)
    last = builder.sub(cgutils.unpack_tuple(builder, view.shape)[0], _I64(LANES))
    first = builder.select(builder.icmp_signed("<", start, last), start, last)
    element = context.get_data_type(row_type.dtype)
    vector = ir.VectorType(element, LANES)
    block = builder.load(builder.bitcast(builder.gep(view.data, [first]), vector.as_pointer()))
    block.align = context.get_abi_sizeof(element)  # a row may start at any element
    return block, builder.sub(start, first)


def splat(builder: IRBuilder, value: Value, number: int = LANES) -> Value:
    """Build a vector of a value, `number` times."""
    undefined = ir.Constant(ir.VectorType(value.type, number), ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, number), [0] * number))


def _comparison(operator: str, plain: Callable[[Row, float], NDArray[np.bool_]]) -> Any:
    """Make ``(row, start, value) -> word``. A comparison of floats is also true for NaN."""

    def in_python(row: Row, start: int, value: float) -> Word:
        bits = plain(row[start : start + LANES], value)
        return np.uint64(sum(int(bit) << i for i, bit in enumerate(bits)))

    @native(in_python)
    def compare(_: Context, row: Array, start: Type, value: Type) -> Typed:
        def codegen(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
            block, moved = _load(context, builder, signature.args[0], args[0], args[1])
            is_float = isinstance(signature.args[0].dtype, types.Float)
            method = builder.fcmp_unordered if is_float else builder.icmp_unsigned
            word = builder.bitcast(method(operator, block, splat(builder, args[2])), _I64)
            return builder.lshr(word, moved)

        return types.uint64(row, types.intp, row.dtype), codegen

    return compare


reaching = _comparison(">=", lambda block, value: ~(block < value))
above = _comparison(">", lambda block, value: ~(block <= value))
equal = _comparison("==", lambda block, value: block == value)


def _total(row: Row, start: int, word: Word) -> np.float64:
    chosen = [row[start + i] for i in range(LANES) if int(word) >> i & 1]
    return np.float64(np.sum(chosen, dtype=np.float64))


@native(_total)
def total(_: Context, row: Type, start: Type, word: Type) -> Typed:
    """Sum the elements whose bits are set, in float64. The block must not reach past the end of the row."""

    def codegen(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
        block, _ = _load(context, builder, signature.args[0], args[0], args[1])
        chosen = builder.bitcast(args[2], ir.VectorType(_I1, LANES))
        block = builder.select(chosen, block, ir.Constant(block.type, None))
        if block.type.element != _DOUBLE:
            block = builder.fpext(block, ir.VectorType(_DOUBLE, LANES))
        return _folded(builder, block, builder.fadd)

    return types.float64(row, types.intp, types.uint64), codegen


def _least(row: Row, start: int, value: float) -> np.float64:
    block = row[start : start + LANES]
    return np.float64(np.min(block[block >= value], initial=np.inf))


@native(_least)
def least(_: Context, row: Array, start: Type, value: Type) -> Typed:
    """Return the smallest element that is at least `value`, ignoring NaN; inf where there is none."""

    def codegen(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
        block, _ = _load(context, builder, signature.args[0], args[0], args[1])
        reaches = builder.fcmp_ordered(">=", block, splat(builder, args[2]))
        block = builder.select(reaches, block, ir.Constant(block.type, [float("inf")] * LANES))
        least = _folded(builder, block, lambda a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b))
        return least if least.type == _DOUBLE else builder.fpext(least, _DOUBLE)

    return types.float64(row, types.intp, row.dtype), codegen


def _largest(row: Row, start: int, word: Word) -> np.float64:
    chosen = [row[start + i] for i in range(LANES) if int(word) >> i & 1]
    return np.float64(np.fmax.reduce(chosen, initial=-np.inf))


@native(_largest)
def largest(_: Context, row: Array, start: Type, word: Type) -> Typed:
    """Return the largest of the elements whose bits are set, ignoring NaN; -inf where there is none.

    The block must not reach past the end of the row.
    """

    def codegen(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
        block, _ = _load(context, builder, signature.args[0], args[0], args[1])
        chosen = builder.bitcast(args[2], ir.VectorType(_I1, LANES))
        chosen = builder.and_(chosen, builder.fcmp_ordered("==", block, block))
        block = builder.select(chosen, block, ir.Constant(block.type, [float("-inf")] * LANES))
        largest = _folded(builder, block, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
        return largest if largest.type == _DOUBLE else builder.fpext(largest, _DOUBLE)

    return types.float64(row, types.intp, types.uint64), codegen


def _folded(builder: IRBuilder, block: Value, pair: Callable[[Value, Value], Value]) -> Value:
    """Reduce a block to one element, halving it again and again: the same tree on every processor."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        block = pair(_part(builder, block, 0, lanes), _part(builder, block, lanes, lanes))
    return builder.extract_element(block, _I32(0))


def _part(builder: IRBuilder, vector: Value, first: int, number: int) -> Value:
    indices = ir.Constant(ir.VectorType(_I32, number), list(range(first, first + number)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), indices)


def _store(mask: Row, start: int, word: Word) -> None:
    for j in range(start, min(start + LANES, mask.shape[0])):
        mask[j] = int(word) >> (j - start) & 1


@native(_store)
def store(_: Context, mask: Type, start: Type, word: Type) -> Typed:
    """Write the bits of a word as booleans, except those past the end of the mask."""

    def codegen(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
        old, moved = _load(context, builder, signature.args[0], args[0], args[1])
        # A block that was moved back covers booleans that are already written: keep them.
        lane = ir.Constant(ir.VectorType(_I64, LANES), list(range(LANES)))
        mine = builder.icmp_unsigned(">=", lane, splat(builder, moved))
        bits = builder.bitcast(builder.shl(args[2], moved), ir.VectorType(_I1, LANES))
        new = builder.select(mine, builder.zext(bits, old.type), old)
        data = make_array(signature.args[0])(context, builder, args[0]).data
        first = builder.gep(data, [builder.sub(args[1], moved)])
        builder.store(new, builder.bitcast(first, old.type.as_pointer())).align = 1
        return context.get_dummy_value()

    return types.void(mask, types.intp, types.uint64), codegen


# Without AVX-512, elements are compacted in steps of 8, which need no branch for each one (0004-words.md).
STEPS = 8


def _compact(row: Row, start: int, word: Word, target: Row, place: int) -> None:
    chosen = [row[start + i] for i in range(LANES) if int(word) >> i & 1]
    target[place : place + len(chosen)] = chosen


@native(_compact)
def compact(_: Context, row: Type, start: Type, word: Type, target: Type, place: Type) -> Typed:
    """Copy the elements whose bits are set to `place`, side by side. Up to 64 elements there are overwritten."""

    def codegen(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
        source, copied = (make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3))
        if "+avx512f" in context.codegen().magic_tuple()[2].split(","):
            block, moved = _load(context, builder, signature.args[0], args[0], args[1])
            _pack(builder, block, builder.shl(args[2], moved), builder.gep(copied, [args[4]]))
        else:
            first, target = builder.gep(source, [args[1]]), builder.gep(copied, [args[4]])
            _step(builder, lambda lane: builder.load(builder.gep(first, [lane])), args[2], target)
        return context.get_dummy_value()

    return types.void(row, types.intp, types.uint64, target, types.intp), codegen


def _compact_places(start: int, word: Word, targets: tuple[Row, ...], place: int) -> None:
    chosen = [start + i for i in range(LANES) if int(word) >> i & 1]
    for target in targets:
        target[place : place + len(chosen)] = chosen


@native(_compact_places)
def compact_places(_: Context, start: Type, word: Type, targets: Type, place: Type) -> Typed:
    """Write `start` plus the place of every bit that is set to each of `targets`, in the way of `compact`."""

    def write(context: BaseContext, builder: IRBuilder, args: list[Value], row_type: Array, row: Value) -> None:
        element = context.get_data_type(row_type.dtype)
        target = builder.gep(make_array(row_type)(context, builder, row).data, [args[3]])
        start = builder.trunc(args[0], element)
        if "+avx512f" in context.codegen().magic_tuple()[2].split(","):
            lane = ir.Constant(ir.VectorType(element, LANES), list(range(LANES)))
            _pack(builder, builder.add(lane, splat(builder, start)), args[1], target)
        else:
            _step(builder, lambda lane: builder.add(start, builder.trunc(lane, element)), args[1], target)

    def codegen(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
        for row_type, row in zip(signature.args[2], cgutils.unpack_tuple(builder, args[2]), strict=True):
            write(context, builder, args, row_type, row)
        return context.get_dummy_value()

    return types.void(types.intp, types.uint64, targets, types.intp), codegen


def _pack(builder: IRBuilder, block: Value, word: Value, target: Value) -> None:
    """Compact one register of 64 bytes at a time, by one instruction."""
    kinds = {ir.FloatType(): ("f32", 4), _DOUBLE: ("f64", 8), _I32: ("i32", 4), _I64: ("i64", 8)}
    name, size = kinds[block.type.element]
    width = LANES // size
    whole = ir.VectorType(block.type.element, width)
    kind = ir.FunctionType(whole, [whole, whole, ir.VectorType(_I1, width)])
    compress = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.avx512.mask.compress.v{width}{name}")
    for first in range(0, LANES, width):
        part = _part(builder, block, first, width)
        bits = builder.trunc(builder.lshr(word, _I64(first)), ir.IntType(width))
        mask = builder.bitcast(bits, ir.VectorType(_I1, width))
        packed = builder.call(compress, [part, ir.Constant(whole, None), mask])
        builder.store(packed, builder.bitcast(target, whole.as_pointer())).align = size
        target = builder.gep(target, [builder.zext(builder.ctpop(bits), _I64)])


def _step(builder: IRBuilder, element: Callable[[Value], Value], word: Value, target: Value) -> None:
    """Copy one element after the other, in rounds of `STEPS`: a branch on their number would often be mispredicted."""
    left = cgutils.alloca_once_value(builder, word)
    last = builder.sub(builder.ctpop(builder.or_(word, _I64(1))), _I64(1))
    rounds = builder.add(builder.udiv(last, _I64(STEPS)), _I64(1))
    with cgutils.for_range(builder, rounds) as loop:
        first = builder.mul(loop.index, _I64(STEPS))
        for step in range(STEPS):
            bits = builder.load(left)
            # With no bit left, copy the first element: it is overwritten later, or lies after the others.
            lane = builder.and_(builder.cttz(bits, _I1(0)), _I64(LANES - 1))
            place = builder.gep(target, [builder.add(first, _I64(step))])
            builder.store(element(lane), place)
            builder.store(builder.and_(bits, builder.sub(bits, _I64(1))), left)


def _copy(row: Row, start: int, target: Row, place: int) -> None:
    target[place : place + LANES] = row[start : start + LANES]


@native(_copy)
def copy(_: Context, row: Type, start: Type, target: Type, place: Type) -> Typed:
    """Copy 64 elements. A loop would not be vectorised, because the two arrays could overlap."""

    def codegen(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
        element = context.get_data_type(signature.args[0].dtype)
        source, copied = (
            builder.bitcast(
                builder.gep(make_array(signature.args[i])(context, builder, args[i]).data, [args[i + 1]]),
                ir.VectorType(element, LANES).as_pointer(),
            )
            for i in (0, 2)
        )
        block = builder.load(source)
        block.align = context.get_abi_sizeof(element)
        builder.store(block, copied).align = context.get_abi_sizeof(element)
        return context.get_dummy_value()

    return types.void(row, types.intp, target, types.intp), codegen


def _prefetching(level: int, ahead: int) -> Any:
    """Make ``(row, start)``: prefetch 64 elements, `ahead` bytes after `start`. Any address is safe to prefetch."""

    @native(lambda _row, _start: None)
    def prefetch(_: Context, row: Type, start: Type) -> Typed:
        def codegen(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
            data = make_array(signature.args[0])(context, builder, args[0]).data
            pointer = builder.bitcast(builder.gep(data, [args[1]]), _I8.as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
            function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
            size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
            for line in range(size):  # 64 elements of `size` bytes are `size` cache lines
                there = builder.gep(pointer, [_I64(ahead + line * LANES)])
                builder.call(function, [there, _I32(0), _I32(4 - level), _I32(1)])  # to read; data
            return context.get_dummy_value()

        return types.void(row, types.intp), codegen

    return prefetch


prefetch = _prefetching(level=2, ahead=PREFETCH_BYTES)
prefetch_near = _prefetching(level=1, ahead=0)


@native(lambda word: int(word).bit_count())
def count(_: Context, word: Type) -> Typed:
    """Count the bits that are set."""
    return types.intp(types.uint64), lambda _context, builder, _signature, args: builder.ctpop(args[0])


@native(lambda word: (int(word) & -int(word)).bit_length() - 1 if word else LANES)
def lowest(_: Context, word: Type) -> Typed:
    """Return the place of the lowest bit that is set; 64 where none is."""
    return types.intp(types.uint64), lambda _context, builder, _signature, args: builder.cttz(args[0], _I1(0))


@native(lambda: None)
def use_wide_registers(_: Context) -> Typed:
    """Let LLVM vectorise the loops of the calling function in the widest registers, 64 bytes with AVX-512.

    On its own it takes half of them, for fear of a slower clock. A division costs the same in both; what surrounds it
    costs half as much.
    """

    def codegen(context: BaseContext, builder: IRBuilder, _signature: Signature, _args: list[Value]) -> Value:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite's own `add` knows few
        return context.get_dummy_value()

    return types.void(), codegen


_adding = threading.Lock()


def _fetch_add(counter: Row, amount: int) -> int:
    with _adding:
        counter[0] += amount
        return int(counter[0] - amount)


@native(_fetch_add)
def fetch_add(_: Context, counter: Type, amount: Type) -> Typed:
    """Add to the first element, whole while other threads do so too. Return what it was before."""

    def codegen(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
        data = make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, args[1], "acq_rel")

    return types.int64(counter, types.int64), codegen
