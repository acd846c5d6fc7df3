"""What the whole loss needs besides mining and the losses from logits, in float64, sums in one order.

Localization over the positives; the division, by one block, since every divisor may depend on all samples; and what
the gradient of each anchor is multiplied by. So a loss is launched from first to last without a word from the device.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from ssd_mining.kernels import loss_rules
from ssd_mining.kernels.cuda.runtime import (
    THREADS,
    WARP,
    DeviceArray,
    Kernel,
    Stream,
    cuda,
    helper,
    pointer,
    record,
    types,
)
from ssd_mining.kernels.cuda.short_rows import span
from ssd_mining.kernels.cuda.sums import totals
from ssd_mining.kernels.records import NEGATIVE_SUM, NUM_KEPT, NUM_POS, POSITIVE_SUM, Divisor

divisor_count = helper(loss_rules.divisor_count)
smooth_l1_cost, smooth_l1_slope = helper(loss_rules.smooth_l1_cost), helper(loss_rules.smooth_l1_slope)

# The rows of the shares: d loss / d sum of every sample.
CONF, LOC, NUM_SHARES = range(3)


class Boxes(NamedTuple):
    """What the kernels read of each anchor, and how it is laid out."""

    pos_mask: DeviceArray  # (N,)
    hard_negative_mask: DeviceArray  # (N,)
    pred: DeviceArray  # (N, width)
    target: DeviceArray  # (N, width)
    offsets: DeviceArray  # (B + 1,) where samples begin, if num_anchors is below 0
    num_anchors: int  # of every sample
    longest: int  # anchors of a sample
    width: int  # 0: there are no locations
    beta: float


class Sums(NamedTuple):
    """What is divided."""

    counts: DeviceArray  # (6, B) of Mined
    sums: DeviceArray  # (3, B) of Mined
    loc_sums: DeviceArray  # (B,)
    num_samples: int
    loc_weight: float


class Quotients(NamedTuple):
    """What the division gives."""

    loss: DeviceArray  # ()
    conf_loss: DeviceArray  # ()
    loc_loss: DeviceArray  # ()
    per_sample: DeviceArray  # (B,) the sums of both parts of the confidence loss
    shares: DeviceArray  # (2, B)


def enqueue_division(
    boxes: Boxes, given: Sums, conf: Divisor, loc: Divisor, results: Quotients, stream: Stream
) -> None:
    """Write the sums of localization losses, which `given` holds too, and then the `results`."""
    _localize(boxes.pred.dtype).launch(given.num_samples, stream, boxes, given.loc_sums)
    _divide().launch(1, stream, given, conf, loc, results)


def enqueue_factors(
    boxes: Boxes, shares: DeviceArray, factors: DeviceArray, loc_gradient: DeviceArray, stream: Stream
) -> None:
    """Write what the gradients of the anchors are multiplied by, (N,), and those of the locations, (N, width)."""
    num_chunks, kernel = -(-boxes.longest // THREADS), _weigh(boxes.pred.dtype)
    kernel.launch(shares.shape[1] * num_chunks, stream, boxes, num_chunks, shares, factors, loc_gradient)


@helper
def _off(boxes, i):
    """Return how far a coordinate is off."""
    return np.float64(boxes.pred[i]) - np.float64(boxes.target[i])


@functools.cache
def _localize(dtype: np.dtype[Any]) -> Kernel:
    def localize(boxes, loc_sums):
        partial = cuda.shared.array((2, WARP), np.float64)
        start, size = span(boxes, cuda.blockIdx.x)
        total = 0.0
        for anchor in range(start + cuda.threadIdx.x, start + size, THREADS):
            if boxes.pos_mask[anchor]:
                for i in range(anchor * boxes.width, (anchor + 1) * boxes.width):
                    total += smooth_l1_cost(abs(_off(boxes, i)), boxes.beta)
        total, _ = totals(total, 0.0, partial, THREADS)
        if cuda.threadIdx.x == 0:
            loc_sums[cuda.blockIdx.x] = total

    return Kernel(localize, _boxes_type(dtype), pointer(np.float64))


@helper
def _count(given, by, sample):
    """Count what a sample is divided by, or adds to what the batch is."""
    num_pos = given.counts[NUM_POS * given.num_samples + sample]
    return divisor_count(num_pos, given.counts[NUM_KEPT * given.num_samples + sample], by)


@helper
def _share(given, by, sample, whole):
    """Return 1 / the divisor of a sample, where `whole` is the divisor of the batch."""
    divisor = np.float64(_count(given, by, sample)) if by.is_own else whole
    share = 1.0 / (divisor if divisor != 0.0 else by.instead)
    return share / given.num_samples if by.is_own else share


@helper
def _quotient(total, share):
    """Return what a sample adds to the loss: nothing where it does not count, even of inf."""
    return total * share if share != 0.0 else 0.0


@functools.cache
def _divide() -> Kernel:
    def divide(given, conf, loc, results):
        of_divisors = cuda.shared.array((2, WARP), np.float64)
        of_losses = cuda.shared.array((2, WARP), np.float64)
        thread, num_samples = cuda.threadIdx.x, given.num_samples
        first, second = 0.0, 0.0
        for sample in range(thread, num_samples, THREADS):
            first += _count(given, conf, sample)
            second += _count(given, loc, sample)
        first, second = totals(first, second, of_divisors, THREADS)
        conf_whole = conf.constant if conf.constant >= 0.0 else first
        loc_whole = loc.constant if loc.constant >= 0.0 else second
        first, second = 0.0, 0.0
        for sample in range(thread, num_samples, THREADS):
            conf_share, loc_share = _share(given, conf, sample, conf_whole), _share(given, loc, sample, loc_whole)
            total = given.sums[POSITIVE_SUM * num_samples + sample] + given.sums[NEGATIVE_SUM * num_samples + sample]
            first += _quotient(total, conf_share)
            second += _quotient(given.loc_sums[sample], loc_share)
            results.per_sample[sample] = total
            results.shares[CONF * num_samples + sample] = conf_share
            results.shares[LOC * num_samples + sample] = given.loc_weight * loc_share
        first, second = totals(first, second, of_losses, THREADS)
        if thread == 0:
            results.conf_loss[0], results.loc_loss[0] = first, second
            results.loss[0] = first + given.loc_weight * second

    sums = record(Sums, counts=np.int64, sums=np.float64, loc_sums=np.float64)
    results = record(Quotients, **dict.fromkeys(Quotients._fields, np.float64))
    return Kernel(divide, sums, record(Divisor), record(Divisor), results)


@functools.cache
def _weigh(dtype: np.dtype[Any]) -> Kernel:
    def weigh(boxes, num_chunks, shares, factors, loc_gradient):
        sample, chunk, num_samples = (
            cuda.blockIdx.x // num_chunks,
            cuda.blockIdx.x % num_chunks,
            cuda.gridDim.x // num_chunks,
        )
        start, size = span(boxes, sample)
        place = chunk * THREADS + cuda.threadIdx.x
        if place >= size:
            return
        anchor, is_positive = start + place, boxes.pos_mask[start + place] != 0
        is_selected = is_positive or boxes.hard_negative_mask[anchor] != 0
        factors[anchor] = shares[CONF * num_samples + sample] if is_selected else 0.0
        loc_share = shares[LOC * num_samples + sample]
        for i in range(anchor * boxes.width, (anchor + 1) * boxes.width):
            loc_gradient[i] = loc_share * smooth_l1_slope(_off(boxes, i), boxes.beta) if is_positive else 0.0

    arrays = pointer(np.float64), pointer(np.float64), pointer(dtype)
    return Kernel(weigh, _boxes_type(dtype), types.int64, *arrays)


def _boxes_type(dtype: np.dtype[Any]) -> Any:
    masks = dict.fromkeys(("pos_mask", "hard_negative_mask"), np.bool_)
    return record(Boxes, **masks, pred=dtype, target=dtype, offsets=np.int64)
