"""What the whole loss needs on a GPU besides mining and the losses from logits, in float64, sums in one order.

Localization over the positives; the division, by one block, since every divisor may depend on all samples; and what
the gradient of each anchor is multiplied by. So a loss is launched from first to last without a word from the device.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ssd_mining.kernels.cuda import runtime as _cuda
from ssd_mining.kernels.cuda.digits import THREADS
from ssd_mining.kernels.cuda.runtime import DeviceArray, Kernel, Stream, cuda, types
from ssd_mining.kernels.cuda.short_rows import span, totals
from ssd_mining.kernels.records import NEGATIVE_SUM, NUM_KEPT, NUM_POS, POSITIVE_SUM

Pointer = Any

# The rows of the shares: d loss / d sum of every sample.
CONF, LOC, NUM_SHARES = range(3)


class Divisor(NamedTuple):
    """What the sum of a batch, or of each sample, is divided by."""

    constant: float  # below 0: what is counted
    is_own: int  # 1: each sample by its own count, before their mean
    with_kept: int  # 1: kept negatives are counted too
    least: int  # of the count of a sample
    instead: float  # of 0


class Boxes(NamedTuple):
    """What the kernels read of each anchor, and how it is laid out."""

    pos_mask: Pointer  # (N,)
    hard_negative_mask: Pointer  # (N,)
    pred: Pointer  # (N, width)
    target: Pointer  # (N, width)
    offsets: Pointer  # (B + 1,) where samples begin, if num_anchors is below 0
    num_anchors: int  # of every sample
    width: int  # 0: there are no locations
    beta: float


class Sums(NamedTuple):
    """What is divided."""

    counts: Pointer  # (6, B) of Mined
    sums: Pointer  # (3, B) of Mined
    loc_sums: Pointer  # (B,)
    num_samples: int
    loc_weight: float


class Quotients(NamedTuple):
    """What the division gives."""

    loss: Pointer  # ()
    conf_loss: Pointer  # ()
    loc_loss: Pointer  # ()
    shares: Pointer  # (2, B)


def divisor(normalize: str, zero_positives: str, num_samples: int, num_anchors: int) -> Divisor:
    """Return by what a batch of so many samples and anchors is divided, in the words of `confidence_loss`."""
    return Divisor(
        constant={"none": 1.0, "batch": float(num_samples), "anchors": float(num_anchors)}.get(normalize, -1.0),
        is_own=int(normalize.startswith("sample_")),
        with_kept=int(normalize.endswith("selected")),
        least=int(normalize == "clamped_sample_positives"),
        instead={"zero": math.inf, "nan": math.nan}.get(zero_positives, 1.0),
    )


def enqueue_division(boxes: Any, given: Any, divisors: tuple[Divisor, Divisor], results: Any, stream: Stream) -> None:
    """Write the losses and the shares that are `results`, `Quotients` of device arrays, like `boxes` and `given`.

    The sums of localization losses, which `given` holds too, are written first.
    """
    sums = _arguments(given)
    if given.num_samples:
        _localize(boxes.pred.dtype).launch(given.num_samples, stream, _arguments(boxes), sums.loc_sums)
    _divide().launch(1, stream, sums, *divisors, _arguments(results))


def enqueue_factors(
    boxes: Any, shares: DeviceArray, factors: DeviceArray, loc_gradient: DeviceArray, stream: Stream
) -> None:
    """Write what the gradients of the anchors are multiplied by, (N,), and those of the locations, (N, width)."""
    arguments = (_cuda.argument(array) for array in (shares, factors, loc_gradient))
    if shares.size:
        _weigh(boxes.pred.dtype).launch(shares.shape[1], stream, _arguments(boxes), *arguments)


def _arguments(given: Any) -> Any:
    """Return a record as a kernel takes it."""
    return given._make(_cuda.argument(value) if isinstance(value, DeviceArray) else value for value in given)


@_cuda.helper
def _cost(off: float, beta: float) -> float:
    """Compute the loss of one coordinate."""
    size = abs(off)
    if beta == 0.0:
        return size
    inside = size if size < beta else beta  # of an infinite difference, the square alone would be inf - inf
    return inside * (inside / beta) / 2.0 + (size - inside)


@_cuda.helper
def _slope(off: float, beta: float) -> float:
    """Compute d loss / d coordinate."""
    if math.isnan(off):
        return off
    if off == 0.0:
        return 0.0
    if beta == 0.0:
        return math.copysign(1.0, off)
    return max(-1.0, min(1.0, off / beta))


@functools.cache
def _localize(dtype: np.dtype[Any]) -> Kernel:
    def localize(boxes: Boxes, loc_sums: Pointer) -> None:
        lanes = cuda.shared.array((2, THREADS), np.float64)
        sums = cuda.shared.array(2, np.float64)
        start, size = span(boxes, cuda.blockIdx.x)
        total = 0.0
        for anchor in range(start + cuda.threadIdx.x, start + size, THREADS):
            if boxes.pos_mask[anchor]:
                for i in range(anchor * boxes.width, (anchor + 1) * boxes.width):
                    total += _cost(np.float64(boxes.pred[i]) - np.float64(boxes.target[i]), boxes.beta)
        lanes[0, cuda.threadIdx.x], lanes[1, cuda.threadIdx.x] = total, 0.0
        totals(lanes, sums)
        if cuda.threadIdx.x == 0:
            loc_sums[cuda.blockIdx.x] = sums[0]

    return Kernel(localize, _boxes_type(dtype), _cuda.pointer(np.float64))


@_cuda.helper
def _count(given: Sums, by: Divisor, sample: int) -> int:
    """Count what a sample is divided by, or adds to what the batch is."""
    num_kept = given.counts[NUM_KEPT * given.num_samples + sample] if by.with_kept else 0
    num_pos = given.counts[NUM_POS * given.num_samples + sample]
    return int(max(by.least, num_pos + num_kept))


@_cuda.helper
def _share(given: Sums, by: Divisor, sample: int, whole: float) -> float:
    """Return 1 / the divisor of a sample, where `whole` is that of the batch."""
    divisor = np.float64(_count(given, by, sample)) if by.is_own else whole
    share = 1.0 / (divisor if divisor != 0.0 else by.instead)
    return share / given.num_samples if by.is_own else share


@_cuda.helper
def _part(total: float, share: float) -> float:
    """Return what a sample adds to the loss: nothing where it does not count, be it inf."""
    return total * share if share != 0.0 else 0.0


@functools.cache
def _divide() -> Kernel:
    def divide(given: Sums, conf: Divisor, loc: Divisor, results: Quotients) -> None:
        lanes = cuda.shared.array((2, THREADS), np.float64)
        sums = cuda.shared.array(2, np.float64)
        thread, num_samples = cuda.threadIdx.x, given.num_samples
        first, second = 0.0, 0.0
        for sample in range(thread, num_samples, THREADS):
            first += _count(given, conf, sample)
            second += _count(given, loc, sample)
        lanes[0, thread], lanes[1, thread] = first, second
        totals(lanes, sums)
        conf_whole = conf.constant if conf.constant >= 0.0 else sums[0]
        loc_whole = loc.constant if loc.constant >= 0.0 else sums[1]
        first, second = 0.0, 0.0
        for sample in range(thread, num_samples, THREADS):
            conf_share, loc_share = _share(given, conf, sample, conf_whole), _share(given, loc, sample, loc_whole)
            total = given.sums[POSITIVE_SUM * num_samples + sample] + given.sums[NEGATIVE_SUM * num_samples + sample]
            first += _part(total, conf_share)
            second += _part(given.loc_sums[sample], loc_share)
            results.shares[CONF * num_samples + sample] = conf_share
            results.shares[LOC * num_samples + sample] = given.loc_weight * loc_share
        lanes[0, thread], lanes[1, thread] = first, second
        totals(lanes, sums)
        if thread == 0:
            results.conf_loss[0], results.loc_loss[0] = sums[0], sums[1]
            results.loss[0] = sums[0] + given.loc_weight * sums[1]

    pointers = dict.fromkeys(("sums", "loc_sums"), _cuda.pointer(np.float64)) | {"counts": _cuda.pointer(np.int64)}
    sums = _cuda.record(Sums, **pointers, num_samples=types.int64, loc_weight=types.float64)
    numbers = dict.fromkeys(Divisor._fields, types.int64) | dict.fromkeys(("constant", "instead"), types.float64)
    by, results = _cuda.record(Divisor, **numbers), dict.fromkeys(Quotients._fields, _cuda.pointer(np.float64))
    return Kernel(divide, sums, by, by, _cuda.record(Quotients, **results))


@functools.cache
def _weigh(dtype: np.dtype[Any]) -> Kernel:
    def weigh(boxes: Boxes, shares: Pointer, factors: Pointer, loc_gradient: Pointer) -> None:
        sample, num_samples = cuda.blockIdx.x, cuda.gridDim.x
        start, size = span(boxes, sample)
        conf_share, loc_share = shares[CONF * num_samples + sample], shares[LOC * num_samples + sample]
        for anchor in range(start + cuda.threadIdx.x, start + size, THREADS):
            is_positive = boxes.pos_mask[anchor] != 0
            factors[anchor] = conf_share if is_positive or boxes.hard_negative_mask[anchor] != 0 else 0.0
            for i in range(anchor * boxes.width, (anchor + 1) * boxes.width):
                off = np.float64(boxes.pred[i]) - np.float64(boxes.target[i])
                loc_gradient[i] = loc_share * _slope(off, boxes.beta) if is_positive else 0.0

    return Kernel(weigh, _boxes_type(dtype), *[_cuda.pointer(np.float64)] * 2, _cuda.pointer(dtype))


def _boxes_type(dtype: np.dtype[Any]) -> Any:
    fields = dict.fromkeys(("pos_mask", "hard_negative_mask"), _cuda.pointer(np.bool_))
    fields |= dict.fromkeys(("pred", "target"), _cuda.pointer(dtype)) | {"offsets": _cuda.pointer(np.int64)}
    return _cuda.record(Boxes, **fields, num_anchors=types.int64, width=types.int64, beta=types.float64)
