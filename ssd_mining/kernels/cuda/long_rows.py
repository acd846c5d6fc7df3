"""Rows too long for the registers of one block, a chunk of them in each: the stages of `cuda_rows`, one by one.

Between two launches a histogram of every long row is in the memory of the device. *Count*: every block adds the
digits of its chunk. *Advance*: one block per row looks up the next digit of the easiest kept negative; after the
digits of its key come those of the anchor index, where ties are cut. *Sum*: every block sums its chunk. *Finish*: the
sums of the chunks are added up in order. Shorter rows are left alone, so that a row is mined in the same way, and has
the same bits, whatever stands beside it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ssd_mining.kernels.cuda import runtime as _cuda
from ssd_mining.kernels.cuda.digits import (
    BAD,
    DIGIT_BITS,
    IGNORED,
    NAN,
    NUM_BINS,
    NUM_SHARED,
    POSITIVE,
    SEGMENTS,
    THREADS,
    bin_of,
    clear,
    codec,
    find,
)
from ssd_mining.kernels.cuda.runtime import Stream, cuda
from ssd_mining.kernels.cuda.short_rows import RAGGED_GROUP, finish, keep, keeper, loader, signature, span, totals

Allocate = Callable[[tuple[int, ...], Any], _cuda.DeviceArray]

NUM_KEYS = 8
CHUNK = NUM_KEYS * THREADS

# An anchor index, counted from behind, in three digits.
INDEX_BITS = 3 * DIGIT_BITS
LAST = 2**INDEX_BITS - 1

# What is known of a row between two launches.
WANTED, BACK, CUT, FLAWS_NAN, FLAWS_BAD, NUM_STATE = range(6)


class Scratch(NamedTuple):
    """What a row remembers from launch to launch: addresses, and a few numbers."""

    histograms: Any  # (B, NUM_BINS)
    keys: Any  # (B,) the digits found so far, in the end the key of the easiest kept negative
    states: Any  # (B, NUM_STATE)
    sums: Any  # (B, chunks, 2)
    num_chunks: int  # of the longest row
    shortest: int  # rows of at least so many anchors are long


class Stage(NamedTuple):
    """Which digit is looked for: how far up it and what is known above it begin; whether it is one of the index."""

    low: int
    width: int
    of_index: int


def stages(bits: int) -> list[Stage]:
    """Return the digits of a key, then those of an index."""
    lows = [*range(bits - DIGIT_BITS, 0, -DIGIT_BITS), 0]
    widths = [high - low for high, low in zip([bits, *lows], lows, strict=False)]
    of_key = [Stage(low, width, 0) for low, width in zip(lows, widths, strict=True)]
    return of_key + [Stage(low, DIGIT_BITS, 1) for low in range(INDEX_BITS - DIGIT_BITS, -1, -DIGIT_BITS)]


@_cuda.helper
def chunk_of(rows, scratch):
    """Say which sample and chunk this block has, where it begins, and how many anchors it has; 0: none."""
    sample, chunk = cuda.blockIdx.x // scratch.num_chunks, cuda.blockIdx.x % scratch.num_chunks
    start, size = span(rows, sample)
    size = min(size - chunk * CHUNK, CHUNK) if size >= scratch.shortest else 0
    return sample, chunk, start + chunk * CHUNK, np.int32(max(size, 0))


@_cuda.helper
def digit_of(key, place, known, stage):
    """Say whether an anchor has the digits that are known, and which one it has at this stage."""
    prefix, back = known
    if stage.of_index:
        fits, rest = key == prefix and (place >> (stage.low + stage.width)) == back, place >> stage.low
    else:
        fits, rest = (key >> (stage.low + stage.width)) == prefix, np.int64(key >> stage.low)
    return fits, rest & ((1 << stage.width) - 1)


@_cuda.helper
def hand_over(histogram, scratch, sample):
    """Add the histogram of a chunk to that of its row."""
    for i in range(cuda.threadIdx.x, NUM_BINS, THREADS):
        if histogram[i] > 0:
            _cuda.atomic_add(scratch.histograms, sample * NUM_BINS + i, histogram[i])


def build_count(dtype: np.dtype[Any], *, ranked: bool, first: bool) -> Callable[..., None]:
    """Return the kernel that counts one digit of every chunk; the first also looks for flaws."""
    unsigned = codec(dtype).unsigned
    load = loader(dtype, ranked=ranked)

    def count(rows, rule, scratch, stage):
        histogram = cuda.shared.array(NUM_BINS, np.uint32)
        shared = cuda.shared.array(NUM_SHARED, np.int32)
        keys = cuda.local.array(NUM_KEYS, unsigned)
        sample, chunk, start, size = chunk_of(rows, scratch)
        thread, state = cuda.threadIdx.x, sample * NUM_STATE
        if size == 0 or (not first and scratch.states[state + WANTED] == 0):
            return
        if thread < NUM_SHARED:
            shared[thread] = 0
        clear(histogram)
        for last in range(NUM_KEYS, 0, -RAGGED_GROUP):
            load(rows, rule.omit_nan, (start, size, (last - RAGGED_GROUP, last)), keys, histogram, shared)
            cuda.syncthreads()
        if first:
            if thread == 0:
                _cuda.atomic_add(scratch.states, state + FLAWS_NAN, np.int64(shared[NAN]))
                _cuda.atomic_add(scratch.states, state + FLAWS_BAD, np.int64(shared[BAD]))
        else:
            clear(histogram)
            prefix, back = scratch.keys[sample], scratch.states[state + BACK]
            for j in range(NUM_KEYS):
                place = LAST - (chunk * CHUNK + thread + j * THREADS)
                fits, digit = digit_of(keys[j], place, (prefix, back), stage)
                if fits:
                    cuda.atomic.add(histogram, bin_of(digit), 1)
            cuda.syncthreads()
        hand_over(histogram, scratch, sample)

    return count


def build_advance(dtype: np.dtype[Any], *, first: bool) -> Callable[..., None]:
    """Return the kernel that looks up one digit for every row; the first also says how many negatives are kept."""
    unsigned, _, highest, _, _ = codec(dtype)

    def advance(rows, rule, mined, scratch, stage):
        histogram = cuda.shared.array(NUM_BINS, np.uint32)
        segments = cuda.shared.array(SEGMENTS, np.int32)
        shared = cuda.shared.array(NUM_SHARED, np.int32)
        sample, thread = cuda.blockIdx.x, cuda.threadIdx.x
        _, size = span(rows, sample)
        state = sample * NUM_STATE
        if size < scratch.shortest:
            return
        for i in range(thread, NUM_BINS, THREADS):
            histogram[i] = scratch.histograms[sample * NUM_BINS + i]
            scratch.histograms[sample * NUM_BINS + i] = 0
        shared[NAN], shared[BAD] = scratch.states[state + FLAWS_NAN], scratch.states[state + FLAWS_BAD]
        wanted, prefix, back = scratch.states[state + WANTED], scratch.keys[sample], scratch.states[state + BACK]
        cuda.syncthreads()
        if first:
            num_pos = histogram[POSITIVE]
            num_neg = (size + CHUNK - 1) // CHUNK * CHUNK - histogram[IGNORED] - num_pos
            wanted, prefix, back = np.int64(keep(rows, rule, mined, (num_pos, num_neg), shared)), unsigned(0), 0
        if wanted == 0:  # of the row, or of the ties: then all of those are kept
            if first and thread == 0:
                scratch.keys[sample], scratch.states[state + WANTED], scratch.states[state + CUT] = highest, 0, -1
            return
        digit, above, number = find(histogram, segments, shared, np.int32(wanted))
        if thread == 0:
            scratch.states[state + WANTED] = wanted - above
            if stage.of_index:
                back = (back << stage.width) | digit
                scratch.states[state + BACK] = back
                scratch.states[state + CUT] = LAST - back
            else:
                scratch.keys[sample] = unsigned(unsigned(prefix << stage.width) | unsigned(digit))
                scratch.states[state + BACK] = 0
                scratch.states[state + CUT] = LAST
                if stage.low == 0 and number == wanted - above:
                    scratch.states[state + WANTED] = 0

    return advance


def build_sum(dtype: np.dtype[Any], *, ranked: bool, masked: bool) -> Callable[..., None]:
    """Return the kernel that sums every chunk, and writes its masks."""
    unsigned, load = codec(dtype).unsigned, loader(dtype, ranked=ranked)
    sum_kept = keeper(dtype, ranked=ranked, masked=masked)

    def sum_chunks(rows, rule, mined, scratch):
        histogram = cuda.shared.array(NUM_BINS, np.uint32)
        lanes = cuda.shared.array((2, THREADS), np.float64)
        sums = cuda.shared.array(2, np.float64)
        shared = cuda.shared.array(NUM_SHARED, np.int32)
        keys = cuda.local.array(NUM_KEYS, unsigned)
        sample, chunk, start, size = chunk_of(rows, scratch)
        if size == 0:
            return
        thread = cuda.threadIdx.x
        lanes[0, thread] = load(rows, rule.omit_nan, (start, size, (0, NUM_KEYS)), keys, histogram, shared)
        own_cut = scratch.states[sample * NUM_STATE + CUT] - chunk * CHUNK  # as the chunk counts its anchors
        lanes[1, thread] = sum_kept(rows, mined, keys, (start, size), (scratch.keys[sample], own_cut))
        totals(lanes, sums)
        if thread < 2:
            scratch.sums[2 * cuda.blockIdx.x + thread] = sums[thread]

    return sum_chunks


def build_finish(dtype: np.dtype[Any]) -> Callable[..., None]:
    """Return the kernel that adds up the chunks of every row in their order."""
    decode = codec(dtype).decode

    def finish_rows(rows, mined, scratch):
        sample = cuda.blockIdx.x
        _, size = span(rows, sample)
        if size < scratch.shortest or cuda.threadIdx.x > 0:
            return
        positive_sum, negative_sum = np.float64(0.0), np.float64(0.0)
        first = sample * scratch.num_chunks
        for chunk in range(first, first + (size + CHUNK - 1) // CHUNK):
            positive_sum += scratch.sums[2 * chunk]
            negative_sum += scratch.sums[2 * chunk + 1]
        finish(mined, sample, (positive_sum, negative_sum, decode(scratch.keys[sample])))

    return finish_rows


def erase(scratch):
    """Set the histogram and the state of every row to 0: a kernel."""
    sample, thread = cuda.blockIdx.x, cuda.threadIdx.x
    for i in range(thread, NUM_BINS, THREADS):
        scratch.histograms[sample * NUM_BINS + i] = 0
    if thread < NUM_STATE:
        scratch.states[sample * NUM_STATE + thread] = 0


class Kernels(NamedTuple):
    """The kernels of long rows of one type of loss and labels."""

    erase: _cuda.Kernel
    count_first: _cuda.Kernel
    count_next: _cuda.Kernel
    advance_first: _cuda.Kernel
    advance_next: _cuda.Kernel
    sum_chunks: _cuda.Kernel
    finish_rows: _cuda.Kernel


@functools.cache
def kernels(dtype: np.dtype[Any], labels: np.dtype[Any], *, ranked: bool, masked: bool) -> Kernels:
    """Return the kernels of long rows."""
    rows, rule, mined = signature(dtype, labels)
    integer = _cuda.types.int64
    scratch = _cuda.record(
        Scratch,
        histograms=_cuda.pointer(np.uint32),
        keys=_cuda.pointer(codec(dtype).unsigned),
        states=_cuda.pointer(np.int64),
        sums=_cuda.pointer(np.float64),
        num_chunks=integer,
        shortest=integer,
    )
    stage = _cuda.record(Stage, **dict.fromkeys(Stage._fields, integer))
    counts = [build_count(dtype, ranked=ranked, first=first) for first in (True, False)]
    advances = [build_advance(dtype, first=first) for first in (True, False)]
    all_kernels = (
        _cuda.Kernel(erase, scratch),
        *(_cuda.Kernel(function, rows, rule, scratch, stage) for function in counts),
        *(_cuda.Kernel(function, rows, rule, mined, scratch, stage) for function in advances),
        _cuda.Kernel(build_sum(dtype, ranked=ranked, masked=masked), rows, rule, mined, scratch),
        _cuda.Kernel(build_finish(dtype), rows, mined, scratch),
    )
    return Kernels(*all_kernels)


def scratch(shape: tuple[int, int], dtype: np.dtype[Any], shortest: int, allocate: Allocate) -> Scratch:
    """Allocate what so many rows, of which the longest has so many anchors, remember between launches."""
    num_samples, longest = shape
    num_chunks = -(-longest // CHUNK)
    return Scratch(
        histograms=allocate((num_samples, NUM_BINS), np.uint32),
        keys=allocate((num_samples,), codec(dtype).unsigned),
        states=allocate((num_samples, NUM_STATE), np.int64),
        sums=allocate((num_samples, num_chunks, 2), np.float64),
        num_chunks=num_chunks,
        shortest=shortest,
    )


def launch(kernels: Kernels, arguments: tuple[Any, Any, Any], own: Scratch, num_samples: int, stream: Stream) -> None:
    """Enqueue all launches for the long ones of some rows."""
    rows, rule, mined = arguments
    remembered = own._replace(**{name: _cuda.argument(getattr(own, name)) for name in Scratch._fields[:4]})
    num_blocks = num_samples * own.num_chunks
    kernels.erase.launch(num_samples, stream, remembered)
    for number, stage in enumerate(stages(8 * own.keys.dtype.itemsize)):
        count = kernels.count_next if number else kernels.count_first
        advance = kernels.advance_next if number else kernels.advance_first
        count.launch(num_blocks, stream, rows, rule, remembered, stage)
        advance.launch(num_samples, stream, rows, rule, mined, remembered, stage)
    kernels.sum_chunks.launch(num_blocks, stream, rows, rule, mined, remembered)
    kernels.finish_rows.launch(num_samples, stream, rows, mined, remembered)
