"""The rules of the losses, written once: plain scalar Python that both twins compile, and NumPy for the host.

A rule calls no other rule, because each twin compiles them one at a time. ``type(x)(1)`` is a 1 of the type of `x`: a
plain 1.0 would turn all float32 numbers after it into float64.
"""

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.kernels.records import NUM_KEPT, NUM_POS, Divisor, Scalar, SoftmaxRule

# --- sums


def rounded_off(total: Scalar, more: Scalar) -> Scalar:
    """Return what rounding loses when `more` is added to `total`: over 91 classes that is half a digit."""
    return more - ((total + more) - total)


# --- softmax


def softmax_share(target: Scalar, weight: Scalar, cost: Scalar, num_classes: Scalar, rule: SoftmaxRule) -> Scalar:
    """Return the share of a class in the slope of its anchor: 0 where its cost is capped, as the loss is flat there."""
    return 0.0 if cost > rule.most else weight * ((1.0 - rule.smoothing) * target + rule.smoothing / num_classes)


def softmax_slope(part: Scalar, beside: Scalar, share: Scalar, total: Scalar, whole: Scalar) -> Scalar:
    """Compute d loss / d logit of a class.

    `part` is the exponential of its logit, `beside` the sum of those of all other classes, `whole` the sum of all.
    `share` is its share, `total` the sum of the shares of all classes.
    """
    return (part * (total - share) - share * beside) / whole


# --- sigmoid and focal


def binary_cost(softplus: Scalar, size: Scalar, wrong: Scalar) -> Scalar:
    """Compute the binary cross-entropy: `size` is abs(logit), `wrong` how far the target is from the logit's side."""
    return softplus + (size * wrong if wrong != type(wrong)(0) else type(size)(0))


def target_missed(x: Scalar, t: Scalar, tail: Scalar) -> Scalar:
    """Compute 1 minus the probability of the target; `tail` is ``exp(-abs(x))``."""
    one = type(x)(1)
    likely = one / (one + tail)
    p, q = (likely, tail * likely) if x > type(x)(0) else (tail * likely, likely)
    return p * (one - t) + q * t


def sigmoid_slope(x: Scalar, t: Scalar, gamma: Scalar) -> Scalar:
    """Compute d loss / d logit of one class: of the cross-entropy, or of the focal loss if `gamma` is above 0."""
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


# --- localization


def smooth_l1_cost(size: Scalar, beta: Scalar) -> Scalar:
    """Compute the loss of a coordinate that is off by `size`, which is at least 0."""
    if beta == 0:
        return size
    inside = np.minimum(size, beta)  # for an infinite difference, ``size - beta / 2`` alone would be inf - inf
    return inside * (inside / beta) / 2 + (size - inside)  # the square could be inf too


def smooth_l1_slope(off: Scalar, beta: Scalar) -> Scalar:
    """Compute d loss / d coordinate of a coordinate that is off by `off`."""
    # The sign where beta is 0, for numba.cuda has no np.sign: what is not 0 goes beyond 1, and -0.0 becomes 0.0.
    steep = off / beta if beta > 0 else (off + 0.0) * 1e300 * 1e300
    return np.minimum(np.maximum(steep, -1.0), 1.0)


def selected_smooth_l1(
    pred: NDArray[Any], target: NDArray[Any], chosen: tuple[NDArray[np.int64], ...], beta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the losses, (K,), and the slopes, d loss / d pred, (K, 4), of K chosen anchors."""
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN
        off = pred[chosen].astype(np.float64) - target[chosen].astype(np.float64)
        return smooth_l1_cost(np.abs(off), beta).sum(axis=1), smooth_l1_slope(off, beta)


# --- divisors


def divisor_count(num_pos: Scalar, num_kept: Scalar, by: Divisor) -> Scalar:
    """Count what the loss of a sample is divided by, or what the sample adds to the divisor of its batch."""
    counted = num_pos + num_kept * by.with_kept
    return counted + by.least * (counted == 0)


@functools.lru_cache(maxsize=128)
def divisor_of(normalize: str, zero_positives: str, num_samples: int, num_anchors: int) -> Divisor:
    """Return how the loss of a batch of `num_samples` samples and `num_anchors` anchors is divided."""
    return Divisor(
        constant={"none": 1.0, "batch": float(num_samples), "anchors": float(num_anchors)}.get(normalize, -1.0),
        is_own=int(normalize.startswith("sample_")),
        with_kept=int(normalize.endswith("selected")),
        least=int(normalize == "clamped_sample_positives"),
        instead={"zero": math.inf, "nan": math.nan}.get(zero_positives, 1.0),
    )


def loss_divisors(counts: NDArray[np.int64], by: Divisor) -> float | NDArray[np.float64]:
    """Return the divisor of the batch, or the divisors of its samples, (B,).

    `counts` are those of `Mined`. A divisor of inf says that the loss is 0, because there is nothing to divide by.
    """
    if by.constant >= 0:
        return by.constant or by.instead
    counted = divisor_count(counts[NUM_POS], counts[NUM_KEPT], by)
    if by.is_own:
        return np.where(counted == 0, by.instead, counted)
    return float(counted.sum()) or by.instead


def normalized_loss(per_sample: NDArray[np.float64], divisors: float | NDArray[np.float64]) -> float:
    """Divide the losses of the samples, (B,) in nats, by `loss_divisors` and return the loss of the batch.

    inf - inf is NaN, of which NumPy warns unless the caller switches that off: that takes longer than the sum.
    """
    if not per_sample.size:
        return 0.0
    if not isinstance(divisors, float):
        return float(np.where(divisors == np.inf, 0.0, per_sample / divisors).mean())
    return 0.0 if divisors == math.inf else float(np.add.reduce(per_sample)) / divisors


def loss_shares(divisors: float | NDArray[np.float64], num_samples: int) -> NDArray[np.float64]:
    """Return d loss / d (loss of a sample), (B,), for these `loss_divisors`."""
    if isinstance(divisors, float):
        return np.full(num_samples, 1.0 / divisors)  # 0 for inf
    shares: NDArray[np.float64] = 1.0 / divisors / num_samples
    return shares
