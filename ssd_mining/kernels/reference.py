"""The reference as a twin, ``backend="reference"``: its functions with the signatures of the kernels."""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining import reference
from ssd_mining.kernels import records, rules
from ssd_mining.kernels.records import (
    BoxRows,
    Computed,
    LogitRows,
    Matched,
    MatchRule,
    Mined,
    Rows,
    Rule,
    SigmoidRule,
    SoftmaxRule,
    Tally,
)
from ssd_mining.reference import losses as judge
from ssd_mining.reference import matching


def mine(rows: Rows, rule: Rule, mined: Mined, num_workers: int = 1) -> None:  # noqa: ARG001 - the twins' signature
    """Mine rows by `reference.mine_batch`."""
    neg_mask = rows.labels == rows.codes[records.BACKGROUND]
    pos_mask = ~neg_mask & (rows.labels != rows.codes[records.IGNORED_LABEL])
    rank = rows.rank if rows.rank.size else rows.loss
    samples = reference.mine_batch(
        rows.loss,
        rank,
        reference.Roles(pos_mask, neg_mask),
        rows.offsets,
        num_negatives=rows.quotas if rows.quotas.size else None,
        omit_nan=rule.omit_nan,
        neg_pos_ratio=rule.ratio,
        rounding="ceil" if rule.round_up else "floor",
        extra_negatives=rule.extra,
        min_negatives=rule.min_negatives,
        min_negatives_when="always" if rule.min_always else "no_positives",
        max_negatives=rule.max_negatives,
    )
    nan = (np.isnan(rows.loss) | np.isnan(rank)) & (pos_mask | neg_mask)
    bad = pos_mask & (rows.labels > rows.codes[records.HIGHEST])
    counts, sums = mined.counts, mined.sums
    for i, (sample, (start, stop)) in enumerate(zip(samples, itertools.pairwise(rows.offsets), strict=True)):
        counts[records.NUM_NAN, i], counts[records.NUM_BAD, i] = nan[start:stop].sum(), bad[start:stop].sum()
        counts[records.NUM_POS, i], counts[records.NUM_NEG, i] = sample.num_pos, sample.num_neg
        counts[records.NUM_KEPT, i] = sample.num_kept
        sums[records.POSITIVE_SUM, i], sums[records.NEGATIVE_SUM, i] = sample.positive_sum, sample.negative_sum
        sums[records.THRESHOLD, i] = sample.threshold
        if mined.pos_mask.size:
            mined.pos_mask[start:stop] = (pos_mask & ~nan if rule.omit_nan else pos_mask)[start:stop]
            mined.hard_negative_mask[start:stop] = sample.hard_negative_mask
        counts[records.DONE, i] = 1
    rules.list_kept(rows, mined)


def analyse(
    rows: Rows,
    rule: Rule,
    ratios: NDArray[np.float64],
    level_starts: NDArray[np.int64],
    is_free: NDArray[np.uint8],
    mined: Mined,
    tally: Tally,
    num_workers: int = 1,
) -> None:
    """Mine every sample once for every ratio; count losses by the upper half of their float32."""
    masked = mined._replace(
        pos_mask=np.empty(rows.loss.size, np.bool_), hard_negative_mask=np.empty(rows.loss.size, np.bool_)
    )
    mine(rows, rule, masked, num_workers)
    for i, ratio in enumerate(ratios.tolist()):
        own = mined._replace(counts=np.zeros_like(mined.counts), sums=np.empty_like(mined.sums))
        mine(rows, rule._replace(ratio=ratio), own, num_workers)
        tally.num_kept[:, i], tally.threshold[:, i] = own.counts[records.NUM_KEPT], own.sums[records.THRESHOLD]
        tally.negative_sum[:, i] = own.sums[records.NEGATIVE_SUM]
    negative = rows.labels == rows.codes[records.BACKGROUND]
    if rule.omit_nan:
        negative &= ~(np.isnan(rows.loss) | np.isnan(rows.rank if rows.rank.size else rows.loss))
    chosen_of = {records.EVEN: negative, records.POSITIVES: masked.pos_mask, records.KEPT: masked.hard_negative_mask}
    for table, chosen in chosen_of.items():
        np.add.at(tally.tables[0, table], _bins(rows.loss[chosen]), 1)
    extremes = [*tally.extremes[0], *rows.loss[negative]]
    tally.extremes[0] = np.fmin.reduce(extremes), np.fmax.reduce(extremes)
    anchors = np.arange(rows.loss.size) - np.repeat(rows.offsets[:-1], np.diff(rows.offsets))
    hardest = np.zeros(rows.loss.size, np.bool_)
    for sample, (start, stop) in enumerate(itertools.pairwise(rows.offsets)):
        free = start + np.flatnonzero(negative[start:stop] & (is_free[start:stop] == 1 if is_free.size else True))
        loss = rows.loss[free].astype(np.float64)
        order = np.lexsort((free, np.where(np.isnan(loss), 0, -loss), ~np.isnan(loss)))
        listed = order[: records.MOST_FREE]
        hardest[free[listed]] = True
        tally.num_free[sample] = listed.size
        numbers = np.unique(loss[listed][~np.isnan(loss[listed])])[::-1]
        worst = numbers[min(records.WORST_FREE, numbers.size) - 1] if numbers.size else np.nan
        largest = np.nan if np.isnan(loss[listed]).any() or not numbers.size else numbers[0]
        tally.free[sample] = largest, worst, numbers[-1] if numbers.size else np.nan
    for role, mask in enumerate((masked.pos_mask, masked.hard_negative_mask, hardest)):
        count = np.count_nonzero(mask)
        tally.anchors[role, :count], tally.losses[role, :count] = anchors[mask], rows.loss[mask]
        tally.places[0, role, 1] = count
    for level, (start, stop) in enumerate(itertools.pairwise(level_starts)):
        tally.levels[0, level] += np.count_nonzero(negative & (start <= anchors) & (anchors < stop))


def _bins(losses: Any) -> Any:
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = losses.astype(np.float32)
    return np.where(np.isnan(numbers), records.NAN_BIN, numbers.view(np.uint32) >> np.uint32(16))


def losses(rows: LogitRows, rule: SoftmaxRule | SigmoidRule, computed: Computed, num_workers: int = 1) -> None:  # noqa: ARG001 - the twins' signature
    """Compute losses, or ranks, one anchor at a time."""
    computed.values[...] = 0.0
    loss_of = _judged(rule, judge.softmax_loss, judge.sigmoid_loss)
    for sample, anchor, logits in _anchors(rows):
        if rule.excluded >= 0:
            others = [x for c, x in enumerate(logits) if c != rule.excluded]
            cost = (_softmax_rank if isinstance(rule, SoftmaxRule) else _sigmoid_rank)(logits, others)
        else:
            cost = loss_of(logits, *_targets(rows, sample, anchor))
        computed.values[sample, anchor] = cost
    are_classes = ((rows.labels >= 0) & (rows.labels < rows.logits.shape[2])).all(axis=1)
    computed.done[...] = np.where(are_classes, 1, -1)


def gradients(
    rows: LogitRows,
    rule: SoftmaxRule | SigmoidRule,
    factors: NDArray[np.float64],
    computed: Computed,
    num_workers: int = 1,  # noqa: ARG001 - the twins' signature
) -> None:
    """Compute gradients one anchor at a time."""
    slopes_of = _judged(rule, judge.softmax_gradient, judge.sigmoid_gradient)
    for sample, anchor, logits in _anchors(rows):
        if factors[sample, anchor] != 0:
            slopes = slopes_of(logits, *_targets(rows, sample, anchor))
            computed.values[sample, anchor] = factors[sample, anchor] * np.array(slopes)
    computed.done[...] = 1


def _anchors(rows: LogitRows) -> Iterator[tuple[int, int, list[float]]]:
    """Yield the sample, the anchor and the logits of every anchor that is not ignored."""
    for sample, anchor in np.argwhere(rows.labels >= 0).tolist():
        yield sample, anchor, rows.logits[sample, anchor].astype(np.float64).tolist()


def _targets(rows: LogitRows, sample: int, anchor: int) -> tuple[list[float], list[float]]:
    """Return the targets of an anchor, and the weights of their classes."""
    weights = rows.weights.tolist()
    if rows.scores.size:
        return [float(score) for score in rows.scores[sample, anchor]], weights
    label = int(rows.labels[sample, anchor])
    return [float(c == label) for c in range(len(weights))], weights


def _judged(
    rule: SoftmaxRule | SigmoidRule, softmax: Callable[..., Any], sigmoid: Callable[..., Any]
) -> Callable[..., Any]:
    """Return the function of the reference that computes this rule."""
    if isinstance(rule, SoftmaxRule):
        return partial(softmax, label_smoothing=rule.smoothing, most=rule.most)
    return partial(sigmoid, positive=rule.positive, negative=rule.negative, gamma=rule.gamma)


def _softmax_rank(logits: list[float], others: list[float]) -> float:
    """Return ``-log`` of the largest probability of the other classes."""
    if any(map(math.isnan, logits)):
        return math.nan
    return judge.negative_log_softmax(logits, logits.index(max(others))) if others else math.inf


def _sigmoid_rank(_: list[float], others: list[float]) -> float:
    """Return ``-log`` of the largest probability of the other classes."""
    return math.nan if any(map(math.isnan, others)) else judge.softplus(-max(others, default=-math.inf))


_FORCES = ("bipartite", "argmax", "argmax_all", "own_best", "none")  # in the order of the codes of `MatchRule.force`


def match(rows: BoxRows, rule: MatchRule, matched: Matched, num_workers: int = 1) -> None:  # noqa: ARG001 - the twins' signature
    """Match every sample by `reference.matching`. Where a box or a class cannot be, `Matched.done` stays 0."""
    if any(matching.are_bad(anchors) for anchors in rows.anchors):
        return
    for sample, (start, stop) in enumerate(itertools.pairwise(rows.offsets)):
        classes = rows.classes[start:stop]
        if matching.are_bad(rows.boxes[start:stop]) or np.isin(classes, (rule.background, rule.ignore_index)).any():
            continue
        anchors = rows.anchors[sample if rows.anchors.shape[0] > 1 else 0]
        valid = np.ones(len(anchors), np.bool_)
        if rows.valid.shape[0]:
            valid = rows.valid[sample if rows.valid.shape[0] > 1 else 0]
        found, overlaps, best = matching.match_sample(
            rows.boxes[start:stop],
            anchors,
            rows.crowd[start:stop] if rows.crowd.size else np.zeros(stop - start, np.bool_),
            valid,
            pos_iou=rule.pos_iou,
            neg_iou=(rule.neg_low, rule.neg_high),
            force=_FORCES[rule.force],
            first=rule.first,
            force_iou=rule.force_iou,
            ignore_ioa=rule.ignore_ioa,
            crowd_first=rule.crowd_first,
        )
        matched.labels[sample] = matching.labels_of(found, classes, rule.background, rule.ignore_index)
        matched.matched[sample], matched.overlaps[sample] = found, overlaps
        matched.num_anchors[start:stop] = np.bincount(found[found >= 0], minlength=stop - start)
        matched.best_iou[start:stop] = best
        matched.done[sample] = 1
