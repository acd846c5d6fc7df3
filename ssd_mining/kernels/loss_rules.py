"""The rules of the losses, written once: plain scalar Python, which each twin compiles for itself, and NumPy as it is.

No rule calls another, for each twin compiles them one by one. A number of the type of `x` is written ``type(x)(1)``:
in float32 a plain 1.0 would make float64 of all that follows.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.kernels.records import NUM_KEPT, NUM_POS, Divisor, SoftmaxRule

# --- sums


def rounded_off(total, more):
    """Say what rounding takes from a sum: sums over 91 classes would lose half a digit without it."""
    return more - ((total + more) - total)


# --- softmax


def softmax_share(target, weight, cost, num_classes, rule: SoftmaxRule):
    """Return what a class weighs in the loss of its anchor: nothing where its cost is capped, and the loss flat."""
    return 0.0 if cost > rule.most else weight * ((1.0 - rule.smoothing) * target + rule.smoothing / num_classes)


def softmax_slope(part, beside, share, total, whole):
    """Compute d loss / d logit of a class: `part` and `beside` are the exponentials of it and of all others.

    `share` is its own of the `total` of the shares, `whole` the sum of all exponentials.
    """
    return (part * (total - share) - share * beside) / whole


# --- sigmoid and focal


def binary_cost(softplus, size, wrong):
    """Compute the binary cross-entropy of a logit of that `size`, whose target is `wrong` by so much."""
    return softplus + (size * wrong if wrong != type(wrong)(0) else type(size)(0))


def target_missed(x, t, tail):
    """Compute 1 minus the probability of the target; `tail` is ``exp(-abs(x))``."""
    one = type(x)(1)
    likely = one / (one + tail)
    p, q = (likely, tail * likely) if x > type(x)(0) else (tail * likely, likely)
    return p * (one - t) + q * t


def sigmoid_slope(x, t, gamma):
    """Compute d loss / d logit of one class, of the focal loss where `gamma` is above 0."""
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


def smooth_l1_cost(size, beta):
    """Compute the loss of a coordinate that is off by `size`, at least 0."""
    if beta == 0:
        return size
    inside = np.minimum(size, beta)  # of an infinite difference, the square alone would be inf - inf
    return inside * (inside / beta) / 2 + (size - inside)  # the square could be inf too


def smooth_l1_slope(off, beta):
    """Compute d loss / d coordinate of a coordinate that is `off`."""
    # The sign where beta is 0, for numba.cuda has no np.sign: what is not 0 goes beyond 1, and -0.0 becomes 0.0.
    steep = off / beta if beta > 0 else (off + 0.0) * 1e300 * 1e300
    return np.minimum(np.maximum(steep, -1.0), 1.0)


def selected_smooth_l1(
    pred: NDArray[Any], target: NDArray[Any], chosen: tuple[NDArray[np.int64], ...], beta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the losses of K chosen anchors alone, (K,), and their slopes, d loss / d pred, (K, 4)."""
    off = pred[chosen].astype(np.float64) - target[chosen].astype(np.float64)
    return smooth_l1_cost(np.abs(off), beta).sum(axis=1), smooth_l1_slope(off, beta)


# --- what a loss is divided by


def divisor_count(num_pos, num_kept, by: Divisor):
    """Count what a sample is divided by, or adds to the divisor of its batch."""
    counted = num_pos + num_kept * by.with_kept
    return counted + by.least * (counted == 0)


def divisor_of(normalize: str, zero_positives: str, num_samples: int, num_anchors: int) -> Divisor:
    """Return what a batch of so many samples and anchors in all is divided by, in the words of `confidence_loss`."""
    return Divisor(
        constant={"none": 1.0, "batch": float(num_samples), "anchors": float(num_anchors)}.get(normalize, -1.0),
        is_own=int(normalize.startswith("sample_")),
        with_kept=int(normalize.endswith("selected")),
        least=int(normalize == "clamped_sample_positives"),
        instead={"zero": math.inf, "nan": math.nan}.get(zero_positives, 1.0),
    )


def loss_divisors(counts: NDArray[np.int64], by: Divisor) -> NDArray[np.float64]:
    """Return what the sum of a batch is divided by, (), or that of each sample before their mean, (B,).

    `counts` are those of `Mined`. Where there is nothing to divide by and the loss is to be 0, the divisor is inf.
    """
    divisors = np.float64(by.constant)
    if by.constant < 0:
        divisors = divisor_count(counts[NUM_POS], counts[NUM_KEPT], by)
        divisors = divisors if by.is_own else divisors.sum()
    return np.where(divisors == 0, by.instead, divisors)


def normalized_loss(per_sample: NDArray[np.float64], divisors: NDArray[np.float64]) -> float:
    """Divide the sums of samples, (B,) in nats, by `loss_divisors`: one number for the batch."""
    if not per_sample.size:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, as it should be
        if divisors.ndim == 0:
            return 0.0 if divisors == np.inf else float(np.add.reduce(per_sample) / divisors)
        return float(np.where(divisors == np.inf, 0.0, per_sample / divisors).mean())


def loss_shares(divisors: NDArray[np.float64], num_samples: int) -> NDArray[np.float64]:
    """Return d loss / d sum of every sample, (B,), under these `loss_divisors`."""
    share = 1.0 / divisors  # of inf, where the loss is 0, 0
    return np.full(num_samples, share) if share.ndim == 0 else np.asarray(share / num_samples)
