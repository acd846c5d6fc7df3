"""Analyse one batch: by ratio, by its worst samples or anchors, by class, by level."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.analysis.loss_analysis import RATIOS, LossAnalysis
from ssd_mining.analysis.one_pass import Analyser, joined
from ssd_mining.analysis.result import ClassTable, LevelTable, TopAnchors, TopSamples
from ssd_mining.analysis.spec import analysis_call, check_ratios, check_sequence
from ssd_mining.checks import check_choice, check_int, refuse
from ssd_mining.choices import Normalize, ZeroPositives
from ssd_mining.classification import Classification, Softmax
from ssd_mining.engine.hazards import warn_of_hazards
from ssd_mining.engine.result import SampleLosses
from ssd_mining.engine.run import Backend, sample_losses
from ssd_mining.inputs.arrays import as_array
from ssd_mining.inputs.batch import check_losses
from ssd_mining.kernels.loss_rules import divisor_of, loss_divisors, normalized_loss
from ssd_mining.kernels.records import NUM_KEPT, NUM_NEG, NUM_POS, POSITIVE_SUM
from ssd_mining.losses import check_words, refuse_no_divisor
from ssd_mining.mining_rule import Keywords, Mining, named_keywords, resolve

OfSamples = Literal["sample", "unrecognised", "false_alarm", "misplaced"]
By = OfSamples | Literal["anchor"]


@dataclass(frozen=True, eq=False, repr=False)
class RatioSweep(SampleLosses):
    """The losses of a batch of B samples under R ratios of negatives per positive, in nats.

    Attributes
    ----------
    ratio : ndarray of float64, (R,)
        The ratios, in the given order.
    loss : ndarray of float64, (R,)
        The loss of the batch, divided as `normalize` says.
    confidence_loss : ndarray of float64, (R, B)
        ``positive_sum + negative_sum``; also `per_sample`.
    positive_sum : ndarray of float64, (B,)
        Sum over the positives.
    negative_sum : ndarray of float64, (R, B)
        Sum over the kept negatives.
    num_kept : ndarray of int64, (R, B)
        How many negatives are kept.
    threshold : ndarray of float64, (R, B)
        Loss of the easiest kept negative; NaN where none is kept.
    """

    ratio: NDArray[np.float64]
    loss: NDArray[np.float64]
    confidence_loss: NDArray[np.float64]
    positive_sum: NDArray[np.float64]
    negative_sum: NDArray[np.float64]
    num_kept: NDArray[np.int64]
    threshold: NDArray[np.float64]

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """Return columns with one row per ratio: ratio, loss, kept negatives, and the sum of their losses.

        Examples
        --------
        >>> import ssd_mining as sm
        >>> sweep = sm.ratio_sweep([[9.0, 0.5, 0.25, 0.125]], [[1, 0, 0, 0]], ratios=[1, 2], background=0)
        >>> sweep.to_dict()["negative_sum"]
        array([0.5 , 0.75])
        """
        return {
            "ratio": self.ratio,
            "loss": self.loss,
            "num_kept": self.num_kept.sum(axis=1),
            "negative_sum": self.negative_sum.sum(axis=1),
        }


@named_keywords(Mining)
def ratio_sweep(
    conf_loss: ArrayLike,
    labels: ArrayLike,
    *,
    ratios: Sequence[float] = RATIOS,
    normalize: Normalize = "batch",
    zero_positives: ZeroPositives = "clamp",
    mining: Mining | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Unpack[Keywords],
) -> RatioSweep:
    """Compute the confidence loss for several ratios of negatives per positive.

    Parameters
    ----------
    conf_loss : array_like, (B, A), float16, float32, float64 or integer
        Classification loss of every anchor, in nats.
    labels : array_like, (B, A) integer, (B, A) bool, or (B, A, C) of any real dtype
        Classes, a positive mask, or one-hot scores; see `mine_hard_negatives`.
    ratios : sequence of float
        Negatives per positive, instead of ``neg_pos_ratio``.
    normalize, zero_positives
        As in `confidence_loss`.
    mining, backend, num_threads, **keywords
        As in `mine_hard_negatives`.

    Returns
    -------
    RatioSweep
        The parts of `confidence_loss` for every ratio.

    Raises
    ------
    TypeError
        If an argument has a wrong type; see `mine_hard_negatives`.
    ValueError
        If a shape or a value is wrong; see `confidence_loss`. Also if `ratios` are not different numbers of at least
        0, or come with ``num_negatives`` or with a `pool_size` above 1.
    NotImplementedError
        If ``backend="cuda"``.

    Notes
    -----
    A larger ratio keeps all that a smaller one keeps, so the negatives are selected once. Counts equal those of one
    call per ratio; sums are of the same losses, in another order.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> sweep = sm.ratio_sweep([[9.0, 0.5, 0.25, 0.125]], [[1, 0, 0, 0]], ratios=[1, 2, 3], background=0)
    >>> sweep.loss
    array([9.5  , 9.75 , 9.875])
    """
    check_words(normalize, zero_positives)
    values = check_ratios(check_sequence("ratios", ratios))
    spec, extras = resolve(mining, keywords)
    if extras.num_negatives is not None:
        refuse("num_negatives", "none, for it replaces the ratios", "both")
    if not values:
        refuse("ratios", "at least one number", "none")
    if spec.pool_size > 1:
        refuse("pool_size", "1, for draws at different ratios have nothing in common", f"{spec.pool_size}")
    batch = check_losses(conf_loss, labels, dataclasses.replace(spec, neg_pos_ratio=min(values)), extras)
    mined, found = Analyser(values, None, analysis_call(backend, num_threads)).analyse(batch)
    if batch.num_empty or not np.count_nonzero(mined.counts[NUM_NEG]):
        warn_of_hazards(batch, mined.counts[NUM_POS], mined.counts[NUM_NEG])
    num_samples, num_anchors = batch.offsets.size - 1, int(batch.offsets[-1])
    swept = joined([block.sweep for block in found], len(values))
    per_sample = sample_losses(mined.sums[POSITIVE_SUM, :, None], swept.negative_sum)
    by = divisor_of(normalize, zero_positives, num_samples, num_anchors)
    losses = []
    for i in range(len(values)):
        counts = mined.counts.copy()
        counts[NUM_KEPT] = swept.num_kept[:, i]
        if zero_positives == "raise":
            refuse_no_divisor(counts, by, normalize, "normalize")
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN
            losses.append(normalized_loss(per_sample[:, i], loss_divisors(counts, by)))
    return RatioSweep(
        ratio=np.array(values, np.float64),
        loss=np.array(losses, np.float64),
        confidence_loss=per_sample.T,
        positive_sum=mined.sums[POSITIVE_SUM],
        negative_sum=swept.negative_sum.T,
        num_kept=swept.num_kept.T,
        threshold=swept.threshold.T,
    )


@overload
def top_losses(
    conf_loss: ArrayLike,
    labels: ArrayLike,
    k: int,
    *,
    by: OfSamples = "sample",
    ids: Sequence[Any] | NDArray[Any] | None = None,
    matched: ArrayLike | None = None,
    loc_pred: ArrayLike | None = None,
    loc_target: ArrayLike | None = None,
    mining: Mining | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Unpack[Keywords],
) -> TopSamples: ...


@overload
def top_losses(
    conf_loss: ArrayLike,
    labels: ArrayLike,
    k: int,
    *,
    by: Literal["anchor"],
    ids: Sequence[Any] | NDArray[Any] | None = None,
    matched: ArrayLike | None = None,
    loc_pred: ArrayLike | None = None,
    loc_target: ArrayLike | None = None,
    mining: Mining | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Unpack[Keywords],
) -> TopAnchors: ...


@named_keywords(Mining)
def top_losses(
    conf_loss: ArrayLike,
    labels: ArrayLike,
    k: int,
    *,
    by: By = "sample",
    ids: Sequence[Any] | NDArray[Any] | None = None,
    matched: ArrayLike | None = None,
    loc_pred: ArrayLike | None = None,
    loc_target: ArrayLike | None = None,
    mining: Mining | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Unpack[Keywords],
) -> TopSamples | TopAnchors:
    """Return the k samples or anchors with the largest losses.

    Parameters
    ----------
    conf_loss, labels : array_like
        As in `mine_hard_negatives`.
    k : int
        How many to return, at most.
    by : {"sample", "unrecognised", "false_alarm", "misplaced", "anchor"}
        Samples by their confidence loss, or by one of the causes (docs/analysis.md): the least recognised object, the
        surest false alarm, or, with locations, misplaced boxes. Or positives and kept negatives by their own loss.
    ids : sequence of str or int, (B,), optional
        Names of the samples.
    matched, loc_pred, loc_target : array_like, optional
        As in `LossAnalysis.update`.
    mining, backend, num_threads, **keywords
        As in `mine_hard_negatives`, except `scope` and `pool_size`; see `LossAnalysis`.

    Returns
    -------
    TopSamples or TopAnchors
        Columns, the worst first, NaN before all others. Of equal losses, the lower sample and anchor come first.

    Raises
    ------
    TypeError
        If an argument has a wrong type; see `mine_hard_negatives`.
    ValueError
        If a shape or a value is wrong; see `mine_hard_negatives` and `LossAnalysis`.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> losses, labels = [[9.0, 0.5, 0.25], [1.0, 8.0, 0.25]], [[1, 0, 0], [1, 0, 0]]
    >>> sm.top_losses(losses, labels, 1, background=0, ids=["cat.jpg", "dog.jpg"]).id
    array(['cat.jpg'], dtype='<U7')
    >>> sm.top_losses(losses, labels, 1, background=0, by="false_alarm").sample
    array([1])
    >>> top = sm.top_losses(losses, labels, 2, by="anchor", background=0)
    >>> top.sample, top.anchor, top.is_positive
    (array([0, 1]), array([0, 1]), array([ True, False]))
    """
    check_choice("by", by, ("sample", "unrecognised", "false_alarm", "misplaced", "anchor"))
    if by == "misplaced" and loc_pred is None:
        refuse("loc_pred", "an array, for by='misplaced' is given", "None", TypeError)
    k = check_int("k", k, lowest=0)
    spec, extras = resolve(mining, keywords)
    analysis = LossAnalysis(ratios=(), top=k, mining=spec, backend=backend, num_threads=num_threads)
    beside: Any = {"matched": matched, "loc_pred": loc_pred, "loc_target": loc_target}
    analysis.update(conf_loss, labels, ids=ids, **beside, **extras.given)
    result = analysis.result()
    if by == "anchor":
        return result.top_anchors
    return result.top_samples if by == "sample" else result.causes[by]


@named_keywords(Mining)
def class_table(
    values: ArrayLike,
    labels: ArrayLike,
    *,
    classification: Classification | None = None,
    class_axis: int = -1,
    mining: Mining | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Unpack[Keywords],
) -> ClassTable:
    """Sum the losses by foreground class: of its positives, and of the kept negatives that are taken for it.

    Parameters
    ----------
    values : array_like, (B, A, C) logits or (B, A) losses
        Scores before softmax or sigmoid; or losses in nats, which do not say what a negative is taken for.
    labels : array_like, (B, A) integer, or (B, A, C) of any real dtype
        Classes or one-hot scores; see `mine_hard_negatives` and `mine_logits`.
    classification : Softmax, Sigmoid or Focal, optional
        The loss of the logits; `Softmax` unless given.
    class_axis : int
        The axis of C in logits; see `mine_logits`.
    mining, backend, num_threads, **keywords
        As in `mine_hard_negatives`, except `scope` and `pool_size`; see `LossAnalysis`.

    Returns
    -------
    ClassTable
        One row for every class that was met.

    Raises
    ------
    TypeError
        If an argument has a wrong type; see `mine_hard_negatives`. Also for a ``pos_mask``, which has no
        classes, and for a `classification` with losses.
    ValueError
        If a shape or a value is wrong; see `mine_hard_negatives` and `LossAnalysis`.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> logits = [[[0.0, 3.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 2.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]
    >>> table = sm.class_table(logits, [[1, 0, 0, 0, 0]], background=0, neg_pos_ratio=1)
    >>> table.label, table.num_pos, table.num_kept
    (array([1, 2]), array([1, 0]), array([0, 1]))
    """
    spec, extras = resolve(mining, keywords)
    array, label_array = as_array("values", values), as_array("labels", labels)
    losses_ndim = 2 if extras.sample_offsets is None else 1
    if array.ndim == losses_ndim:
        if classification is not None:
            refuse("classification", "None beside losses", type(classification).__name__, TypeError)
        if label_array.dtype == np.bool_ and label_array.ndim == losses_ndim:
            refuse("labels", "classes or one-hot scores", "a pos_mask, which tells no class", TypeError)
    elif classification is None:
        classification = Softmax()
    analysis = LossAnalysis(
        ratios=(),
        top=0,
        classification=classification,
        class_axis=class_axis,
        mining=spec,
        backend=backend,
        num_threads=num_threads,
    )
    analysis.update(array, label_array, **extras.given)
    return cast("ClassTable", analysis.result().classes)


@named_keywords(Mining)
def level_table(
    conf_loss: ArrayLike,
    labels: ArrayLike,
    levels: Sequence[int],
    *,
    mining: Mining | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Unpack[Keywords],
) -> LevelTable:
    """Sum the losses by feature map, which is a slice of the anchor axis.

    Parameters
    ----------
    conf_loss, labels : array_like
        As in `mine_hard_negatives`; without ``sample_offsets``.
    levels : sequence of int, (L,)
        Number of anchors of each feature map, in order; together A. SSD300 has 5776, 2166, 600, 150, 36, 4.
    mining, backend, num_threads, **keywords
        As in `mine_hard_negatives`, except `scope` and `pool_size`; see `LossAnalysis`.

    Returns
    -------
    LevelTable
        One row for every feature map.

    Raises
    ------
    TypeError
        If an argument has a wrong type; see `mine_hard_negatives`.
    ValueError
        If a shape or a value is wrong; see `mine_hard_negatives` and `LossAnalysis`. Also if `levels` do not make A.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> table = sm.level_table([[9.0, 0.5, 0.25, 0.125]], [[1, 0, 0, 0]], [3, 1], background=0)
    >>> table.num_pos, table.num_neg, table.negative_sum
    (array([1, 0]), array([2, 1]), array([0.75 , 0.125]))
    """
    spec, extras = resolve(mining, keywords)
    analysis = LossAnalysis(ratios=(), levels=levels, top=0, mining=spec, backend=backend, num_threads=num_threads)
    analysis.update(conf_loss, labels, **extras.given)
    return cast("LevelTable", analysis.result().levels)
