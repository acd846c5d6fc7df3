"""The rules of hard-negative mining in plain NumPy: sort instead of select, and sum with ``math.fsum``.

They share no code with the kernels, so a test of the kernels against them means something.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Roles(NamedTuple):
    """Which anchors are positive and which are negative; an anchor that is neither is ignored."""

    pos_mask: NDArray[np.bool_]  # (B, A)
    neg_mask: NDArray[np.bool_]  # (B, A)


def roles(
    labels: NDArray[Any],
    *,
    background: int | None = None,
    ignore_index: int | None = None,
    valid: NDArray[np.bool_] | None = None,
    all_zero: str = "positive",
) -> Roles:
    """Split the anchors into positives, negatives and ignored ones.

    Parameters
    ----------
    labels : ndarray, (B, A) integer, (B, A) bool or (B, A, C) scores
        Classes, a positive mask, or one-hot rows.
    background : int, optional
        The background class; the last one for scores unless given. C: scores have no column for it, and their
        background rows are all zero.
    ignore_index : int, optional
        Integer label of ignored anchors.
    valid : ndarray of bool, (B, A), optional
        False marks ignored anchors.
    all_zero : {"positive", "negative", "ignore"}
        The role of all-zero rows of scores. With ``"negative"``, they alone are background unless `background` is
        given.

    Returns
    -------
    Roles
        The two masks.
    """
    if labels.ndim == 3:
        empty = (labels == 0).all(axis=2)
        if background == labels.shape[2] or (background is None and all_zero == "negative"):
            pos_mask, neg_mask = ~empty, empty & (all_zero != "ignore")
        else:
            column = labels[:, :, -1 if background is None else background]
            pos_mask = (column == 0) & ~(empty & (all_zero != "positive"))
            neg_mask = (column != 0) | (empty & (all_zero == "negative"))
    elif labels.dtype == np.bool_:
        pos_mask, neg_mask = labels.copy(), ~labels
    else:
        ignored = np.zeros(labels.shape, np.bool_) if ignore_index is None else labels == ignore_index
        neg_mask = (labels == background) & ~ignored
        pos_mask = (labels != background) & ~ignored
    if valid is not None:
        pos_mask, neg_mask = pos_mask & valid, neg_mask & valid
    return Roles(pos_mask, neg_mask)


class Sample(NamedTuple):
    """The result of mining one sample."""

    num_pos: int
    num_neg: int
    num_kept: int
    positive_sum: float
    negative_sum: float
    threshold: float  # NaN where nothing is kept
    hard_negative_mask: NDArray[np.bool_]  # (A,)


def total(values: NDArray[Any]) -> float:
    """Sum exactly and round once. With infinities or NaN, sum as IEEE 754 says."""
    floats = values.astype(np.float64)
    if np.isfinite(floats).all():
        try:
            return math.fsum(floats.tolist())
        except OverflowError:  # the sum itself is beyond float64
            pass
    with np.errstate(invalid="ignore", over="ignore"):
        return float(floats.sum())


def hardest_first(rank: NDArray[Any], anchors: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort `anchors` by descending rank, NaN first, equal ranks by ascending anchor."""
    ranks = rank[anchors]
    descending = np.where(np.isnan(ranks), 0.0, -ranks.astype(np.float64))
    return anchors[np.lexsort((anchors, descending, ~np.isnan(ranks)))]


def keep(
    rank: NDArray[Any],
    order: NDArray[np.int64],
    num_kept: int,
    *,
    tie_policy: str = "index",
    pool_size: float = 1.0,
    rng: np.random.Generator | None = None,
) -> NDArray[np.int64]:
    """Keep ``num_kept`` of the anchors in `order`: the first ones, or a draw from a pool of the first ones."""
    if pool_size > 1 and rng is not None:
        pool = np.sort(order[: int(min(whole_number(num_kept * pool_size, "floor"), order.size))])
        return rng.choice(pool, num_kept, replace=False)
    if tie_policy == "index" or num_kept == 0:
        return order[:num_kept]
    last = order[num_kept - 1]
    is_tied = [rank[a] == rank[last] or bool(np.isnan(rank[a]) and np.isnan(rank[last])) for a in order]
    end = is_tied.index(True) + (sum(is_tied) if tie_policy == "all" else 0)
    return order[:end]


def mine_batch(
    conf_loss: NDArray[Any],
    rank: NDArray[Any],
    roles: Roles,
    offsets: NDArray[np.int64],
    *,
    scope: str = "sample",
    skip_hardest: int = 0,
    num_negatives: NDArray[np.int64] | None = None,
    omit_nan: bool = False,
    tie_policy: str = "index",
    pool_size: float = 1.0,
    rng: np.random.Generator | None = None,
    **bounds: Any,
) -> list[Sample]:
    """Mine a batch of samples that lie one after the other, by any rule.

    Parameters
    ----------
    conf_loss : ndarray, (N,)
        Loss of every anchor, in nats.
    rank : ndarray, (N,)
        Ranks of the anchors, usually the losses. NaN ranks above everything.
    roles : Roles
        Masks of the positives and of the negatives, (N,).
    offsets : ndarray of int64, (B + 1,)
        Sample ``b`` owns the anchors ``offsets[b]`` to ``offsets[b + 1]``.
    scope, skip_hardest, num_negatives, tie_policy, pool_size, rng, **bounds
        The fields of the selection rule; `bounds` are those of `num_wanted`.
    omit_nan : bool
        Treat an anchor with NaN as ignored.

    Returns
    -------
    list of Sample
        Counts, sums, threshold and mask of every sample.
    """
    pos_mask, neg_mask = roles
    if omit_nan:
        clean = ~(np.isnan(conf_loss) | np.isnan(rank))
        pos_mask, neg_mask = pos_mask & clean, neg_mask & clean
    samples = [slice(start, stop) for start, stop in itertools.pairwise(offsets.tolist())]
    is_batch = scope.startswith("batch")
    units = [slice(0, int(offsets[-1]))] if is_batch else samples
    orders = [hardest_first(rank, unit.start + np.flatnonzero(neg_mask[unit]))[skip_hardest:] for unit in units]
    competes = np.zeros(neg_mask.shape, np.bool_)
    competes[np.concatenate([np.empty(0, np.int64), *orders])] = True

    num_pos = [int(pos_mask[sample].sum()) for sample in samples]
    lengths = [sample.stop - sample.start for sample in samples]
    explicit = [None] * len(samples) if num_negatives is None else num_negatives.tolist()
    free = {name: value for name, value in bounds.items() if name not in ("min_negatives", "max_negatives")}
    own = [
        min(num_wanted(p, a, num_negatives=given, **free), int(competes[sample].sum()))
        for p, a, given, sample in zip(num_pos, lengths, explicit, samples, strict=True)
    ]
    if scope == "sample":
        wanted = [
            num_wanted(p, a, num_negatives=e, **bounds) for p, a, e in zip(num_pos, lengths, explicit, strict=True)
        ]
    elif scope == "batch":
        together = {**bounds, "extra_negatives": bounds.get("extra_negatives", 0) * len(samples)}
        wanted = [num_wanted(sum(num_pos), sum(lengths), num_negatives=(explicit or [None])[0], **together)]
    else:
        both = [i for i, sample in enumerate(samples) if num_pos[i] and competes[sample].any()]
        positives = sum(num_pos[i] for i in both)
        if scope == "batch_of_sample_quotas":
            wanted = [num_wanted(positives, sum(lengths), num_negatives=int(sum(own)), **bounds)]
        else:
            least = min((int(own[i]) for i in both), default=0)
            wanted = [num_wanted(positives, max(lengths, default=0), num_negatives=least, **bounds)] * len(samples)

    kept = np.zeros(neg_mask.shape, np.bool_)
    for order, w in zip(orders, wanted, strict=True):
        kept[keep(rank, order, int(min(w, order.size)), tie_policy=tie_policy, pool_size=pool_size, rng=rng)] = True
    return [describe(conf_loss[s], rank[s], pos_mask[s], neg_mask[s], kept[s]) for s in samples]


def describe(
    conf_loss: NDArray[Any],
    rank: NDArray[Any],
    pos_mask: NDArray[np.bool_],
    neg_mask: NDArray[np.bool_],
    kept: NDArray[np.bool_],
) -> Sample:
    """Count and sum one sample, given its kept negatives."""
    hardest = hardest_first(rank, np.flatnonzero(kept))
    return Sample(
        num_pos=int(pos_mask.sum()),
        num_neg=int(neg_mask.sum()),
        num_kept=hardest.size,
        positive_sum=total(conf_loss[pos_mask]),
        negative_sum=total(conf_loss[kept]),
        threshold=float(rank[hardest[-1]]) + 0.0 if hardest.size else math.nan,  # -0.0 becomes 0.0
        hard_negative_mask=kept,
    )


def whole_number(product: float, rounding: str) -> float:
    """Round a product down or up; one within 16 units in its last place of a whole number becomes that number."""
    nearest = np.rint(product)
    if np.isfinite(product) and abs(product - nearest) <= 16 * np.finfo(np.float64).eps * product:
        return float(nearest)
    return float(np.ceil(product) if rounding == "ceil" else np.floor(product))


def num_wanted(
    num_pos: int,
    num_anchors: int = 0,
    *,
    neg_pos_ratio: float = 3.0,
    rounding: str = "floor",
    extra_negatives: int = 0,
    min_negatives: float = 0,
    min_negatives_when: str = "always",
    max_negatives: int | None = None,
    num_negatives: int | None = None,
) -> float:
    """Return how many negatives a sample with ``num_pos`` positives asks for, whether it has them or not."""
    wanted = whole_number(neg_pos_ratio * num_pos, rounding) + extra_negatives
    if num_negatives is not None:
        wanted = num_negatives
    if min_negatives_when == "always" or num_pos == 0:
        is_share = 0 < min_negatives < 1
        wanted = max(wanted, whole_number(min_negatives * num_anchors, rounding) if is_share else min_negatives)
    return wanted if max_negatives is None else min(wanted, max_negatives)
