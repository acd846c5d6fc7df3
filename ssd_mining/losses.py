"""The confidence loss: the summed losses of the selected anchors, per sample and for the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import check_choice, refuse
from ssd_mining.choices import NORMALIZE, ZERO_POSITIVES, Normalize, ZeroPositives
from ssd_mining.engine.result import SampleLosses
from ssd_mining.engine.run import Backend, batch_losses, call_of, mine_batch, sample_columns
from ssd_mining.inputs.arrays import is_on_device
from ssd_mining.inputs.batch import check_losses
from ssd_mining.kernels.loss_rules import divisor_of, loss_divisors
from ssd_mining.kernels.records import Divisor
from ssd_mining.mining_rule import Keywords, Mining, named_keywords, resolve


@dataclass(frozen=True, eq=False, repr=False)
class ConfidenceLoss(SampleLosses):
    """The confidence loss of a batch of B samples and its parts, in nats.

    Attributes
    ----------
    loss : float
        The loss of the batch, divided as `normalize` says.
    confidence_loss : ndarray of float64, (B,)
        ``positive_sum + negative_sum`` of every sample, before any division, as in the notebook; also `per_sample`.
    positive_sum, negative_sum : ndarray of float64, (B,)
        Sum over the positives, and over the kept negatives.
    num_pos, num_neg, num_kept : ndarray of int64, (B,)
        How many anchors are positive, negative, and kept negatives.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> out = sm.confidence_loss([[9.0, 0.1, 0.3]], [[1, 0, 0]], background=0)
    >>> list(out.to_dict())
    ['confidence_loss', 'positive_sum', 'negative_sum', 'num_pos', 'num_neg', 'num_kept']
    """

    columns = ("confidence_loss", "positive_sum", "negative_sum", "num_pos", "num_neg", "num_kept")

    loss: float
    confidence_loss: NDArray[np.float64]
    positive_sum: NDArray[np.float64]
    negative_sum: NDArray[np.float64]
    num_pos: NDArray[np.int64]
    num_neg: NDArray[np.int64]
    num_kept: NDArray[np.int64]


@named_keywords(Mining)
def confidence_loss(
    conf_loss: ArrayLike,
    labels: ArrayLike,
    *,
    normalize: Normalize = "batch",
    zero_positives: ZeroPositives = "clamp",
    mining: Mining | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Unpack[Keywords],
) -> ConfidenceLoss:
    """Sum the losses of the positives and of the hardest negatives, without building a mask.

    Parameters
    ----------
    conf_loss : array_like, (B, A), float16, float32, float64 or integer
        Classification loss of every anchor, in nats.
    labels : array_like, (B, A) integer, (B, A) bool, or (B, A, C) of any real dtype
        Classes, a positive mask, or one-hot scores; see `mine_hard_negatives`.
    normalize : str
        The divisor of the sum over the batch. ``"none"``: 1; ``"batch"``: B, as the notebook does;
        ``"anchors"``: B * A; ``"positives"``: the positives of the batch; ``"selected"``: its positives and kept
        negatives; ``"clamped_sample_positives"``: the sum of ``max(1, num_pos)`` over samples.
        ``"sample_positives"`` and ``"sample_selected"``: divide every sample by its own positives, or its own
        positives and kept negatives, then take the mean over samples.
    zero_positives : {"clamp", "zero", "nan", "raise"}
        If the divisor is 0: divide by 1, return 0, return NaN, or raise.
    mining, backend, num_threads, **keywords
        As in `mine_hard_negatives`.

    Returns
    -------
    ConfidenceLoss
        The loss, and its parts for every sample.

    Raises
    ------
    TypeError
        If an argument has a wrong type; see `mine_hard_negatives`.
    ValueError
        If a shape or a value is wrong; see `mine_hard_negatives`. Also if `normalize` or `zero_positives` is
        unknown, or a divisor is 0 under ``zero_positives="raise"``.
    RuntimeError
        If ``backend="cuda"`` and the package, the driver or the GPU is missing.
    NotImplementedError
        If device arrays come with a rule that only works for NumPy arrays so far (docs/cuda.md).

    Notes
    -----
    An empty batch has the loss 0, and so has a sample without positives, unless ``min_negatives`` keeps negatives.

    References
    ----------
    Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, equation 3 and section 2.2.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> out = sm.confidence_loss([[1.0, 0.5, 0.25], [2.0, 0.5, 0.25]], [[1, 0, 0], [0, 0, 0]], background=0)
    >>> out.loss, out.confidence_loss
    (0.875, array([1.75, 0.  ]))
    """
    check_words(normalize, zero_positives)
    spec, extras = resolve(mining, keywords)
    resident = None
    if type(conf_loss) is not np.ndarray and is_on_device(conf_loss, backend):
        from ssd_mining.device import mining as device

        resident = device.mine(conf_loss, labels, spec, extras, masks=False)
        mined, num_anchors = resident.on_host(), int(resident.offsets[-1])
    else:
        batch = check_losses(conf_loss, labels, spec, extras)
        mined, num_anchors = mine_batch(batch, call_of(backend, num_threads), masks=False), int(batch.offsets[-1])
    by = divisor_of(normalize, zero_positives, mined.counts.shape[1], num_anchors)
    if zero_positives == "raise":
        refuse_no_divisor(mined.counts, by, normalize, "normalize")
    per_sample, _, loss = batch_losses(mined, by)
    if resident is not None:
        per_sample, mined = resident.like(per_sample), resident.owned()
    columns = sample_columns(mined)
    del columns["threshold"]
    return ConfidenceLoss(loss=loss, confidence_loss=per_sample, **columns)


def check_words(normalize: Normalize, zero_positives: ZeroPositives, argument: str = "normalize") -> None:
    """Refuse unknown words for `normalize` (or `argument`) and `zero_positives`."""
    for name, word, choices in ((argument, normalize, NORMALIZE), ("zero_positives", zero_positives, ZERO_POSITIVES)):
        if not isinstance(word, str) or word not in choices:
            check_choice(name, word, choices)


def refuse_no_divisor(counts: NDArray[np.int64], by: Divisor, normalize: Normalize, argument: str) -> None:
    """Raise if a divisor is 0, for ``zero_positives="raise"``. An empty batch has the loss 0."""
    if not counts.shape[1]:
        return
    divisors = loss_divisors(counts, by._replace(instead=0.0))
    if not np.all(divisors):
        where = "" if isinstance(divisors, float) else f" in sample {int(np.argmin(divisors))}"
        refuse("labels", f"something to divide by for {argument}={normalize!r}", f"none{where}")
