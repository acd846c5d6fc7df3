"""Select the hardest negatives: `mine_hard_negatives`, `mine_logits`, the mask alone, the quota alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import refuse
from ssd_mining.classification import Classification
from ssd_mining.engine.hazards import warn_of_hazards
from ssd_mining.engine.result import KeptNegatives, Listed, Result
from ssd_mining.engine.run import Backend, Call, blocks, call_of, empty_mined, mine_batch, mine_rows, sample_columns
from ssd_mining.inputs.arrays import as_kind_of, is_on_device
from ssd_mining.inputs.batch import Batch, check_logit_batch, check_losses
from ssd_mining.inputs.counts import check_counts
from ssd_mining.inputs.labels import check_relabelled
from ssd_mining.kernels.records import NUM_KEPT, KeptLists
from ssd_mining.kernels.rules import quota_of
from ssd_mining.mining_rule import Keywords, Mining, Selection, named_keywords, resolve


@dataclass(frozen=True, eq=False, repr=False)
class MiningResult(Result):
    """What mining says about a batch of B samples with A anchors each.

    Attributes
    ----------
    hard_negative_mask : ndarray of bool, (B, A)
        The kept negatives.
    pos_mask : ndarray of bool, (B, A)
        The positives.
    num_pos, num_neg, num_kept : ndarray of int64, (B,)
        How many anchors are positive, negative, and kept negatives.
    positive_sum, negative_sum : ndarray of float64, (B,)
        Sum of ``conf_loss`` over the positives and over the kept negatives, in nats.
    threshold : ndarray of float64, (B,)
        Loss of the easiest kept negative (its ``rank_by`` where that is given); NaN where none is kept.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> res = sm.mine_hard_negatives([[9.0, 0.1, 0.3]], [[1, 0, 0]], background=0)
    >>> list(res.to_dict())
    ['num_pos', 'num_neg', 'num_kept', 'positive_sum', 'negative_sum', 'threshold']
    """

    columns = ("num_pos", "num_neg", "num_kept", "positive_sum", "negative_sum", "threshold")

    hard_negative_mask: NDArray[np.bool_]
    pos_mask: NDArray[np.bool_]
    num_pos: NDArray[np.int64]
    num_neg: NDArray[np.int64]
    num_kept: NDArray[np.int64]
    positive_sum: NDArray[np.float64]
    negative_sum: NDArray[np.float64]
    threshold: NDArray[np.float64]
    _kept: KeptNegatives = field(repr=False)

    def indices(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the kept negatives as CSR indices, hardest first.

        Returns
        -------
        offsets : ndarray of int64, (B + 1,)
            Sample ``b`` owns ``anchors[offsets[b]:offsets[b + 1]]``.
        anchors : ndarray of int64, (K,)
            Anchor indices in descending order of loss, NaN first; equal losses in ascending order of index.

        Examples
        --------
        >>> import ssd_mining as sm
        >>> res = sm.mine_hard_negatives([[9.0, 0.1, 0.3, 0.2, 0.4]], [[1, 0, 0, 0, 0]], background=0)
        >>> offsets, anchors = res.indices()
        >>> anchors[offsets[0]:offsets[1]]
        array([4, 2, 3])
        """
        kept = self._kept.read()
        offsets = np.zeros(kept.num_kept.size + 1, np.int64)
        np.cumsum(kept.num_kept, out=offsets[1:])
        return offsets, kept.hardest_first()

    def relabel(self, labels: ArrayLike, *, ignore_index: int = -1) -> NDArray[Any]:
        """Return integer labels in which every negative that was not kept is ignored.

        A trainer that knows an ignore label then learns from exactly the mined anchors.

        Parameters
        ----------
        labels : array_like of integers, (B, A)
            The labels that were mined. They are not written.
        ignore_index : int
            The label of ignored anchors.

        Returns
        -------
        ndarray, (B, A), the dtype of labels
            `labels`, a tensor if they are one, with `ignore_index` wherever an anchor is neither positive nor kept.

        Raises
        ------
        TypeError
            If `labels` are not integers.
        ValueError
            If `labels` have another shape, or their dtype cannot hold `ignore_index`.
        NotImplementedError
            If the result holds device arrays. Use the ``where`` of their library.

        Examples
        --------
        >>> import ssd_mining as sm
        >>> labels = [[1, 0, 0, 0, 0]]
        >>> res = sm.mine_hard_negatives([[9.0, 0.1, 0.3, 0.2, 0.4]], labels, background=0)
        >>> res.relabel(labels)
        array([[ 1, -1,  0,  0,  0]])
        """
        if not isinstance(self.pos_mask, np.ndarray):
            selected = "pos_mask | hard_negative_mask"
            msg = f"relabel: not for device arrays; their library has where({selected}, labels, ignored)"
            raise NotImplementedError(msg)
        array = check_relabelled(labels, self.pos_mask.shape, ignore_index)
        selected = self.pos_mask | self.hard_negative_mask
        if (array[selected] == ignore_index).any():
            refuse("ignore_index", "a label that no selected anchor has", f"{ignore_index}")
        relabelled = array.copy()
        relabelled[~selected] = ignore_index
        return as_kind_of(labels, relabelled)


@named_keywords(Mining)
def mine_hard_negatives(
    conf_loss: ArrayLike,
    labels: ArrayLike,
    *,
    mining: Mining | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Unpack[Keywords],
) -> MiningResult:
    """Keep the hardest negatives of every sample.

    The kept negatives are the ``num_kept`` largest losses among a sample's negatives; of equal losses, the lower
    anchor index wins. ``num_kept = min(num_neg, floor(neg_pos_ratio * num_pos))``.

    Parameters
    ----------
    conf_loss : array_like, (B, A), float16, float32, float64 or integer
        Classification loss of every anchor, in nats. Instead of A, here and in all that has its shape, there may be
        several axes, as in maps (B, H, W) (docs/semantics.md).
    labels : array_like, (B, A) integer, (B, A) bool, or (B, A, C) of any real dtype
        Classes (`background` is required), a positive mask, or one-hot or soft scores (the last class is
        background unless `background` says otherwise; an anchor is positive where its background score is 0).
    mining : Mining, optional
        The selection rule as one value, instead of keywords.
    backend : {None, "cpu", "cuda", "reference"}
        Where to compute. None: where the arrays are. ``"reference"`` is slow, plain NumPy.
    num_threads : int, optional
        Threads to use, at most Numba's own number (the default). The results do not depend on it.
    **keywords
        The fields of `Mining`, and:

        valid : array_like of bool, (B, A), optional
            False marks anchors to ignore: they are neither positive nor negative, and their loss is not read.
        overlaps : array_like, (B, A), optional
            Largest overlap of every anchor with an object. Background anchors with ``neg_overlap`` or more are
            ignored.
        anchor_weights : array_like, (B, A), optional
            Every loss is first multiplied by its weight. A weight of 0 gives 0, even for NaN.
        rank_by : array_like, (B, A), optional
            Rank the negatives by this instead of `conf_loss`; the sums are still those of `conf_loss`.
        num_negatives : int or array_like of integers, (B,), optional
            Keep this many per sample instead of ``neg_pos_ratio`` per positive. ``min_negatives``, ``max_negatives``
            and the number of negatives bound it too.
        sample_offsets : array_like of integers, (B + 1,), optional
            For samples of different lengths: `conf_loss` and all other arrays are (N,), or (N, C), and sample ``b``
            owns the anchors ``sample_offsets[b]`` to ``sample_offsets[b + 1]``.
        rng : Generator or int, optional
            Draws from the pool of ``pool_size``: a NumPy Generator or a seed; None: fresh entropy.

    Returns
    -------
    MiningResult
        Masks, counts, sums, thresholds.

    Raises
    ------
    TypeError
        If an argument has a wrong type: a dtype, a bool instead of a class, both `mining` and keywords.
    ValueError
        If a shape or a value is wrong: a label out of range, NaN under ``nan_policy="raise"``, no `background` for
        integer labels. The message names the argument, what was expected, and the first (sample, anchor).
    RuntimeError
        If ``backend="cuda"`` and the package, the driver or the GPU is missing.
    NotImplementedError
        If device arrays come with a rule that only works for NumPy arrays so far (docs/cuda.md).

    Notes
    -----
    +inf and -inf are ordinary losses, and -0.0 equals 0.0. Sums are float64.

    References
    ----------
    Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, section 2.2, "Hard negative mining".

    Examples
    --------
    >>> import ssd_mining as sm
    >>> res = sm.mine_hard_negatives([[9.0, 0.1, 0.3, 0.2, 0.4]], [[1, 0, 0, 0, 0]], background=0)
    >>> res.hard_negative_mask
    array([[False, False,  True,  True,  True]])
    >>> res.num_kept, res.threshold
    (array([3]), array([0.2]))
    """
    spec, extras = resolve(mining, keywords)
    if type(conf_loss) is not np.ndarray and is_on_device(conf_loss, backend):
        from ssd_mining.device import mining as device

        return _resident_result(device.mine(conf_loss, labels, spec, extras, masks=True))
    batch = check_losses(conf_loss, labels, spec, extras)
    result = mined_result(batch, call_of(backend, num_threads))
    if batch.num_empty or not np.count_nonzero(result.num_neg):
        warn_of_hazards(batch, result.num_pos, result.num_neg)
    return result


@named_keywords(Mining)
def mine_logits(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    classification: Classification | None = None,
    class_axis: int = -1,
    mining: Mining | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Unpack[Keywords],
) -> MiningResult:
    """Keep the hardest negatives of every sample, by losses that are computed from logits.

    Losses are computed block by block, so those of the whole batch never exist at once, except with a `scope` that
    mines the batch as a whole.

    Parameters
    ----------
    logits : array_like, (B, A, C), float16, float32 or float64
        Scores of every anchor before softmax or sigmoid. (N, C) with ``sample_offsets``.
    labels : array_like, (B, A) integer, or (B, A, C) of any real dtype
        Classes, or scores: one-hot, soft or all zero, also for sigmoids, because mining needs one class per anchor. A
        `background` of -1 is the last class.
    classification : Softmax, Sigmoid or Focal, optional
        The loss and its parameters; `Softmax` unless given.
    class_axis : int
        The axis of C in `logits` and in scores: -1, or 1 for (B, C, A), (B, C, H, W) and the like; -1 with
        ``sample_offsets``.
    mining, backend, num_threads, **keywords
        As in `mine_hard_negatives`; ``rank_by`` may be any mode of `Mining`.

    Returns
    -------
    MiningResult
        As from `mine_hard_negatives`.

    Raises
    ------
    TypeError
        If an argument has a wrong type; see `mine_hard_negatives`.
    ValueError
        If a shape or a value is wrong; see `mine_hard_negatives` and `softmax_cross_entropy`. An anchor with a logit
        of NaN has a loss of NaN.
    RuntimeError
        If ``backend="cuda"`` and the package, the driver or the GPU is missing.
    NotImplementedError
        If device arrays come with a rule that only works for NumPy arrays so far (docs/cuda.md).

    Examples
    --------
    >>> import ssd_mining as sm
    >>> logits = [[[0.0, 3.0], [1.0, 0.0], [0.0, 2.0], [5.0, 0.0], [0.0, 0.0]]]
    >>> res = sm.mine_logits(logits, [[1, 0, 0, 0, 0]], background=0, neg_pos_ratio=2)
    >>> res.hard_negative_mask
    array([[False, False,  True, False,  True]])
    """
    spec, extras = resolve(mining, keywords)
    if type(logits) is not np.ndarray and is_on_device(logits, backend):
        from ssd_mining.device import losses as device

        return _resident_result(device.mine(logits, labels, spec, extras, classification, class_axis))
    batch = check_logit_batch(logits, labels, spec, extras, classification, class_axis)
    result = mined_result(batch, call_of(backend, num_threads))
    if batch.num_empty or not np.count_nonzero(result.num_neg):
        warn_of_hazards(batch, result.num_pos, result.num_neg)
    return result


def mined_result(batch: Batch, call: Call) -> MiningResult:
    """Mine a checked batch. The result also has the anchors and the ranks of the kept negatives, for `indices`."""
    mined, kept = empty_mined(batch.offsets.size - 1, int(batch.offsets[-1])), []
    for block in blocks(batch, call, mined, may_be_large=True):
        num_samples, size = block.rows.offsets.size - 1, block.rows.loss.size
        places = np.zeros(1, np.int64), np.empty(num_samples, np.int64)
        lists = KeptLists(*places, np.empty(size, np.int64), np.empty(size, batch.dtype))
        mine_rows(block.rows, batch.mining, block.mined._replace(kept=lists), call, batch.rng)
        for array in (lists.anchors, lists.ranks):
            array.resize(lists.total[0], refcheck=False)  # gives the rest of the memory back; no view of it is left
        kept.append((block.mined.counts[NUM_KEPT], lists))
    return MiningResult(
        hard_negative_mask=mined.hard_negative_mask.reshape(batch.mask_shape),
        pos_mask=mined.pos_mask.reshape(batch.mask_shape),
        **sample_columns(mined),
        _kept=Listed(kept),
    )


def _resident_result(resident: Any) -> MiningResult:
    """Return what was mined on a device, as arrays of the caller's library."""
    mined = resident.owned()
    return MiningResult(mined.hard_negative_mask, mined.pos_mask, **sample_columns(mined), _kept=resident)


@named_keywords(Mining)
def hard_negative_mask(
    conf_loss: ArrayLike,
    labels: ArrayLike,
    *,
    mining: Mining | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Unpack[Keywords],
) -> NDArray[np.bool_]:
    """Return the mask of the kept negatives alone; see `mine_hard_negatives` for the parameters and the errors.

    Returns
    -------
    ndarray of bool, (B, A)
        True where a negative is kept.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> sm.hard_negative_mask([[9.0, 0.1, 0.3, 0.2]], [[1, 0, 0, 0]], background=0, neg_pos_ratio=1)
    array([[False, False,  True, False]])
    """
    spec, extras = resolve(mining, keywords)
    if type(conf_loss) is not np.ndarray and is_on_device(conf_loss, backend):
        from ssd_mining.device import mining as device

        return device.mine(conf_loss, labels, spec, extras, masks=True).owned().hard_negative_mask
    batch = check_losses(conf_loss, labels, spec, extras)
    return mine_batch(batch, call_of(backend, num_threads), masks=True).hard_negative_mask.reshape(batch.mask_shape)


@named_keywords(Mining)
def negative_quota(
    num_pos: ArrayLike,
    num_neg: ArrayLike,
    *,
    mining: Mining | None = None,
    **selection: Unpack[Selection],
) -> NDArray[np.int64]:
    """Return how many negatives samples with these counts keep.

    Parameters
    ----------
    num_pos, num_neg : array_like of integers, broadcast against each other
        Positives and negatives of every sample.
    mining : Mining, optional
        The selection rule as one value, instead of keywords.
    **selection
        The fields of `Mining`; only those that decide the quota of one sample matter here.

    Returns
    -------
    ndarray of int64
        ``min(num_neg, floor(neg_pos_ratio * num_pos))`` with the bounds of `Mining`. If `min_negatives` is a share,
        it is a share of ``num_pos + num_neg``.

    Raises
    ------
    TypeError
        If a count is not an integer.
    ValueError
        If a count is negative, or the shapes do not broadcast.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> sm.negative_quota([4, 1, 0], [1, 4, 5])
    array([1, 3, 0])
    >>> sm.negative_quota([4, 1, 0], [1, 4, 5], min_negatives=2, min_negatives_when="no_positives")
    array([1, 3, 2])
    """
    spec, _ = resolve(mining, selection)
    counts = check_counts(num_pos=num_pos, num_neg=num_neg)
    kept = np.empty(counts[0].shape, np.int64)
    for i in np.ndindex(kept.shape):
        positives, negatives = int(counts[0][i]), int(counts[1][i])
        kept[i] = quota_of(positives, negatives, -1, spec.rule_for(positives + negatives))
    return kept
