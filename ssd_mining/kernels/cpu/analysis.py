"""The analysis on the CPU: what mining says of a sample, how its losses are distributed, what other ratios keep.

Everything happens in one visit, while the sample is in the cache:

1. Mining's `stage` finds the negatives.
2. `_count_all` counts every loss by its bin, whatever its label, without a branch; `_take_back` then removes the few
   that are not negatives. Two tables take turns, because equal losses often follow each other and one counter would
   have to wait for its last increment.
3. The selection runs once, for the largest ratio, or for as many negatives as are listed whatever the quota. What
   smaller ratios keep is found among the compacted values. Where overlaps say what is listed, it runs once more.
"""

from typing import Any, NamedTuple

import numpy as np

from ssd_mining.kernels import records
from ssd_mining.kernels.cpu import lanes, mining
from ssd_mining.kernels.cpu.jit import drivers, helper, inlined
from ssd_mining.kernels.cpu.lanes import LANES, ONE, Row
from ssd_mining.kernels.cpu.mining import FULL, NO_WORD, is_positive
from ssd_mining.kernels.records import Mined, Rows, Rule, Tally


class Workspace(NamedTuple):
    """What a worker needs for one sample."""

    values: Row  # the losses among which is selected, in anchor order
    places: Row  # the anchors of these
    chosen: Row  # the anchors of some of these


@helper
def _bin(loss: Any) -> Any:
    return np.uint64(
        np.float32(loss).view(np.uint32) >> np.uint32(16)
    )  # unsigned indices need no test for being negative


@helper
def _own_bin(loss: Any) -> Any:
    return _bin(loss) if loss == loss else np.uint64(records.NAN_BIN)  # the bits of NaN vary: use one bin


@helper
def _keep_above(values: Row, places: Row, threshold: float) -> int:
    """Move those of `values` (whole blocks) above `threshold` to the front, and their places. Return where they end."""
    pivot, stop = values.dtype.type(threshold), 0
    for start in range(0, values.shape[0], LANES):
        word = lanes.above(values, start, pivot)
        lanes.compact(values, start, word, values, stop)
        lanes.compact(places, start, word, places, stop)
        stop += lanes.count(word)
    whole = mining.whole_blocks(stop)
    values[stop:whole] = -np.inf
    return whole


@helper
def _count_all(loss: Row, negatives: Row, even: Row, odd: Row, extremes: Row) -> None:
    """Count all losses by bin. Widen the least and the largest so far, NaN at first, to those of the negatives."""
    least, largest, last = loss.dtype.type(extremes[0]), loss.dtype.type(extremes[1]), loss.shape[0] - 1
    for block in range(negatives.shape[0]):
        start = block * LANES
        lanes.prefetch(loss, loss.shape[0] + start)  # the next sample: memory is idle here
        beyond = negatives[block] & (lanes.above(loss, start, largest) | ~lanes.reaching(loss, start, least))
        for i in range(start, min(start + LANES, last), 2):
            even[_bin(loss[np.uint64(i)])] += 1
            odd[_bin(loss[np.uint64(i + 1)])] += 1
        while beyond != NO_WORD:
            value = loss[start + lanes.lowest(beyond)]
            if value == value:
                least, largest = least if value >= least else value, largest if value <= largest else value
            beyond &= beyond - ONE
    if last & 1 == 0:
        even[_bin(loss[last])] += 1
    extremes[0], extremes[1] = least, largest


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


@inlined
def _word_reaching(values: Row, start: int, pivot: float) -> Any:
    """Return which of 64 values reach `pivot`. NaN reaches all, and only NaN reaches NaN."""
    if pivot == pivot:
        return lanes.reaching(values, start, pivot)
    return lanes.above(values, start, values.dtype.type(np.inf))


@helper
def _reaching(values: Row, places: Row, threshold: float, chosen: Row) -> int:
    """Write the places of those of `values` (whole blocks) that reach `threshold` to the front of `chosen`."""
    pivot, stop = values.dtype.type(threshold), 0
    for start in range(0, values.shape[0], LANES):
        word = _word_reaching(values, start, pivot)
        lanes.compact(places, start, word, chosen, stop)
        stop += lanes.count(word)
    return stop


@helper
def _all_reaching(loss: Row, negatives: Row, threshold: float, chosen: Row) -> int:
    """Write the anchors of all negatives that reach `threshold` to the front of `chosen`."""
    pivot, stop = loss.dtype.type(threshold), 0
    for block in range(negatives.shape[0]):
        word = _word_reaching(loss, block * LANES, pivot) & negatives[block]
        lanes.compact_places(block * LANES, word, (chosen,), stop)
        stop += lanes.count(word)
    return stop


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
def _describe_free(losses: Row, numbers: Row) -> None:
    """Write what is said of the losses of the free negatives that are listed."""
    least, has_nan = np.nan, False
    for place in range(losses.shape[0]):
        value = np.float64(losses[place])
        has_nan |= value != value
        least = least if (value >= least) | (value != value) else value
    numbers[:] = np.nan
    numbers[records.LEAST_FREE] = least
    for rank in range(records.WORST_FREE):
        cut, largest = numbers[records.WORST_CUT], -np.inf
        for place in range(losses.shape[0]):  # no branch: it would be mispredicted
            value = np.float64(losses[place])
            largest = value if (value > largest) & ~(value >= cut) else largest
        if rank == 0:
            numbers[records.LARGEST_FREE] = np.nan if has_nan else largest
        if largest > -np.inf:
            numbers[records.WORST_CUT] = largest


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
    room = Workspace(values[worker], places[worker, 0], places[worker, 1])
    negatives = words[worker, : (offsets[sample + 1] - offsets[sample] + LANES - 1) // LANES]
    num_nan = _tally_sample(worker, sample, rows, rule, mined, tally, level_starts, negatives)
    all_free = is_free.shape[0] == 0
    num_listed = min(counts[records.NUM_NEG, sample], records.MOST_FREE) if all_free else -1
    _select_all(worker, sample, rows, rule, mined, tally, ratios, negatives, num_nan, num_listed, room)
    if not all_free:
        row = mining.row(loss, rows, sample)
        total, num_nan = _free_words(row, mining.row(is_free, rows, sample), negatives)
        num_listed = min(total, records.MOST_FREE)
        _select_all(worker, sample, rows, rule, mined, tally, ratios[:0], negatives, num_nan, num_listed, room)
    counts[records.DONE, sample] = 1


@helper
def _tally_sample(
    worker: int, sample: int, rows: Rows, rule: Rule, mined: Mined, tally: Tally, level_starts: Row, negatives: Row
) -> int:
    """Find the negatives; count losses by bin, list the positives. Return how many negatives are NaN."""
    loss, tables = mining.row(rows.loss, rows, sample), tally.tables[worker]
    num_nan = mining.stage(rows, rule, mined, negatives, sample)
    _count_all(loss, negatives, tables[records.EVEN], tables[records.ODD], tally.extremes[worker])
    anchors, losses = _room(tally, worker, records.POSITIVE_LIST, mined.counts[records.NUM_POS, sample])
    _take_back(rows, rule, negatives, tables, sample, anchors, losses)
    if mined.counts[records.NUM_NAN, sample] > 0:
        _gather_nan(loss, negatives, tables[records.EVEN])
    _count_levels(negatives, level_starts, tally.levels[worker])
    return num_nan


class Selected(NamedTuple):
    """The hardest negatives of a sample, some number of them."""

    threshold: float  # the loss of the easiest; NaN if it is NaN, or if there is none
    total: float  # their losses, summed
    num_ties: int  # how many of them equal the threshold
    num_above: int  # how many are above it; -1: none was looked for, for all are NaN
    stop: int  # the end of the blocks of the workspace that hold these


@helper
def _select(loss: Row, negatives: Row, num_nan: int, most: int, last: Selected, room: Workspace) -> Selected:
    """Select the `most` hardest negatives, which are no more than were selected last."""
    if most <= num_nan:
        return Selected(np.nan, np.nan if most > 0 else 0.0, most, last.num_above, last.stop)
    threshold, stop = last.threshold, last.stop
    if last.num_above < 0:
        threshold, stop = mining.select(loss, negatives, most, room.values, room.places)
    elif most <= last.num_above:
        stop = _keep_above(room.values[:stop], room.places, threshold)
        threshold = mining.kth_largest(room.values[:stop], most, threshold)
    total, num_ties = mining.sum_kept(room.values[:stop], threshold, most)
    return Selected(threshold, total, num_ties, most - num_ties, stop)


@helper
def _list(
    loss: Row, negatives: Row, selected: Selected, most: int, room: Workspace, anchors: Row, losses: Row
) -> int:  # fmt: skip
    """List the `most` hardest negatives. Return how many they are, if no other thread changes the arrays: `most`."""
    threshold, num_reaching = selected.threshold, 0
    if threshold > -np.inf:  # -inf fills blocks up
        num_reaching = _reaching(room.values[: selected.stop], room.places, threshold, room.chosen)
    if num_reaching < most:  # NaN, or ties that are not among the values
        num_reaching = _all_reaching(loss, negatives, threshold, room.chosen)
    return _list_hardest(loss, room.chosen[:num_reaching], threshold, selected.num_ties, anchors, losses)


@helper
def _select_all(
    worker: int, sample: int, rows: Rows, rule: Rule, mined: Mined, tally: Tally, ratios: Row, negatives: Row,
    num_nan: int, num_listed: int, room: Workspace,
) -> None:  # fmt: skip
    """Select what every ratio keeps, and list what the rule keeps, and the `num_listed` hardest; -1: without these.

    The largest number comes first: a smaller one is a part of it.
    """
    loss, num_pos = mining.row(rows.loss, rows, sample), mined.counts[records.NUM_POS, sample]
    selected = Selected(np.nan, 0.0, 0, -1, 0)
    i = 0
    while i < ratios.shape[0] or num_listed >= 0:
        num_kept = -1
        if i < ratios.shape[0]:
            own = Rule(
                ratios[i], rule.round_up, rule.extra, rule.min_negatives, rule.min_always, rule.max_negatives, False
            )
            by_ratio = mining.whole_number(ratios[i], num_pos, rule.round_up)
            num_neg, explicit = mined.counts[records.NUM_NEG, sample], mining.explicit_quota(rows, sample)
            num_kept = mining.quota(by_ratio, num_pos, num_neg, explicit, own)
        if num_listed >= num_kept:
            selected = _select(loss, negatives, num_nan, num_listed, selected, room)
            anchors, losses = _room(tally, worker, records.FREE_LIST, num_listed)
            count = _list(loss, negatives, selected, num_listed, room, anchors, losses)
            tally.num_free[sample] = num_listed
            _describe_free(losses[:count], tally.free[sample])
            num_listed = -1
            continue
        selected = _select(loss, negatives, num_nan, num_kept, selected, room)
        threshold, total = selected.threshold, selected.total
        if ratios[i] == rule.ratio:
            anchors, losses = _room(tally, worker, records.KEPT_LIST, num_kept)
            count = _list(loss, negatives, selected, num_kept, room, anchors, losses)
            total = _count_kept(losses[:count], tally.tables[worker, records.KEPT])
            mined.counts[records.NUM_KEPT, sample] = num_kept
            mined.sums[records.THRESHOLD, sample], mined.sums[records.NEGATIVE_SUM, sample] = threshold, total
        tally.num_kept[sample, i], tally.negative_sum[sample, i] = num_kept, total
        tally.threshold[sample, i] = threshold
        i += 1


@helper
def _count_kept(losses: Row, table: Row) -> float:
    """Count losses by bin. Return their sum, in anchor order: as one call without other ratios has it."""
    total = np.float64(0.0)
    for place in range(losses.shape[0]):
        table[_own_bin(losses[place])] += 1
        total += losses[place]
    return total


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
    places = np.empty((num_workers, 2, (num_words + 1) * LANES), np.int32 if rows.longest < 1 << 31 else np.int64)
    firsts = np.arange(num_workers) * num_samples // num_workers  # each piece is written from its first sample on
    tally.places[:num_workers] = rows.offsets[firsts][:, None, None]
    arguments: tuple[Any, ...] = *rows, *rule, *mined[:-1], *tally, ratios, level_starts, is_free
    _ANALYSE[num_workers > 1](num_samples, num_workers, *arguments, words, values, places)
