"""The losses from logits, one anchor and one class at a time, in float64, summed with ``math.fsum``.

They share no code with the kernels: the softmax is ``log sum exp(x_j - x_c)`` for each class c, the sigmoid
``log(1 + exp(x))``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = Sequence[float]


def negative_log_softmax(logits: Floats, c: int) -> float:
    """Compute ``-log(softmax(logits)[c])`` of one anchor, in nats.

    NaN where a logit is NaN or +inf, or all are -inf.
    """
    if any(math.isnan(x) or x == math.inf for x in logits) or all(x == -math.inf for x in logits):
        return math.nan
    if logits[c] == -math.inf:
        return math.inf
    others = [x - logits[c] for i, x in enumerate(logits) if i != c]
    largest = max(others, default=0.0)
    if largest <= 0:
        return math.log1p(math.fsum(math.exp(x) for x in others))
    return largest + math.log(math.fsum([math.exp(-largest), *(math.exp(x - largest) for x in others)]))


def softmax_loss(
    logits: Floats, targets: Floats, weights: Floats, *, label_smoothing: float = 0.0, most: float = math.inf
) -> float:
    """Compute the softmax cross-entropy of one anchor against soft targets (C,), in nats."""
    shares = _shares(targets, weights, label_smoothing)
    costs = [share * min(_or_inf(negative_log_softmax(logits, c)), most) for c, share in enumerate(shares) if share]
    if any(share and math.isnan(negative_log_softmax(logits, c)) for c, share in enumerate(shares)):
        return math.nan
    return math.fsum(costs)


def softmax_gradient(
    logits: Floats, targets: Floats, weights: Floats, *, label_smoothing: float = 0.0, most: float = math.inf
) -> list[float]:
    """Compute the gradient of `softmax_loss` with respect to the logits, (C,)."""
    nlls = [negative_log_softmax(logits, c) for c in range(len(logits))]
    shares = _shares(targets, weights, label_smoothing)
    if not any(shares):
        return [0.0] * len(logits)
    if any(map(math.isnan, nlls)):
        return [math.nan] * len(logits)
    shares = [share if nll <= most else 0.0 for share, nll in zip(shares, nlls, strict=True)]
    p = [math.exp(-nll) for nll in nlls]
    # d nll_c / d x_k is p_k for every other class k, and -(1 - p_c) for c itself: expm1 keeps its digits.
    return [
        math.fsum(share * (math.expm1(-nlls[c]) if c == k else p[k]) for c, share in enumerate(shares) if share)
        for k in range(len(logits))
    ]


def softplus(x: float) -> float:
    """Compute ``log(1 + exp(x))``."""
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def sigmoid_loss(
    logits: Floats,
    targets: Floats,
    weights: Floats,
    *,
    positive: float = 1.0,
    negative: float = 1.0,
    gamma: float = 0.0,
) -> float:
    """Compute the sigmoid (focal) cross-entropy of one anchor, summed over its classes, in nats."""
    costs = []
    for x, t, weight in zip(logits, targets, weights, strict=True):
        share = weight * (positive * t + negative * (1 - t))
        if share:
            costs.append(share * _missed(x, t) ** gamma * _binary(x, t))
    return math.nan if any(map(math.isnan, costs)) else math.fsum(costs)


def sigmoid_gradient(
    logits: Floats,
    targets: Floats,
    weights: Floats,
    *,
    positive: float = 1.0,
    negative: float = 1.0,
    gamma: float = 0.0,
) -> list[float]:
    """Compute the gradient of `sigmoid_loss` with respect to the logits, (C,)."""
    slopes = []
    for x, t, weight in zip(logits, targets, weights, strict=True):
        p, q = _sigmoid(x), _sigmoid(-x)
        share, missed = weight * (positive * t + negative * (1 - t)), _missed(x, t)
        if not share or missed == 0:
            slopes.append(0.0)
            continue
        change = p * q * (1 - 2 * t)  # d missed / d x
        bent = gamma * missed ** (gamma - 1) * change * _binary(x, t) if gamma else 0.0
        slopes.append(share * (bent + missed**gamma * (p * (1 - t) - q * t)))
    return slopes


def smooth_l1(loc_pred: ArrayLike, loc_target: ArrayLike, *, beta: float = 1.0) -> NDArray[np.float64]:
    """Compute the smooth L1 loss, summed over the last axis."""
    off = np.abs(np.asarray(loc_pred, np.float64) - np.asarray(loc_target, np.float64))
    if beta == 0:
        return np.asarray(off.sum(axis=-1))
    return np.asarray(np.where(off < beta, off**2 / (2 * beta), off - beta / 2).sum(axis=-1))


def _shares(targets: Floats, weights: Floats, smoothing: float) -> list[float]:
    spread = smoothing / len(weights)
    return [weight * ((1 - smoothing) * t + spread) for t, weight in zip(targets, weights, strict=True)]


def _or_inf(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else math.exp(x)


def _missed(x: float, t: float) -> float:
    """Compute 1 minus the probability of the target."""
    if t in (0, 1):
        return _sigmoid(x) if t == 0 else _sigmoid(-x)
    return _sigmoid(x) * (1 - t) + _sigmoid(-x) * t


def _binary(x: float, t: float) -> float:
    """Compute ``-t log(p) - (1 - t) log(1 - p)``."""
    return math.fsum(share * softplus(side) for share, side in ((t, -x), (1 - t, x)) if share)
