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
    driver(rows, spans, rule, masks, tallied, (starts, tables, 0, starts.shape[0] - 1))


def _filled(mask: Row, places: Row) -> Row:
    whole = np.zeros(LANES, np.bool_)
    whole[places] = mask
    return whole


@helper
def _bin(loss: Any) -> Any:
    return np.int64(np.float32(loss).view(np.uint32) >> np.uint32(16))


@helper
def _tally_span(rows: Rows, rule: Rule, table: Row, start: int, stop: int) -> int:
    """Add the losses of the negatives between two anchors to a table; return how many there are."""
    loss, rank, labels = rows.loss, rows.rank, rows.labels
    infinity, num_neg = loss.dtype.type(np.inf), 0  # what is above it is NaN
    for first in range(start, stop, LANES):
        last = min(first + LANES, stop)
        for i in range(first, last):
            table[_bin(loss[i]), i & 1] += 1
        inside = FULL >> np.uint64(first + LANES - last)
        negative = lanes.equal(labels, first, rows.codes[0]) & inside
        nan = lanes.above(loss, first, infinity) & negative
        kept_back = negative
        if rule.omit_nan:
            kept_back &= ~nan
            if rank.shape[0] > 0:
                kept_back &= ~lanes.above(rank, first, infinity)
        elif nan != NO_WORD:
            for i in range(first, last):
                if (nan >> np.uint64(i - first)) & ONE != NO_WORD:
                    table[_bin(loss[i]), i & 1] -= 1
                    table[NAN_BIN, i & 1] += 1
        num_neg += lanes.count(kept_back)
        others = inside & ~kept_back
        while others != NO_WORD:
            i = first + lanes.lowest(others)
            table[_bin(loss[i]), i & 1] -= 1
            others &= others - ONE
    return num_neg


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
    rows: Rows, spans: Row, rule: Rule, masks: tuple[Row, Row], tallied: Tally, slots: tuple[Row, int, int]
) -> None:
    starts, sample, worker = slots
    own = tallied.places[starts[sample] : starts[sample + 1]]
    per_sample = (spans.shape[0] - 1) // (starts.shape[0] - 1)
    first = sample * per_sample
    _find_selected(masks, own, spans[first], spans[first + per_sample])
    for span in range(first, first + per_sample):
        table = tallied.tables[worker]
        tallied.num_neg[span] = _tally_span(rows, rule, table, spans[span], spans[span + 1])


@serial
def _tally_serial(
    rows: Rows, spans: Row, rule: Rule, masks: tuple[Row, Row], tallied: Tally, slots: tuple[Row, int, int, int]
) -> None:
    starts, worker, first, last = slots
    for sample in range(first, last):
        _tally_sample(rows, spans, rule, masks, tallied, (starts, sample, worker))


@parallel
def _tally_parallel(
    rows: Rows, spans: Row, rule: Rule, masks: tuple[Row, Row], tallied: Tally, slots: tuple[Row, int, int, int]
) -> None:
    starts, num_workers, first, last = slots
    for worker in prange(num_workers):
        start = first + worker * (last - first) // num_workers
        stop = first + (worker + 1) * (last - first) // num_workers
        _tally_serial(rows, spans, rule, masks, tallied, (starts, worker, start, stop))


def sweep(rows: Rows, rule: Rule, mined: Mined, ratios: Row, swept: Swept, num_workers: int) -> None:
    """Say what every sample of rows that were mined keeps under each of some ratios, by `num_workers` threads.

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


@inlined
def _sweep_sample(
    rows: Rows, rule: Rule, given: tuple[Row, Row], swept: Swept, scratch: tuple[Row, Row], sample: int
) -> None:
    (counts, ratios), (words, values) = given, scratch
    loss = cpu.row(rows.loss, rows, sample)
    negatives = words[: (loss.shape[0] + LANES - 1) // LANES]
    num_nan = _find_negatives(rows, rule, negatives, sample)
    num_kept, most = swept.num_kept[sample], 0
    for i in range(ratios.shape[0]):
        own = Rule(
            ratios[i], rule.round_up, rule.extra, rule.min_negatives, rule.min_always, rule.max_negatives, False
        )
        num_kept[i] = cpu.quota(counts[NUM_POS, sample], counts[NUM_NEG, sample], -1, own)
        most = max(most, num_kept[i])
    least, num_above = np.nan, 0
    pulled = values[:0]
    if most > num_nan:
        least, pulled = cpu.select(loss, negatives, most, values)
        _, num_above = cpu.sum_above(pulled, least)
    for i in range(ratios.shape[0]):
        k = num_kept[i]
        threshold, total = np.nan, 0.0
        if k > num_nan:
            threshold = least if k > num_above else cpu.kth_largest(pulled, k, k - 1)
            total, count = cpu.sum_above(pulled, threshold)
            total += (k - count) * threshold
        elif k > 0:
            total = np.nan
        swept.sums[sample, i] = total
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
