"""The confidence loss: the sums of the mined anchors, per sample and normalised over the batch."""

from dataclasses import dataclass
from typing import Any, Literal, Unpack, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining import _backends, _inputs
from ssd_mining._backends import Backend
from ssd_mining._spec import Mining, Selection, check_choice, resolve

Normalize = Literal[
    "none",
    "batch",
    "anchors",
    "positives",
    "sample_positives",
    "clamped_sample_positives",
    "selected",
    "sample_selected",
]
ZeroPositives = Literal["clamp", "zero", "nan", "raise"]
_NORMALIZE, _ZERO_POSITIVES = get_args(Normalize), get_args(ZeroPositives)


@dataclass(frozen=True, eq=False)
class ConfidenceLoss:
    """The confidence loss of a batch of B samples and its parts, in nats.

    Attributes
    ----------
    loss : float
        The loss of the batch, normalised as asked.
    per_sample : ndarray of float64, (B,)
        ``positive_sum + negative_sum``: the notebook's ``confidence_loss``, not normalised.
    positive_sum, negative_sum : ndarray of float64, (B,)
        Sum over the positives, and over the kept negatives.
    num_pos, num_neg, num_kept : ndarray of int64, (B,)
        How many anchors are positive, negative, and kept negatives.
    """

    loss: float
    per_sample: NDArray[np.float64]
    positive_sum: NDArray[np.float64]
    negative_sum: NDArray[np.float64]
    num_pos: NDArray[np.int64]
    num_neg: NDArray[np.int64]
    num_kept: NDArray[np.int64]

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """Return the per-sample results as columns of length B, ready for a data frame.

        Examples
        --------
        >>> import ssd_mining as sm
        >>> out = sm.confidence_loss([[9.0, 0.1, 0.3]], [[1, 0, 0]], background=0)
        >>> list(out.to_dict())
        ['per_sample', 'positive_sum', 'negative_sum', 'num_pos', 'num_neg', 'num_kept']
        """
        names = ("per_sample", "positive_sum", "negative_sum", "num_pos", "num_neg", "num_kept")
        return {name: getattr(self, name) for name in names}


def confidence_loss(
    conf_loss: ArrayLike,
    labels: ArrayLike,
    *,
    normalize: Normalize = "batch",
    zero_positives: ZeroPositives = "clamp",
    mining: Mining | None = None,
    valid: ArrayLike | None = None,
    num_negatives: ArrayLike | None = None,
    rank_by: ArrayLike | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **selection: Unpack[Selection],
) -> ConfidenceLoss:
    """Sum the losses of the positives and of the hardest negatives; no mask is built.

    Parameters
    ----------
    conf_loss : array_like, (B, A), float16, float32, float64 or integer
        Classification loss of every anchor, in nats.
    labels : array_like, (B, A) integer, (B, A) bool, or (B, A, C) of any real dtype
        Classes, a positive mask, or one-hot scores; see `mine_hard_negatives`.
    normalize : str
        What the sum over the batch is divided by: ``"none"``: 1; ``"batch"``: B, as the notebook does;
        ``"anchors"``: B A; ``"positives"``: the positives of the batch; ``"selected"``: its positives and kept
        negatives; ``"clamped_sample_positives"``: the sum over samples of ``max(1, num_pos)``.
        ``"sample_positives"`` and ``"sample_selected"``: the mean over samples of each sample's sum divided by its
        own positives, or by its own positives and kept negatives.
    zero_positives : {"clamp", "zero", "nan", "raise"}
        Where that divisor is 0: divide by 1, give 0, give NaN, or raise.
    mining, valid, num_negatives, rank_by, backend, num_threads, **selection
        As in `mine_hard_negatives`.

    Returns
    -------
    ConfidenceLoss
        The loss, and per sample its parts.

    Raises
    ------
    TypeError
        If an argument has the wrong kind; see `mine_hard_negatives`.
    ValueError
        If a shape or a value is wrong; see `mine_hard_negatives`. Also if `normalize` or `zero_positives` is
        unknown, or a divisor is 0 under ``zero_positives="raise"``.
    NotImplementedError
        If ``backend="cuda"``.

    Notes
    -----
    An empty batch has the loss 0. Without positives, ``min_negatives`` aside, a sample's loss is 0.

    References
    ----------
    Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, equation 3 and section 2.2.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> out = sm.confidence_loss([[1.0, 0.5, 0.25], [2.0, 0.5, 0.25]], [[1, 0, 0], [0, 0, 0]], background=0)
    >>> out.loss, out.per_sample
    (0.875, array([1.75, 0.  ]))
    """
    check_choice("normalize", normalize, _NORMALIZE)
    check_choice("zero_positives", zero_positives, _ZERO_POSITIVES)
    spec = resolve(mining, selection)
    batch = _inputs.check(conf_loss, labels, spec, valid=valid, num_negatives=num_negatives, rank_by=rank_by)
    mined = _backends.run(batch, masks=False, backend=backend, num_threads=num_threads)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, as it should be
        per_sample = mined.positive_sum + mined.negative_sum
        loss = normalized_loss(
            per_sample,
            mined.num_pos,
            mined.num_kept,
            batch.conf_loss.shape[1],
            normalize=normalize,
            zero_positives=zero_positives,
        )
    return ConfidenceLoss(
        loss=loss,
        per_sample=per_sample,
        positive_sum=mined.positive_sum,
        negative_sum=mined.negative_sum,
        num_pos=mined.num_pos,
        num_neg=mined.num_neg,
        num_kept=mined.num_kept,
    )


def normalized_loss(
    per_sample: NDArray[np.float64],
    num_pos: NDArray[np.int64],
    num_kept: NDArray[np.int64],
    num_anchors: int,
    *,
    normalize: Normalize = "batch",
    zero_positives: ZeroPositives = "clamp",
) -> float:
    """Normalise the sums of samples, (B,) each, as `confidence_loss` does: one number for the batch, in nats."""
    if normalize in ("sample_positives", "sample_selected"):
        divisors = num_pos if normalize == "sample_positives" else num_pos + num_kept
        losses = [
            _divided(total, divisor, normalize, zero_positives)
            for total, divisor in zip(per_sample.tolist(), divisors.tolist(), strict=True)
        ]
        return float(np.mean(losses)) if losses else 0.0
    match normalize:
        case "none":
            divisor = 1
        case "batch":
            divisor = per_sample.size
        case "anchors":
            divisor = per_sample.size * num_anchors
        case "positives":
            divisor = int(num_pos.sum())
        case "selected":
            divisor = int(num_pos.sum() + num_kept.sum())
        case "clamped_sample_positives":
            divisor = int(np.maximum(1, num_pos).sum())
    return _divided(float(per_sample.sum()), divisor, normalize, zero_positives)


def _divided(total: float, divisor: int, normalize: str, zero_positives: ZeroPositives) -> float:
    if divisor > 0 or zero_positives == "clamp":
        return total / max(1, divisor)
    if zero_positives == "raise":
        msg = f"labels: expected something to divide by for normalize={normalize!r}, got none"
        raise ValueError(msg)
    return 0.0 if zero_positives == "zero" else float("nan")
