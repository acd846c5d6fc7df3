"""The whole SSD loss: confidence from logits plus localization over the positives, and its gradients."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Unpack, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import check_number, refuse
from ssd_mining.choices import Normalize, ZeroPositives
from ssd_mining.classification import Classification
from ssd_mining.engine.lazy_losses import gradients
from ssd_mining.engine.result import Result, SampleLosses
from ssd_mining.engine.run import Backend, Call, batch_losses, call_of, mine_batch, sample_columns
from ssd_mining.inputs.arrays import FLOAT32, FLOAT64, as_array, as_real_array, is_on_device, kernel_dtype
from ssd_mining.inputs.batch import Batch, check_logit_batch
from ssd_mining.inputs.logits import Logits
from ssd_mining.kernels.loss_rules import divisor_of, loss_divisors, loss_shares, normalized_loss, selected_smooth_l1
from ssd_mining.kernels.records import NUM_KEPT, NUM_POS, Divisor, Mined
from ssd_mining.losses import check_words, refuse_no_divisor
from ssd_mining.mining_rule import Keywords, Mining, named_keywords, resolve


@dataclass(frozen=True, eq=False, repr=False)
class GradientRows(Result):
    """The rows of a gradient that need not be 0, a few percent of all.

    Attributes
    ----------
    anchors : ndarray of int64, (K,)
        The selected anchors, ascending, counted in C order: through (B, A), or (N,), or (B, H, W).
    values : ndarray of float32 or float64, (K, C)
        Their gradients.

    Examples
    --------
    >>> import numpy as np
    >>> import ssd_mining as sm
    >>> logits, labels = np.array([[[0.0, 3.0], [1.0, 0.0], [0.0, 2.0]]]), [[1, 0, 0]]
    >>> rows = sm.multibox_loss(logits, labels, background=0, neg_pos_ratio=1, with_gradients="rows").logits_gradient
    >>> gradient = np.zeros_like(logits)
    >>> gradient.reshape(-1, 2)[rows.anchors] = rows.values
    >>> gradient[0].round(4)
    array([[ 0.0474, -0.0474],
           [ 0.    ,  0.    ],
           [-0.8808,  0.8808]])
    """

    anchors: NDArray[np.int64]
    values: NDArray[Any]


@dataclass(frozen=True, eq=False, repr=False)
class MultiboxLoss(SampleLosses):
    """The loss of a batch of B samples and its parts. For device arrays, all fields are device arrays.

    Attributes
    ----------
    loss : float
        ``conf_loss + loc_weight * loc_loss``, in nats.
    conf_loss, loc_loss : float
        The two parts, each divided by its own divisor; `loc_loss` is 0 without locations.
    confidence_loss : ndarray of float64, (B,)
        ``positive_sum + negative_sum`` of every sample, before any division, in nats; also `per_sample`.
    positive_sum, negative_sum : ndarray of float64, (B,)
        Sum of the confidence losses of the positives, and of the kept negatives, of every sample, in nats.
    loc_sum : ndarray of float64, (B,)
        Sum of the localization losses of the positives of every sample.
    num_pos, num_neg, num_kept : ndarray of int64, (B,)
        How many anchors are positive, negative, and kept negatives.
    logits_gradient : ndarray of float32 or float64, GradientRows, or None
        d loss / d logits, in the shape of the logits; float64 for float64 logits. None without ``with_gradients``.
    loc_gradient : ndarray of float32 or float64, GradientRows, or None
        d loss / d loc_pred, in its shape; float64 for float64 or wide integers. None without ``with_gradients``.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> out = sm.multibox_loss([[[0.0, 3.0], [1.0, 0.0]]], [[1, 0]], background=0)
    >>> list(out.to_dict())
    ['confidence_loss', 'positive_sum', 'negative_sum', 'loc_sum', 'num_pos', 'num_neg', 'num_kept']
    """

    columns = ("confidence_loss", "positive_sum", "negative_sum", "loc_sum", "num_pos", "num_neg", "num_kept")

    loss: float
    conf_loss: float
    loc_loss: float
    confidence_loss: NDArray[np.float64]
    positive_sum: NDArray[np.float64]
    negative_sum: NDArray[np.float64]
    loc_sum: NDArray[np.float64]
    num_pos: NDArray[np.int64]
    num_neg: NDArray[np.int64]
    num_kept: NDArray[np.int64]
    # Any, or a type checker would ask for a test of None after every call that asks for gradients.
    logits_gradient: NDArray[Any] | Any = None
    loc_gradient: NDArray[Any] | Any = None


@named_keywords(Mining)
def multibox_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    loc_pred: ArrayLike | None = None,
    loc_target: ArrayLike | None = None,
    *,
    classification: Classification | None = None,
    loc_weight: float = 1.0,
    beta: float = 1.0,
    normalize: Normalize = "positives",
    loc_normalize: Normalize | None = None,
    zero_positives: ZeroPositives = "clamp",
    with_gradients: bool | Literal["rows"] = False,
    class_axis: int = -1,
    mining: Mining | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Unpack[Keywords],
) -> MultiboxLoss:
    """Compute the SSD loss: confidence of positives and hard negatives, plus localization of the positives.

    Parameters
    ----------
    logits : array_like, (B, A, C), float16, float32 or float64
        Scores of every anchor before softmax or sigmoid. (N, C) with ``sample_offsets``.
    labels : array_like, (B, A) integer, or (B, A, C) of any real dtype of up to 64 bits
        Classes, or scores: one-hot, soft or all zero, also for sigmoids, because mining needs one class per anchor. A
        `background` of -1 is the last class.
    loc_pred, loc_target : array_like, (B, A, 4), optional
        Predicted and target offsets of every anchor: both or neither. (N, 4) with ``sample_offsets``.
    classification : Softmax, Sigmoid or Focal, optional
        The confidence loss and its parameters; `Softmax` unless given.
    loc_weight : float
        Factor of the localization loss, finite and at least 0.
    beta : float
        Where the parabola of `smooth_l1` ends, finite and at least 0.
    normalize, zero_positives : str
        The divisor of the confidence loss; see `confidence_loss`.
    loc_normalize : str, optional
        The divisor of the localization loss; `normalize` unless given.
    with_gradients : bool or "rows"
        Also compute the gradients of `logits` and `loc_pred`. They are 0 for anchors that are not selected; ``"rows"``
        leaves these out, which saves most of the time.
    class_axis : int
        The axis of C in `logits` and in scores: -1, or 1 for (B, C, A), (B, C, H, W) and the like; -1 with
        ``sample_offsets``.
    mining, backend, num_threads, **keywords
        As in `mine_hard_negatives`; ``rank_by`` may be any mode of `Mining`.

    Returns
    -------
    MultiboxLoss
        The loss, its parts and, with ``with_gradients``, the gradients.

    Raises
    ------
    TypeError
        If an argument has a wrong type; see `mine_hard_negatives`. Also if only one of `loc_pred` and `loc_target`
        is given.
    ValueError
        If a shape or a value is wrong; see `mine_hard_negatives`, `confidence_loss`, `softmax_cross_entropy` and
        `smooth_l1`.
    RuntimeError
        If ``backend="cuda"`` and the package, the driver or the GPU is missing.
    NotImplementedError
        If device arrays come with a rule that only works for NumPy arrays so far (docs/cuda.md).

    Notes
    -----
    The gradients treat the selection and the divisors as constants, as every trainer does. ``anchor_weights`` and
    ``nan_policy`` apply to the confidence only: NaN in the locations of a positive makes the loss NaN. The locations of
    other anchors are not read.

    References
    ----------
    Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, equations 1 to 3.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> logits = [[[0.0, 3.0], [1.0, 0.0], [0.0, 2.0], [5.0, 0.0], [0.0, 0.0]]]
    >>> loc_pred, loc_target = [[[0.5, 0, 0, 0]] * 5], [[[0.0, 0, 0, 0]] * 5]
    >>> out = sm.multibox_loss(logits, [[1, 0, 0, 0, 0]], loc_pred, loc_target, background=0, with_gradients=True)
    >>> round(out.loss, 4), round(out.conf_loss, 4), out.loc_loss
    (3.3069, 3.1819, 0.125)
    >>> out.logits_gradient[0, 0].round(4), out.loc_gradient[0, 0]
    (array([ 0.0474, -0.0474]), array([0.5, 0. , 0. , 0. ]))
    """
    loc_normalize = normalize if loc_normalize is None else loc_normalize
    words = normalize, loc_normalize, zero_positives, loc_weight, beta, with_gradients
    try:
        how = _checked_once(*words)
    except TypeError:  # a value that cannot be hashed: the check refuses it
        how = _checked(*words)
    spec, extras = resolve(mining, keywords)
    if type(logits) is not np.ndarray and is_on_device(logits, backend):
        from ssd_mining.device import multibox as device
        from ssd_mining.device.mining import not_yet

        if with_gradients == "rows":
            not_yet("with_gradients", "with_gradients='rows'")
        arrays = logits, labels, loc_pred, loc_target
        given = device.check(*arrays, spec, extras, classification=classification, class_axis=class_axis)
        located = check_locations(given.shape, *given.stand_ins) is not None

        def refuse_counts(counts: NDArray[np.int64]) -> None:
            _refuse_no_divisors(counts, given.num_anchors, how, located=located)

        waits = refuse_counts if zero_positives == "raise" else None  # this alone has to wait for the counts
        return MultiboxLoss(**device.computed(given, waits, **how._asdict()))
    batch = check_logit_batch(logits, labels, spec, extras, classification, class_axis)
    locations = check_locations(batch.mask_shape, loc_pred, loc_target)
    call = call_of(backend, num_threads)
    mined = mine_batch(batch, call, masks=bool(how.with_gradients) or locations is not None)

    num_samples, num_anchors = batch.offsets.size - 1, int(batch.offsets[-1])
    if zero_positives == "raise":
        _refuse_no_divisors(mined.counts, num_anchors, how, located=locations is not None)
    by = divisor_of(how.normalize, zero_positives, num_samples, num_anchors)
    per_sample, divisors, conf_loss = batch_losses(mined, by)
    boxes = _Localization(0.0, np.zeros(num_samples), None)
    if locations is not None:
        by = divisor_of(how.loc_normalize, zero_positives, num_samples, num_anchors)
        boxes = _localized(locations, mined, batch.mask_shape, by, how)
    logits_gradient: Any = None
    loc_gradient: Any = boxes.gradient
    if how.with_gradients:
        logits_gradient = _logits_gradient(batch, mined, loss_shares(divisors, num_samples), call)
    if how.with_gradients is True:
        both = (logits_gradient, class_axis), (loc_gradient, -1)
        logits_gradient, loc_gradient = _dense(both, batch.mask_shape)
    columns = sample_columns(mined)
    del columns["threshold"]
    return MultiboxLoss(
        loss=conf_loss + how.loc_weight * boxes.loss,
        conf_loss=conf_loss,
        loc_loss=boxes.loss,
        confidence_loss=per_sample,
        loc_sum=boxes.sums,
        **columns,
        logits_gradient=logits_gradient,
        loc_gradient=loc_gradient,
    )


_FLOATS = (FLOAT32, FLOAT64)  # dtypes that need no check


class _How(NamedTuple):
    """The options of the loss that are neither mining nor classification."""

    normalize: Normalize
    loc_normalize: Normalize
    zero_positives: ZeroPositives
    loc_weight: float
    beta: float
    with_gradients: bool | Literal["rows"]


def _checked(*words: Any) -> _How:
    how = _How(*words)
    check_words(how.normalize, how.zero_positives)
    check_words(how.loc_normalize, how.zero_positives, "loc_normalize")
    if isinstance(how.with_gradients, str) and how.with_gradients != "rows":
        refuse("with_gradients", "True, False or 'rows'", f"{how.with_gradients!r}")
    return how._replace(
        loc_weight=check_number("loc_weight", how.loc_weight),
        beta=check_number("beta", how.beta),
        with_gradients="rows" if how.with_gradients == "rows" else bool(how.with_gradients),
    )


_checked_once = functools.lru_cache(maxsize=128, typed=True)(_checked)


def _refuse_no_divisors(counts: NDArray[np.int64], num_anchors: int, how: _How, *, located: bool) -> None:
    for name in ("normalize", "loc_normalize")[: 1 + located]:
        words = getattr(how, name)
        by = divisor_of(words, how.zero_positives, counts.shape[1], num_anchors)
        refuse_no_divisor(counts, by, words, name)


def check_locations(
    shape: tuple[int, ...], loc_pred: ArrayLike | None, loc_target: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Check the locations, (B, A, 4) or (N, 4), if they are given. `shape`: of the anchors."""
    if loc_pred is None and loc_target is None:
        return None
    if loc_pred is None or loc_target is None:
        missing, given = ("loc_pred", "loc_target") if loc_pred is None else ("loc_target", "loc_pred")
        refuse(missing, f"an array, for {given} is given", "None", TypeError)
    pred: Any = loc_pred if type(loc_pred) is np.ndarray else as_array("loc_pred", loc_pred)
    target: Any = loc_target if type(loc_target) is np.ndarray else as_array("loc_target", loc_target)
    if pred.shape[:-1] != shape or pred.shape[-1] == 0:
        refuse("loc_pred", f"one box for each of the anchors {shape}", f"shape {pred.shape}")
    if target.shape != pred.shape:
        refuse("loc_target", f"the shape of loc_pred {pred.shape}", f"shape {target.shape}")
    if pred.dtype not in _FLOATS or target.dtype not in _FLOATS:
        as_real_array("loc_pred", pred)
        as_real_array("loc_target", target)
    return pred, target


class _Localization(NamedTuple):
    """The localization loss, its sums, (B,), and its gradient, if that is wanted."""

    loss: float
    sums: NDArray[np.float64]
    gradient: GradientRows | None


def _localized(
    locations: tuple[NDArray[Any], NDArray[Any]], mined: Mined, shape: tuple[int, ...], by: Divisor, how: _How
) -> _Localization:
    num_samples, positives = mined.counts.shape[1], np.flatnonzero(mined.pos_mask)
    owners = np.repeat(np.arange(num_samples), mined.counts[NUM_POS])  # their samples
    divisors = loss_divisors(mined.counts, by)
    costs, slopes = selected_smooth_l1(*locations, np.unravel_index(positives, shape), how.beta)
    sums = np.bincount(owners, costs, num_samples).astype(np.float64)  # bincount of nothing is int64
    gradient = None
    if how.with_gradients:
        slopes *= how.loc_weight * loss_shares(divisors, num_samples)[owners, None]
        gradient = GradientRows(positives, slopes.astype(kernel_dtype(locations[0].dtype)))
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN
        return _Localization(normalized_loss(sums, divisors), sums, gradient)


def _logits_gradient(batch: Batch, mined: Mined, shares: NDArray[np.float64], call: Call) -> GradientRows:
    """Return d loss / d logits of the selected anchors."""
    anchors = np.flatnonzero(mined.pos_mask | mined.hard_negative_mask)
    num_selected = mined.counts[NUM_POS] + mined.counts[NUM_KEPT]
    factors = np.repeat(shares, num_selected)
    if batch.weights is not None:
        weights = batch.weights.reshape(-1)[anchors]
        with np.errstate(invalid="ignore", over="ignore"):  # a weight of 0 gives 0 even for NaN, as in the loss
            factors = np.where(weights == 0, 0.0, factors * weights)
    return GradientRows(anchors, gradients(cast("Logits", batch.logits), anchors, factors, call))


def _dense(
    gradients: tuple[tuple[GradientRows | None, int], ...], shape: tuple[int, ...]
) -> list[NDArray[Any] | None]:
    """Return whole gradients: of anchors of this shape, with the classes on the axis beside each."""
    found: list[NDArray[Any] | None] = []
    for rows, class_axis in gradients:
        if rows is None:
            found.append(None)
            continue
        whole = np.zeros((math.prod(shape), rows.values.shape[1]), rows.values.dtype)
        whole[rows.anchors] = rows.values
        found.append(np.moveaxis(whole.reshape(*shape, rows.values.shape[1]), -1, class_axis))
    return found
