"""The gradients of the losses from logits: one thread per anchor, in float64, for those that have a factor.

After mining only a few percent of the anchors count: of the others nothing is read but their factor, and their
gradients are cleared beforehand, all at once. A thread keeps no row of its own: it reads its logits once more for
every pass, from the cache.
"""

import functools
import math
from typing import Any, NamedTuple, cast

import numpy as np

from ssd_mining.kernels import loss_rules
from ssd_mining.kernels.cuda import runtime
from ssd_mining.kernels.cuda.pack import Strided, place_of, source_type
from ssd_mining.kernels.cuda.runtime import DeviceArray, Kernel, Stream, cuda, helper, pointer, record, types
from ssd_mining.kernels.records import SigmoidRule, SoftmaxRule

PER_BLOCK = min(128, runtime.THREADS)

softmax_share, softmax_slope = helper(loss_rules.softmax_share), helper(loss_rules.softmax_slope)
sigmoid_slope = helper(loss_rules.sigmoid_slope)


class Anchors(NamedTuple):
    """`LogitRows` on a device: all anchors on one axis, and what their arrays would know."""

    logits: DeviceArray  # (N, C)
    labels: DeviceArray  # (N,) int32
    scores: DeviceArray  # (N, C) if `is_scored`
    weights: DeviceArray  # (C,)
    num_anchors: int
    num_classes: int
    is_scored: int


def anchors_type(dtype: np.dtype[Any]) -> Any:
    """Return the type of anchors whose logits have this dtype."""
    return record(Anchors, logits=dtype, labels=np.int32, scores=dtype, weights=dtype)


def enqueue_gradients(
    anchors: Anchors, rule: SoftmaxRule | SigmoidRule, factors: DeviceArray, gradients: Strided, stream: Stream
) -> None:
    """Write ``factor * d loss / d logits`` of every anchor, in any layout without gaps; `factors` are (N,)."""
    values, kind = gradients.elements, cast("Any", type(rule))
    _clear(values.dtype).launch_each(values.size, stream, values, values.size)
    kernel = _kernel(kind, values.dtype, classes_last=gradients.of_class == 1)
    kernel.launch_each(anchors.num_anchors, stream, anchors, rule, factors, gradients)


@functools.cache
def _clear(dtype: np.dtype[Any]) -> Kernel:
    def clear(values, size):
        i = cuda.grid(1)
        if i < size:
            values[i] = 0.0

    return Kernel(clear, pointer(dtype), types.int64, threads=PER_BLOCK)


@functools.cache
def _kernel(kind: Any, dtype: np.dtype[Any], *, classes_last: bool) -> Kernel:
    write = {SoftmaxRule: _softmax_row, SigmoidRule: _sigmoid_row}[kind]

    def differentiate(anchors, rule, factors, gradients):
        anchor = cuda.grid(1)
        if anchor < anchors.num_anchors and anchors.labels[anchor] >= 0 and factors[anchor] != 0.0:
            place, step = anchor * anchors.num_classes, 1
            if not classes_last:  # a division is dear
                place, step = place_of(gradients, anchor), gradients.of_class
            write(anchors, rule, anchor, factors[anchor], gradients.elements, place, step)

    arguments = anchors_type(dtype), record(kind), pointer(np.float64), source_type(dtype)
    return Kernel(differentiate, *arguments, threads=PER_BLOCK)


@helper
def _target(anchors, anchor, c):
    """Return the target of one class, from the label of its anchor or from its scores."""
    if anchors.is_scored:
        return np.float64(anchors.scores[anchor * anchors.num_classes + c])
    return 1.0 if anchors.labels[anchor] == c else 0.0


@helper
def _largest(anchors, first):
    """Find the largest logit of one anchor, or a NaN; return its class."""
    x, largest = anchors.logits, 0
    for c in range(1, anchors.num_classes):
        if x[first + c] > x[first + largest]:
            largest = c
    return largest


@helper
def _share(anchors, rule, anchor, c, cost):
    """Return what one class, which costs this much, weighs in the loss of its anchor."""
    weight = np.float64(anchors.weights[c])
    return softmax_share(_target(anchors, anchor, c), weight, cost, anchors.num_classes, rule)


@helper
def _softmax_row(anchors, rule, anchor, factor, gradients, place, step):
    x, first, num_classes = anchors.logits, anchor * anchors.num_classes, anchors.num_classes
    largest = _largest(anchors, first)
    top, others, total = np.float64(x[first + largest]), 0.0, 0.0
    for c in range(num_classes):
        others += math.exp(x[first + c] - top) if c != largest else 0.0
    rest = math.log1p(others) + (top - top)
    for c in range(num_classes):
        total += _share(anchors, rule, anchor, c, rest + (top - x[first + c]))
    if total == 0.0:
        return
    for c in range(num_classes):
        share = _share(anchors, rule, anchor, c, rest + (top - x[first + c]))
        part = math.exp(x[first + c] - top)
        # The probability of all other classes is summed, not subtracted from 1, where it can be small.
        beside = others if c == largest else others + 1.0 - part
        slope = softmax_slope(part, beside, share, total, others + math.exp(top - top))
        gradients[place + c * step] = factor * slope


@helper
def _sigmoid_row(anchors, rule, anchor, factor, gradients, place, step):
    first = anchor * anchors.num_classes
    for c in range(anchors.num_classes):
        t, x = _target(anchors, anchor, c), np.float64(anchors.logits[first + c])
        share = np.float64(anchors.weights[c]) * (rule.positive * t + rule.negative * (1.0 - t))
        if share != 0.0:
            gradients[place + c * step] = factor * share * sigmoid_slope(x, t, rule.gamma)
