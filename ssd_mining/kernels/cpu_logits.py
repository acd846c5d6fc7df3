"""The CPU twin of the losses from logits: tiles of 64 anchors, two forms of loss, two drivers over each.

A tile is the transposed logits of 64 anchors: 64 lanes of each class, one class after the other, in one flat array.
What remains are plain loops over 64 lanes, which LLVM vectorises, in the order of the classes, so that every CPU adds
up in the same order.

The softmax takes the largest logit of an anchor as its origin and leaves that class out of the sum of exponentials:
``rest = log1p(sum of exp(x_c - top))`` over all others is what the largest class costs, and ``rest + (top - x_c)``
what any class costs. Nothing overflows, nothing cancels: a loss of 1e-11 keeps its digits.
"""

from typing import Any

import numpy as np

from ssd_mining import _lanes as lanes
from ssd_mining._classification import Computed, LogitRows, SigmoidRule, SoftmaxRule
from ssd_mining._elementary import base, depth, exp_over, log1p, part, whole
from ssd_mining._jit import helper, inlined, parallel, prange, serial
from ssd_mining._lanes import COLUMNS, LANES, Row
from ssd_mining.kernels.cpu_gradients import sigmoid_gradients, softmax_gradients

__all__ = ["sigmoid_gradients", "sigmoid_losses", "softmax_gradients", "softmax_losses"]

Index = Any  # int or np.uint64: unsigned indices need no test for being negative

# Classes that are added up before they meet the sum: fewer roundings, fewer loads. 21 and 81 are whole groups.
GROUP = 3

NO_EXPONENT = np.int32(0)
WIDTH = np.uint64(LANES)

# Where in `vectors` stands what is known of each lane. Slices instead would cost more than the arithmetic.
NUM_VECTORS = 7
TOP, REST, OWN, SHARE, TOTAL, COUNT, LOST = (np.uint64(i * LANES) for i in range(NUM_VECTORS))


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
    tiles = np.empty((num_workers, (2 * _height(num_classes) + NUM_VECTORS) * LANES), rows.logits.dtype)
    tails = np.zeros((num_workers, LANES * num_classes + COLUMNS), rows.logits.dtype)
    return tiles, tails


@helper
def _height(num_classes: int) -> int:
    """Say how many rows a tile has: whole columns, and whole groups."""
    return max(-(-num_classes // COLUMNS) * COLUMNS, -(-num_classes // GROUP) * GROUP)


@helper
def _fill(array: Row, start: Index, stop: Index, value: float) -> None:
    """Set a part of an array; a slice assignment would take Numba several times as long."""
    for i in range(np.uint64(start), np.uint64(stop)):
        array[i] = value


@helper
def _load_tile(values: Row, start: int, tile: Row, tail: Row) -> None:
    """Transpose the values (A, C) of the 64 anchors from `start`; lanes past the last anchor hold anything."""
    num_classes = values.shape[1]
    flat = values.reshape(values.size)
    first, size = start * num_classes, LANES * num_classes
    if first + size + COLUMNS > flat.shape[0]:  # whole columns reach past the last class of the last anchor
        for i in range(min(flat.shape[0] - first, size)):
            tail[i] = flat[first + i]
        flat, first = tail, 0
    else:
        for i in range(first, first + size, LANES):
            lanes.prefetch(flat, i)
    for c in range(0, num_classes, COLUMNS):
        lanes.transpose(flat, first + c, num_classes, tile, c * LANES)
    _fill(tile, num_classes * LANES, tile.shape[0], -np.inf)  # classes that fill up a group: exp is 0


@helper
def _find_top(tile: Row, num_classes: int, vectors: Row) -> None:
    """Find the largest logit of every lane, NaN left out."""
    _fill(vectors, TOP, TOP + WIDTH, -np.inf)
    for group in range(0, num_classes, GROUP):
        first = np.uint64(group) * WIDTH
        second, third = first + WIDTH, first + WIDTH + WIDTH
        for j in range(WIDTH):
            top, a, b, c = vectors[TOP + j], tile[first + j], tile[second + j], tile[third + j]
            a, b = (a if a > top else top), (b if b > c else c)
            vectors[TOP + j] = a if a > b else b


@helper
def _find_top_besides(tile: Row, num_classes: int, besides: int, vectors: Row, place: Index) -> None:
    """Find the largest logit of every lane among all classes but one, NaN above all."""
    _fill(vectors, place, place + WIDTH, -np.inf)
    for c in range(num_classes):
        if c != besides:
            first = np.uint64(c) * WIDTH
            for j in range(WIDTH):
                top, x = vectors[place + j], tile[first + j]
                vectors[place + j] = x if x > top or x != x else top


@helper
def _find_rest(tile: Row, num_classes: int, vectors: Row) -> None:
    """Compute what the largest class of every lane costs: NaN where a logit is NaN or +inf, or all are -inf."""
    _clear(vectors)
    _fill(vectors, COUNT, COUNT + WIDTH, -1.0)
    for group in range(0, num_classes, GROUP):
        _add_exp(tile, np.uint64(group) * WIDTH, vectors)
    for j in range(WIDTH):
        top, total = vectors[TOP + j], vectors[TOTAL + j] + vectors[LOST + j]
        vectors[REST + j] = log1p(total + vectors[COUNT + j]) + (top - top)


@helper
def _clear(vectors: Row) -> None:
    _fill(vectors, TOTAL, TOTAL + WIDTH, 0.0)
    _fill(vectors, LOST, LOST + WIDTH, 0.0)


@helper
def _rounded_off(total: float, more: float) -> float:
    """Say what rounding takes from a sum: the sums over 91 classes would lose half a digit without it."""
    return more - ((total + more) - total)


@helper
def _add_exp(tile: Row, first: Index, vectors: Row) -> None:
    """Add the exponentials of a group of classes, and count those that equal the largest."""
    zero, one = tile.dtype.type(0), tile.dtype.type(1)
    second, third = first + WIDTH, first + WIDTH + WIDTH
    for j in range(WIDTH):
        top, a, b, c = vectors[TOP + j], tile[first + j], tile[second + j], tile[third + j]
        origin, lowest = base(top), top - depth(top)
        n, r = whole(top - origin), part(top - origin)
        exp_a = zero if a < lowest or a == top else exp_over(a - origin, n, r)
        exp_b = zero if b < lowest or b == top else exp_over(b - origin, n, r)
        exp_c = zero if c < lowest or c == top else exp_over(c - origin, n, r)
        total, more = vectors[TOTAL + j], exp_a + exp_b + exp_c
        vectors[TOTAL + j] = total + more
        vectors[LOST + j] += _rounded_off(total, more)
        vectors[COUNT + j] += (one if a == top else zero) + (one if b == top else zero) + (one if c == top else zero)


@helper
def _find_own(rows: LogitRows, keep: float, sample: int, start: int, vectors: Row) -> None:
    """Look up the logit of every lane's label, and its weight: 0 where the anchor is ignored."""
    logits, labels, weights = rows.logits[sample], rows.labels[sample], rows.weights
    _fill(vectors, OWN, OWN + WIDTH, 0.0)
    _fill(vectors, SHARE, SHARE + WIDTH, 0.0)
    first, num_classes, keep = np.uint64(start), np.uint64(logits.shape[1]), weights.dtype.type(keep)
    for j in range(np.uint64(min(LANES, labels.shape[0] - start))):
        label = np.uint64(labels[first + j])
        if label < num_classes:
            vectors[OWN + j] = logits[first + j, label]
            vectors[SHARE + j] = weights[label] * keep


@helper
def _add_own(vectors: Row, most: float) -> None:
    """Set the total of every lane to what its own class costs."""
    real = vectors.dtype.type
    zero, highest = real(0), real(most)
    for j in range(WIDTH):
        share, lead = vectors[SHARE + j], np.float64(vectors[TOP + j]) - vectors[OWN + j]  # rounded once, at the end
        cost = real(vectors[REST + j] + lead)
        cost = highest if cost > highest else cost
        vectors[TOTAL + j] = share * cost if share != zero else zero
        vectors[LOST + j] = zero


@helper
def _add_class(tile: Row, targets: Row, c: int, shares: tuple[float, float], most: float, vectors: Row) -> None:
    """Add what one class costs, in the shares ``slope * target + offset``, those of 0 left out."""
    real, first = vectors.dtype.type, np.uint64(c) * WIDTH
    zero, slope, offset, highest = real(0), real(shares[0]), real(shares[1]), real(most)
    for j in range(WIDTH):
        share = slope * targets[first + j] + offset
        cost = real(vectors[REST + j] + (np.float64(vectors[TOP + j]) - tile[first + j]))
        cost = highest if cost > highest else cost
        total, more = vectors[TOTAL + j], share * cost if share != zero else zero
        vectors[TOTAL + j] = total + more
        vectors[LOST + j] += _rounded_off(total, more)


@helper
def _store(labels: Row, values: Row, start: int, vectors: Row) -> None:
    """Write the totals of the anchors from `start`, 0 for the ignored ones."""
    first, zero = np.uint64(start), values.dtype.type(0)
    for j in range(np.uint64(min(LANES, values.shape[0] - start))):
        total, lost = vectors[TOTAL + j], vectors[LOST + j]
        values[first + j] = (total + lost if lost == lost else total) if labels[first + j] >= 0 else zero


@inlined
def _softmax_sample(rows: LogitRows, rule: SoftmaxRule, losses: Computed, tiles: Row, tail: Row, sample: int) -> None:
    logits, labels, values, weights = rows.logits[sample], rows.labels[sample], losses.values[sample], rows.weights
    num_anchors, num_classes = logits.shape
    size, scored = _height(num_classes) * LANES, rows.scores.shape[0] > 0
    tile, targets, vectors = tiles[:size], tiles[size : 2 * size], tiles[2 * size :]
    keep, spread = 1.0 - rule.smoothing, rule.smoothing / num_classes
    _fill(targets, 0, size, 0.0)
    for start in range(0, num_anchors, LANES):
        _load_tile(logits, start, tile, tail)
        _find_top(tile, num_classes, vectors)
        _find_rest(tile, num_classes, vectors)
        if scored:
            _load_tile(rows.scores[sample], start, targets, tail)
            _clear(vectors)
        else:
            _find_own(rows, keep, sample, start, vectors)
            if rule.besides >= 0:
                _find_top_besides(tile, num_classes, rule.besides, vectors, OWN)
            _add_own(vectors, rule.most)
        if scored or spread > 0.0:
            for c in range(num_classes):
                shares = (keep * weights[c] if scored else 0.0, spread * weights[c])
                _add_class(tile, targets, c, shares, rule.most, vectors)
        _store(labels, values, start, vectors)
    losses.done[sample] = 1


@helper
def _mark_labels(labels: Row, start: int, targets: Row, num_classes: int) -> None:
    """Write labels as targets: 1 in the lanes of the class."""
    _fill(targets, 0, targets.shape[0], 0.0)
    first = np.uint64(start)
    for j in range(np.uint64(min(LANES, labels.shape[0] - start))):
        label = np.uint64(labels[first + j])
        if label < np.uint64(num_classes):
            targets[label * WIDTH + j] = 1.0


@helper
def _add_binary(tile: Row, targets: Row, c: int, shares: tuple[float, float], vectors: Row) -> None:
    """Add the binary cross-entropy of one class, in a share for targets of 1 and one for targets of 0."""
    real, first = vectors.dtype.type, np.uint64(c) * WIDTH
    zero, one, positive, negative = real(0), real(1), real(shares[0]), real(shares[1])
    for j in range(WIDTH):
        x, t = tile[first + j], targets[first + j]
        size = abs(x)
        tail = zero if size > depth(size) else exp_over(-size, NO_EXPONENT, zero)
        wrong = one - t if x > zero else t  # how far the target is on the other side
        cost = log1p(tail) + (size * wrong if wrong != zero else zero)
        share = positive * t + negative * (one - t)
        total, more = vectors[TOTAL + j], share * vectors[SHARE + j] * cost if share != zero else zero
        vectors[TOTAL + j] = total + more
        vectors[LOST + j] += _rounded_off(total, more)


@helper
def _find_focus(tile: Row, targets: Row, c: int, gamma: float, vectors: Row) -> None:
    """Compute ``(1 - p_t) ** gamma`` of one class, where p_t is the probability that the target has."""
    real, first = vectors.dtype.type, np.uint64(c) * WIDTH
    zero, one = real(0), real(1)
    for j in range(WIDTH):
        x, t = tile[first + j], targets[first + j]
        size = abs(x)
        tail = zero if size > depth(size) else exp_over(-size, NO_EXPONENT, zero)
        likely = one / (one + tail)
        p = likely if x > zero else tail * likely
        q = tail * likely if x > zero else likely
        vectors[SHARE + j] = p * (one - t) + q * t
    if gamma == 2.0:
        for j in range(WIDTH):
            vectors[SHARE + j] *= vectors[SHARE + j]
    else:
        for j in range(WIDTH):
            vectors[SHARE + j] = vectors[SHARE + j] ** real(gamma)


@helper
def _softplus_of_negative(vectors: Row) -> None:
    """Set the total of every lane to ``-log(sigmoid(top))``."""
    real = vectors.dtype.type
    zero = real(0)
    for j in range(WIDTH):
        top = vectors[TOP + j]
        size = abs(top)
        tail = zero if size > depth(size) else exp_over(-size, NO_EXPONENT, zero)
        vectors[TOTAL + j] = log1p(tail) + (size if top < zero else zero)
        vectors[LOST + j] = zero


@inlined
def _sigmoid_sample(rows: LogitRows, rule: SigmoidRule, losses: Computed, tiles: Row, tail: Row, sample: int) -> None:
    logits, labels, values, weights = rows.logits[sample], rows.labels[sample], losses.values[sample], rows.weights
    num_anchors, num_classes = logits.shape
    size, scored = _height(num_classes) * LANES, rows.scores.shape[0] > 0
    tile, targets, vectors = tiles[:size], tiles[size : 2 * size], tiles[2 * size :]
    for start in range(0, num_anchors, LANES):
        _load_tile(logits, start, tile, tail)
        if rule.besides >= 0:
            _find_top_besides(tile, num_classes, rule.besides, vectors, TOP)
            _softplus_of_negative(vectors)
        else:
            if scored:
                _load_tile(rows.scores[sample], start, targets, tail)
            else:
                _mark_labels(labels, start, targets, num_classes)
            _clear(vectors)
            _fill(vectors, SHARE, SHARE + WIDTH, 1.0)
            for c in range(num_classes):
                if rule.gamma > 0.0:
                    _find_focus(tile, targets, c, rule.gamma, vectors)
                shares = (weights[c] * rule.positive, weights[c] * rule.negative)
                _add_binary(tile, targets, c, shares, vectors)
        _store(labels, values, start, vectors)
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
