"""The analysis on the CPU: what mining says of a sample, how its losses are distributed, what other ratios keep.

Everything happens in one visit, while the sample is in the cache:

1. Mining's `stage` finds the negatives.
2. `_count_all` counts every loss by its bin, whatever its label, without a branch; `_take_back` then removes the few
   that are not negatives. Two tables take turns, because equal losses often follow each other and one counter would
   have to wait for its last increment.
3. The selection runs once, for the largest ratio, or for as many negatives as are listed whatever the quota. What
   smaller ratios keep is found among the compacted values. Where overlaps say what is listed, it runs once more.
"""

from typing import Any

import numpy as np

from ssd_mining.kernels import records
from ssd_mining.kernels.cpu import lanes, mining
from ssd_mining.kernels.cpu.jit import drivers, helper, inlined
from ssd_mining.kernels.cpu.lanes import LANES, ONE, Row
from ssd_mining.kernels.cpu.mining import FULL, NO_WORD, is_positive
from ssd_mining.kernels.records import Mined, Rows, Rule, Tally

# Anchors that are written per round, without a branch for each one.
STEPS = 2


@helper
def _bin(loss: Any) -> Any:
    return np.uint64(
        np.float32(loss).view(np.uint32) >> np.uint32(16)
    )  # unsigned indices need no test for being negative


@helper
def _own_bin(loss: Any) -> Any:
    return _bin(loss) if loss == loss else np.uint64(records.NAN_BIN)  # the bits of NaN vary: use one bin


@helper
def _keep_above(values: Row, threshold: float) -> int:
    """Move those of `values` (whole blocks) above `threshold` to the front. Return the end of their blocks."""
    pivot, stop = values.dtype.type(threshold), 0
    for i in range(values.shape[0]):
        value = values[i]
        values[stop] = value
        stop += not value <= pivot
    whole = mining.whole_blocks(stop)
    values[stop:whole] = -np.inf
    return whole


@helper
def _count_all(loss: Row, even: Row, odd: Row) -> None:
    last = loss.shape[0] - 1
    for i in range(0, last, 2):
        even[_bin(loss[np.uint64(i)])] += 1
        odd[_bin(loss[np.uint64(i + 1)])] += 1
    if last & 1 == 0:
        even[_bin(loss[last])] += 1


@helper
def _take_back(rows: Rows, rule: Rule, negatives: Row, tables: Row, sample: int, anchors: Row, losses: Row) -> None:
    """Subtract all other anchors from the counts of all losses; count and list the positives."""
    loss, labels = mining.row(rows.loss, rows, sample), mining.row(rows.labels, rows, sample)
    codes = rows.codes[0], rows.codes[1], rows.codes[2]
    ranked, count = rows.rank.shape[0] > 0, 0
    rank = mining.row(rows.rank, rows, sample) if ranked else loss
    for block in range(negatives.shape[0]):
        start = block * LANES
        others = FULL >> np.uint64(max(0, start + LANES - loss.shape[0])) & ~negatives[block]
        while others != NO_WORD:
            j = start + lanes.lowest(others)
            others &= others - ONE
            tables[records.EVEN, _bin(loss[j])] -= 1
            is_number = loss[j] == loss[j] and rank[j] == rank[j]
            if is_positive(labels[j], codes) and (is_number or not rule.omit_nan) and count < anchors.shape[0]:
                tables[records.POSITIVES, _own_bin(loss[j])] += 1
                anchors[count], losses[count] = j, loss[j]
                count += 1
    anchors[count:] = 0  # nothing, unless another thread changes the arrays during the call


@inlined
def _room(tally: Tally, worker: int, role: int, count: int) -> tuple[Row, Row]:
    """Return room for `count` anchors of a role, and for their losses."""
    start = tally.places[worker, role, 1]
    tally.places[worker, role, 1] = start + count
    return tally.anchors[role, start : start + count], tally.losses[role, start : start + count]


@helper
def _gather_nan(loss: Row, negatives: Row, table: Row) -> None:
    """Move every NaN among the negatives to NAN_BIN."""
    infinity = loss.dtype.type(np.inf)  # only NaN is above it
    for block in range(negatives.shape[0]):
        nan = lanes.above(loss, block * LANES, infinity) & negatives[block]
        while nan != NO_WORD:
            table[_bin(loss[block * LANES + lanes.lowest(nan)])] -= 1
            table[records.NAN_BIN] += 1
            nan &= nan - ONE


@helper
def _widen(loss: Row, negatives: Row, extremes: Row) -> None:
    """Widen the least and the largest loss so far, NaN at first, to those of the negatives of a sample."""
    least, largest = loss.dtype.type(extremes[0]), loss.dtype.type(extremes[1])
    for block in range(negatives.shape[0]):
        start = block * LANES
        beyond = negatives[block] & (lanes.above(loss, start, largest) | ~lanes.reaching(loss, start, least))
        while beyond != NO_WORD:
            value = loss[start + lanes.lowest(beyond)]
            if value == value:
                least, largest = least if value >= least else value, largest if value <= largest else value
            beyond &= beyond - ONE
    extremes[0], extremes[1] = least, largest


@helper
def _reaching(loss: Row, negatives: Row, threshold: float, places: Row) -> int:
    """Write the negatives that reach `threshold` to the front of `places` and count them. NaN reaches only NaN."""
    pivot, infinity, stop = loss.dtype.type(threshold), loss.dtype.type(np.inf), np.uint64(0)
    for block in range(negatives.shape[0]):
        start = block * LANES
        word = lanes.reaching(loss, start, pivot) if pivot == pivot else lanes.above(loss, start, infinity)
        word &= negatives[block]
        place = stop
        stop += np.uint64(lanes.count(word))
        # Rounds of STEPS, as in `lanes.compact`.
        for _ in range(max(1, -(-lanes.count(word) // STEPS))):
            for step in range(STEPS):
                places[place + np.uint64(step)] = start + lanes.lowest(word)
                word &= word - ONE
            place += np.uint64(STEPS)
    return int(stop)


@helper
def _list_hardest(loss: Row, reaching: Row, threshold: float, num_ties: int, anchors: Row, losses: Row) -> int:
    """List the hardest of the negatives that reach the threshold, in anchor order. Return how many they are."""
    count = 0
    pivot = loss.dtype.type(threshold)
    for i in range(reaching.shape[0]):
        value = loss[reaching[i]]
        if value == pivot or pivot != pivot:  # the first ties are kept; if the threshold is NaN, all are ties
            num_ties -= 1
            if num_ties < 0:
                continue
        if count < anchors.shape[0]:
            anchors[count], losses[count] = reaching[i], value
            count += 1
    anchors[count:] = 0
    return count


@helper
def _free_words(loss: Row, free: Row, negatives: Row) -> tuple[int, int]:
    """Leave the words of the free negatives. Return how many they are, and how many of these are NaN."""
    infinity = loss.dtype.type(np.inf)  # only NaN is above it
    num_free = num_nan = 0
    for block in range(negatives.shape[0]):
        negatives[block] &= lanes.equal(free, block * LANES, np.uint8(1))
        num_free += lanes.count(negatives[block])
        num_nan += lanes.count(lanes.above(loss, block * LANES, infinity) & negatives[block])
    return num_free, num_nan


@helper
def _list_free(
    loss: Row, free: Row, num_listed: int, threshold: float, num_ties: int, tally: Tally, worker: int, sample: int,
    places: Row,
) -> None:  # fmt: skip
    """List the free negatives, those of the words `free`, that are hardest."""
    num_reaching = _reaching(loss, free, threshold, places) if num_listed > 0 else 0
    anchors, losses = _room(tally, worker, records.FREE_LIST, num_listed)
    count = _list_hardest(loss, places[:num_reaching], threshold, num_ties, anchors, losses)
    tally.num_free[sample] = num_listed
    numbers, has_nan = tally.free[sample], False
    numbers[:] = np.nan
    for place in range(count):
        has_nan |= losses[place] != losses[place]
    for rank in range(records.WORST_FREE):
        largest = -np.inf
        for place in range(count):
            value = np.float64(losses[place])
            if value > largest and not value >= numbers[records.WORST_CUT]:
                largest = value
            if rank == 0 and not value >= numbers[records.LEAST_FREE]:
                numbers[records.LEAST_FREE] = value
        if rank == 0:
            numbers[records.LARGEST_FREE] = np.nan if has_nan else largest
        if largest > -np.inf:
            numbers[records.WORST_CUT] = largest


@helper
def _select_and_list(
    loss: Row, free: Row, num_nan: int, num_listed: int, most: int, tally: Tally, worker: int, sample: int,
    values: Row, places: Row,
) -> tuple[float, int, int]:  # fmt: skip
    """List the hardest of the free negatives, those of the words `free`, and select as many as `most` on the way.

    Return the threshold of these, the end of the blocks of `values` that hold all losses above it, and how many these
    are; -1 if NaN leave nothing to select.
    """
    if num_listed <= num_nan:
        _list_free(loss, free, num_listed, np.nan, num_listed, tally, worker, sample, places)
        return np.nan, 0, -1
    most = max(most, num_listed)
    threshold, stop = mining.select(loss, free, most, values)
    _, num_ties = mining.sum_kept(values[:stop], threshold, most)
    count, cut = most - num_ties, threshold
    if num_listed <= count:
        cut = mining.kth_largest(values[:stop], num_listed, threshold)
    _, num_ties = mining.sum_kept(values[:stop], cut, num_listed)
    _list_free(loss, free, num_listed, cut, num_ties, tally, worker, sample, places)
    return threshold, stop, count


@helper
def _count_levels(negatives: Row, starts: Row, counts: Row) -> None:
    for level in range(counts.shape[0]):
        start, stop = starts[level], starts[level + 1]
        for block in range(start // LANES, mining.whole_blocks(stop) // LANES):
            inside = FULL << np.uint64(max(0, start - block * LANES))
            inside &= FULL >> np.uint64(max(0, (block + 1) * LANES - stop))
            counts[level] += lanes.count(negatives[block] & inside)


@helper
def _analyse_sample(
    worker: int, sample: int,
    loss: Row, rank: Row, labels: Row, codes: Row, quotas: Row, offsets: Row, shortest: int, longest: int,
    ratio: float, round_up: bool, extra: int, min_negatives: int, min_always: bool, max_negatives: int, omit_nan: bool,
    counts: Row, sums: Row, pos_mask: Row, hard_negative_mask: Row,
    kept: Row, sums_of_kept: Row, thresholds: Row, tables: Row, levels: Row, extremes: Row,
    anchors: Row, losses: Row, ends: Row, num_free: Row, free: Row,
    ratios: Row, level_starts: Row,  # descending, with the rule's own; where each feature map begins, and the end
    is_free: Row, words: Row, values: Row, places: Row,
) -> None:  # fmt: skip
    rows = Rows(loss, rank, labels, codes, quotas, offsets, shortest, longest)
    rule = Rule(ratio, round_up, extra, min_negatives, min_always, max_negatives, omit_nan)
    mined = Mined(counts, sums, pos_mask, hard_negative_mask, None)
    tally = Tally(kept, sums_of_kept, thresholds, tables, levels, extremes, anchors, losses, ends, num_free, free)
    own = (
        words[worker, : (offsets[sample + 1] - offsets[sample] + LANES - 1) // LANES],
        values[worker],
        places[worker],
    )
    _tally_sample(worker, sample, rows, rule, mined, tally, ratios, level_starts, is_free, *own)
    if is_free.shape[0] > 0:
        row = mining.row(loss, rows, sample)
        total, num_nan = _free_words(row, mining.row(is_free, rows, sample), own[0])
        listed = min(total, records.MOST_FREE)
        _select_and_list(row, own[0], num_nan, listed, listed, tally, worker, sample, own[1], own[2])
    counts[records.DONE, sample] = 1


@helper
def _tally_sample(
    worker: int, sample: int, rows: Rows, rule: Rule, mined: Mined, tally: Tally, ratios: Row, level_starts: Row,
    is_free: Row, negatives: Row, values: Row, places: Row,
) -> None:  # fmt: skip
    loss, tables = mining.row(rows.loss, rows, sample), tally.tables[worker]
    num_nan = mining.stage(rows, rule, mined, negatives, sample)
    num_pos, num_neg = mined.counts[records.NUM_POS, sample], mined.counts[records.NUM_NEG, sample]
    _count_all(loss, tables[records.EVEN], tables[records.ODD])
    anchors, losses = _room(tally, worker, records.POSITIVE_LIST, num_pos)
    _take_back(rows, rule, negatives, tables, sample, anchors, losses)
    if mined.counts[records.NUM_NAN, sample] > 0:
        _gather_nan(loss, negatives, tables[records.EVEN])
    _count_levels(negatives, level_starts, tally.levels[worker])
    _widen(loss, negatives, tally.extremes[worker])
    explicit = mining.explicit_quota(rows, sample)
    threshold, stop, count = np.nan, 0, -1  # nothing is compacted yet
    if is_free.shape[0] == 0:
        by_ratio = mining.whole_number(ratios[0], num_pos, rule.round_up)
        listed, most = min(num_neg, records.MOST_FREE), mining.quota(by_ratio, num_pos, num_neg, explicit, rule)
        threshold, stop, count = _select_and_list(
            loss, negatives, num_nan, listed, most, tally, worker, sample, values, places
        )
    for i in range(ratios.shape[0]):  # ratios descend, and so does the number kept
        own = Rule(
            ratios[i], rule.round_up, rule.extra, rule.min_negatives, rule.min_always, rule.max_negatives, False
        )
        by_ratio = mining.whole_number(ratios[i], num_pos, rule.round_up)
        num_kept = mining.quota(by_ratio, num_pos, num_neg, explicit, own)
        cut, total, num_ties = np.nan, 0.0, num_kept
        if num_kept > num_nan:
            if count < 0:
                threshold, stop = mining.select(loss, negatives, num_kept, values)
            elif num_kept <= count:
                stop = _keep_above(values[:stop], threshold)
                threshold = mining.kth_largest(values[:stop], num_kept, threshold)
            total, num_ties = mining.sum_kept(values[:stop], threshold, num_kept)
            cut, count = threshold, num_kept - num_ties
        elif num_kept > 0:
            total = np.nan
        if ratios[i] == rule.ratio:
            num_reaching = _reaching(loss, negatives, cut, places) if num_kept > 0 else 0
            anchors, losses = _room(tally, worker, records.KEPT_LIST, num_kept)
            num_listed = _list_hardest(loss, places[:num_reaching], cut, num_ties, anchors, losses)
            total = np.float64(0.0)  # once more, in anchor order: as one call without other ratios has it
            for place in range(num_listed):
                tables[records.KEPT, _own_bin(losses[place])] += 1
                total += losses[place]
            mined.counts[records.NUM_KEPT, sample] = num_kept
            mined.sums[records.THRESHOLD, sample], mined.sums[records.NEGATIVE_SUM, sample] = cut, total
        tally.num_kept[sample, i], tally.negative_sum[sample, i], tally.threshold[sample, i] = num_kept, total, cut


_ANALYSE = drivers(_analyse_sample, by_piece=True)


def analyse(
    rows: Rows, rule: Rule, ratios: Row, level_starts: Row, is_free: Row, mined: Mined, tally: Tally, num_workers: int
) -> None:
    """Mine rows without masks, ranked by their losses, and tally them, by `num_workers` threads."""
    if rows.shortest < LANES:
        rows, at = mining.padded(rows)
        if is_free.size:
            is_free, given = np.zeros(rows.loss.size, np.uint8), is_free
            is_free[at] = given
            is_free.flags.writeable = False  # as in every other call
    num_samples = rows.offsets.size - 1
    num_workers = max(1, min(num_workers, num_samples))
    num_words, num_values = mining.workspace_sizes(rows.longest)
    words = np.empty((num_workers, num_words), np.uint64)
    values = np.empty((num_workers, num_values), rows.loss.dtype)
    places = np.empty((num_workers, rows.longest + LANES), np.int64)
    firsts = np.arange(num_workers) * num_samples // num_workers  # each piece is written from its first sample on
    tally.places[:num_workers] = rows.offsets[firsts][:, None, None]
    arguments: tuple[Any, ...] = *rows, *rule, *mined[:-1], *tally, ratios, level_starts, is_free
    _ANALYSE[num_workers > 1](num_samples, num_workers, *arguments, words, values, places)
