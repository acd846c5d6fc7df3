"""The sigmoid losses on the CPU: a binary cross-entropy for each class of an anchor, and its focal form."""

import numpy as np

from ssd_mining.kernels import loss_rules
from ssd_mining.kernels.cpu import lanes, tiles
from ssd_mining.kernels.cpu.elementary import exp, log1p
from ssd_mining.kernels.cpu.jit import helper
from ssd_mining.kernels.cpu.lanes import LANES, Row
from ssd_mining.kernels.cpu.tiles import LOST, SHARE, TOP, TOTAL, WIDTH
from ssd_mining.kernels.records import SigmoidRule

binary_cost, target_missed = helper(loss_rules.binary_cost), helper(loss_rules.target_missed)
sigmoid_slope = helper(loss_rules.sigmoid_slope)


@helper
def _add_binary(tile: Row, targets: Row, c: int, shares: tuple[float, float], vectors: Row) -> None:
    """Add the binary cross-entropy of one class. `shares`: its factors for a target of 1 and for a target of 0."""
    lanes.use_wide_registers()
    real, first = vectors.dtype.type, np.uint64(c) * WIDTH
    zero, one, positive, negative = real(0), real(1), real(shares[0]), real(shares[1])
    for j in range(WIDTH):
        x, t = tile[first + j], targets[first + j]
        size = abs(x)
        tail = exp(-size)
        wrong = one - t if x > zero else t  # how far the target is on the other side
        cost = binary_cost(log1p(tail), size, wrong)
        share = positive * t + negative * (one - t)
        total, more = vectors[TOTAL + j], share * vectors[SHARE + j] * cost if share != zero else zero
        vectors[TOTAL + j] = total + more
        vectors[LOST + j] += tiles.rounded_off(total, more)


@helper
def _find_focus(tile: Row, targets: Row, c: int, gamma: float, vectors: Row) -> None:
    """Compute ``(1 - p_t) ** gamma`` of one class, where p_t is the probability of the target."""
    lanes.use_wide_registers()
    real, first = vectors.dtype.type, np.uint64(c) * WIDTH
    for j in range(WIDTH):
        x, t = tile[first + j], targets[first + j]
        vectors[SHARE + j] = target_missed(x, t, exp(-abs(x)))
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


@helper
def sigmoid_losses(
    worker: int, sample: int,
    logits: Row, all_labels: Row, all_scores: Row, weights: Row,
    positive: float, negative: float, gamma: float, excluded: int,
    losses: Row, done: Row, all_tiles: Row, tails: Row,
) -> None:  # fmt: skip
    """Compute the losses of one sample."""
    labels, values, space, tail = all_labels[sample], losses[sample], all_tiles[worker], tails[worker]
    num_anchors, num_classes = logits.shape[1:]
    size, scored = tiles.height(num_classes) * LANES, all_scores.shape[0] > 0
    flat, scores = logits.reshape(logits.size), all_scores.reshape(all_scores.size)
    begin = sample * num_anchors
    tile, targets, vectors = space[:size], space[size : 2 * size], space[2 * size :]
    for start in range(0, num_anchors, LANES):
        tiles.load_tile(flat, begin + start, num_classes, tile, tail)
        if excluded >= 0:
            tiles.find_top_except(tile, num_classes, excluded, vectors, TOP)
            _softplus_of_negative(vectors)
        else:
            if scored:
                tiles.load_tile(scores, begin + start, num_classes, targets, tail)
            else:
                tiles.fill(targets, 0, size, 0.0)
                tiles.mark_own(labels, start, targets, num_classes)
            tiles.clear(vectors)
            tiles.fill(vectors, SHARE, SHARE + WIDTH, 1.0)
            for c in range(num_classes):
                tiles.prefetch_class(flat, (begin + start) * num_classes, num_classes, c)
                if gamma > 0.0:
                    _find_focus(tile, targets, c, gamma, vectors)
                shares = (weights[c] * positive, weights[c] * negative)
                _add_binary(tile, targets, c, shares, vectors)
        tiles.store(labels, values, start, vectors, again=False)
    done[sample] = 1 if tiles.are_classes(labels, num_classes) else -1


@helper
def _differentiate(x: Row, weights: Row, rule: SigmoidRule, targets: Row, factor: float, gradient: Row) -> None:
    """Write the gradient of one anchor."""
    for c in range(x.shape[0]):
        t = targets[c]
        share = weights[c] * (rule.positive * t + rule.negative * (1.0 - t))
        if share != 0.0:
            gradient[c] = factor * share * sigmoid_slope(np.float64(x[c]), t, rule.gamma)


@helper
def sigmoid_gradients(
    worker: int, block: int,
    logits: Row, labels: Row, scores: Row, weights: Row,
    positive: float, negative: float, gamma: float, excluded: int,
    factors: Row, values: Row, done: Row, _tiles: Row, _tails: Row, workspace: Row,
) -> None:  # fmt: skip
    """Write the gradients of those of 64 anchors whose factor is not 0."""
    rule, targets = SigmoidRule(positive, negative, gamma, excluded), workspace[worker, 0]
    for anchor in range(block * LANES, min((block + 1) * LANES, labels.shape[0])):
        if factors[anchor] != 0.0 and labels[anchor] >= 0:
            tiles.find_targets(labels, scores, anchor, targets)
            _differentiate(logits[anchor], weights, rule, targets, factors[anchor], values[anchor])
    done[block] = 1
