"""The CPU twin of the losses from logits: tiles of 64 anchors, two forms of loss, two drivers over each.

A tile is the transposed logits of 64 anchors, (C, 64): one row for each class. What remains are plain loops over the
64 lanes of a row, which LLVM vectorises, in the order of the classes, so that every CPU adds up in the same order.

The softmax takes the largest logit of an anchor as its origin and leaves that class out of the sum of exponentials:
``rest = log1p(sum of exp(x_c - top))`` over all others is what the largest class costs, and ``rest + (top - x_c)``
what any class costs. Nothing overflows, nothing cancels: a loss of 1e-11 keeps its digits.
"""

from typing import Any

import numpy as np

from ssd_mining import _lanes as lanes
from ssd_mining._classification import Computed, LogitRows, SigmoidRule, SoftmaxRule
from ssd_mining._elementary import base, log1p, scaled_exp, whole
from ssd_mining._jit import helper, inlined, parallel, prange, serial
from ssd_mining._lanes import COLUMNS, LANES, Row
from ssd_mining.kernels.cpu_gradients import sigmoid_gradients, softmax_gradients

__all__ = ["sigmoid_gradients", "sigmoid_losses", "softmax_gradients", "softmax_losses"]

# Classes that are added up before they meet the sum: fewer roundings, fewer loads. 21 and 81 are whole groups.
GROUP = 3

DEEPEST = 87  # exp(-88) is below the normal numbers of float32: it counts as 0
NO_EXPONENT = np.int32(0)

# What is known of each lane, in the last rows of the scratch.
TOP, REST, OWN, SHARE, TOTAL, COUNT = -1, -2, -3, -4, -5, -6
NUM_VECTORS = 6


def softmax_losses(rows: LogitRows, rule: SoftmaxRule, losses: Computed, num_workers: int) -> None:
    """Compute the softmax losses of every sample of `rows`, by `num_workers` threads (1: the serial driver)."""
    num_workers = max(1, min(num_workers, rows.logits.shape[0]))
    driver = _softmax_serial if num_workers == 1 else _softmax_parallel
    driver(rows, rule, losses, *_scratch(rows, num_workers), (0, rows.logits.shape[0]))


def sigmoid_losses(rows: LogitRows, rule: SigmoidRule, losses: Computed, num_workers: int) -> None:
    """Compute the sigmoid or focal losses of every sample of `rows`, by `num_workers` threads."""
    num_workers = max(1, min(num_workers, rows.logits.shape[0]))
    driver = _sigmoid_serial if num_workers == 1 else _sigmoid_parallel
    driver(rows, rule, losses, *_scratch(rows, num_workers), (0, rows.logits.shape[0]))


def _scratch(rows: LogitRows, num_workers: int) -> tuple[Any, Any]:
    """Allocate what a worker needs: a tile of logits, one of targets, the vectors; and a padded copy of a tail."""
    num_classes = rows.logits.shape[2]
    tiles = np.empty((num_workers, 2 * _height(num_classes) + NUM_VECTORS, LANES), rows.logits.dtype)
    tails = np.zeros((num_workers, LANES * num_classes + COLUMNS), rows.logits.dtype)
    return tiles, tails


@helper
def _height(num_classes: int) -> int:
    """Say how many rows a tile has: whole columns, and whole groups."""
    return max(-(-num_classes // COLUMNS) * COLUMNS, -(-num_classes // GROUP) * GROUP)


@helper
def _load_tile(values: Row, start: int, tile: Row, tail: Row) -> None:
    """Transpose the values (A, C) of the 64 anchors from `start`; lanes past the last anchor hold anything."""
    num_classes = values.shape[1]
    flat = values.reshape(values.size)
    first, size = start * num_classes, LANES * num_classes
    if first + size + COLUMNS > flat.shape[0]:  # whole columns reach past the last class of the last anchor
        left = min(flat.shape[0] - first, size)
        tail[:left] = flat[first : first + left]
        flat, first = tail, 0
    else:
        for i in range(first, first + size, LANES):
            lanes.prefetch(flat, i)
    for c in range(0, num_classes, COLUMNS):
        lanes.transpose(flat, first + c, num_classes, tile[c : c + COLUMNS])
    tile[num_classes:] = -np.inf  # classes that fill up a group: exp is 0


@helper
def _find_top(tile: Row, num_classes: int, top: Row) -> None:
    """Find the largest logit of every lane, NaN left out."""
    top[:] = -np.inf
    for c in range(0, num_classes, GROUP):
        _raise_top(tile[c : c + GROUP], top)


@helper
def _raise_top(x: Row, top: Row) -> None:
    for j in range(LANES):
        a = x[0, j] if x[0, j] > top[j] else top[j]
        b = x[1, j] if x[1, j] > x[2, j] else x[2, j]
        top[j] = a if a > b else b


@helper
def _find_top_besides(tile: Row, num_classes: int, besides: int, top: Row) -> None:
    """Find the largest logit of every lane among all classes but one, NaN above all."""
    top[:] = -np.inf
    for c in range(num_classes):
        if c != besides:
            x = tile[c]
            for j in range(LANES):
                top[j] = x[j] if x[j] > top[j] or x[j] != x[j] else top[j]


@helper
def _find_rest(tile: Row, num_classes: int, vectors: Row) -> None:
    """Compute what the largest class of every lane costs: NaN where a logit is NaN or +inf, or all are -inf."""
    top, total, count, rest = vectors[TOP], vectors[TOTAL], vectors[COUNT], vectors[REST]
    total[:], count[:] = 0.0, -1.0
    for c in range(0, num_classes, GROUP):
        _add_exp(tile[c : c + GROUP], top, total, count)
    for j in range(LANES):
        t = top[j]
        origin = base(t)
        back = scaled_exp(origin - t, np.int32(-whole(t - origin)))
        rest[j] = log1p(total[j] * back + count[j]) + (t - t)


@helper
def _add_exp(x: Row, top: Row, total: Row, count: Row) -> None:
    """Add the scaled exponentials of a group of classes, and count those that equal the largest."""
    zero, one, deepest = top.dtype.type(0), top.dtype.type(1), top.dtype.type(DEEPEST)
    for j in range(LANES):
        t = top[j]
        origin, lowest = base(t), t - deepest
        n = whole(t - origin)
        a, b, c = x[0, j], x[1, j], x[2, j]
        exp_a = zero if a < lowest or a == t else scaled_exp(a - origin, n)
        exp_b = zero if b < lowest or b == t else scaled_exp(b - origin, n)
        exp_c = zero if c < lowest or c == t else scaled_exp(c - origin, n)
        total[j] += exp_a + exp_b + exp_c
        count[j] += (one if a == t else zero) + (one if b == t else zero) + (one if c == t else zero)


@helper
def _find_own(rows: LogitRows, keep: float, sample: int, start: int, vectors: Row) -> None:
    """Look up the logit of every lane's label, and its weight: 0 where the anchor is ignored."""
    logits, labels, weights = rows.logits[sample], rows.labels[sample], rows.weights
    own, share = vectors[OWN], vectors[SHARE]
    own[:], share[:] = 0.0, 0.0
    keep = own.dtype.type(keep)
    for j in range(min(LANES, labels.shape[0] - start)):
        anchor = np.uint64(start + j)  # unsigned indices need no test for being negative
        label = np.uint64(labels[anchor])
        if label < np.uint64(logits.shape[1]):
            own[j] = logits[anchor, label]
            share[j] = weights[label] * keep


@helper
def _add_own(vectors: Row, most: float) -> None:
    """Set the total of every lane to what its own class costs."""
    top, rest, own, share, total = vectors[TOP], vectors[REST], vectors[OWN], vectors[SHARE], vectors[TOTAL]
    zero, most = total.dtype.type(0), total.dtype.type(most)
    for j in range(LANES):
        cost = rest[j] + (top[j] - own[j])
        cost = most if cost > most else cost
        total[j] = share[j] * cost if share[j] != zero else zero


@helper
def _add_class(x: Row, target: Row, shares: tuple[float, float], most: float, vectors: Row) -> None:
    """Add what one class costs, in the shares ``slope * target + offset``, those of 0 left out."""
    top, rest, total = vectors[TOP], vectors[REST], vectors[TOTAL]
    real = total.dtype.type
    zero, slope, offset, most = real(0), real(shares[0]), real(shares[1]), real(most)
    for j in range(LANES):
        share = slope * target[j] + offset
        cost = rest[j] + (top[j] - x[j])
        cost = most if cost > most else cost
        total[j] += share * cost if share != zero else zero


@helper
def _store(labels: Row, total: Row, values: Row) -> None:
    zero = values.dtype.type(0)
    for j in range(values.shape[0]):
        values[j] = total[j] if labels[j] >= 0 else zero


@inlined
def _softmax_sample(rows: LogitRows, rule: SoftmaxRule, losses: Computed, tiles: Row, tail: Row, sample: int) -> None:
    logits, labels, values = rows.logits[sample], rows.labels[sample], losses.values[sample]
    num_anchors, num_classes = logits.shape
    height, scored = _height(num_classes), rows.scores.shape[0] > 0
    tile, targets, vectors = tiles[:height], tiles[height : 2 * height], tiles[2 * height :]
    keep, spread = 1.0 - rule.smoothing, rule.smoothing / max(1, num_classes)
    for start in range(0, num_anchors, LANES):
        stop = min(start + LANES, num_anchors)
        _load_tile(logits, start, tile, tail)
        _find_top(tile, num_classes, vectors[TOP])
        _find_rest(tile, num_classes, vectors)
        if scored:
            vectors[TOTAL] = 0.0
            _load_tile(rows.scores[sample], start, targets, tail)
        else:
            _find_own(rows, keep, sample, start, vectors)
            if rule.besides >= 0:
                _find_top_besides(tile, num_classes, rule.besides, vectors[OWN])
            _add_own(vectors, rule.most)
        if scored or spread > 0:
            for c in range(num_classes):
                shares = (keep * rows.weights[c] if scored else 0.0, spread * rows.weights[c])
                _add_class(tile[c], targets[c] if scored else tile[c], shares, rule.most, vectors)
        _store(labels[start:stop], vectors[TOTAL], values[start:stop])
    losses.done[sample] = 1


@helper
def _mark_labels(labels: Row, targets: Row) -> None:
    """Write labels as targets: 1 in the row of the class."""
    targets[:] = 0.0
    for j in range(labels.shape[0]):
        label = np.uint64(labels[j])
        if label < np.uint64(targets.shape[0]):
            targets[label, np.uint64(j)] = 1.0


@helper
def _add_binary(x: Row, target: Row, shares: tuple[float, float], vectors: Row) -> None:
    """Add the binary cross-entropy of one class, in a share for targets of 1 and one for targets of 0."""
    total, focus = vectors[TOTAL], vectors[SHARE]
    real = total.dtype.type
    zero, one, deepest, positive, negative = real(0), real(1), real(DEEPEST), real(shares[0]), real(shares[1])
    for j in range(LANES):
        size, t = abs(x[j]), target[j]
        tail = zero if size > deepest else scaled_exp(-size, NO_EXPONENT)
        wrong = one - t if x[j] > zero else t  # how far the target is on the other side
        cost = log1p(tail) + (size * wrong if wrong != zero else zero)
        share = (positive * t + negative * (one - t)) * focus[j]
        total[j] += share * cost if share != zero else zero


@helper
def _find_focus(x: Row, target: Row, gamma: float, focus: Row) -> None:
    """Compute ``(1 - p_t) ** gamma`` of one class, where p_t is the probability that the target has."""
    real = focus.dtype.type
    zero, one, deepest = real(0), real(1), real(DEEPEST)
    for j in range(LANES):
        size, t = abs(x[j]), target[j]
        tail = zero if size > deepest else scaled_exp(-size, NO_EXPONENT)
        likely = one / (one + tail)
        p, q = (likely, tail * likely) if x[j] > zero else (tail * likely, likely)
        focus[j] = p * (one - t) + q * t
    if gamma == 2.0:
        for j in range(LANES):
            focus[j] *= focus[j]
    else:
        for j in range(LANES):
            focus[j] = focus[j] ** real(gamma)


@helper
def _softplus_of_negative(top: Row, total: Row) -> None:
    """Set the total of every lane to ``-log(sigmoid(top))``."""
    real = total.dtype.type
    zero, deepest = real(0), real(DEEPEST)
    for j in range(LANES):
        size = abs(top[j])
        tail = zero if size > deepest else scaled_exp(-size, NO_EXPONENT)
        total[j] = log1p(tail) + (size if top[j] < zero else zero)


@inlined
def _sigmoid_sample(rows: LogitRows, rule: SigmoidRule, losses: Computed, tiles: Row, tail: Row, sample: int) -> None:
    logits, labels, values = rows.logits[sample], rows.labels[sample], losses.values[sample]
    num_anchors, num_classes = logits.shape
    height, scored = _height(num_classes), rows.scores.shape[0] > 0
    tile, targets, vectors = tiles[:height], tiles[height : 2 * height], tiles[2 * height :]
    for start in range(0, num_anchors, LANES):
        stop = min(start + LANES, num_anchors)
        _load_tile(logits, start, tile, tail)
        if rule.besides >= 0:
            _find_top_besides(tile, num_classes, rule.besides, vectors[TOP])
            _softplus_of_negative(vectors[TOP], vectors[TOTAL])
        else:
            if scored:
                _load_tile(rows.scores[sample], start, targets, tail)
            else:
                _mark_labels(labels[start:stop], targets[:num_classes])
            vectors[TOTAL], vectors[SHARE] = 0.0, 1.0
            for c in range(num_classes):
                if rule.gamma > 0:
                    _find_focus(tile[c], targets[c], rule.gamma, vectors[SHARE])
                weight = rows.weights[c]
                _add_binary(tile[c], targets[c], (weight * rule.positive, weight * rule.negative), vectors)
        _store(labels[start:stop], vectors[TOTAL], values[start:stop])
    losses.done[sample] = 1


@serial
def _softmax_serial(
    rows: LogitRows, rule: SoftmaxRule, losses: Computed, tiles: Row, tails: Row, span: tuple[int, int]
) -> None:
    for sample in range(span[0], span[1]):
        _softmax_sample(rows, rule, losses, tiles[0], tails[0], sample)


@parallel
def _softmax_parallel(
    rows: LogitRows, rule: SoftmaxRule, losses: Computed, tiles: Row, tails: Row, span: tuple[int, int]
) -> None:
    num_workers, num_samples = tiles.shape[0], span[1] - span[0]
    for worker in prange(num_workers):
        start = span[0] + worker * num_samples // num_workers
        stop = span[0] + (worker + 1) * num_samples // num_workers
        own = slice(worker, worker + 1)
        _softmax_serial(rows, rule, losses, tiles[own], tails[own], (start, stop))


@serial
def _sigmoid_serial(
    rows: LogitRows, rule: SigmoidRule, losses: Computed, tiles: Row, tails: Row, span: tuple[int, int]
) -> None:
    for sample in range(span[0], span[1]):
        _sigmoid_sample(rows, rule, losses, tiles[0], tails[0], sample)


@parallel
def _sigmoid_parallel(
    rows: LogitRows, rule: SigmoidRule, losses: Computed, tiles: Row, tails: Row, span: tuple[int, int]
) -> None:
    num_workers, num_samples = tiles.shape[0], span[1] - span[0]
    for worker in prange(num_workers):
        start = span[0] + worker * num_samples // num_workers
        stop = span[0] + (worker + 1) * num_samples // num_workers
        own = slice(worker, worker + 1)
        _sigmoid_serial(rows, rule, losses, tiles[own], tails[own], (start, stop))
