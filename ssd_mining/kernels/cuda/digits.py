"""Keys of ranks, and histograms of their digits, as the blocks of the CUDA twin count them and look them up.

A *key* is an unsigned integer with the order of the rank: NaN is above all, -0.0 and 0.0 have the same. What is no
negative has a key below that of -inf: its role, `records.IGNORED` or `records.POSITIVE`.

A look-up takes two barriers: every thread adds up a few bins, the lanes of a warp and then the warps find out what lies
above them, and the thread that has the wanted element looks for its bin. Bins of 32 digits lie 33 apart, so that
threads that read several bins in a row read from different banks.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ssd_mining.kernels import rules
from ssd_mining.kernels.cuda.runtime import THREADS, WARP, cuda, helper
from ssd_mining.kernels.cuda.sums import place, sum_above, sum_of_warp

order_key, image_of_key = helper(rules.order_key), helper(rules.image_of_key)

DIGIT_BITS = 11
MOST = 2**DIGIT_BITS - 1  # the largest digit
SEGMENT = 32
# Ignored, positive, and the digits, every segment one bank further; as many for every thread.
NUM_BINS = -(-(2 + (MOST + 1) // SEGMENT * (SEGMENT + 1)) // THREADS) * THREADS

# Where a block shares what it found: a bin, the elements above it and in it; anchors with NaN, and with bad labels.
BIN, ABOVE, SIZE, WITH_NAN, WITH_BAD, NUM_SHARED = range(6)


@helper
def bin_of(digit):
    """Return where a digit is counted."""
    return np.uint32(2 + digit + (digit >> 5))


@helper
def clear(histogram, threads):
    """Set all bins to 0, and wait for it."""
    for i in range(0, NUM_BINS, threads):
        histogram[np.uint32(cuda.threadIdx.x + i)] = 0
    cuda.syncthreads()


@helper
def find(histogram, of_warps, shared, wanted, threads):
    """Find the bin of the element that is `wanted`-th from above, how many lie above that bin, and how many in it.

    All threads have counted, and waited for it. The digits are cleared for the next ones.
    """
    warp, lane = place()
    each = (MOST + 1) // threads
    first, own = bin_of(np.uint32(cuda.threadIdx.x * each)), np.int32(0)
    for i in range(each):
        own = np.int32(own + histogram[np.uint32(first + i + (i >> 5))])
    above = sum_above(own)
    if lane == 0:
        of_warps[warp] = above + own
    cuda.syncthreads()
    above = np.int32(above + sum_of_warp(of_warps[lane] if warp < lane < np.uint32(threads // WARP) else np.int32(0)))
    if above < wanted <= above + own:
        for i in range(each - 1, -1, -1):
            size = np.int32(histogram[np.uint32(first + i + (i >> 5))])
            if above < wanted <= above + size:
                shared[BIN], shared[ABOVE], shared[SIZE] = cuda.threadIdx.x * each + i, above, size
            above = np.int32(above + size)
    for i in range(each):
        histogram[np.uint32(first + i + (i >> 5))] = 0
    cuda.syncthreads()
    return shared[BIN], shared[ABOVE], shared[SIZE]


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
