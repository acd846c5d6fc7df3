"""The gradients of the losses from logits on a GPU: one thread per anchor, in float64, for those that have a factor.

After mining only a few percent of the anchors count: of the others nothing is read but their factor, and their
gradients are cleared beforehand, all at once. A thread keeps no row of its own: it reads its logits once more for
every pass, from the cache.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ssd_mining.kernels.cuda import runtime as _cuda
from ssd_mining.kernels.cuda.runtime import DeviceArray, Kernel, Stream, cuda, types
from ssd_mining.kernels.records import Computed, LogitRows, SigmoidRule, SoftmaxRule

Pointer = Any
AnyRule = Any  # a SoftmaxRule or a SigmoidRule, and which of them says what is computed

THREADS = min(128, _cuda.THREADS)


class Anchors(NamedTuple):
    """What a kernel reads of `LogitRows`: all anchors on one axis, and what their arrays would know."""

    logits: Pointer  # (N, C)
    labels: Pointer  # (N,) int32
    scores: Pointer  # (N, C) if `is_scored`
    weights: Pointer  # (C,)
    num_anchors: int
    num_classes: int
    is_scored: int


def softmax_gradients(rows: LogitRows, rule: AnyRule, factors: Any, gradients: Computed, num_workers: int) -> None:  # noqa: ARG001 - the twins'
    """Write ``factor * d loss / d logits`` of every anchor whose factor, of `factors` (b, A), is not 0."""
    compute(enqueue_gradients, rows, (rule, factors), gradients)


sigmoid_gradients = softmax_gradients


def compute(enqueue: Callable[..., None], rows: Any, given: tuple[Any, ...], computed: Computed) -> None:
    """Compute by way of the current device what is on the host."""
    stream = Stream(_cuda.current_device())
    rows = rows._replace(labels=rows.labels.astype(np.int32))
    with _cuda.current(stream.device):
        arrays = rows._make(_cuda.upload(array, stream) for array in rows)
        others = (_cuda.upload(each, stream) if isinstance(each, np.ndarray) else each for each in given)
        values = _cuda.empty(computed.values.shape, computed.values.dtype)
        enqueue(arrays, *others, values, stream)
        computed.values[...] = _cuda.download(values, stream)
    computed.done[...] = 1


def enqueue_gradients(rows: Any, rule: AnyRule, factors: DeviceArray, gradients: DeviceArray, stream: Stream) -> None:
    """Write the gradients of `rows` of device arrays, on a stream of the current device."""
    if not rows.labels.size:
        return
    kind: Any = type(rule)
    clear, kernel = _clear(gradients.dtype), _kernel(kind, rows.logits.dtype)
    clear.launch(-(-gradients.size // THREADS), stream, _cuda.argument(gradients), gradients.size)
    arguments = anchors_of(rows), rule, _cuda.argument(factors), _cuda.argument(gradients)
    kernel.launch(-(-rows.labels.size // THREADS), stream, *arguments)


@functools.cache
def _clear(dtype: np.dtype[Any]) -> Kernel:
    def clear(values: Pointer, size: int) -> None:
        i = cuda.grid(1)
        if i < size:
            values[i] = 0.0

    return Kernel(clear, _cuda.pointer(dtype), types.int64, threads=THREADS)


def anchors_of(rows: Any) -> Anchors:
    """Return `rows` of device arrays as a kernel takes them."""
    logits, labels, scores, weights = (_cuda.argument(array) for array in rows)
    num_anchors, num_classes, is_scored = rows.labels.size, rows.logits.shape[-1], int(rows.scores.size > 0)
    return Anchors(logits, labels, scores, weights, num_anchors, num_classes, is_scored)


def types_of(kind: Any, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Return the types of the anchors, of logits of that dtype, and of the rule."""
    fields = dict.fromkeys(("logits", "scores", "weights"), _cuda.pointer(dtype))
    fields |= dict.fromkeys(("num_anchors", "num_classes", "is_scored"), types.int64)
    numbers = dict.fromkeys(kind._fields, types.float64) | {"besides": types.int64}
    return _cuda.record(Anchors, labels=_cuda.pointer(np.int32), **fields), _cuda.record(kind, **numbers)


@functools.cache
def _kernel(kind: Any, dtype: np.dtype[Any]) -> Kernel:
    write = _softmax_row if kind is SoftmaxRule else _sigmoid_row

    def differentiate(anchors: Anchors, rule: Any, factors: Pointer, gradients: Pointer) -> None:
        anchor = cuda.grid(1)
        if anchor < anchors.num_anchors and anchors.labels[anchor] >= 0 and factors[anchor] != 0.0:
            write(anchors, rule, anchor, factors[anchor], gradients)

    pointers = _cuda.pointer(np.float64), _cuda.pointer(dtype)
    return Kernel(differentiate, *types_of(kind, dtype), *pointers, threads=THREADS)


@_cuda.helper
def _target(anchors: Anchors, anchor: int, c: int) -> float:
    """Return the target of one class, from the label of its anchor or from its scores."""
    if anchors.is_scored:
        return np.float64(anchors.scores[anchor * anchors.num_classes + c])
    return 1.0 if anchors.labels[anchor] == c else 0.0


@_cuda.helper
def _largest(anchors: Anchors, first: int) -> int:
    """Find the largest logit of one anchor, or a NaN; return its class."""
    x, largest = anchors.logits, 0
    for c in range(1, anchors.num_classes):
        if x[first + c] > x[first + largest]:
            largest = c
    return largest


@_cuda.helper
def _softmax_share(anchors: Anchors, rule: SoftmaxRule, anchor: int, c: int, cost: float) -> float:
    """Return what one class costs the anchor per nat: nothing at the floor, where the loss is flat."""
    target = (1.0 - rule.smoothing) * _target(anchors, anchor, c) + rule.smoothing / anchors.num_classes
    return 0.0 if cost > rule.most else np.float64(anchors.weights[c]) * target


@_cuda.helper
def _softmax_row(anchors: Anchors, rule: SoftmaxRule, anchor: int, factor: float, gradients: Pointer) -> None:
    x, first, num_classes = anchors.logits, anchor * anchors.num_classes, anchors.num_classes
    largest = _largest(anchors, first)
    top, others, total = np.float64(x[first + largest]), 0.0, 0.0
    for c in range(num_classes):
        others += math.exp(x[first + c] - top) if c != largest else 0.0
    rest = math.log1p(others) + (top - top)
    for c in range(num_classes):
        total += _softmax_share(anchors, rule, anchor, c, rest + (top - x[first + c]))
    if total == 0.0:
        return
    for c in range(num_classes):
        share, part = (
            _softmax_share(anchors, rule, anchor, c, rest + (top - x[first + c])),
            math.exp(x[first + c] - top),
        )
        # The probability of all other classes is summed, not subtracted from 1, where it can be small.
        beside = others if c == largest else others + 1.0 - part
        gradients[first + c] = factor * ((part * (total - share) - share * beside) / (others + math.exp(top - top)))


@_cuda.helper
def _sigmoid_row(anchors: Anchors, rule: SigmoidRule, anchor: int, factor: float, gradients: Pointer) -> None:
    first = anchor * anchors.num_classes
    for c in range(anchors.num_classes):
        t, x = _target(anchors, anchor, c), np.float64(anchors.logits[first + c])
        share = np.float64(anchors.weights[c]) * (rule.positive * t + rule.negative * (1.0 - t))
        if share != 0.0:
            gradients[first + c] = factor * share * _sigmoid_slope(x, t, rule.gamma)


@_cuda.helper
def _sigmoid_slope(x: float, t: float, gamma: float) -> float:
    """Return the slope of the focal loss of one class."""
    size = abs(x)
    tail = math.exp(-size)
    likely, unlikely = 1.0 / (1.0 + tail), tail / (1.0 + tail)
    p, q = (likely, unlikely) if x > 0.0 else (unlikely, likely)
    slope = p * (1.0 - t) - q * t  # of the cross-entropy
    if gamma > 0.0:
        wrong = 1.0 - t if x > 0.0 else t
        cost = math.log1p(tail) + (size * wrong if wrong != 0.0 else 0.0)
        missed = p * (1.0 - t) + q * t  # 1 - p_t
        if missed == 0.0:
            return 0.0
        bend = gamma * math.pow(missed, gamma - 1.0) * p * q * (1.0 - 2.0 * t) * cost
        slope = math.pow(missed, gamma) * slope + bend
    return slope
