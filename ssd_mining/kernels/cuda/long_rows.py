"""Rows too long for the registers of one block, a chunk of them in each: the stages of `short_rows`, one by one.

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

from ssd_mining.kernels.cuda import digits, short_rows
from ssd_mining.kernels.cuda.digits import DIGIT_BITS, NUM_BINS, NUM_SHARED, codec
from ssd_mining.kernels.cuda.runtime import (
    THREADS,
    WARP,
    DeviceArray,
    Kernel,
    Library,
    atomic_add,
    cuda,
    helper,
    record,
)
from ssd_mining.kernels.cuda.short_rows import DeviceMined, DeviceRows, span
from ssd_mining.kernels.cuda.sums import totals
from ssd_mining.kernels.records import IGNORED, POSITIVE, Rule

NUM_KEYS = 8
CHUNK = NUM_KEYS * THREADS

# Keys that are made at once where they are counted, by the bytes of a rank: so 32 registers are enough for a thread,
# and two blocks run at once.
GROUP = {4: 4, 8: 8}

# An anchor index, counted from the end, in three digits.
INDEX_BITS = 3 * DIGIT_BITS
LAST = 2**INDEX_BITS - 1

# What is known of a row between two launches: how many elements of the current bin are wanted, the digits of the
# index found so far, the last anchor whose tie is kept, and how many anchors have NaN or a bad label.
WANTED, INDEX_PREFIX, CUT, ROW_NAN, ROW_BAD, NUM_STATE = range(6)


class Workspace(NamedTuple):
    """What long rows remember from launch to launch."""

    histograms: DeviceArray  # (B, NUM_BINS)
    keys: DeviceArray  # (B,) the digits found so far, in the end the key of the easiest kept negative
    states: DeviceArray  # (B, NUM_STATE)
    sums: DeviceArray  # (B, chunks, 2)
    num_chunks: int  # of the longest row
    shortest: int  # rows of at least this many anchors are long


class Digit(NamedTuple):
    """State of the radix select: shift and width of the current digit, and where it stands."""

    shift: int
    width: int
    is_first: int  # 1: the highest digit of the key
    of_index: int  # 1: a digit of the anchor index, after those of the key


def digits_of(bits: int) -> list[Digit]:
    """Return the digits of a key, from its highest on, then those of an index."""
    found: list[Digit] = []
    shift = bits
    while shift > 0:
        width = min(DIGIT_BITS, shift)
        shift -= width
        found.append(Digit(shift, width, is_first=int(not found), of_index=0))
    index_shifts = range(INDEX_BITS - DIGIT_BITS, -1, -DIGIT_BITS)
    return found + [Digit(shift, DIGIT_BITS, is_first=0, of_index=1) for shift in index_shifts]


@helper
def chunk_of(rows, workspace):
    """Say which sample and chunk this block has, where it begins, and how many anchors it has; 0: none."""
    sample, chunk = cuda.blockIdx.x // workspace.num_chunks, cuda.blockIdx.x % workspace.num_chunks
    start, size = span(rows, sample)
    size = min(size - chunk * CHUNK, CHUNK) if size >= workspace.shortest else 0
    return sample, chunk, start + chunk * CHUNK, np.int32(max(size, 0))


@helper
def digit_of(key, index, key_prefix, index_prefix, digit):
    """Say whether an anchor has the digits that are known, and return its current one."""
    if digit.of_index:
        fits, rest = (
            key == key_prefix and (index >> (digit.shift + digit.width)) == index_prefix,
            index >> digit.shift,
        )
    else:
        fits, rest = (key >> (digit.shift + digit.width)) == key_prefix, np.int64(key >> digit.shift)
    return fits, rest & ((1 << digit.width) - 1)


@helper
def hand_over(histogram, workspace, sample):
    """Add the histogram of a chunk to that of its row."""
    for i in range(cuda.threadIdx.x, NUM_BINS, THREADS):
        if histogram[i] > 0:
            atomic_add(workspace.histograms, sample * NUM_BINS + i, histogram[i])


def build_count(dtype: np.dtype[Any], *, ranked: bool) -> Callable[..., None]:
    """Return the kernel that counts one digit of every chunk, and at the first one the flaws."""
    unsigned, group = codec(dtype).unsigned, GROUP[dtype.itemsize]
    load = short_rows.loader(dtype, THREADS, ranked=ranked)

    def count(rows, rule, workspace, digit):
        histogram = cuda.shared.array(NUM_BINS, np.uint32)
        shared = cuda.shared.array(NUM_SHARED, np.int32)
        keys = cuda.local.array(NUM_KEYS, unsigned)
        sample, chunk, start, size = chunk_of(rows, workspace)
        thread, state = cuda.threadIdx.x, sample * NUM_STATE
        if size == 0 or workspace.states[state + WANTED] == 0:
            return
        if thread < NUM_SHARED:
            shared[thread] = 0
        digits.clear(histogram, THREADS)
        for first in range(NUM_KEYS - group, -1, -group):
            load(rows, rule.omit_nan, start, size, first, first + group, keys, histogram, shared)
            cuda.syncthreads()
        if digit.is_first:  # which was counted on the way
            if thread == 0:
                atomic_add(workspace.states, state + ROW_NAN, np.int64(shared[digits.WITH_NAN]))
                atomic_add(workspace.states, state + ROW_BAD, np.int64(shared[digits.WITH_BAD]))
        else:
            digits.clear(histogram, THREADS)
            key_prefix, index_prefix = workspace.keys[sample], workspace.states[state + INDEX_PREFIX]
            for j in range(NUM_KEYS):
                index = LAST - (chunk * CHUNK + thread + j * THREADS)
                fits, value = digit_of(keys[j], index, key_prefix, index_prefix, digit)
                if fits:
                    cuda.atomic.add(histogram, digits.bin_of(value), 1)
            cuda.syncthreads()
        hand_over(histogram, workspace, sample)

    return count


def build_advance(dtype: np.dtype[Any]) -> Callable[..., None]:
    """Return the kernel that looks up one digit for every row, and at the first one how many negatives are kept."""
    unsigned, highest = codec(dtype).unsigned, codec(dtype).highest

    def advance(rows, rule, mined, workspace, digit):
        histogram = cuda.shared.array(NUM_BINS, np.uint32)
        of_warps = cuda.shared.array(WARP, np.int32)
        shared = cuda.shared.array(NUM_SHARED, np.int32)
        sample, thread = cuda.blockIdx.x, cuda.threadIdx.x
        _, size = span(rows, sample)
        state = sample * NUM_STATE
        if size < workspace.shortest:
            return
        for i in range(thread, NUM_BINS, THREADS):
            histogram[i] = workspace.histograms[sample * NUM_BINS + i]
            workspace.histograms[sample * NUM_BINS + i] = 0
        shared[digits.WITH_NAN] = workspace.states[state + ROW_NAN]
        shared[digits.WITH_BAD] = workspace.states[state + ROW_BAD]
        wanted, index_prefix = workspace.states[state + WANTED], workspace.states[state + INDEX_PREFIX]
        key_prefix = workspace.keys[sample]
        cuda.syncthreads()
        if digit.is_first:
            num_pos = histogram[POSITIVE]
            num_neg = (size + CHUNK - 1) // CHUNK * CHUNK - histogram[IGNORED] - num_pos
            wanted = np.int64(short_rows.keep(rows, rule, mined, num_pos, num_neg, shared))
            key_prefix = unsigned(0)
        if wanted == 0:  # of the row, or of the ties: then all of those are kept
            if digit.is_first and thread == 0:
                workspace.keys[sample] = highest
                workspace.states[state + WANTED], workspace.states[state + CUT] = 0, -1
            return
        value, above, number = digits.find(histogram, of_warps, shared, np.int32(wanted), THREADS)
        if thread == 0:
            workspace.states[state + WANTED] = wanted - above
            if digit.of_index:
                index_prefix = (index_prefix << digit.width) | value
                workspace.states[state + INDEX_PREFIX] = index_prefix
                workspace.states[state + CUT] = LAST - index_prefix
            else:
                workspace.keys[sample] = unsigned(unsigned(key_prefix << digit.width) | unsigned(value))
                workspace.states[state + INDEX_PREFIX] = 0
                workspace.states[state + CUT] = LAST
                if digit.shift == 0 and number == wanted - above:
                    workspace.states[state + WANTED] = 0

    return advance


def build_sum(dtype: np.dtype[Any], *, ranked: bool, masked: bool) -> Callable[..., None]:
    """Return the kernel that sums every chunk, and writes its masks."""
    unsigned, load = codec(dtype).unsigned, short_rows.loader(dtype, THREADS, ranked=ranked)
    sum_kept = short_rows.keeper(dtype, THREADS, ranked=ranked, masked=masked)

    def sum_chunks(rows, rule, mined, workspace):
        histogram = cuda.shared.array(NUM_BINS, np.uint32)
        partial = cuda.shared.array((2, WARP), np.float64)
        shared = cuda.shared.array(NUM_SHARED, np.int32)
        keys = cuda.local.array(NUM_KEYS, unsigned)
        sample, chunk, start, size = chunk_of(rows, workspace)
        if size == 0:
            return
        load(rows, rule.omit_nan, start, size, 0, NUM_KEYS, keys, histogram, shared)
        # As the chunk counts its anchors.
        own_cut = np.int32(min(max(workspace.states[sample * NUM_STATE + CUT] - chunk * CHUNK, -1), CHUNK))
        positive_sum, negative_sum = sum_kept(rows, mined, keys, start, size, workspace.keys[sample], own_cut)
        positive_sum, negative_sum = totals(positive_sum, negative_sum, partial, THREADS)
        if cuda.threadIdx.x == 0:
            workspace.sums[2 * cuda.blockIdx.x] = positive_sum
            workspace.sums[2 * cuda.blockIdx.x + 1] = negative_sum

    return sum_chunks


def build_finish(dtype: np.dtype[Any]) -> Callable[..., None]:
    """Return the kernel that adds up the chunks of every row in their order."""
    decode = codec(dtype).decode

    def finish_rows(rows, mined, workspace):
        sample = cuda.blockIdx.x
        _, size = span(rows, sample)
        if size < workspace.shortest or cuda.threadIdx.x > 0:
            return
        positive_sum, negative_sum = np.float64(0.0), np.float64(0.0)
        first = sample * workspace.num_chunks
        for chunk in range(first, first + (size + CHUNK - 1) // CHUNK):
            positive_sum += workspace.sums[2 * chunk]
            negative_sum += workspace.sums[2 * chunk + 1]
        short_rows.finish(mined, sample, positive_sum, negative_sum, decode(workspace.keys[sample]))

    return finish_rows


def erase(workspace):
    """Clear the histogram and the state of every row, of which an element is wanted: a kernel."""
    sample, thread = cuda.blockIdx.x, cuda.threadIdx.x
    for i in range(thread, NUM_BINS, THREADS):
        workspace.histograms[sample * NUM_BINS + i] = 0
    if thread < NUM_STATE:
        workspace.states[sample * NUM_STATE + thread] = 1 if thread == WANTED else 0


class Kernels(NamedTuple):
    """The kernels of long rows of one type of loss and labels."""

    erase: Kernel
    count_digit: Kernel
    advance: Kernel
    sum_chunks: Kernel
    finish_rows: Kernel


@functools.cache
def kernels(dtype: np.dtype[Any], labels: np.dtype[Any], *, ranked: bool, masked: bool) -> Kernels:
    """Return the kernels of long rows."""
    rows, rule, mined = short_rows.signature(dtype, labels)
    workspace = record(Workspace, histograms=np.uint32, keys=codec(dtype).unsigned, states=np.int64, sums=np.float64)
    return Kernels(
        erase=Kernel(erase, workspace),
        count_digit=Kernel(build_count(dtype, ranked=ranked), rows, rule, workspace, record(Digit), blocks=2),
        advance=Kernel(build_advance(dtype), rows, rule, mined, workspace, record(Digit)),
        sum_chunks=Kernel(build_sum(dtype, ranked=ranked, masked=masked), rows, rule, mined, workspace, blocks=2),
        finish_rows=Kernel(build_finish(dtype), rows, mined, workspace),
    )


def enqueue_long(
    rows: DeviceRows, rule: Rule, mined: DeviceMined, library: Library, *, shortest: int, longest: int
) -> None:
    """Enqueue the mining of the rows of at least `shortest` anchors, the longest of which has `longest`."""
    num_samples, num_chunks, dtype = mined.counts.shape[1], -(-longest // CHUNK), rows.loss.dtype
    ours = kernels(dtype, rows.labels.dtype, ranked=rows.rank.size > 0, masked=mined.pos_mask.size > 0)
    workspace = Workspace(
        histograms=library.allocate((num_samples, NUM_BINS), np.uint32),
        keys=library.allocate((num_samples,), codec(dtype).unsigned),
        states=library.allocate((num_samples, NUM_STATE), np.int64),
        sums=library.allocate((num_samples, num_chunks, 2), np.float64),
        num_chunks=num_chunks,
        shortest=shortest,
    )
    stream, num_blocks = library.stream, num_samples * num_chunks
    ours.erase.launch(num_samples, stream, workspace)
    for digit in digits_of(8 * dtype.itemsize):
        ours.count_digit.launch(num_blocks, stream, rows, rule, workspace, digit)
        ours.advance.launch(num_samples, stream, rows, rule, mined, workspace, digit)
    ours.sum_chunks.launch(num_blocks, stream, rows, rule, mined, workspace)
    ours.finish_rows.launch(num_samples, stream, rows, mined, workspace)
