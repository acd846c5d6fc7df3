"""The CPU twin of the analysis: how the losses of the negatives are distributed, and what other ratios would keep.

*Tally* counts every loss by the upper half of its float32, whatever its label, and takes back the few that are no
negatives: a loop without a branch. Two tables take turns, for equal losses often follow each other, and a count must
not wait for the one before it. *Sweep* selects once, for the ratio that keeps most; what the smaller ones keep is
found among the values that were pulled out.
"""

from typing import Any

import numpy as np

from ssd_mining import _lanes as lanes
from ssd_mining._histogram import NAN_BIN
from ssd_mining._jit import helper, inlined, parallel, prange, serial
from ssd_mining._lanes import LANES, ONE, Row
from ssd_mining._spec import NUM_NEG, NUM_POS, Mined, Rows, Rule
from ssd_mining._tally import Swept, Tally
from ssd_mining.kernels import cpu
from ssd_mining.kernels.cpu import FULL, NO_WORD


def tally(rows: Rows, spans: Row, rule: Rule, mined: Mined, tallied: Tally) -> None:
    """Count the negatives of every span of rows that were mined with masks, and find what was selected.

    As many threads as there are tables work on it (1: the serial driver).
    """
    masks = mined.pos_mask, mined.hard_negative_mask
    if 0 < rows.loss.shape[0] < LANES:  # filled up to a word, as one sample
        rows, places = cpu.padded(rows._replace(offsets=rows.offsets[[0, -1]]))
        masks = _filled(masks[0], places), _filled(masks[1], places)
    num_selected = mined.num_pos + mined.num_kept
    starts = np.concatenate([[0], np.cumsum(num_selected)])
    num_workers = max(1, min(tallied.tables.shape[0], starts.shape[0] - 1))
    driver = _tally_serial if num_workers == 1 else _tally_parallel
    tables = 0 if num_workers == 1 else num_workers
    driver(rows, spans, rule, (*masks, mined.num_nan), tallied, (starts, tables, 0, starts.shape[0] - 1))


def _filled(mask: Row, places: Row) -> Row:
    whole = np.zeros(LANES, np.bool_)
    whole[places] = mask
    return whole


@helper
def _bin(loss: Any) -> Any:
    return np.uint64(np.float32(loss).view(np.uint32) >> np.uint32(16))  # unsigned: no test for being negative


@helper
def _tally_span(rows: Rows, rule: Rule, table: Row, span: tuple[int, int], may_have_nan: bool) -> int:
    """Add the losses of the negatives between two anchors to a table; return how many there are."""
    (start, stop), num_neg = span, 0
    for i in range(start, stop - 1, 2):
        table[_bin(rows.loss[np.uint64(i)]), 0] += 1
        table[_bin(rows.loss[np.uint64(i + 1)]), 1] += 1
    if (stop - start) & 1:
        table[_bin(rows.loss[stop - 1]), 0] += 1
    for first in range(start, stop, LANES):
        inside = FULL >> np.uint64(max(0, first + LANES - stop))
        negative = lanes.equal(rows.labels, first, rows.codes[0]) & inside
        if may_have_nan:
            negative = _without_nan(rows, rule, table, first, negative)
        num_neg += lanes.count(negative)
        others = inside & ~negative
        while others != NO_WORD:
            table[_bin(rows.loss[first + lanes.lowest(others)]), 0] -= 1
            others &= others - ONE
    return num_neg


@helper
def _without_nan(rows: Rows, rule: Rule, table: Row, first: int, negative: Any) -> Any:
    """Take those of 64 negatives out that are omitted for NaN; or bring NaN, which has many bins, into one."""
    loss, rank = rows.loss, rows.rank
    infinity = loss.dtype.type(np.inf)  # what is above it is NaN
    nan = lanes.above(loss, first, infinity) & negative
    if rule.omit_nan:
        negative &= ~nan
        if rank.shape[0] > 0:
            negative &= ~lanes.above(rank, first, infinity)
        return negative
    while nan != NO_WORD:
        table[_bin(loss[first + lanes.lowest(nan)]), 0] -= 1
        table[NAN_BIN, 0] += 1
        nan &= nan - ONE
    return negative


@helper
def _find_selected(masks: tuple[Row, Row], places: Row, start: int, stop: int) -> None:
    """Write the anchors between two that either mask holds, as many as there is room for."""
    room, found, true = places.shape[0], 0, np.uint8(1)
    positive, kept = masks[0].view(np.uint8), masks[1].view(np.uint8)
    for first in range(start, stop, LANES):
        inside = FULL >> np.uint64(max(0, first + LANES - stop))
        word = (lanes.equal(positive, first, true) | lanes.equal(kept, first, true)) & inside
        while word != NO_WORD and found < room:
            places[found] = first + lanes.lowest(word)
            found += 1
            word &= word - ONE


@inlined
def _tally_sample(
    rows: Rows, spans: Row, rule: Rule, found: tuple[Row, Row, Row], tallied: Tally, slots: tuple[Row, int, int]
) -> None:
    (positive, kept, num_nan), (starts, sample, worker) = found, slots
    own = tallied.places[starts[sample] : starts[sample + 1]]
    per_sample = (spans.shape[0] - 1) // (starts.shape[0] - 1)
    first = sample * per_sample
    _find_selected((positive, kept), own, spans[first], spans[first + per_sample])
    for i in range(first, first + per_sample):
        span = spans[i], spans[i + 1]
        tallied.num_neg[i] = _tally_span(rows, rule, tallied.tables[worker], span, num_nan[sample] > 0)


@serial
def _tally_serial(
    rows: Rows, spans: Row, rule: Rule, found: tuple[Row, Row, Row], tallied: Tally, slots: tuple[Row, int, int, int]
) -> None:
    _tally_samples(rows, spans, rule, found, tallied, slots)


@helper
def _tally_samples(
    rows: Rows, spans: Row, rule: Rule, found: tuple[Row, Row, Row], tallied: Tally, slots: tuple[Row, int, int, int]
) -> None:
    starts, worker, first, last = slots
    for sample in range(first, last):
        _tally_sample(rows, spans, rule, found, tallied, (starts, sample, worker))


@parallel
def _tally_parallel(
    rows: Rows, spans: Row, rule: Rule, found: tuple[Row, Row, Row], tallied: Tally, slots: tuple[Row, int, int, int]
) -> None:
    starts, num_workers, first, last = slots
    for worker in prange(num_workers):
        start = first + worker * (last - first) // num_workers
        stop = first + (worker + 1) * (last - first) // num_workers
        _tally_samples(rows, spans, rule, found, tallied, (starts, worker, start, stop))


def sweep(rows: Rows, rule: Rule, mined: Mined, ratios: Row, swept: Swept, num_workers: int) -> None:
    """Say what every sample of mined rows keeps under each of some falling ratios, by `num_workers` threads.

    The rows are ranked by their losses, and their quotas are the rule's.
    """
    if rows.shortest < LANES:
        rows, _ = cpu.padded(rows)
    num_samples = rows.offsets.shape[0] - 1
    num_workers = max(1, min(num_workers, num_samples))
    driver = _sweep_serial if num_workers == 1 else _sweep_parallel
    driver(rows, rule, (mined.counts, ratios), swept, cpu.scratch(rows, num_workers), (0, num_samples))


@helper
def _find_negatives(rows: Rows, rule: Rule, negatives: Row, sample: int) -> int:
    """Write the words of the negatives of a sample; return how many of them are NaN."""
    loss, labels = cpu.row(rows.loss, rows, sample), cpu.row(rows.labels, rows, sample)
    background, infinity, num_nan = rows.codes[0], loss.dtype.type(np.inf), 0
    for block in range(negatives.shape[0]):
        start = block * LANES
        negatives[block] = lanes.equal(labels, start, background)
        nan = lanes.above(loss, start, infinity) & negatives[block]
        if rule.omit_nan:
            negatives[block] &= ~nan
        else:
            num_nan += lanes.count(nan)
    return num_nan


@helper
def _keep_above(values: Row, threshold: float) -> int:
    """Move those of `values` (whole blocks) above `threshold` to the front; return where their blocks end."""
    pivot, stop = values.dtype.type(threshold), 0
    for i in range(values.shape[0]):
        value = values[i]
        values[stop] = value
        stop += not value <= pivot
    whole = cpu.whole_blocks(stop)
    values[stop:whole] = -np.inf
    return whole


@inlined
def _sweep_sample(
    rows: Rows, rule: Rule, given: tuple[Row, Row], swept: Swept, scratch: tuple[Row, Row], sample: int
) -> None:
    (counts, ratios), (words, values) = given, scratch
    loss = cpu.row(rows.loss, rows, sample)
    negatives = words[: (loss.shape[0] + LANES - 1) // LANES]
    num_nan = _find_negatives(rows, rule, negatives, sample)
    threshold, stop, count = np.nan, 0, -1  # nothing is pulled out yet
    for i in range(ratios.shape[0]):  # they fall, and so does what is kept
        own = Rule(
            ratios[i], rule.round_up, rule.extra, rule.min_negatives, rule.min_always, rule.max_negatives, False
        )
        num_kept = cpu.quota(counts[NUM_POS, sample], counts[NUM_NEG, sample], -1, own)
        swept.num_kept[sample, i] = num_kept
        swept.threshold[sample, i] = np.nan
        swept.sums[sample, i] = np.nan if num_kept > 0 else 0.0
        if num_kept > num_nan:
            if count < 0:
                threshold, stop = cpu.select(loss, negatives, num_kept, values)
            elif num_kept <= count:
                stop = _keep_above(values[:stop], threshold)
                threshold = cpu.kth_largest(values[:stop], num_kept, threshold)
            total, count = cpu.sum_above(values[:stop], threshold)
            swept.sums[sample, i] = total + (num_kept - count) * threshold
            swept.threshold[sample, i] = threshold
    swept.done[sample] = 1


@serial
def _sweep_serial(
    rows: Rows, rule: Rule, given: tuple[Row, Row], swept: Swept, scratch: tuple[Row, Row], span: tuple[int, int]
) -> None:
    for sample in range(span[0], span[1]):
        _sweep_sample(rows, rule, given, swept, (scratch[0][0], scratch[1][0]), sample)


@parallel
def _sweep_parallel(
    rows: Rows, rule: Rule, given: tuple[Row, Row], swept: Swept, scratch: tuple[Row, Row], span: tuple[int, int]
) -> None:
    (negatives, values), num_samples = scratch, span[1] - span[0]
    for worker in prange(negatives.shape[0]):
        start = span[0] + worker * num_samples // negatives.shape[0]
        stop = span[0] + (worker + 1) * num_samples // negatives.shape[0]
        own = slice(worker, worker + 1)
        _sweep_serial(rows, rule, given, swept, (negatives[own], values[own]), (start, stop))
