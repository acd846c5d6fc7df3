"""The losses from logits: one thread per anchor, which reads from memory that its block shares.

The threads of a block copy the logits of their anchors side by side, so that each is read once and whole cache lines
at a time; then each thread walks its own row. Rows are an odd number of elements apart: a warp reads from 32 banks.

A softmax takes the largest logit of an anchor as its origin and leaves that class out of the sum:
``rest = log1p(sum of exp(x_c - top))`` over all others is what the largest class costs, and ``rest + (top - x_c)``
what any class costs. Nothing overflows, nothing cancels: a loss of 1e-11 keeps its digits.

A *tile* is an array in shared memory: the logits of a block, then its scores. Places in it are unsigned, which need
no test for being negative, and loops over it count by themselves: numba's ranges take ten instructions for each step.
"""

import functools
import math
from typing import Any, cast

import numpy as np

from ssd_mining.kernels import loss_rules
from ssd_mining.kernels.cuda.logit_gradients import PER_BLOCK, Anchors, anchors_type
from ssd_mining.kernels.cuda.runtime import DeviceArray, Kernel, Stream, cuda, helper, pointer, record, types
from ssd_mining.kernels.records import SigmoidRule, SoftmaxRule

rounded_off, binary_cost = helper(loss_rules.rounded_off), helper(loss_rules.binary_cost)
target_missed = helper(loss_rules.target_missed)

WARP = 32
SHARED_BYTES = 48 * 1024  # what every device has for a block


def enqueue_losses(anchors: Anchors, rule: SoftmaxRule | SigmoidRule, losses: DeviceArray, stream: Stream) -> None:
    """Write the losses of the anchors, (N,)."""
    threads, shared_bytes = block(anchors.num_classes, losses.dtype, is_scored=bool(anchors.is_scored))
    kernel = _kernel(cast("Any", type(rule)), losses.dtype, threads)
    kernel.launch_each(anchors.num_anchors, stream, anchors, rule, losses, shared_bytes=shared_bytes)


def block(num_classes: int, dtype: np.dtype[Any], *, is_scored: bool) -> tuple[int, int]:
    """Return how many anchors, and threads, a block has, and how many bytes they share."""
    each = (num_classes | 1) * dtype.itemsize * (2 if is_scored else 1)
    threads = min(PER_BLOCK, SHARED_BYTES // each)
    if threads == 0:
        expected = f"logits of at most {SHARED_BYTES} bytes per anchor, scores included"
        msg = f"backend: 'cuda' takes {expected}, got {num_classes} classes of {dtype}"
        raise NotImplementedError(msg)
    threads = threads // WARP * WARP or threads
    return threads, threads * each


def enqueue_negation(values: DeviceArray, stream: Stream) -> None:
    """Negate an array where it is."""
    _negation(values.dtype).launch_each(values.size, stream, values, values.size)


@functools.cache
def _negation(dtype: np.dtype[Any]) -> Kernel:
    def negate(values, size):
        i = cuda.grid(1)
        if i < size:
            values[i] = -values[i]

    return Kernel(negate, pointer(dtype), types.int64, threads=PER_BLOCK)


@functools.cache
def _kernel(kind: Any, dtype: np.dtype[Any], threads: int) -> Kernel:
    loss = {SoftmaxRule: _softmax_loss, SigmoidRule: _sigmoid_loss}[kind]

    def compute_losses(anchors, rule, losses):
        tile = cuda.shared.array(0, dtype)
        _stage(anchors, anchors.logits, tile, 0)
        if anchors.is_scored:
            _stage(anchors, anchors.scores, tile, _size(anchors))
        cuda.syncthreads()
        anchor = cuda.grid(1)
        if anchor < anchors.num_anchors:
            label = anchors.labels[anchor]
            if label < 0:
                losses[anchor] = 0.0
            elif label > anchors.num_classes:  # no class, and nobody waits to be told
                losses[anchor] = math.nan
            else:
                losses[anchor] = loss(anchors, rule, label, tile)

    return Kernel(compute_losses, anchors_type(dtype), record(kind), pointer(dtype), threads=threads)


@helper
def _size(anchors):
    """Return how many elements of a tile hold the logits."""
    return cuda.blockDim.x * (anchors.num_classes | 1)


@helper
def _stage(anchors, source, tile, place):
    """Copy the part (n, C) of `source` that belongs to the anchors of this block, side by side, to `place`."""
    num_classes, gap = np.uint32(anchors.num_classes), np.uint32((anchors.num_classes | 1) - anchors.num_classes)
    thread, threads = np.uint32(cuda.threadIdx.x), np.uint32(cuda.blockDim.x)
    first = np.int64(cuda.blockIdx.x) * cuda.blockDim.x
    i, stop = first * anchors.num_classes, min(first + cuda.blockDim.x, anchors.num_anchors) * anchors.num_classes
    i += cuda.threadIdx.x
    # Where the next element goes is counted up: a division for each would take longer than the copy.
    step, leap = np.uint32(threads % num_classes), np.uint32(threads + threads // num_classes * gap)
    c, at = np.uint32(thread % num_classes), np.uint32(place + thread + thread // num_classes * gap)
    while i < stop:
        tile[at] = source[i]
        i += cuda.blockDim.x
        c, at = np.uint32(c + step), np.uint32(at + leap)
        if c >= num_classes:
            c, at = np.uint32(c - num_classes), np.uint32(at + gap)


@helper
def _softmax_loss(anchors, rule, label, tile):
    real, num_classes = tile.dtype.type, anchors.num_classes
    begin = np.uint32(cuda.threadIdx.x * (num_classes | 1))
    end, scores = np.uint32(begin + num_classes), np.uint32(_size(anchors))
    top = _top(tile, begin, end, real(-np.inf))
    rest = _rest(tile, begin, end, top)
    if rule.excluded >= 0:
        return _cost(rest, top, _top_but_one(tile, begin, end, rule.excluded))
    zero, one, most = real(0), real(1), real(rule.most)
    keep, spread = real(1.0 - rule.smoothing), real(rule.smoothing / num_classes)
    own, total, lost = np.uint32(begin + label), zero, zero
    i, last = begin, end
    if not anchors.is_scored and spread == zero:  # then the label's class is the only one that counts
        i, last = own, np.uint32(min(own + 1, end))
    while i < last:
        target = tile[np.uint32(scores + i)] if anchors.is_scored else (one if i == own else zero)
        share = anchors.weights[np.uint32(i - begin)] * (keep * target + spread)
        if share != zero:
            cost = _cost(rest, top, tile[i])
            more = share * (most if cost > most else cost)
            total, lost = total + more, lost + rounded_off(total, more)
        i = np.uint32(i + 1)
    return _sum(total, lost)


@helper
def _top(tile, i, end, top):
    """Find the largest of some logits and `top`, NaN above all."""
    while i < end:
        x = tile[i]
        top = x if x > top or math.isnan(x) else top
        i = np.uint32(i + 1)
    return top


@helper
def _top_but_one(tile, begin, end, excluded):
    """Find the largest logit of one anchor among all classes but one, NaN above all."""
    at = np.uint32(begin + excluded)
    return _top(tile, np.uint32(at + 1), end, _top(tile, begin, at, tile.dtype.type(-np.inf)))


@helper
def _rest(tile, i, end, top):
    """Compute what the largest class costs: NaN where a logit is NaN or +inf, or all are -inf."""
    real = tile.dtype.type
    zero, one = real(0), real(1)
    equal, total, lost = -one, zero, zero  # others that equal it count 1 each
    while i < end:
        x = tile[i]
        equal += one if x == top else zero
        more = zero if x == top else _exp_of_difference(x, top)
        total, lost = total + more, lost + rounded_off(total, more)
        i = np.uint32(i + 1)
    return real(math.log1p(_sum(total, lost) + equal)) + (top - top)


@helper
def _exp_of_difference(x, top):
    """Compute ``exp(x - top)``; an exponential would multiply what rounding takes from the difference."""
    difference = x - top
    part = difference - x
    lost = (x - (difference - part)) - (top + part)
    value = type(x)(math.exp(difference))
    return value + value * lost if value > 0 else value


@helper
def _cost(rest, top, x):
    """Compute what a class costs, rounded once."""
    return type(x)(rest + (np.float64(top) - x))


@helper
def _sum(total, lost):
    """Return a sum with what rounding took from it, which is NaN where the sum is inf."""
    return total if math.isnan(lost) else total + lost


@helper
def _sigmoid_loss(anchors, rule, label, tile):
    real, zero, one = tile.dtype.type, tile.dtype.type(0), tile.dtype.type(1)
    begin = np.uint32(cuda.threadIdx.x * (anchors.num_classes | 1))
    end, scores = np.uint32(begin + anchors.num_classes), np.uint32(_size(anchors))
    if rule.excluded >= 0:
        return _binary(_top_but_one(tile, begin, end, rule.excluded), one)
    positive, negative, gamma = real(rule.positive), real(rule.negative), real(rule.gamma)
    own, total, lost, i = np.uint32(begin + label), zero, zero, begin
    while i < end:
        x, t = tile[i], tile[np.uint32(scores + i)] if anchors.is_scored else (one if i == own else zero)
        share = anchors.weights[np.uint32(i - begin)] * (positive * t + negative * (one - t))
        if share != zero:
            more = share * _focus(x, t, gamma) * _binary(x, t)
            total, lost = total + more, lost + rounded_off(total, more)
        i = np.uint32(i + 1)
    return _sum(total, lost)


@helper
def _binary(x, t):
    """Compute the binary cross-entropy of one class."""
    real = type(x)
    size, wrong = abs(x), real(1) - t if x > 0 else t  # how far the target is on the other side
    return binary_cost(real(math.log1p(real(math.exp(-size)))), size, wrong)


@helper
def _focus(x, t, gamma):
    """Compute ``(1 - p_t) ** gamma`` of one class, where p_t is the probability that the target has."""
    real = type(x)
    if gamma == 0:
        return real(1)
    missed = target_missed(x, t, real(math.exp(-abs(x))))
    return missed * missed if gamma == 2 else real(math.pow(missed, gamma))
