"""The gradients of the losses from logits, in float64: one warp per anchor that has a factor, one pass over all others.

After mining only a few percent of the anchors count. The threads of a block look at a factor each and list the anchors
that have one; all other gradients become 0. Then every warp takes one anchor of the list after the other, its lanes
the classes. Whatever a lane needs of its logits once more it reads from the cache.
"""

import functools
import math
from typing import Any, NamedTuple, cast

import numpy as np

from ssd_mining.kernels import loss_rules
from ssd_mining.kernels.cuda import runtime
from ssd_mining.kernels.cuda.pack import Strided, place_of, source_type
from ssd_mining.kernels.cuda.runtime import WARP, DeviceArray, Kernel, Stream, cuda, helper, pointer, record
from ssd_mining.kernels.cuda.sums import largest_of_warp, place, sum_of_warp
from ssd_mining.kernels.records import SigmoidRule, SoftmaxRule

PER_BLOCK = min(128, runtime.THREADS)
# That a multiprocessor runs at once, by the bytes of a logit: of more, the registers overflow.
BLOCKS = {4: 7, 8: 5}

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
    kernel = _kernel(cast("Any", type(rule)), gradients.elements.dtype, classes_last=gradients.of_class == 1)
    kernel.launch_each(anchors.num_anchors, stream, anchors, rule, factors, gradients)


@functools.cache
def _kernel(kind: Any, dtype: np.dtype[Any], *, classes_last: bool) -> Kernel:
    write = {SoftmaxRule: _softmax_row, SigmoidRule: _sigmoid_row}[kind]

    def differentiate(anchors, rule, factors, gradients):
        listed = cuda.shared.array(PER_BLOCK, np.int32)
        begins = cuda.shared.array(PER_BLOCK, np.int64)
        number = cuda.shared.array(1, np.int32)
        thread, (warp, lane) = cuda.threadIdx.x, place()
        first, num_classes = np.int64(cuda.blockIdx.x) * PER_BLOCK, anchors.num_classes
        if thread == 0:
            number[0] = 0
        cuda.syncthreads()
        anchor, step = first + thread, np.int64(1)
        begin = anchor * num_classes
        if not classes_last:
            begin, step = place_of(gradients, anchor), gradients.of_class
        if anchor < anchors.num_anchors:
            if anchors.labels[anchor] >= 0 and factors[anchor] != 0.0:
                i = cuda.atomic.add(number, 0, 1)
                listed[i], begins[i] = thread, begin
            elif not classes_last:  # neighbours lie side by side in every class
                _clear(gradients.elements, begin, begin + num_classes * step, step)
        if classes_last:  # those of a block are one piece
            stop = min(first + PER_BLOCK, anchors.num_anchors) * num_classes
            _clear(gradients.elements, first * num_classes + thread, stop, PER_BLOCK)
        cuda.syncthreads()
        for i in range(warp, number[0], PER_BLOCK // WARP):
            anchor = first + listed[i]
            write(anchors, rule, anchor, factors[anchor], gradients.elements, begins[i], step, lane)

    arguments = anchors_type(dtype), record(kind), pointer(np.float64), source_type(dtype)
    return Kernel(differentiate, *arguments, threads=PER_BLOCK, blocks=BLOCKS[dtype.itemsize])


@helper
def _clear(elements, i, stop, step):
    while i < stop:  # a range would take ten instructions more for each
        elements[i] = 0.0
        i += step


@helper
def _target(anchors, anchor, c):
    """Return the target of one class, from the label of its anchor or from its scores."""
    if anchors.is_scored:
        return np.float64(anchors.scores[anchor * anchors.num_classes + c])
    return 1.0 if anchors.labels[anchor] == c else 0.0


@helper
def _largest(anchors, first, lane):
    """Return the largest logit of one anchor, and its class, the lowest of several; NaN is left out."""
    top, largest = -math.inf, np.int32(anchors.num_classes)
    for c in range(lane, anchors.num_classes, WARP):
        x = np.float64(anchors.logits[first + c])
        if x > top:
            top, largest = x, np.int32(c)
    return largest_of_warp(top, largest)


@helper
def _share(anchors, rule, anchor, c, cost):
    """Return what one class, which costs this much, weighs in the loss of its anchor."""
    weight = np.float64(anchors.weights[c])
    return softmax_share(_target(anchors, anchor, c), weight, cost, anchors.num_classes, rule)


@helper
def _softmax_row(anchors, rule, anchor, factor, gradients, begin, step, lane):
    x, first, num_classes = anchors.logits, anchor * anchors.num_classes, anchors.num_classes
    (top, largest), others, total = _largest(anchors, first, lane), 0.0, 0.0
    for c in range(lane, num_classes, WARP):
        others += math.exp(x[first + c] - top) if c != largest else 0.0
    others = sum_of_warp(others)
    rest = math.log1p(others) + (top - top)
    for c in range(lane, num_classes, WARP):
        total += _share(anchors, rule, anchor, c, rest + (top - x[first + c]))
    total = sum_of_warp(total)
    for c in range(lane, num_classes, WARP):
        share = _share(anchors, rule, anchor, c, rest + (top - x[first + c]))
        part = math.exp(x[first + c] - top)
        # The probability of all other classes is summed, not subtracted from 1, where it can be small.
        beside = others if c == largest else others + 1.0 - part
        slope = softmax_slope(part, beside, share, total, others + math.exp(top - top))
        gradients[begin + c * step] = factor * slope if total != 0.0 else 0.0


@helper
def _sigmoid_row(anchors, rule, anchor, factor, gradients, begin, step, lane):
    first = anchor * anchors.num_classes
    for c in range(lane, anchors.num_classes, WARP):
        t, x = _target(anchors, anchor, c), np.float64(anchors.logits[first + c])
        share = np.float64(anchors.weights[c]) * (rule.positive * t + rule.negative * (1.0 - t))
        gradients[begin + c * step] = factor * share * sigmoid_slope(x, t, rule.gamma) if share != 0.0 else 0.0
