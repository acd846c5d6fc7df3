"""The rules of hard-negative mining in plain NumPy: first the seed notebook, then the general rule.

This is the judge. It imports NumPy only, sorts where the kernels select, and sums with ``math.fsum``. Its first half
keeps the notebook's own names, so that the two can be laid side by side; its second half is written independently
of the kernels, so that a test against it means something.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Notebook:
    """Every tensor of the seed notebook, by its name, dtype and shape (B samples, A anchors)."""

    total_num: NDArray[np.int64]  # (B,)
    negatives_num: NDArray[np.int64]  # (B,)
    positives_num: NDArray[np.int64]  # (B,)
    positives_num_safe: NDArray[np.float32]  # (B,)
    positives_mask: NDArray[np.bool_]  # (B, A)
    negatives_mask: NDArray[np.bool_]  # (B, A)
    positives_conf: NDArray[np.float32]  # (B, A)
    positives_sum: NDArray[np.float32]  # (B,)
    negatives_conf: NDArray[np.float32]  # (B, A)
    negatives_top: NDArray[np.float32]  # (B, A)
    negatives_num_max: NDArray[np.int64]  # (B,)
    negatives_num_max_t: NDArray[np.int64]  # (B, 1)
    rng: NDArray[np.int32]  # (A,)
    range_row: NDArray[np.int64]  # (1, A)
    negatives_max_mask: NDArray[np.bool_]  # (B, A)
    negatives_max: NDArray[np.float32]  # (B, A)
    negatives_max_sum: NDArray[np.float32]  # (B,)
    confidence_loss: NDArray[np.float32]  # (B,)
    batch_confidence_loss: np.float32


def confidence_loss(gt_cl: ArrayLike, conf: ArrayLike) -> Notebook:
    """Compute the seed notebook, cell by cell, in float32.

    Parameters
    ----------
    gt_cl : array_like, (B, A, C)
        One-hot ground truth; the last class is background.
    conf : array_like, (B, A), converted to float32
        Cross-entropy of every anchor, in nats.

    Returns
    -------
    Notebook
        Every tensor that the notebook names.

    Notes
    -----
    Faithful to the notebook, not to :mod:`ssd_mining`: it zeroes the positives before it sorts, so a negative
    loss below zero ranks behind them, and it sums in float32.

    Examples
    --------
    >>> import numpy as np
    >>> gt_cl = np.eye(2)[[[0, 1, 1, 1, 1]]]
    >>> float(confidence_loss(gt_cl, [[1.0, 0.125, 0.5, 0.25, 0.25]]).batch_confidence_loss)
    2.0
    """
    gt_cl = np.asarray(gt_cl)
    conf = np.asarray(conf, dtype=np.float32)
    batch_size, num_anchors, _ = gt_cl.shape

    total_num = np.ones([batch_size], dtype=np.int64) * np.int64(num_anchors)
    negatives_num = np.count_nonzero(gt_cl[:, :, -1], axis=1).astype(np.int64)
    positives_num = total_num - negatives_num
    positives_num_safe = np.where(positives_num == 0, np.float32(10e-15), positives_num.astype(np.float32))

    positives_mask = gt_cl[:, :, -1] == 0
    negatives_mask = np.logical_not(positives_mask)

    positives_conf = np.where(positives_mask, conf, np.zeros_like(conf))
    positives_sum = positives_conf.sum(axis=-1)
    negatives_conf = np.where(negatives_mask, conf, np.zeros_like(conf))
    negatives_top = -np.sort(-negatives_conf, axis=-1)
    negatives_num_max = np.minimum(negatives_num, 3 * positives_num)
    negatives_num_max_t = np.expand_dims(negatives_num_max, 1)
    rng = np.arange(0, num_anchors, 1, dtype=np.int32)
    range_row = np.expand_dims(rng, 0).astype(np.int64)
    negatives_max_mask = range_row < negatives_num_max_t
    negatives_max = np.where(negatives_max_mask, negatives_top, np.zeros_like(negatives_top))
    negatives_max_sum = negatives_max.sum(axis=-1)

    loss = positives_sum + negatives_max_sum
    return Notebook(
        total_num=total_num,
        negatives_num=negatives_num,
        positives_num=positives_num,
        positives_num_safe=positives_num_safe,
        positives_mask=positives_mask,
        negatives_mask=negatives_mask,
        positives_conf=positives_conf,
        positives_sum=positives_sum,
        negatives_conf=negatives_conf,
        negatives_top=negatives_top,
        negatives_num_max=negatives_num_max,
        negatives_num_max_t=negatives_num_max_t,
        rng=rng,
        range_row=range_row,
        negatives_max_mask=negatives_max_mask,
        negatives_max=negatives_max,
        negatives_max_sum=negatives_max_sum,
        confidence_loss=loss,
        batch_confidence_loss=loss.mean(dtype=np.float32),
    )


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
) -> Roles:
    """Split the anchors into positives, negatives and ignored ones.

    Parameters
    ----------
    labels : ndarray, (B, A) integer, (B, A) bool or (B, A, C) scores
        Classes, a positive mask, or one-hot rows.
    background : int, optional
        The background class; the last one for scores unless given.
    ignore_index : int, optional
        Integer label of ignored anchors.
    valid : ndarray of bool, (B, A), optional
        False marks ignored anchors.

    Returns
    -------
    Roles
        The two masks.
    """
    if labels.ndim == 3:
        column = labels[:, :, -1 if background is None else background]
        pos_mask, neg_mask = column == 0, column != 0
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
    """What mining says about one sample."""

    num_pos: int
    num_neg: int
    num_kept: int
    positive_sum: float
    negative_sum: float
    threshold: float  # NaN where nothing is kept
    hard_negative_mask: NDArray[np.bool_]  # (A,)


def total(values: NDArray[Any]) -> float:
    """Sum exactly and round once; with infinities or NaN, sum by the rules of IEEE 754."""
    floats = values.astype(np.float64)
    if np.isfinite(floats).all():
        try:
            return math.fsum(floats.tolist())
        except OverflowError:  # the sum itself is beyond float64
            pass
    with np.errstate(invalid="ignore", over="ignore"):
        return float(floats.sum())


def hardest_first(rank: NDArray[Any], anchors: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort `anchors` by falling rank, NaN before all, equal ranks by rising anchor."""
    ranks = rank[anchors]
    falling = np.where(np.isnan(ranks), 0.0, -ranks.astype(np.float64))
    return anchors[np.lexsort((anchors, falling, ~np.isnan(ranks)))]


def keep(
    rank: NDArray[Any],
    order: NDArray[np.int64],
    num_kept: int,
    *,
    tie_policy: str = "index",
    pool_size: float = 1.0,
    rng: np.random.Generator | None = None,
) -> NDArray[np.int64]:
    """Keep ``num_kept`` of the anchors in `order`: the first ones, or some drawn from a pool of them."""
    if pool_size > 1 and rng is not None:
        pool = np.sort(order[: int(min(num_kept * pool_size, order.size))])
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
    """Mine a batch of samples that lie one after the other, under every rule; no two steps share a pass.

    Parameters
    ----------
    conf_loss : ndarray, (N,)
        Loss of every anchor, in nats.
    rank : ndarray, (N,)
        What to rank the negatives by; the loss itself in the usual case. NaN ranks above everything.
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
    """Count and sum one sample, whose kept negatives are known."""
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
    """Say how many negatives a sample with ``num_pos`` positives asks for, before the cap by those it has."""
    product = neg_pos_ratio * num_pos
    wanted = float(np.ceil(product) if rounding == "ceil" else np.floor(product)) + extra_negatives
    if num_negatives is not None:
        wanted = num_negatives
    if min_negatives_when == "always" or num_pos == 0:
        is_share = 0 < min_negatives < 1
        share = min_negatives * num_anchors
        least = (np.ceil(share) if rounding == "ceil" else np.floor(share)) if is_share else min_negatives
        wanted = max(wanted, least)
    return wanted if max_negatives is None else min(wanted, max_negatives)


def mine(rows: Any, rule: Any, mined: Any, num_workers: int = 1) -> None:  # noqa: ARG001 - the twins' signature
    """Mine rows by `mine_batch`, behind the signature of the kernels (``backend="reference"``)."""
    background, ignored, highest = rows.codes
    neg_mask = rows.labels == background
    pos_mask = ~neg_mask & (rows.labels != ignored)
    rank = rows.rank if rows.rank.shape[0] else rows.loss
    samples = mine_batch(
        rows.loss,
        rank,
        Roles(pos_mask, neg_mask),
        rows.offsets,
        num_negatives=rows.quotas if rows.quotas.shape[0] else None,
        omit_nan=rule.omit_nan,
        neg_pos_ratio=rule.ratio,
        rounding="ceil" if rule.round_up else "floor",
        extra_negatives=rule.extra,
        min_negatives=rule.min_negatives,
        min_negatives_when="always" if rule.min_always else "no_positives",
        max_negatives=rule.max_negatives,
    )
    nan = (np.isnan(rows.loss) | np.isnan(rank)) & (pos_mask | neg_mask)
    for i, (sample, start, stop) in enumerate(zip(samples, rows.offsets[:-1], rows.offsets[1:], strict=True)):
        mined.num_nan[i] = nan[start:stop].sum()
        mined.num_bad[i] = (pos_mask & (rows.labels > highest))[start:stop].sum()
        mined.num_pos[i], mined.num_neg[i], mined.num_kept[i] = sample[:3]
        mined.positive_sum[i], mined.negative_sum[i], mined.threshold[i] = sample[3:6]
        if mined.pos_mask.shape[0]:
            mined.pos_mask[start:stop] = (pos_mask & ~nan if rule.omit_nan else pos_mask)[start:stop]
            mined.hard_negative_mask[start:stop] = sample.hard_negative_mask
        mined.done[i] = 1
