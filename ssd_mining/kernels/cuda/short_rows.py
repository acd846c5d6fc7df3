"""Rows that fit into the registers of a block: one block per sample reads it once, and keeps the keys of its ranks.

Three stages. *Load*: every thread makes the keys of its anchors, up to ten at once and with no branch, so that their
loads are under way together, and counts their first digits; two bins of that histogram say how many are ignored and
positive. *Select*, a radix select: the digit of the easiest kept negative is looked up, then the next one among the
keys that share it, until a bin is kept whole; where ties are cut, it is asked which key of the threads has the last
one, and then which thread. *Keep*: positives and kept negatives are summed. No stage sorts, and none takes more than
eight passes over registers.

Integers alone are added atomically; sums are float64, of each thread in the order of its anchors and then by one tree.
A row has the smallest block that can hold it, by its own length, and rows that are longer are mined by `long_rows`: so
its bits do not depend on what stands beside it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ssd_mining.kernels import records, rules
from ssd_mining.kernels.cuda.digits import (
    DIGIT_BITS,
    MOST,
    NUM_BINS,
    NUM_SHARED,
    WITH_BAD,
    WITH_NAN,
    bin_of,
    clear,
    codec,
    find,
)
from ssd_mining.kernels.cuda.runtime import (
    THREADS,
    WARP,
    DeviceArray,
    Kernel,
    Stream,
    cuda,
    element,
    helper,
    record,
    types,
)
from ssd_mining.kernels.cuda.sums import totals
from ssd_mining.kernels.records import IGNORED, POSITIVE, Rule

# Of the threads of the smaller blocks, of which a multiprocessor runs two at once.
HALF = THREADS // 2

# Keys that a thread holds in its registers, by the threads of its block and the bytes of a rank.
MAX_KEYS = {HALF: {4: 20, 8: 10}, THREADS: {4: 32, 8: 16}}

# Keys that are made at once, at most. A barrier parts them from the next ones: of more, the compiler would load labels
# ahead until the registers overflow.
GROUP = {4: 10, 8: 6}

# No anchor of a row comes after this one.
LAST = 2**31 - 1

quota: Any = helper(rules.quota)
whole_number: Any = helper(rules.whole_number)
is_negative, is_positive, is_bad = helper(rules.is_negative), helper(rules.is_positive), helper(rules.is_bad)


class DeviceRows(NamedTuple):
    """`Rows` on a device, as kernels take them."""

    loss: DeviceArray
    rank: DeviceArray
    labels: DeviceArray
    quotas: DeviceArray
    offsets: DeviceArray
    codes: tuple[int, int, int]
    num_anchors: int  # of every sample; -1: offsets tell
    is_explicit: int  # 1: quotas tell how many are kept


class DeviceMined(NamedTuple):
    """`Mined` on a device."""

    counts: DeviceArray
    sums: DeviceArray
    pos_mask: DeviceArray
    hard_negative_mask: DeviceArray


def most_anchors(dtype: np.dtype[Any], threads: int) -> int:
    """Return how long the rows are that a block of so many threads can hold."""
    return threads * MAX_KEYS[threads][dtype.itemsize]


@helper
def span(rows, sample):
    """Say where a sample begins, and how many anchors it has."""
    if rows.num_anchors >= 0:
        return sample * rows.num_anchors, rows.num_anchors
    return rows.offsets[sample], rows.offsets[sample + 1] - rows.offsets[sample]


@functools.cache
def loader(dtype: np.dtype[Any], threads: int, *, ranked: bool, whole: int = 0) -> Callable[..., Any]:
    """Return the first stage: keys, first digits and flaws of the anchors of a thread.

    It makes the keys `first` to `stop` of every thread; the first `whole` of them are known to have an anchor.
    """
    unsigned, encode, shift = codec(dtype).unsigned, codec(dtype).encode, codec(dtype).bits - DIGIT_BITS
    ignored_key, positive_key = unsigned(IGNORED), unsigned(POSITIVE)

    @helper
    def load(rows, omit_nan, start, size, first, stop, keys, histogram, shared):
        none, one, many = np.uint32(0), np.uint32(1), np.uint32(1 << 16)
        flaws = none
        for j in range(stop - 1, first - 1, -1):  # backwards: the last one alone has to know the size
            anchor = np.int32(cuda.threadIdx.x + j * threads)
            inside = (anchor < size) | (j < whole)
            index = start + cuda.selp(j < whole, anchor, np.int32(min(anchor, np.int32(size - 1))))
            label, loss = rows.labels[index], rows.loss[index]
            rank = rows.rank[index] if ranked else loss
            positive, negative = is_positive(label, rows.codes) & inside, is_negative(label, rows.codes) & inside
            nan = ((loss != loss) | (rank != rank)) & (positive | negative)
            bad = positive & is_bad(label, rows.codes)
            flaws = np.uint32(flaws + cuda.selp(nan, one, none))
            flaws = np.uint32(flaws + cuda.selp(bad, many, none))
            competes = not (nan & (omit_nan != 0))
            key = cuda.selp(positive & competes, positive_key, ignored_key)
            key = cuda.selp(negative & competes, encode(rank), key)
            keys[j] = key
            cuda.atomic.add(histogram, cuda.selp(key > positive_key, unsigned(bin_of(key >> shift)), key), 1)
        if flaws != 0:
            cuda.atomic.add(shared, WITH_NAN, flaws & 0xFFFF)
            cuda.atomic.add(shared, WITH_BAD, flaws >> 16)

    return load


@helper
def least(keys, shift, prefix, easiest):
    """Find the least of the keys that begin with some digits."""
    for j in range(keys.shape[0]):
        if keys[j] > POSITIVE and (keys[j] >> shift) == prefix:
            cuda.atomic.min(easiest, 0, keys[j])
    cuda.syncthreads()


@helper
def last_tie(keys, tied, histogram, of_warps, shared, wanted, threads):
    """Say which anchor is the `wanted`-th of those with the key `tied`: the lower index wins."""
    for j in range(keys.shape[0]):
        if keys[j] == tied:
            cuda.atomic.add(histogram, bin_of(MOST - j), 1)
    cuda.syncthreads()
    from_last, above, _ = find(histogram, of_warps, shared, wanted, threads)
    last, is_tied = MOST - from_last, False
    for j in range(keys.shape[0]):
        is_tied |= (keys[j] == tied) & (j == last)
    if is_tied:
        cuda.atomic.add(histogram, bin_of(MOST - cuda.threadIdx.x), 1)
    cuda.syncthreads()
    from_last, _, _ = find(histogram, of_warps, shared, np.int32(wanted - above), threads)
    return np.int32(last * threads + MOST - from_last)


@functools.cache
def selector(dtype: np.dtype[Any], threads: int) -> Callable[..., Any]:
    """Return the second stage: the key of the easiest kept negative, and the last anchor whose tie is kept."""
    unsigned, bits, highest = codec(dtype).unsigned, codec(dtype).bits, codec(dtype).highest

    @helper
    def select(keys, histogram, of_warps, shared, easiest, wanted):
        prefix, shift = unsigned(0), bits
        if wanted == 0:
            return highest, np.int32(-1)
        while True:
            width = min(DIGIT_BITS, shift)
            shift -= width
            digit, above, size = find(histogram, of_warps, shared, wanted, threads)
            prefix = unsigned(unsigned(prefix << width) | unsigned(digit))
            wanted = np.int32(wanted - above)
            if size == wanted or shift == 0:
                break
            width = min(DIGIT_BITS, shift)
            first, low, most = unsigned(prefix << shift), (shift - width) & (bits - 1), unsigned(1 << width)
            for j in range(keys.shape[0]):
                # No negatives too, perhaps, have this prefix: they come last, and are never wanted.
                digit = unsigned(unsigned(keys[j] - first) >> low)
                if digit < most:
                    cuda.atomic.add(histogram, bin_of(digit), 1)
            cuda.syncthreads()
        if size > wanted:
            return prefix, last_tie(keys, prefix, histogram, of_warps, shared, wanted, threads)
        # The bin is kept whole, whatever its further digits are.
        least(keys, shift, prefix, easiest)
        return easiest[0], np.int32(LAST)

    return select


@functools.cache
def keeper(dtype: np.dtype[Any], threads: int, *, ranked: bool, masked: bool, whole: int = 0) -> Callable[..., Any]:
    """Return the third stage: the sums of the positives and of the kept negatives of a thread, and its masks."""
    decode = codec(dtype).decode

    @helper
    def sum_kept(rows, mined, keys, start, size, threshold, cut):
        positive_sum, negative_sum = np.float64(0.0), np.float64(0.0)
        for j in range(keys.shape[0]):
            anchor, key = np.int32(cuda.threadIdx.x + j * threads), keys[j]
            if anchor < size or j < whole:
                kept = key > threshold or (key == threshold and anchor <= cut)
                if kept:
                    negative_sum += rows.loss[start + anchor] if ranked else decode(key)
                if key == POSITIVE:  # few: they are read once more
                    positive_sum += rows.loss[start + anchor]
                if masked:
                    mined.pos_mask[start + anchor] = key == POSITIVE
                    mined.hard_negative_mask[start + anchor] = kept
        return positive_sum, negative_sum

    return sum_kept


def build(
    dtype: np.dtype[Any], threads: int, num_keys: int, *, dense: bool, ranked: bool, masked: bool
) -> Callable[..., None]:
    """Return the kernel for `num_keys` keys per thread, as Python; samples for wider or narrower blocks are left alone.

    If `dense`, no sample could do with a key less per thread.
    """
    unsigned, decode, highest = codec(dtype).unsigned, codec(dtype).decode, codec(dtype).highest
    whole, num_groups = num_keys - 1 if dense else 0, -(-num_keys // GROUP[dtype.itemsize])
    group = -(-num_keys // num_groups)
    load, select = loader(dtype, threads, ranked=ranked, whole=whole), selector(dtype, threads)
    sum_kept = keeper(dtype, threads, ranked=ranked, masked=masked, whole=whole)
    beyond = -1 if threads == HALF else most_anchors(dtype, HALF)

    def mine_rows(rows, rule, mined):
        histogram = cuda.shared.array(NUM_BINS, np.uint32)
        of_warps = cuda.shared.array(WARP, np.int32)
        partial = cuda.shared.array((2, WARP), np.float64)
        shared = cuda.shared.array(NUM_SHARED, np.int32)
        easiest = cuda.shared.array(1, unsigned)
        keys = cuda.local.array(num_keys, unsigned)
        sample, thread = cuda.blockIdx.x, np.uint32(cuda.threadIdx.x)
        start, size = span(rows, sample)
        if size > num_keys * threads or size <= beyond:
            return
        size = np.int32(size)
        if thread < NUM_SHARED:
            shared[thread], easiest[0] = 0, highest
        clear(histogram, threads)
        if size > 0:
            for stop in range(num_keys, 0, -group):
                first = max(stop - group, 0)
                load(rows, rule.omit_nan, start, size, first, stop, keys, histogram, shared)
                cuda.syncthreads()
        else:
            histogram[IGNORED] = num_keys * threads
            cuda.syncthreads()
        num_ignored, num_pos = histogram[IGNORED], histogram[POSITIVE]
        num_neg = num_keys * threads - num_ignored - num_pos
        num_kept = np.int32(keep(rows, rule, mined, num_pos, num_neg, shared))
        threshold, cut = select(keys, histogram, of_warps, shared, easiest, num_kept)
        start, size = span(rows, sample)
        positive_sum, negative_sum = sum_kept(rows, mined, keys, start, np.int32(size), threshold, cut)
        positive_sum, negative_sum = totals(positive_sum, negative_sum, partial, threads)
        if thread == 0:
            finish(mined, sample, positive_sum, negative_sum, decode(threshold))

    return mine_rows


@helper
def keep(rows, rule, mined, num_pos, num_neg, shared):
    """Say how many negatives of the sample of this block are kept; write all counts."""
    sample, num_samples = cuda.blockIdx.x, cuda.gridDim.x
    num_pos, num_neg = np.int64(num_pos), np.int64(num_neg)
    explicit = rows.quotas[sample] if rows.is_explicit else -1
    num_kept = quota(whole_number(rule.ratio, num_pos, rule.round_up), num_pos, num_neg, explicit, rule)
    if cuda.threadIdx.x == 0:
        mined.counts[records.NUM_POS * num_samples + sample] = num_pos
        mined.counts[records.NUM_NEG * num_samples + sample] = num_neg
        mined.counts[records.NUM_KEPT * num_samples + sample] = num_kept
        mined.counts[records.NUM_NAN * num_samples + sample] = shared[WITH_NAN]
        mined.counts[records.NUM_BAD * num_samples + sample] = shared[WITH_BAD]
    return num_kept


@helper
def finish(mined, sample, positive_sum, negative_sum, threshold):
    """Write the sums of a sample; that it is done, last."""
    num_samples = cuda.gridDim.x
    mined.sums[records.POSITIVE_SUM * num_samples + sample] = positive_sum
    mined.sums[records.NEGATIVE_SUM * num_samples + sample] = negative_sum
    mined.sums[records.THRESHOLD * num_samples + sample] = threshold
    mined.counts[records.DONE * num_samples + sample] = 1


def signature(dtype: np.dtype[Any], labels: np.dtype[Any]) -> tuple[Any, Any, Any]:
    """Return the types of what the kernels take: rows, rule, mined."""
    codes = types.UniTuple(element(labels), 3)
    arrays = {"loss": dtype, "rank": dtype, "labels": labels, "quotas": np.int64, "offsets": np.int64}
    mined = record(DeviceMined, counts=np.int64, sums=np.float64, pos_mask=np.bool_, hard_negative_mask=np.bool_)
    return record(DeviceRows, **arrays, codes=codes), record(Rule), mined


@functools.cache
def kernel(
    dtype: np.dtype[Any],
    labels: np.dtype[Any],
    threads: int,
    num_keys: int,
    *,
    dense: bool,
    ranked: bool,
    masked: bool,
) -> Kernel:
    """Return the kernel of one block per sample."""
    function = build(dtype, threads, num_keys, dense=dense, ranked=ranked, masked=masked)
    return Kernel(function, *signature(dtype, labels), threads=threads, blocks=THREADS // threads)


def enqueue_short(
    rows: DeviceRows, rule: Rule, mined: DeviceMined, stream: Stream, *, threads: int, longest: int
) -> None:
    """Enqueue the mining of the rows for blocks of so many threads, of at most `longest` anchors."""
    num_keys, dense = max(1, -(-longest // threads)), rows.num_anchors >= 0
    ranked, masked = rows.rank.size > 0, mined.pos_mask.size > 0
    ours = kernel(rows.loss.dtype, rows.labels.dtype, threads, num_keys, dense=dense, ranked=ranked, masked=masked)
    ours.launch(mined.counts.shape[1], stream, rows, rule, mined)
