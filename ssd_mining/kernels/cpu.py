"""The CPU twin: one body per sample, a serial and a parallel driver over it.

A sample goes through three stages. `_stage` gives every anchor its role and copies what the negatives are ranked by
to scratch, `_select` finds the rank of the easiest kept negative, and the rest of `_mine_sample` sums and marks.
"""

import numpy as np
from numpy.typing import NDArray

from ssd_mining._jit import helper, parallel, prange, serial
from ssd_mining._spec import Mined, Rows, Rule
from ssd_mining.kernels import rules

IGNORED, POSITIVE, NEGATIVE, KEPT = np.uint8(0), np.uint8(1), np.uint8(2), np.uint8(3)

# Ranks are bisected by the bits of a float64, in which every float32 is exact with 29 low bits of zero.
FLOAT32_SHIFT = np.int64(29)
SIGN_FLIP = np.int64(0x7FFFFFFFFFFFFFFF)
KEY_OF_INF = np.int64(0x7FF0000000000000)

Row = NDArray[np.generic]

_quota = helper(rules.quota)


def mine(rows: Rows, rule: Rule, mined: Mined, num_workers: int) -> None:
    """Mine every sample of `rows` into `mined`, by `num_workers` threads (1: the serial driver)."""
    num_samples, num_anchors = rows.loss.shape
    num_workers = max(1, min(num_workers, num_samples))
    staged = np.empty((num_workers, num_anchors), rows.loss.dtype)
    roles = np.empty((num_workers, num_anchors), np.uint8)
    driver = _mine_serial if num_workers == 1 else _mine_parallel
    driver(rows, rule, mined, staged, roles)


@helper
def _stage(rows: Rows, omit_nan: bool, staged: Row, roles: Row, sample: int) -> tuple[int, int, int, int]:
    """Write roles and staged ranks (-inf unless negative); count positives, negatives, NaN and bad labels."""
    loss, labels = rows.loss[sample], rows.labels[sample]
    rank = rows.rank[sample] if rows.rank.shape[0] > 0 else loss
    background, ignored, highest = rows.codes[0], rows.codes[1], rows.codes[2]
    num_pos = num_neg = num_nan = num_bad = 0
    for j in range(staged.shape[0]):
        label = labels[j]
        negative = label == background
        positive = (not negative) & (label != ignored)
        num_bad += positive & (label > highest)
        nan = (loss[j] != loss[j]) | (rank[j] != rank[j])
        num_nan += nan & (positive | negative)
        counts = not (nan & omit_nan)
        negative &= counts
        positive &= counts
        num_pos += positive
        num_neg += negative
        roles[j] = NEGATIVE if negative else (POSITIVE if positive else IGNORED)
        staged[j] = rank[j] if negative else -np.inf
    return num_pos, num_neg, num_nan, num_bad


@helper
def _select(staged: Row, num_kept: int) -> float:
    """Find the `num_kept`-th largest staged rank, NaN the largest of all, by bisecting its bits."""
    if _count_above(staged, np.inf) >= num_kept:
        return np.nan
    shift = FLOAT32_SHIFT if staged.itemsize == 4 else np.int64(0)
    high = (KEY_OF_INF >> shift) + 1
    low = ~(KEY_OF_INF >> shift)
    # At least num_kept ranks reach the float of low, fewer reach that of high: at most 64 passes.
    while low + 1 < high:
        middle = (low >> 1) + (high >> 1) + (low & high & 1)  # low + high could overflow
        if _count_reaching(staged, _float_of(middle, shift)) >= num_kept:
            low = middle
        else:
            high = middle
    # Keys finer than the subnormals of float32 round to one of them; adding 0.0 turns -0.0 into 0.0.
    return np.float64(staged.dtype.type(_float_of(low, shift))) + 0.0


@helper
def _float_of(key: int, shift: int) -> float:
    """Turn a key, whose order is that of the floats, back into its float64."""
    return np.int64((key ^ ((key >> 63) & (SIGN_FLIP >> shift))) << shift).view(np.float64)


@helper
def _count_reaching(staged: Row, threshold: float) -> int:
    pivot = staged.dtype.type(threshold)
    count = 0
    for j in range(staged.shape[0]):
        count += not (staged[j] < pivot)
    return count


@helper
def _count_above(staged: Row, threshold: float) -> int:
    pivot = staged.dtype.type(threshold)
    count = 0
    for j in range(staged.shape[0]):
        count += not (staged[j] <= pivot)
    return count


@helper
def _sum_above(staged: Row, threshold: float) -> float:
    pivot = staged.dtype.type(threshold)
    total = 0.0
    for j in range(staged.shape[0]):
        if not (staged[j] <= pivot):
            total += staged[j]
    return total


@helper
def _mark_kept(staged: Row, roles: Row, threshold: float, num_ties: int) -> None:
    """Turn the kept negatives into KEPT: those above the threshold, and the first `num_ties` that equal it."""
    pivot = staged.dtype.type(threshold)
    for j in range(staged.shape[0]):
        if roles[j] != NEGATIVE or staged[j] < pivot:
            continue
        if staged[j] == pivot or pivot != pivot:
            tie = pivot == pivot or staged[j] != staged[j]
            if not tie or num_ties == 0:
                continue
            num_ties -= 1
        roles[j] = KEPT


@helper
def _sum_role(loss: Row, roles: Row, role: int) -> float:
    total = 0.0
    for j in range(roles.shape[0]):
        if roles[j] == role:
            total += loss[j]
    return total


@helper
def _mine_sample(rows: Rows, rule: Rule, mined: Mined, staged: Row, roles: Row, sample: int) -> None:
    loss, ranked = rows.loss[sample], rows.rank.shape[0] > 0
    num_pos, num_neg, num_nan, num_bad = _stage(rows, rule.omit_nan, staged, roles, sample)
    num_kept = _quota(num_pos, num_neg, rows.quotas[sample], rule)
    threshold, num_ties, negative_sum = np.nan, num_kept, 0.0
    if num_kept > 0:
        threshold = _select(staged, num_kept)
        if threshold == threshold:
            num_ties -= _count_above(staged, threshold)
        negative_sum = _sum_above(staged, threshold) + num_ties * threshold
        if ranked or mined.hard_negative_mask.shape[0] > 0:
            _mark_kept(staged, roles, threshold, num_ties)
        if ranked:
            negative_sum = _sum_role(loss, roles, KEPT)

    if mined.hard_negative_mask.shape[0] > 0:
        for j in range(roles.shape[0]):
            mined.hard_negative_mask[sample, j] = roles[j] == KEPT
            mined.pos_mask[sample, j] = roles[j] == POSITIVE
    mined.num_pos[sample] = num_pos
    mined.num_neg[sample] = num_neg
    mined.num_kept[sample] = num_kept
    mined.num_nan[sample] = num_nan
    mined.num_bad[sample] = num_bad
    mined.positive_sum[sample] = _sum_role(loss, roles, POSITIVE)
    mined.negative_sum[sample] = negative_sum
    mined.threshold[sample] = threshold
    mined.done[sample] = 1


@helper
def _mine_span(rows: Rows, rule: Rule, mined: Mined, staged: Row, roles: Row, span: tuple[int, int]) -> None:
    for sample in range(span[0], span[1]):
        _mine_sample(rows, rule, mined, staged, roles, sample)


@serial
def _mine_serial(rows: Rows, rule: Rule, mined: Mined, staged: Row, roles: Row) -> None:
    _mine_span(rows, rule, mined, staged[0], roles[0], (0, rows.loss.shape[0]))


@parallel
def _mine_parallel(rows: Rows, rule: Rule, mined: Mined, staged: Row, roles: Row) -> None:
    num_workers, num_samples = staged.shape[0], rows.loss.shape[0]
    for worker in prange(num_workers):
        start = worker * num_samples // num_workers
        stop = (worker + 1) * num_samples // num_workers
        _mine_span(rows, rule, mined, staged[worker], roles[worker], (start, stop))
