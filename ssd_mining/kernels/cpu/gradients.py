"""The gradients of the losses from logits on the CPU: row by row in float64, for the anchors that have a factor.

After mining only a few percent of the anchors count, so what matters is to be quick about the others: nothing of them
is read but their factor, and nothing is written.
"""

import math
from typing import Any

import numpy as np

from ssd_mining.kernels.cpu.jit import helper, inlined, parallel, prange, serial, share
from ssd_mining.kernels.records import Computed, LogitRows, SigmoidRule, SoftmaxRule

Row = Any


def softmax_gradients(
    rows: LogitRows, rule: SoftmaxRule, factors: Row, gradients: Computed, num_workers: int
) -> None:
    """Write ``factor * d loss / d logits`` of every anchor whose factor, of `factors` (b, A), is not 0."""
    num_workers = max(1, min(num_workers, rows.logits.shape[0]))
    scratch = np.empty((num_workers, 2, rows.logits.shape[2]), np.float64)
    driver = _softmax_gradients_serial if num_workers == 1 else _softmax_gradients_parallel
    driver(rows, rule, factors, gradients, scratch, (0, rows.logits.shape[0]))


def sigmoid_gradients(
    rows: LogitRows, rule: SigmoidRule, factors: Row, gradients: Computed, num_workers: int
) -> None:
    """Write ``factor * d loss / d logits`` of every anchor whose factor, of `factors` (b, A), is not 0."""
    num_workers = max(1, min(num_workers, rows.logits.shape[0]))
    scratch = np.empty((num_workers, 2, rows.logits.shape[2]), np.float64)
    driver = _sigmoid_gradients_serial if num_workers == 1 else _sigmoid_gradients_parallel
    driver(rows, rule, factors, gradients, scratch, (0, rows.logits.shape[0]))


@helper
def _find_targets(rows: LogitRows, sample: int, anchor: int, targets: Row) -> None:
    """Write the targets of one anchor, from its label or its scores."""
    if rows.scores.shape[0] > 0:
        for c in range(targets.shape[0]):
            targets[c] = rows.scores[sample, anchor, c]
        return
    targets[:] = 0.0
    label = np.uint64(rows.labels[sample, anchor])
    if label < np.uint64(targets.shape[0]):
        targets[label] = 1.0


@helper
def _softmax_row(x: Row, weights: Row, rule: SoftmaxRule, scratch: Row, factor: float, gradient: Row) -> None:
    shares, exps, num_classes = scratch[0], scratch[1], x.shape[0]
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
        share = weights[c] * ((1.0 - rule.smoothing) * shares[c] + rule.smoothing / num_classes)
        shares[c] = 0.0 if rest + (top - x[c]) > rule.most else share  # at the floor the loss is flat
        total += shares[c]
    if total == 0.0:
        return
    for c in range(num_classes):
        # The probability of all other classes is summed, not subtracted from 1, where it can be small.
        beside = others if c == largest else others + 1.0 - exps[c]
        slope = (exps[c] * (total - shares[c]) - shares[c] * beside) / (others + exps[largest])
        gradient[c] = factor * slope


@helper
def _sigmoid_row(x: Row, weights: Row, rule: SigmoidRule, targets: Row, factor: float, gradient: Row) -> None:
    for c in range(x.shape[0]):
        size, t = np.float64(abs(x[c])), targets[c]
        tail = math.exp(-size)
        likely, unlikely = 1.0 / (1.0 + tail), tail / (1.0 + tail)
        p, q = (likely, unlikely) if x[c] > 0 else (unlikely, likely)
        share = weights[c] * (rule.positive * t + rule.negative * (1.0 - t))
        if share == 0.0:
            continue
        slope = p * (1.0 - t) - q * t  # of the cross-entropy
        if rule.gamma > 0.0:
            wrong = 1.0 - t if x[c] > 0 else t
            cost = math.log1p(tail) + (size * wrong if wrong != 0.0 else 0.0)
            missed = p * (1.0 - t) + q * t  # 1 - p_t
            bend = rule.gamma * missed ** (rule.gamma - 1.0) * p * q * (1.0 - 2.0 * t) * cost
            slope = missed**rule.gamma * slope + bend if missed != 0.0 else 0.0
        gradient[c] = factor * share * slope


@inlined
def _softmax_sample(
    rows: LogitRows, rule: SoftmaxRule, factors: Row, gradients: Computed, scratch: Row, sample: int
) -> None:
    for anchor in range(factors.shape[1]):
        if factors[sample, anchor] != 0.0 and rows.labels[sample, anchor] >= 0:
            _find_targets(rows, sample, anchor, scratch[0])
            x, gradient = rows.logits[sample, anchor], gradients.values[sample, anchor]
            _softmax_row(x, rows.weights, rule, scratch, factors[sample, anchor], gradient)
    gradients.done[sample] = 1


@inlined
def _sigmoid_sample(
    rows: LogitRows, rule: SigmoidRule, factors: Row, gradients: Computed, scratch: Row, sample: int
) -> None:
    for anchor in range(factors.shape[1]):
        if factors[sample, anchor] != 0.0 and rows.labels[sample, anchor] >= 0:
            _find_targets(rows, sample, anchor, scratch[0])
            x, gradient = rows.logits[sample, anchor], gradients.values[sample, anchor]
            _sigmoid_row(x, rows.weights, rule, scratch[0], factors[sample, anchor], gradient)
    gradients.done[sample] = 1


@serial
def _softmax_gradients_serial(
    rows: LogitRows, rule: SoftmaxRule, factors: Row, gradients: Computed, scratch: Row, span: tuple[int, int]
) -> None:
    for sample in range(span[0], span[1]):
        _softmax_sample(rows, rule, factors, gradients, scratch[0], sample)


@parallel
def _softmax_gradients_parallel(
    rows: LogitRows, rule: SoftmaxRule, factors: Row, gradients: Computed, scratch: Row, span: tuple[int, int]
) -> None:
    for worker in prange(scratch.shape[0]):
        own = share(span, worker, scratch.shape[0])
        _softmax_gradients_serial(rows, rule, factors, gradients, scratch[worker : worker + 1], own)


@serial
def _sigmoid_gradients_serial(
    rows: LogitRows, rule: SigmoidRule, factors: Row, gradients: Computed, scratch: Row, span: tuple[int, int]
) -> None:
    for sample in range(span[0], span[1]):
        _sigmoid_sample(rows, rule, factors, gradients, scratch[0], sample)


@parallel
def _sigmoid_gradients_parallel(
    rows: LogitRows, rule: SigmoidRule, factors: Row, gradients: Computed, scratch: Row, span: tuple[int, int]
) -> None:
    for worker in prange(scratch.shape[0]):
        own = share(span, worker, scratch.shape[0])
        _sigmoid_gradients_serial(rows, rule, factors, gradients, scratch[worker : worker + 1], own)
