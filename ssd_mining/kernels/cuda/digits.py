"""Keys of ranks, and histograms of their digits, as the blocks of the CUDA twin count them and look them up.

A *key* is an unsigned integer with the order of the rank: NaN is above all, -0.0 and 0.0 have the same. What is no
negative has a key below that of -inf: its role, `records.IGNORED` or `records.POSITIVE`.

Registers are short in the kernels that call this. So loops here have numbers of rounds that all threads share, and
indices are unsigned: what a thread computes for itself alone would be kept from one call to the next.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ssd_mining.kernels import rules
from ssd_mining.kernels.cuda.runtime import THREADS, cuda, helper

order_key, image_of_key = helper(rules.order_key), helper(rules.image_of_key)

DIGIT_BITS = 11
MOST = 2**DIGIT_BITS - 1  # the largest digit
SEGMENTS, SEGMENT = 64, 32
# Ignored, positive, and the digits, every segment one bank further; as many for every thread.
NUM_BINS = -(-(2 + SEGMENTS * (SEGMENT + 1)) // THREADS) * THREADS

# How often a block has to take turns, so that every segment has had its thread.
TURNS = -(-SEGMENTS // THREADS)

# Where a block shares what it found: a bin, the elements above it and in it; anchors with NaN, and with bad labels.
BIN, ABOVE, SIZE, WITH_NAN, WITH_BAD, NUM_SHARED = range(6)


@helper
def bin_of(digit):
    """Return where a digit is counted."""
    return np.uint32(2 + digit + (digit >> 5))


@helper
def clear(histogram):
    """Set all bins to 0, and wait for it."""
    for i in range(0, NUM_BINS, THREADS):
        histogram[np.uint32(cuda.threadIdx.x + i)] = 0
    cuda.syncthreads()


@helper
def find(histogram, segments, shared, wanted):
    """Find the bin of the element that is `wanted`-th from above, how many lie above that bin, and how many in it."""
    cuda.syncthreads()
    for turn in range(TURNS):
        segment = np.int32(cuda.threadIdx.x + turn * THREADS)
        if segment < SEGMENTS:
            segments[np.uint32(segment)] = _sum_above(histogram, 2 + segment * (SEGMENT + 1), SEGMENT, -1)
    _locate(segments, 0, SEGMENTS, shared, wanted, 0)
    segment = shared[BIN]
    _locate(histogram, 2 + segment * (SEGMENT + 1), SEGMENT, shared, wanted, shared[ABOVE])
    return segment * SEGMENT + shared[BIN], shared[ABOVE], shared[SIZE]


@helper
def _sum_above(counts, first, number, floor):
    """Add up those of `number` counts from `first` whose place is above `floor`."""
    total, i = np.int32(0), number * cuda.blockDim.y  # times 1: unrolled, this loop takes the registers of the keys
    while i > 0:
        i -= 1
        if i > floor:
            total = np.int32(total + counts[np.uint32(first + i)])
    return total


@helper
def _locate(counts, first, number, shared, wanted, beyond):
    """Find which of `number` counts from `first` holds the wanted element; `beyond` elements lie above them all."""
    cuda.syncthreads()
    for turn in range(TURNS):
        i = np.int32(cuda.threadIdx.x + turn * THREADS)
        if i < number:
            above, size = (
                np.int32(beyond + _sum_above(counts, first, number, i)),
                np.int32(counts[np.uint32(first + i)]),
            )
            if above < wanted <= above + size:
                shared[BIN], shared[ABOVE], shared[SIZE] = i, above, size
    cuda.syncthreads()


class Codec(NamedTuple):
    """Keys of ranks of one type."""

    unsigned: Any
    bits: int
    highest: Any  # the key of NaN
    encode: Callable[..., Any]
    decode: Callable[..., Any]


@functools.cache
def codec(dtype: np.dtype[Any]) -> Codec:
    """Return how ranks of a type become keys, and what they were."""
    real, unsigned, bits = (np.float32, np.uint32, 32) if dtype.itemsize == 4 else (np.float64, np.uint64, 64)
    sign, ones, zero = unsigned(1 << bits - 1), unsigned(2**bits - 1), real(0.0)

    @helper
    def encode(rank):
        image = (rank + zero).view(unsigned)  # -0.0 + 0.0 is 0.0
        return cuda.selp(rank != rank, ones, unsigned(order_key(image, sign, ones)))

    @helper
    def decode(key):
        return unsigned(image_of_key(key, sign, ones)).view(real)

    return Codec(unsigned, bits, ones, encode, decode)
