"""The softmax cross-entropy on the CPU, 64 anchors at a time, and its gradient, one anchor at a time in float64.

Two paths compute a loss. The quick one is for labels that are classes. Its origin is the logit of the label: the loss
is ``log1p(sum of exp(x_c - x_label))`` over all other classes, which needs no pass for the largest logit. For moderate
logits it takes the exponentials in the order in which the logits lie, and divides sums by exponentials of labels.
Other anchors are left, and computed from a transposed tile with the origin subtracted; where their sum is too large to
be trusted, or NaN, by the careful path. Their neighbours keep their value, so that an anchor has the same bits in any
tile.

The careful path has the largest logit as its origin and leaves that class out of the sum. The largest class costs
``rest = log1p(sum of exp(x_c - top))`` over all others, and any class costs ``rest + (top - x_c)``. Nothing overflows
and nothing cancels: on both paths a loss of 1e-11 keeps its digits.
"""

import math

import numpy as np

from ssd_mining.kernels import loss_rules
from ssd_mining.kernels.cpu import lanes, matrices, tiles
from ssd_mining.kernels.cpu.elementary import (
    LEAST,
    MOST,
    add_exp,
    depth,
    log1p,
    quotient,
    rounder,
    scaled_exp,
    settle,
)
from ssd_mining.kernels.cpu.jit import helper
from ssd_mining.kernels.cpu.lanes import LANES, Row
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
)
from ssd_mining.kernels.records import SoftmaxRule

softmax_share, softmax_slope = helper(loss_rules.softmax_share), helper(loss_rules.softmax_slope)

# A logit more than 58 above its origin is clamped. exp(58) is 1.5e25, so a sum below 1e24 contains none of them.
REACH, TRUSTED = 58.0, 1e24
# From this size on, the origin is subtracted from a logit first: such differences are exact (Sterbenz).
FAR = 1000.0


@helper
def _exponentiate(flat: Row, first: int, num_classes: int, exps: Row) -> None:
    """Write the exponentials of the logits of 64 anchors, in their order."""
    lanes.use_wide_registers()
    for c in range(num_classes):
        here, there = np.uint64(c * LANES), np.uint64(first + c * LANES)
        lanes.prefetch(flat, first + c * LANES)
        for j in range(WIDTH):
            exps[here + j] = scaled_exp(flat[there + j])


@helper
def _take_own(labels: Row, start: int, num_classes: int, exps: Row, vectors: Row) -> None:
    """Move the exponential of every anchor's label out of `exps` and leave 0 there. An ignored anchor has -1."""
    tiles.fill(vectors, OWN, OWN + WIDTH, -1.0)
    first, last, zero = np.uint64(start), np.uint64(num_classes), exps.dtype.type(0)
    for j in range(np.uint64(min(LANES, labels.shape[0] - start))):
        label = np.uint64(labels[first + j])
        if label < last:
            place = j * last + label
            vectors[OWN + j] = exps[place]
            exps[place] = zero


@helper
def _sum_exps(
    flat: Row, first: int, num_classes: int, labels: Row, start: int, exps: Row, vectors: Row, tail: Row
) -> None:
    """Take the exponentials of 64 anchors. Move those of their labels to OWN, and sum the others into TOTAL."""
    size = LANES * num_classes
    if first + size > flat.shape[0]:
        for i in range(flat.shape[0] - first):
            tail[i] = flat[first + i]
        _exponentiate(tail, 0, num_classes, exps)
    else:
        _exponentiate(flat, first, num_classes, exps)
    _take_own(labels, start, num_classes, exps, vectors)
    matrices.sum_rows(exps, num_classes, vectors, TOTAL)


@helper
def _divide(vectors: Row) -> int:
    """Divide the sums of 64 anchors by the exponentials of their labels. Count those left, as NaN."""
    lanes.use_wide_registers()
    real = vectors.dtype.type
    zero, least, most, trusted, left = real(0), real(LEAST), real(MOST), real(TRUSTED), real(np.nan)
    num_left = np.int32(0)
    for j in range(WIDTH):
        total, own = vectors[TOTAL + j], vectors[OWN + j]
        ratio = quotient(total, own)
        is_known = (total > least) & (total < most) & (own < most) & (ratio < trusted)
        ratio = zero if own < zero else (ratio if is_known else left)
        vectors[TOTAL + j] = ratio
        num_left = np.int32(num_left + np.int32(ratio != ratio))
    return int(num_left)


@helper
def _softmax_quickly(
    flat: Row, begin: int, labels: Row, num_classes: int, values: Row, exps: Row, vectors: Row, tail: Row
) -> int:
    """Write ``sum of exp(x_c - x_label)`` for the anchors of a sample, from `begin` on. Count those left, as NaN."""
    num_anchors, num_left = labels.shape[0], 0
    for start in range(0, num_anchors, LANES):
        _sum_exps(flat, (begin + start) * num_classes, num_classes, labels, start, exps, vectors, tail)
        num_left += _divide(vectors)
        if start + LANES <= num_anchors:
            lanes.copy(vectors, TOTAL, values, start)
        else:
            for i in range(num_anchors - start):
                values[start + i] = vectors[TOTAL + np.uint64(i)]
    return num_left


@helper
def _take_logarithms(values: Row, most: float) -> None:
    """Turn the ratios of a sample into costs."""
    lanes.use_wide_registers()
    highest = values.dtype.type(most)
    for i in range(np.uint64(values.shape[0])):
        cost = log1p(values[i])
        values[i] = highest if cost > highest else cost


@helper
def _weigh(labels: Row, weights: Row, values: Row) -> None:
    """Multiply the costs of a sample by the weights of their classes. A weight of 0 gives 0, even for NaN."""
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
def _find_top(tile: Row, num_classes: int, vectors: Row) -> None:
    """Find the largest logit of every lane, ignoring NaN."""
    tiles.fill(vectors, TOP, TOP + WIDTH, -np.inf)
    for group in range(0, num_classes, GROUP):
        first = np.uint64(group) * WIDTH
        second, third = first + WIDTH, first + WIDTH + WIDTH
        for j in range(WIDTH):
            top, a, b, c = vectors[TOP + j], tile[first + j], tile[second + j], tile[third + j]
            a, b = (a if a > top else top), (b if b > c else c)
            vectors[TOP + j] = a if a > b else b


@helper
def _try_own(vectors: Row) -> None:
    """Take the logit of the label for the largest of every lane; NaN, for the careful path, where it is far from 0."""
    real = vectors.dtype.type
    far, left = real(FAR), real(np.nan)
    for j in range(WIDTH):
        own = vectors[OWN + j]
        vectors[TOP + j] = own if abs(own) < far else left


@helper
def _add_exp_over_top(tile: Row, first: tiles.Index, vectors: Row) -> None:
    """Add ``exp(x - top)`` for a group of classes, except those equal to the top, which are counted."""
    lanes.use_wide_registers()
    zero, one = tile.dtype.type(0), tile.dtype.type(1)
    second, third = first + WIDTH, first + WIDTH + WIDTH
    for j in range(WIDTH):
        top, base, rounds = vectors[TOP + j], vectors[BASE + j], vectors[ROUNDER + j]
        lowest, highest = vectors[LOWEST + j], vectors[HIGHEST + j]
        a, b, c = tile[first + j], tile[second + j], tile[third + j]
        count = (one if a == top else zero) + (one if b == top else zero) + (one if c == top else zero)
        vectors[COUNT + j] += count
        a, b, c = (
            (a - base if a != top else lowest),
            (b - base if b != top else lowest),
            (c - base if c != top else lowest),
        )
        a, b, c = (lowest if lowest > a else a), (lowest if lowest > b else b), (lowest if lowest > c else c)
        a, b, c = (highest if highest < a else a), (highest if highest < b else b), (highest if highest < c else c)
        total, more = vectors[TOTAL + j], add_exp(add_exp(add_exp(zero, a, rounds), b, rounds), c, rounds)
        vectors[TOTAL + j] = total + more
        vectors[LOST + j] += tiles.rounded_off(total, more)


@helper
def _find_rest(tile: Row, num_classes: int, vectors: Row, flat: Row, place: int) -> None:
    """Compute the cost of the class of the top of every lane.

    It is NaN where a logit is NaN or +inf, or all are -inf, and where other logits are too far above the top.
    """
    lanes.use_wide_registers()
    real = vectors.dtype.type
    zero, far, reach, trusted, left = real(0), real(FAR), real(REACH), real(TRUSTED), real(np.nan)
    tiles.clear(vectors)
    tiles.fill(vectors, COUNT, COUNT + WIDTH, -1.0)
    for j in range(WIDTH):
        top = vectors[TOP + j]
        base = top if abs(top) > far else zero
        origin = top - base
        vectors[BASE + j], vectors[ROUNDER + j] = base, rounder(origin)
        vectors[LOWEST + j], vectors[HIGHEST + j] = origin - depth(top), origin + reach
    for group in range(0, num_classes, GROUP):
        for c in range(group, group + GROUP):
            tiles.prefetch_class(flat, place, num_classes, c)
        _add_exp_over_top(tile, np.uint64(group) * WIDTH, vectors)
    for j in range(WIDTH):
        top, total = vectors[TOP + j], vectors[TOTAL + j] + vectors[LOST + j]
        total = settle(total, top - vectors[BASE + j]) + vectors[COUNT + j]
        vectors[REST + j] = log1p(total if total < trusted else left) + (top - top)


@helper
def _add_own(vectors: Row, keep: float, most: float) -> None:
    """Set the total of every lane to the cost of its label."""
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
    """Add the cost of one class, times its share ``slope * target + offset``; a share of 0 adds 0."""
    real, first = vectors.dtype.type, np.uint64(c) * WIDTH
    zero, slope, offset, highest = real(0), real(shares[0]), real(shares[1]), real(most)
    for j in range(WIDTH):
        share = slope * targets[first + j] + offset
        cost = real(vectors[REST + j] + (np.float64(vectors[TOP + j]) - tile[first + j]))
        cost = highest if cost > highest else cost
        total, more = vectors[TOTAL + j], share * cost if share != zero else zero
        vectors[TOTAL + j] = total + more
        vectors[LOST + j] += tiles.rounded_off(total, more)


@helper
def softmax_losses(
    worker: int, sample: int,
    logits: Row, all_labels: Row, all_scores: Row, weights: Row, smoothing: float, most: float, excluded: int,
    losses: Row, done: Row, all_tiles: Row, tails: Row,
) -> None:  # fmt: skip
    """Compute the losses of one sample."""
    labels, values, space, tail = all_labels[sample], losses[sample], all_tiles[worker], tails[worker]
    num_anchors, num_classes = logits.shape[1:]
    size, scored = tiles.height(num_classes) * LANES, all_scores.shape[0] > 0
    flat, scores = logits.reshape(logits.size), all_scores.reshape(all_scores.size)
    begin = sample * num_anchors
    tile, targets, vectors = space[:size], space[size : 2 * size], space[2 * size :]
    keep, spread = 1.0 - smoothing, smoothing / num_classes
    is_quick, num_left, num_again = not scored and spread == 0.0 and excluded < 0, num_anchors, 0
    if is_quick:
        num_left = _softmax_quickly(flat, begin, labels, num_classes, values, space[: 2 * size], vectors, tail)
        _take_logarithms(values, most)
        _weigh(labels, weights, values)
    tiles.fill(targets, 0, size, 0.0)
    for start in range(0, num_anchors if num_left > 0 else 0, LANES):
        if is_quick and not tiles.is_left(values, start):
            continue
        place = (begin + start) * num_classes
        tiles.load_tile(flat, begin + start, num_classes, tile, tail)
        tiles.find_own(labels, weights, start, tile, vectors)
        if is_quick:
            _try_own(vectors)
            _find_rest(tile, num_classes, vectors, flat, place)
            _add_own(vectors, keep, most)
            tiles.store(labels, values, start, vectors, again=True)
            if not tiles.is_left(values, start):
                continue
            num_again += 1
        _find_top(tile, num_classes, vectors)
        _find_rest(tile, num_classes, vectors, flat, place)
        if scored:
            tiles.load_tile(scores, begin + start, num_classes, targets, tail)
            tiles.clear(vectors)
        else:
            if excluded >= 0:
                tiles.find_top_except(tile, num_classes, excluded, vectors, OWN)
            _add_own(vectors, keep, most)
        if scored or spread > 0.0:
            for c in range(num_classes):
                shares = (keep * weights[c] if scored else 0.0, spread * weights[c])
                _add_class(tile, targets, c, shares, most, vectors)
        tiles.store(labels, values, start, vectors, again=is_quick)
    done[sample] = 1 + num_again if tiles.are_classes(labels, num_classes) else -1 - num_again


@helper
def _differentiate(x: Row, weights: Row, rule: SoftmaxRule, workspace: Row, factor: float, gradient: Row) -> None:
    """Write the gradient of one anchor. ``workspace[0]`` holds its targets."""
    shares, exps, num_classes = workspace[0], workspace[1], x.shape[0]
    largest = 0
    for c in range(1, num_classes):
        if x[c] > x[largest] or math.isnan(x[largest]):
            largest = c
    top, others = np.float64(x[largest]), 0.0
    for c in range(num_classes):
        exps[c] = math.exp(x[c] - top)
        others += exps[c] if c != largest else 0.0
    rest, total = math.log1p(others) + (top - top), 0.0
    for c in range(num_classes):
        shares[c] = softmax_share(shares[c], weights[c], rest + (top - x[c]), num_classes, rule)
        total += shares[c]
    if total == 0.0:
        return
    for c in range(num_classes):
        # The probability of all other classes can be small, so it is summed, not computed as 1 - p.
        beside = others if c == largest else others + 1.0 - exps[c]
        gradient[c] = factor * softmax_slope(exps[c], beside, shares[c], total, others + exps[largest])


@helper
def _differentiate_quickly(
    exps: Row, first: tiles.Index, total: float, own: float, slope: float, label: int, gradient: Row
) -> bool:
    """Write the gradient of an anchor from its exponentials; say whether they allow it."""
    lanes.use_wide_registers()
    # If the sum of all were smaller, a class whose exponential became 0 would have a gradient in float32.
    if not (LEAST < total < MOST and 0.0 <= own < MOST and total + own > 1.0):
        return False
    scale = slope / (np.float64(total) + own)
    for c in range(np.uint64(gradient.shape[0])):
        gradient[c] = scale * exps[first + c]
    gradient[label] = -scale * total
    return True


@helper
def softmax_gradients(
    worker: int, block: int,
    logits: Row, labels: Row, scores: Row, weights: Row, smoothing: float, most: float, excluded: int,
    factors: Row, values: Row, done: Row, all_tiles: Row, tails: Row, workspace: Row,
) -> None:  # fmt: skip
    """Write the gradients of those of 64 anchors whose factor is not 0."""
    rule, space, num_classes = SoftmaxRule(smoothing, most, excluded), all_tiles[worker], logits.shape[1]
    size, start = tiles.height(num_classes) * LANES, block * LANES
    exps, vectors = space[: 2 * size], space[2 * size :]
    is_quick = smoothing == 0.0 and most == np.inf
    if is_quick:
        flat = logits.reshape(logits.size)
        _sum_exps(flat, start * num_classes, num_classes, labels, start, exps, vectors, tails[worker])
    for j in range(np.uint64(min(LANES, labels.shape[0] - start))):
        anchor = np.uint64(start) + j
        label, factor, gradient = labels[anchor], factors[anchor], values[anchor]
        if factor == 0.0 or label < 0:
            continue
        if is_quick and label < num_classes:
            total, own, slope = vectors[TOTAL + j], vectors[OWN + j], factor * weights[label]
            if _differentiate_quickly(exps, j * np.uint64(num_classes), total, own, slope, label, gradient):
                continue
        tiles.find_targets(labels, scores, anchor, workspace[worker, 0])
        _differentiate(logits[anchor], weights, rule, workspace[worker], factor, gradient)
    done[block] = 1
