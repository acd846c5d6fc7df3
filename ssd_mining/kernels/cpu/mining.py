"""Mining on the CPU: select the hardest negatives of each sample and sum their losses.

1. `stage`: one pass over labels and losses. It writes one bit per anchor, 1 for a negative, into words of 64 bits, and
   counts and sums the positives.
2. `select`: a few ranks from all over the row give a pivot a little below the threshold. The ranks above the pivot
   are compacted to the front of the workspace, and a bisection of their bits finds the k-th largest.
3. `sum_kept` sums the kept ones among the compacted values. `_mark` writes the mask and `_list` the kept anchors,
   where they are wanted.

Nothing sorts and nothing is quadratic. In the worst case a few pivots miss, all negatives are compacted, and the
bisection takes 64 passes.
"""

import functools
import math
from typing import Any

import numpy as np

from ssd_mining.kernels import records, rules
from ssd_mining.kernels.cpu import lanes
from ssd_mining.kernels.cpu.jit import drivers, helper, inlined
from ssd_mining.kernels.cpu.lanes import LANES, ONE, Row
from ssd_mining.kernels.records import KeptLists, Mined, Rows, Rule, Scalar

# Bisection uses the bits of a float64. A float32 is exact in it and leaves the 29 lowest bits 0.
FLOAT32_SHIFT = np.uint64(29)
SIGN, ONES = np.uint64(1 << 63), ~np.uint64(0)

# The pivot is chosen from a sample of sqrt(anchors) / PER_BLOCK blocks of ranks, 256 ranks of 8732. With twice as many
# or half as many, a call takes 5 to 25 % longer (8732 and 24564 anchors, 0.1 to 5 % positives).
PER_BLOCK = 24
# The bisection for the pivot may stop when it is 1 / SLACK off; 4 and 16 are as fast, within 10 %.
SLACK = 8

# A golden-ratio step visits a row evenly, whatever the period of its anchors per cell.
GOLDEN = np.uint64(0x9E3779B1)

FULL = ~np.uint64(0)
NO_WORD = np.uint64(0)

quota, whole_number = helper(rules.quota), helper(rules.whole_number)
is_positive, is_bad = inlined(rules.is_positive), inlined(rules.is_bad)
_order_key, _image_of_key = inlined(rules.order_key), inlined(rules.image_of_key)


def padded(rows: Rows) -> tuple[Rows, Row]:
    """Fill rows shorter than a block up with ignored anchors. Return them, and where the given anchors are in them."""
    lengths = np.diff(rows.offsets)
    offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths, LANES))])
    places = np.repeat(offsets[:-1] - rows.offsets[:-1], lengths) + np.arange(rows.loss.size)

    def spread(values: Any, fill: Any) -> Any:
        wide = np.full(offsets[-1], fill, values.dtype)
        wide[places] = values
        return wide

    wide = rows._replace(
        loss=spread(rows.loss, 0),
        rank=spread(rows.rank, 0) if rows.rank.size else rows.rank,
        labels=spread(rules.roles_of(rows.labels, rows.codes), records.IGNORED),
        codes=rules.ROLE_CODES,
        offsets=offsets,
        shortest=LANES,
        longest=max(rows.longest, LANES),
    )
    for array in (wide.loss, wide.rank, wide.labels, wide.offsets):
        array.flags.writeable = False  # like the arrays of every other call, so that one signature serves all
    return wide, places


def sample_size(num_anchors: int) -> int:
    """Return how many ranks of a row are sampled to choose the pivot."""
    return LANES * int(math.sqrt(num_anchors) / PER_BLOCK + 0.5)


_sample_size = inlined(sample_size)  # Python calls the plain one, which needs no compilation


@functools.lru_cache(maxsize=64)
def workspace_sizes(longest: int) -> tuple[int, int]:
    """Return the workspace of a worker: how many words of negatives, how many values (whole blocks, then a sample)."""
    num_words = -(-longest // LANES)
    return num_words, num_words * LANES + sample_size(longest)


@inlined
def row(array: Row, rows: Rows, sample: int) -> Row:
    """Return the part of an array, one element per anchor of the rows, that belongs to a sample."""
    return array[rows.offsets[sample] : rows.offsets[sample + 1]]


@helper
def stage(rows: Rows, rule: Rule, mined: Mined, negatives: Row, sample: int) -> int:
    """Write the words of the negatives; count and sum the positives. Return how many negatives have a rank of NaN."""
    loss, labels = row(rows.loss, rows, sample), row(rows.labels, rows, sample)
    ranked, masked = rows.rank.shape[0] > 0, mined.pos_mask.shape[0] > 0
    rank = row(rows.rank, rows, sample) if ranked else loss
    pos_mask = row(mined.pos_mask, rows, sample) if masked else mined.pos_mask
    codes = rows.codes[0], rows.codes[1], rows.codes[2]  # in registers: an array would be read for every anchor
    infinity = rank.dtype.type(np.inf)  # only NaN is above it
    num_pos = num_neg = num_nan = num_bad = num_nan_ranks = 0
    positive_sum = np.float64(0.0)
    for block in range(negatives.shape[0]):
        start = block * LANES
        lanes.prefetch(labels, start)
        lanes.prefetch(loss, start)
        negative = lanes.equal(labels, start, codes[records.BACKGROUND])
        nan = lanes.above(loss, start, infinity)
        if ranked:
            nan |= lanes.above(rank, start, infinity)
        outside = max(0, start + LANES - loss.shape[0])
        others, positive = (FULL >> np.uint64(outside)) & ~negative, NO_WORD
        while others != NO_WORD:
            j = start + lanes.lowest(others)
            bit = others & ~(others - ONE)
            others ^= bit
            if is_positive(labels[j], codes):
                positive |= bit
                num_bad += is_bad(labels[j], codes)
                if not (rule.omit_nan and nan & bit != NO_WORD):
                    positive_sum += loss[j]
        if nan != NO_WORD:
            num_nan += lanes.count(nan & (positive | negative))
            if rule.omit_nan:
                positive &= ~nan
                negative &= ~nan
            num_nan_ranks += lanes.count(lanes.above(rank, start, infinity) & negative)
        negatives[block] = negative
        num_pos += lanes.count(positive)
        num_neg += lanes.count(negative)
        if masked:
            lanes.store(pos_mask, start, positive)
    mined.counts[records.NUM_POS, sample] = num_pos
    mined.counts[records.NUM_NEG, sample] = num_neg
    mined.counts[records.NUM_NAN, sample] = num_nan
    mined.counts[records.NUM_BAD, sample] = num_bad
    mined.sums[records.POSITIVE_SUM, sample] = positive_sum
    return num_nan_ranks


@helper
def select(rank: Row, negatives: Row, num_kept: int, values: Row, *places: Row) -> tuple[float, int]:
    """Find the threshold. Return it, and the end of the blocks of `values` that hold all ranks above it.

    Their anchors are written to `places`, an array or none.
    """
    num_anchors, room = rank.shape[0], negatives.shape[0] * LANES
    sampled = values[room : room + _sample_size(num_anchors)]
    expected = num_kept / num_anchors * sampled.shape[0]
    for i in range(sampled.shape[0]):
        j = ((np.uint64(i) * GOLDEN & np.uint64(0xFFFFFFFF)) * np.uint64(num_anchors)) >> np.uint64(32)
        is_negative = (negatives[j >> np.uint64(6)] >> (j & np.uint64(63))) & ONE
        sampled[i] = rank[j] if is_negative != NO_WORD else -np.inf
    # Aim two standard deviations below the expected place of the threshold. A pivot that is still too high is lowered.
    place = int(expected + 2.0 * math.sqrt(expected) + 1.0)
    while place < sampled.shape[0]:
        pivot = rank.dtype.type(_reached_by(sampled, place, place + place // SLACK, -np.inf, np.inf))
        num_compacted = _compact(rank, negatives, pivot, values, *places)
        stop = whole_blocks(num_compacted)
        if num_compacted >= num_kept:
            return kth_largest(values[:stop], num_kept, np.float64(pivot)), stop
        if _count_reaching(rank, negatives, pivot) >= num_kept:
            return np.float64(pivot), stop  # the pivot is the threshold: ties on it decide
        place *= 2
    everything = rank.dtype.type(np.nan)  # is above NaN
    stop = whole_blocks(_compact(rank, negatives, everything, values, *places))
    return kth_largest(values[:stop], num_kept, -np.inf), stop


@helper
def whole_blocks(num_values: int) -> int:
    """Return where the block of the last value ends."""
    return -(-num_values // LANES) * LANES


@helper
def _compact(rank: Row, negatives: Row, pivot: float, values: Row, *places: Row) -> Scalar:
    """Copy the ranks of the negatives above `pivot` to the front of `values`, in anchor order, and count them.

    Write their anchors to `places`, an array or none.

    The rest of the last block becomes -inf, which no bisection counts.
    """
    num_compacted: Scalar = np.int64(0)  # of a plain 0, Numba would compile `whole_blocks` for literals too
    for block in range(negatives.shape[0]):
        lanes.prefetch(rank, rank.shape[0] + block * LANES)  # the next sample: memory is idle here
        word = lanes.above(rank, block * LANES, pivot) & negatives[block]
        lanes.compact(rank, block * LANES, word, values, num_compacted)
        lanes.compact_places(block * LANES, word, places, num_compacted)
        num_compacted += lanes.count(word)
    values[num_compacted : whole_blocks(num_compacted)] = -np.inf
    return num_compacted


@helper
def _count_reaching(rank: Row, negatives: Row, pivot: float) -> int:
    count = 0
    for block in range(negatives.shape[0]):
        count += lanes.count(lanes.reaching(rank, block * LANES, pivot) & negatives[block])
    return count


@helper
def kth_largest(values: Row, k: int, lowest: float) -> float:
    """Find the k-th largest of `values` (whole blocks), which is not NaN. At least k of them reach `lowest`."""
    largest = -np.inf
    for start in range(0, values.shape[0], LANES):
        largest = max(largest, lanes.largest(values, start, FULL))
    pivot = values.dtype.type(_reached_by(values, k, k, lowest, largest))
    least = np.float64(np.inf)
    for start in range(0, values.shape[0], LANES):
        least = min(least, lanes.least(values, start, pivot))
    return least + 0.0  # -0.0 becomes 0.0


@helper
def _reached_by(values: Row, least: int, most: int, lowest: float, highest: float) -> float:
    """Find a pivot that between `least` and `most` of `values` (whole blocks) reach. NaN counts as reaching.

    At least `least` of them reach `lowest`, and fewer are above `highest`. The bisection takes at most 64 passes, one
    for each bit. Where ties leave no such pivot, return the largest that at least `least` reach.
    """
    shift = FLOAT32_SHIFT if values.itemsize == 4 else np.uint64(0)
    sign, ones = SIGN >> shift, ONES >> shift
    # Enough values reach the float with the key `low`; too few reach the one with the key `high`.
    low = _order_key(np.float64(lowest).view(np.uint64) >> shift, sign, ones)
    high = _order_key(np.float64(highest).view(np.uint64) >> shift, sign, ones) + ONE
    found = values.dtype.type(lowest)
    while low + ONE < high:
        middle = low + ((high - low) >> ONE)
        pivot = values.dtype.type(np.uint64(_image_of_key(middle, sign, ones) << shift).view(np.float64))
        count = 0
        for start in range(0, values.shape[0], LANES):
            count += lanes.count(lanes.reaching(values, start, pivot))
        if count < least:
            high = middle
            continue
        low, found = middle, pivot
        if count <= most:
            break
    return np.float64(found)


@helper
def sum_kept(values: Row, threshold: float, num_kept: int) -> tuple[float, int]:
    """Sum the `num_kept` largest of `values` (whole blocks). Return the sum and how many of them equal `threshold`."""
    pivot = values.dtype.type(threshold)
    total, num_ties = np.float64(0.0), num_kept
    for start in range(0, values.shape[0], LANES):
        word = lanes.above(values, start, pivot)
        total += lanes.total(values, start, word)
        num_ties -= lanes.count(word)
    return total + num_ties * threshold, num_ties


@helper
def _mark(rows: Rows, mined: Mined, negatives: Row, threshold: float, num_ties: int, sample: int) -> float:
    """Write the mask of the kept negatives; of ties, those with lower anchor indices are kept.

    Leave the words of the kept ones. Return the sum of their losses where ranks differ from losses, else 0.
    """
    ranked, masked = rows.rank.shape[0] > 0, mined.hard_negative_mask.shape[0] > 0
    loss = row(rows.loss, rows, sample)
    rank = row(rows.rank, rows, sample) if ranked else loss
    mask = row(mined.hard_negative_mask, rows, sample) if masked else mined.hard_negative_mask
    pivot, infinity = rank.dtype.type(threshold), rank.dtype.type(np.inf)
    total = np.float64(0.0)
    for block in range(negatives.shape[0]):
        start, negative = block * LANES, negatives[block]
        kept = lanes.above(rank, start, pivot) & negative
        ties = lanes.reaching(rank, start, pivot) & negative & ~kept
        if pivot != pivot:  # NaN: nothing is above it, and only NaN is equal
            kept, ties = NO_WORD, lanes.above(rank, start, infinity) & negative
        if lanes.count(ties) <= num_ties:
            kept |= ties
            num_ties -= lanes.count(ties)
        else:
            for _ in range(num_ties):
                kept |= ties & ~(ties - ONE)
                ties &= ties - ONE
            num_ties = 0
        negatives[block] = kept
        if masked:
            lanes.store(mask, start, kept)
        while ranked and kept != NO_WORD:
            total += loss[start + lanes.lowest(kept)]
            kept &= kept - ONE
    return total


@helper
def _list(rank: Row, kept: Row, anchors: Row, ranks: Row) -> None:
    """List the anchors of the words `kept`, and their ranks."""
    place, room = np.uint64(0), np.uint64(anchors.shape[0])
    for block in range(kept.shape[0]):
        word = kept[block]
        stop = min(place + np.uint64(lanes.count(word)), room)
        while place < stop:
            anchor = np.uint64(block * LANES + lanes.lowest(word))
            anchors[place], ranks[place] = anchor, rank[anchor]
            word &= word - ONE
            place += ONE
    anchors[place:] = 0  # nothing, unless another thread changes the arrays during the call


@inlined
def explicit_quota(rows: Rows, sample: int) -> int:
    """Return how many negatives the caller asks for; -1: the rule decides."""
    return rows.quotas[sample] if rows.quotas.shape[0] > 0 else -1


@helper
def _mine_sample(
    worker: int, sample: int,
    loss: Row, rank: Row, labels: Row, codes: Row, quotas: Row, offsets: Row, shortest: int, longest: int,
    ratio: float, round_up: bool, extra: int, min_negatives: int, min_always: bool, max_negatives: int, omit_nan: bool,
    counts: Row, sums: Row, pos_mask: Row, hard_negative_mask: Row,
    num_listed: Row, firsts: Row, anchors: Row, ranks: Row,
    words: Row, values: Row,
) -> None:  # fmt: skip
    rows = Rows(loss, rank, labels, codes, quotas, offsets, shortest, longest)
    rule = Rule(ratio, round_up, extra, min_negatives, min_always, max_negatives, omit_nan)
    mined = Mined(counts, sums, pos_mask, hard_negative_mask, None)
    num_anchors = offsets[sample + 1] - offsets[sample]
    negatives, compacted = words[worker, : (num_anchors + LANES - 1) // LANES], values[worker]
    num_nan_ranks = stage(rows, rule, mined, negatives, sample)
    explicit = explicit_quota(rows, sample)
    by_ratio = whole_number(ratio, counts[records.NUM_POS, sample], round_up)
    num_kept = quota(by_ratio, counts[records.NUM_POS, sample], counts[records.NUM_NEG, sample], explicit, rule)
    ranked = rank.shape[0] > 0
    by = row(rank if ranked else loss, rows, sample)
    threshold, negative_sum, num_ties = np.nan, 0.0, num_kept
    if num_kept > num_nan_ranks:
        threshold, stop = select(by, negatives, num_kept, compacted)
        negative_sum, num_ties = sum_kept(compacted[:stop], threshold, num_kept)
    elif num_kept > 0:
        negative_sum = np.nan
    if ranked or hard_negative_mask.shape[0] > 0:
        total = _mark(rows, mined, negatives, threshold, num_ties, sample)
        if ranked:
            negative_sum = total
    if anchors.shape[0] > 0:
        first = lanes.fetch_add(num_listed, num_kept)
        _list(by, negatives, anchors[first : first + num_kept], ranks[first : first + num_kept])
        firsts[sample] = first
    counts[records.NUM_KEPT, sample] = num_kept
    sums[records.THRESHOLD, sample] = threshold
    sums[records.NEGATIVE_SUM, sample] = negative_sum
    counts[records.DONE, sample] = 1


_MINE = drivers(_mine_sample)
_NO_LISTS = {
    np.dtype(kind): KeptLists(np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, kind))
    for kind in (np.float32, np.float64)
}


def mine(rows: Rows, rule: Rule, mined: Mined, num_workers: int) -> None:
    """Mine every sample of `rows` into `mined`, by at most `num_workers` threads."""
    if rows.shortest < LANES:
        _mine_padded(rows, rule, mined, num_workers)
        return
    num_samples = rows.offsets.size - 1
    num_workers = max(1, min(num_workers, num_samples))
    num_words, num_values = workspace_sizes(rows.longest)
    words = np.empty((num_workers, num_words), np.uint64)
    values = np.empty((num_workers, num_values), rows.loss.dtype)
    *written, kept = mined
    lists = kept or _NO_LISTS[rows.loss.dtype]
    _MINE[num_workers > 1](num_samples, num_workers, *rows, *rule, *written, *lists, words, values)


def _mine_padded(rows: Rows, rule: Rule, mined: Mined, num_workers: int) -> None:
    wide, places = padded(rows)
    if not mined.pos_mask.size:
        mine(wide, rule, mined, num_workers)
        return
    pos_mask, hard_negative_mask = np.empty((2, wide.loss.size), np.bool_)
    of_wide = Mined(mined.counts, mined.sums, pos_mask, hard_negative_mask)
    mine(wide, rule, of_wide, num_workers)
    mined.pos_mask[...] = pos_mask[places]
    mined.hard_negative_mask[...] = hard_negative_mask[places]
    rules.list_kept(rows, mined)
