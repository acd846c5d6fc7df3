"""The sigmoid losses of the CPU twin: a binary cross-entropy for each class of an anchor, and its focal form."""

import numpy as np

from ssd_mining.kernels.cpu.elementary import exp, log1p
from ssd_mining.kernels.cpu.jit import helper, inlined, parallel, prange, serial, share
from ssd_mining.kernels.cpu.lanes import LANES, Row
from ssd_mining.kernels.cpu.tiles import (
    LOST,
    SHARE,
    TOP,
    TOTAL,
    WIDTH,
    are_classes,
    clear,
    fill,
    find_top_besides,
    height,
    load_tile,
    mark_own,
    prefetch_class,
    rounded_off,
    scratch,
    store,
)
from ssd_mining.kernels.records import Computed, LogitRows, SigmoidRule


def sigmoid_losses(rows: LogitRows, rule: SigmoidRule, losses: Computed, num_workers: int) -> None:
    """Compute the sigmoid or focal losses of every sample of `rows`, by `num_workers` threads."""
    num_workers = max(1, min(num_workers, rows.logits.shape[0]))
    driver = _sigmoid_serial if num_workers == 1 else _sigmoid_parallel
    driver(rows, rule, losses, *scratch(rows, num_workers), (0, rows.logits.shape[0]))


@helper
def _add_binary(tile: Row, targets: Row, c: int, shares: tuple[float, float], vectors: Row) -> None:
    """Add the binary cross-entropy of one class, in a share for targets of 1 and one for targets of 0."""
    real, first = vectors.dtype.type, np.uint64(c) * WIDTH
    zero, one, positive, negative = real(0), real(1), real(shares[0]), real(shares[1])
    for j in range(WIDTH):
        x, t = tile[first + j], targets[first + j]
        size = abs(x)
        tail = exp(-size)
        wrong = one - t if x > zero else t  # how far the target is on the other side
        cost = log1p(tail) + (size * wrong if wrong != zero else zero)
        share = positive * t + negative * (one - t)
        total, more = vectors[TOTAL + j], share * vectors[SHARE + j] * cost if share != zero else zero
        vectors[TOTAL + j] = total + more
        vectors[LOST + j] += rounded_off(total, more)


@helper
def _find_focus(tile: Row, targets: Row, c: int, gamma: float, vectors: Row) -> None:
    """Compute ``(1 - p_t) ** gamma`` of one class, where p_t is the probability that the target has."""
    real, first = vectors.dtype.type, np.uint64(c) * WIDTH
    zero, one = real(0), real(1)
    for j in range(WIDTH):
        x, t = tile[first + j], targets[first + j]
        size = abs(x)
        tail = exp(-size)
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
        tail = exp(-size)
        vectors[TOTAL + j] = log1p(tail) + (size if top < zero else zero)
        vectors[LOST + j] = zero


@inlined
def _sigmoid_sample(rows: LogitRows, rule: SigmoidRule, losses: Computed, tiles: Row, tail: Row, sample: int) -> None:
    logits, labels, values, weights = rows.logits[sample], rows.labels[sample], losses.values[sample], rows.weights
    num_anchors, num_classes = logits.shape
    size, scored = height(num_classes) * LANES, rows.scores.shape[0] > 0
    flat, scores = rows.logits.reshape(rows.logits.size), rows.scores.reshape(rows.scores.size)
    begin = sample * num_anchors
    tile, targets, vectors = tiles[:size], tiles[size : 2 * size], tiles[2 * size :]
    for start in range(0, num_anchors, LANES):
        load_tile(flat, begin + start, num_classes, tile, tail)
        if rule.besides >= 0:
            find_top_besides(tile, num_classes, rule.besides, vectors, TOP)
            _softplus_of_negative(vectors)
        else:
            if scored:
                load_tile(scores, begin + start, num_classes, targets, tail)
            else:
                fill(targets, 0, size, 0.0)
                mark_own(labels, start, targets, num_classes)
            clear(vectors)
            fill(vectors, SHARE, SHARE + WIDTH, 1.0)
            for c in range(num_classes):
                prefetch_class(flat, (begin + start) * num_classes, num_classes, c)
                if rule.gamma > 0.0:
                    _find_focus(tile, targets, c, rule.gamma, vectors)
                shares = (weights[c] * rule.positive, weights[c] * rule.negative)
                _add_binary(tile, targets, c, shares, vectors)
        store(labels, values, start, vectors, again=False)
    losses.done[sample] = 1 if are_classes(labels, num_classes) else -1


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
    for worker in prange(tiles.shape[0]):
        own = slice(worker, worker + 1)
        _sigmoid_serial(rows, rule, losses, tiles[own], tails[own], share(span, worker, tiles.shape[0]))
