"""The CPU twin of the losses from logits; here stands the softmax: tiles of 64 anchors, two paths, two drivers.

The quick path, for labels that are classes, takes the label's logit as its origin: a loss is the logarithm of 1 plus
the odds against the label, ``log1p(sum of exp(x_c - x_label))`` over all other classes, which needs no pass for the
largest logit. Where these odds are too large to be trusted, or no number, the anchor is left to the careful path. Its
neighbours are not: an anchor has the same bits in any tile.

The careful one takes the largest logit of an anchor as its origin and leaves that class out of the sum:
``rest = log1p(sum of exp(x_c - top))`` over all others is what the largest class costs, and ``rest + (top - x_c)``
what any class costs. Nothing overflows, nothing cancels: on both paths a loss of 1e-11 keeps its digits.
"""

import numpy as np

from ssd_mining.kernels.cpu.elementary import add_exp, depth, log1p, rounder, settle
from ssd_mining.kernels.cpu.gradients import sigmoid_gradients, softmax_gradients
from ssd_mining.kernels.cpu.jit import helper, inlined, parallel, prange, serial, share
from ssd_mining.kernels.cpu.lanes import LANES, Row
from ssd_mining.kernels.cpu.sigmoid import sigmoid_losses
from ssd_mining.kernels.cpu.tiles import (
    BASE,
    COUNT,
    GROUP,
    HIGHEST,
    LOST,
    LOWEST,
    OWN,
    REST,
    ROUNDER,
    SHARE,
    TOP,
    TOTAL,
    WIDTH,
    Index,
    are_classes,
    clear,
    fill,
    find_own,
    find_top_besides,
    height,
    is_left,
    load_tile,
    prefetch_class,
    rounded_off,
    scratch,
    store,
    take_own,
)
from ssd_mining.kernels.records import Computed, LogitRows, SoftmaxRule

__all__ = ["sigmoid_gradients", "sigmoid_losses", "softmax_gradients", "softmax_losses"]

# How far above its origin a logit is clamped, and below which sum of exponentials none has been: exp(58) is 1.5e25.
REACH, TRUSTED = 58.0, 1e24
# Logits beyond this are taken from their origin first: their differences are exact, by Sterbenz.
FAR = 1000.0


def softmax_losses(rows: LogitRows, rule: SoftmaxRule, losses: Computed, num_workers: int) -> None:
    """Compute the softmax losses of every sample of `rows`, by `num_workers` threads (1: the serial driver)."""
    num_workers = max(1, min(num_workers, rows.logits.shape[0]))
    driver = _softmax_serial if num_workers == 1 else _softmax_parallel
    driver(rows, rule, losses, *scratch(rows, num_workers), (0, rows.logits.shape[0]))


@helper
def _find_top(tile: Row, num_classes: int, vectors: Row) -> None:
    """Find the largest logit of every lane, NaN left out."""
    fill(vectors, TOP, TOP + WIDTH, -np.inf)
    for group in range(0, num_classes, GROUP):
        first = np.uint64(group) * WIDTH
        second, third = first + WIDTH, first + WIDTH + WIDTH
        for j in range(WIDTH):
            top, a, b, c = vectors[TOP + j], tile[first + j], tile[second + j], tile[third + j]
            a, b = (a if a > top else top), (b if b > c else c)
            vectors[TOP + j] = a if a > b else b


@helper
def _add_to_quick(tile: Row, first: Index, vectors: Row) -> None:
    """Add the exponentials of a group of classes over that of the own class."""
    zero, second, third = tile.dtype.type(0), first + WIDTH, first + WIDTH + WIDTH
    for j in range(WIDTH):
        lowest, highest, rounds = vectors[LOWEST + j], vectors[HIGHEST + j], vectors[ROUNDER + j]
        a, b, c = tile[first + j], tile[second + j], tile[third + j]
        a, b, c = (lowest if lowest > a else a), (lowest if lowest > b else b), (lowest if lowest > c else c)
        a, b, c = (highest if highest < a else a), (highest if highest < b else b), (highest if highest < c else c)
        total, more = vectors[TOTAL + j], add_exp(add_exp(add_exp(zero, a, rounds), b, rounds), c, rounds)
        vectors[TOTAL + j] = total + more
        vectors[LOST + j] += rounded_off(total, more)


@helper
def _sum_quickly(tile: Row, num_classes: int, vectors: Row, flat: Row, place: int) -> None:
    """Set the total of every lane to the odds against its own class, -inf in the tile; to NaN where not trusted."""
    real = vectors.dtype.type
    reach, trusted, far, left = real(REACH), real(TRUSTED), real(FAR), real(np.nan)
    clear(vectors)
    for j in range(WIDTH):
        own = vectors[OWN + j]
        vectors[LOWEST + j], vectors[HIGHEST + j], vectors[ROUNDER + j] = own - depth(own), own + reach, rounder(own)
    for group in range(0, num_classes, GROUP):
        for c in range(group, group + GROUP):
            prefetch_class(flat, place, num_classes, c)
        _add_to_quick(tile, np.uint64(group) * WIDTH, vectors)
    for j in range(WIDTH):
        own, total = vectors[OWN + j], settle(vectors[TOTAL + j] + vectors[LOST + j], vectors[OWN + j])
        vectors[TOTAL + j] = total if total < trusted and abs(own) < far else left
        vectors[LOST + j] = real(0)


@helper
def _take_logarithms(values: Row, most: float) -> int:
    """Turn the odds of a sample into costs; count those that are NaN."""
    highest, num_left = values.dtype.type(most), 0
    for i in range(np.uint64(values.shape[0])):
        cost = log1p(values[i])
        values[i] = highest if cost > highest else cost
        num_left += cost != cost
    return num_left


@helper
def _weigh(labels: Row, weights: Row, values: Row) -> None:
    """Multiply the costs of a sample by the weights of their classes; a weight of 0 silences even NaN."""
    zero, num_classes, num_weighed = values.dtype.type(0), np.uint64(weights.shape[0]), 0
    for weight in weights:
        num_weighed += weight != 1.0
    if num_weighed == 0:
        return
    for i in range(np.uint64(values.shape[0])):
        label = np.uint64(labels[i])
        if label < num_classes:
            values[i] = weights[label] * values[i] if weights[label] != zero else zero


@helper
def _add_exp_over_top(tile: Row, first: Index, vectors: Row) -> None:
    """Add the exponentials of a group of classes over the largest, and count those that equal it."""
    zero, one = tile.dtype.type(0), tile.dtype.type(1)
    second, third = first + WIDTH, first + WIDTH + WIDTH
    for j in range(WIDTH):
        top, base, lowest, rounds = vectors[TOP + j], vectors[BASE + j], vectors[LOWEST + j], vectors[ROUNDER + j]
        a, b, c = tile[first + j], tile[second + j], tile[third + j]
        count = (one if a == top else zero) + (one if b == top else zero) + (one if c == top else zero)
        vectors[COUNT + j] += count
        a, b, c = (
            (a - base if a != top else lowest),
            (b - base if b != top else lowest),
            (c - base if c != top else lowest),
        )
        a, b, c = (lowest if lowest > a else a), (lowest if lowest > b else b), (lowest if lowest > c else c)
        total, more = vectors[TOTAL + j], add_exp(add_exp(add_exp(zero, a, rounds), b, rounds), c, rounds)
        vectors[TOTAL + j] = total + more
        vectors[LOST + j] += rounded_off(total, more)


@helper
def _find_rest(tile: Row, num_classes: int, vectors: Row, flat: Row, place: int) -> None:
    """Compute what the largest class of every lane costs: NaN where a logit is NaN or +inf, or all are -inf."""
    real = vectors.dtype.type
    zero, far = real(0), real(FAR)
    clear(vectors)
    fill(vectors, COUNT, COUNT + WIDTH, -1.0)
    for j in range(WIDTH):
        top = vectors[TOP + j]
        base = top if abs(top) > far else zero
        vectors[BASE + j], vectors[LOWEST + j], vectors[ROUNDER + j] = (
            base,
            top - base - depth(top),
            rounder(top - base),
        )
    for group in range(0, num_classes, GROUP):
        for c in range(group, group + GROUP):
            prefetch_class(flat, place, num_classes, c)
        _add_exp_over_top(tile, np.uint64(group) * WIDTH, vectors)
    for j in range(WIDTH):
        top, total = vectors[TOP + j], vectors[TOTAL + j] + vectors[LOST + j]
        total = settle(total, top - vectors[BASE + j]) + vectors[COUNT + j]
        vectors[REST + j] = log1p(total) + (top - top)


@helper
def _add_own(vectors: Row, keep: float, most: float) -> None:
    """Set the total of every lane to what its own class costs."""
    real = vectors.dtype.type
    zero, highest, kept = real(0), real(most), real(keep)
    for j in range(WIDTH):
        share, lead = (
            vectors[SHARE + j] * kept,
            np.float64(vectors[TOP + j]) - vectors[OWN + j],
        )  # rounded once, at the end
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
        vectors[LOST + j] += rounded_off(total, more)


@helper
def _softmax_quickly(rows: LogitRows, flat: Row, values: Row, scratch: tuple[Row, Row, Row], sample: int) -> None:
    """Write the odds against the label of every anchor of a sample, NaN where they are left to the careful path."""
    labels, (tile, vectors, tail) = rows.labels[sample], scratch
    num_anchors, num_classes = rows.logits.shape[1:]
    for start in range(0, num_anchors, LANES):
        first = sample * num_anchors + start
        load_tile(flat, first, num_classes, tile, tail)
        take_own(labels, start, tile, num_classes, vectors)
        _sum_quickly(tile, num_classes, vectors, flat, first * num_classes)
        store(labels, values, start, vectors, again=False)


@inlined
def _softmax_sample(rows: LogitRows, rule: SoftmaxRule, losses: Computed, tiles: Row, tail: Row, sample: int) -> None:
    labels, values, weights = rows.labels[sample], losses.values[sample], rows.weights
    num_anchors, num_classes = rows.logits.shape[1:]
    size, scored = height(num_classes) * LANES, rows.scores.shape[0] > 0
    flat, scores = rows.logits.reshape(rows.logits.size), rows.scores.reshape(rows.scores.size)
    begin = sample * num_anchors
    tile, targets, vectors = tiles[:size], tiles[size : 2 * size], tiles[2 * size :]
    keep, spread = 1.0 - rule.smoothing, rule.smoothing / num_classes
    is_quick, num_left, num_again = not scored and spread == 0.0 and rule.besides < 0, num_anchors, 0
    if is_quick:
        _softmax_quickly(rows, flat, values, (tile, vectors, tail), sample)
        num_left = _take_logarithms(values, rule.most)
        _weigh(labels, weights, values)
    fill(targets, 0, size, 0.0)
    for start in range(0, num_anchors if num_left > 0 else 0, LANES):
        if is_quick:
            if not is_left(values, start):
                continue
            num_again += 1
        load_tile(flat, begin + start, num_classes, tile, tail)
        find_own(labels, weights, start, tile, vectors)
        _find_top(tile, num_classes, vectors)
        _find_rest(tile, num_classes, vectors, flat, (begin + start) * num_classes)
        if scored:
            load_tile(scores, begin + start, num_classes, targets, tail)
            clear(vectors)
        else:
            if rule.besides >= 0:
                find_top_besides(tile, num_classes, rule.besides, vectors, OWN)
            _add_own(vectors, keep, rule.most)
        if scored or spread > 0.0:
            for c in range(num_classes):
                shares = (keep * weights[c] if scored else 0.0, spread * weights[c])
                _add_class(tile, targets, c, shares, rule.most, vectors)
        store(labels, values, start, vectors, again=is_quick)
    losses.done[sample] = 1 + num_again if are_classes(labels, num_classes) else -1 - num_again


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
    for worker in prange(tiles.shape[0]):
        own = slice(worker, worker + 1)
        _softmax_serial(rows, rule, losses, tiles[own], tails[own], share(span, worker, tiles.shape[0]))
