"""The confidence loss: the sums of the mined anchors, per sample and normalised over the batch."""

from dataclasses import dataclass
from typing import Any, Literal, Unpack, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import check_choice
from ssd_mining.engine import run as _backends
from ssd_mining.engine.run import Backend
from ssd_mining.inputs import losses as _inputs
from ssd_mining.mining_rule import Keywords, Mining, resolve

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
NORMALIZE, ZERO_POSITIVES = get_args(Normalize), get_args(ZeroPositives)


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
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Unpack[Keywords],
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
    mining, backend, num_threads, **keywords
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
    RuntimeError
        If ``backend="cuda"`` and the package, the driver or the GPU is missing.
    NotImplementedError
        If device arrays come with a rule that only NumPy arrays can have yet.

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
    check_choice("normalize", normalize, NORMALIZE)
    check_choice("zero_positives", zero_positives, ZERO_POSITIVES)
    device, resident = _backends.on_device(conf_loss, backend), None
    if device is not None:
        resident = device.mine(conf_loss, labels, *resolve(mining, keywords), masks=False)
        mined, num_anchors = resident.read_numbers(), int(resident.offsets[-1])
    else:
        batch = _inputs.check(conf_loss, labels, *resolve(mining, keywords))
        mined = _backends.run(batch, masks=False, backend=backend, num_threads=num_threads)
        num_anchors = batch.conf_loss.size
    divisors = loss_divisors(
        mined.num_pos, mined.num_kept, num_anchors, normalize=normalize, zero_positives=zero_positives
    )
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, as it should be
        per_sample = mined.positive_sum + mined.negative_sum
        loss = normalized_loss(per_sample, divisors)
    if resident is not None:
        per_sample, mined = resident.like(per_sample), resident.owned()
    return ConfidenceLoss(
        loss=loss,
        per_sample=per_sample,
        positive_sum=mined.positive_sum,
        negative_sum=mined.negative_sum,
        num_pos=mined.num_pos,
        num_neg=mined.num_neg,
        num_kept=mined.num_kept,
    )


def loss_divisors(
    num_pos: NDArray[np.int64],
    num_kept: NDArray[np.int64],
    num_anchors: int,
    *,
    normalize: Normalize = "batch",
    zero_positives: ZeroPositives = "clamp",
    argument: str = "normalize",
) -> float | NDArray[np.float64]:
    """Return what the sum of a batch is divided by, or, (B,), what that of each sample is before their mean.

    `num_anchors` are those of the whole batch; `argument` is what the caller calls `normalize`.

    Where there is nothing to divide by and the loss is to be 0, the divisor is inf.
    """
    divisors: Any = _divisors(num_pos, num_kept, num_anchors, normalize)
    if not isinstance(divisors, np.ndarray) and divisors > 0:
        return float(divisors)
    is_zero = divisors == 0 if num_pos.size else False  # an empty batch has the loss 0
    if zero_positives == "raise" and np.any(is_zero):
        where = f" in sample {int(np.argmax(is_zero))}" if np.ndim(is_zero) else ""
        msg = f"labels: expected something to divide by for {argument}={normalize!r}, got none{where}"
        raise ValueError(msg)
    instead = {"clamp": 1.0, "zero": np.inf, "nan": np.nan, "raise": 1.0}[zero_positives]
    return np.where(is_zero, instead, divisors) if np.ndim(divisors) else instead


def _divisors(
    num_pos: NDArray[np.int64], num_kept: NDArray[np.int64], num_anchors: int, normalize: Normalize
) -> int | NDArray[np.int64]:
    match normalize:
        case "none":
            return 1
        case "batch":
            return num_pos.size
        case "anchors":
            return num_anchors
        case "positives":
            return int(num_pos.sum())
        case "selected":
            return int(num_pos.sum() + num_kept.sum())
        case "clamped_sample_positives":
            return int(np.maximum(1, num_pos).sum())
        case "sample_positives":
            return num_pos
        case "sample_selected":
            return num_pos + num_kept


def normalized_loss(per_sample: NDArray[np.float64], divisors: float | NDArray[np.float64]) -> float:
    """Divide the sums of samples, (B,) in nats, by `loss_divisors`: one number for the batch."""
    if not per_sample.size:
        return 0.0
    if isinstance(divisors, float):
        return 0.0 if divisors == np.inf else float(np.add.reduce(per_sample)) / divisors
    return float(np.where(divisors == np.inf, 0.0, per_sample / divisors).mean())
