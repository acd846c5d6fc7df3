"""The whole SSD loss: confidence from logits plus localization over the positives, and its gradients."""

from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import check_choice, check_number
from ssd_mining.classification import Classification
from ssd_mining.engine import run as _backends
from ssd_mining.engine.lazy_losses import LogitLosses
from ssd_mining.engine.run import Backend
from ssd_mining.inputs.arrays import kernel_dtype
from ssd_mining.inputs.batch import Batch
from ssd_mining.inputs.logits import logit_batch
from ssd_mining.kernels.records import Mined
from ssd_mining.localization import check_beta, paired_locations, selected_smooth_l1
from ssd_mining.losses import NORMALIZE, ZERO_POSITIVES, Normalize, ZeroPositives, loss_divisors, normalized_loss
from ssd_mining.mining_rule import Keywords, Mining, resolve

Divisors = float | NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MultiboxLoss:
    """The loss of a batch of B samples, and its parts; of device arrays, all of them are such arrays.

    Attributes
    ----------
    loss : float
        ``conf_loss + loc_weight * loc_loss``, in nats.
    conf_loss, loc_loss : float
        The two parts, each divided as asked; `loc_loss` is 0 where no locations were given.
    positive_sum, negative_sum : ndarray of float64, (B,)
        Sum of the confidence losses of the positives, and of the kept negatives, of every sample, in nats.
    loc_sum : ndarray of float64, (B,)
        Sum of the localization losses of the positives of every sample.
    num_pos, num_neg, num_kept : ndarray of int64, (B,)
        How many anchors are positive, negative, and kept negatives.
    logits_gradient : ndarray of float32 or float64, or None
        d loss / d logits, of the shape of the logits; float64 from float64 logits. None unless asked for.
    loc_gradient : ndarray of float32 or float64, or None
        d loss / d loc_pred, of its shape; float64 from float64 or wide integers. None unless asked for.
    """

    loss: float
    conf_loss: float
    loc_loss: float
    positive_sum: NDArray[np.float64]
    negative_sum: NDArray[np.float64]
    loc_sum: NDArray[np.float64]
    num_pos: NDArray[np.int64]
    num_neg: NDArray[np.int64]
    num_kept: NDArray[np.int64]
    logits_gradient: NDArray[Any] | None = None
    loc_gradient: NDArray[Any] | None = None

    @property
    def per_sample(self) -> NDArray[np.float64]:
        """Confidence loss of every sample, (B,), divided by nothing, in nats."""
        with np.errstate(invalid="ignore", over="ignore"):
            return self.positive_sum + self.negative_sum

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """Return the per-sample results as columns of length B, ready for a data frame.

        Examples
        --------
        >>> import ssd_mining as sm
        >>> out = sm.multibox_loss([[[0.0, 3.0], [1.0, 0.0]]], [[1, 0]], background=0)
        >>> list(out.to_dict())
        ['positive_sum', 'negative_sum', 'loc_sum', 'num_pos', 'num_neg', 'num_kept']
        """
        names = ("positive_sum", "negative_sum", "loc_sum", "num_pos", "num_neg", "num_kept")
        return {name: getattr(self, name) for name in names}


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
    with_gradients: bool = False,
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
        Classes, or scores, which are one-hot, soft or all zero for sigmoids too: mining wants one class per anchor.
        As C is known, a `background` of -1 is the last class.
    loc_pred, loc_target : array_like, (B, A, 4), optional
        Predicted and target offsets of every anchor; both or none. (N, 4) with ``sample_offsets``.
    classification : Softmax, Sigmoid or Focal, optional
        The confidence loss and its parameters; `Softmax` unless given.
    loc_weight : float
        What the localization loss is multiplied by, finite and at least 0.
    beta : float
        Where the parabola of `smooth_l1` ends.
    normalize, zero_positives : str
        What the confidence loss is divided by; see `confidence_loss`.
    loc_normalize : str, optional
        What the localization loss is divided by; `normalize` unless given.
    with_gradients : bool
        Compute the gradients with respect to `logits` and `loc_pred` too; anchors that are not selected have 0.
    class_axis : int
        Where C stands in `logits` and in scores: -1, or 1 for (B, C, A); -1 with ``sample_offsets``.
    mining, backend, num_threads, **keywords
        As in `mine_hard_negatives`; ``rank_by`` may be any of the modes of `Mining`.

    Returns
    -------
    MultiboxLoss
        The loss, its parts, and the gradients where asked for.

    Raises
    ------
    TypeError
        If an argument has the wrong kind; see `mine_hard_negatives`. Also if only one of `loc_pred` and `loc_target`
        is given.
    ValueError
        If a shape or a value is wrong; see `mine_hard_negatives`, `confidence_loss`, `softmax_cross_entropy` and
        `smooth_l1`.
    RuntimeError
        If ``backend="cuda"`` and the package, the driver or the GPU is missing.
    NotImplementedError
        If device arrays come with a rule that only NumPy arrays can have yet (docs/cuda.md).

    Notes
    -----
    The selection and the divisors count as constant in the gradients, as in every trainer. ``anchor_weights`` weigh
    the confidence alone. NaN in the locations of a positive makes the loss NaN: the ``nan_policy`` is that of the
    confidence. Locations of other anchors are not looked at.

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
    check_choice("normalize", normalize, NORMALIZE)
    check_choice("loc_normalize", loc_normalize, NORMALIZE)
    check_choice("zero_positives", zero_positives, ZERO_POSITIVES)
    check_number("loc_weight", loc_weight, lowest=0)
    check_beta(beta)
    device = _backends.on_device(logits, backend, "multibox")
    if device is not None:
        how: dict[str, Any] = {
            "normalize": normalize,
            "loc_normalize": loc_normalize,
            "zero_positives": zero_positives,
        }
        how |= {"loc_weight": loc_weight, "beta": beta, "with_gradients": with_gradients}
        spec = *resolve(mining, keywords), classification, class_axis
        return MultiboxLoss(**device.compute((logits, labels, loc_pred, loc_target), spec, **how))
    where = {"class_axis": class_axis, "backend": backend, "num_threads": num_threads}
    batch, losses = logit_batch(logits, labels, *resolve(mining, keywords), classification, where)
    locations = paired_locations(batch, loc_pred, loc_target, beta)
    is_marked = with_gradients or locations is not None
    mined = _backends.run(batch, masks=is_marked, backend=backend, num_threads=num_threads)

    counts = mined.num_pos, mined.num_kept, batch.conf_loss.size
    conf_divisors = loss_divisors(*counts, normalize=normalize, zero_positives=zero_positives)
    loc_sum: NDArray[np.float64] = np.zeros(batch.num_samples)
    loc_loss, loc_gradient, logits_gradient = 0.0, None, None
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, as it should be
        conf_loss = normalized_loss(mined.positive_sum + mined.negative_sum, conf_divisors)
        if locations is not None:
            positives = np.nonzero(mined.pos_mask.reshape(batch.conf_loss.shape))
            owners = np.repeat(np.arange(batch.num_samples), mined.num_pos)  # the sample of each
            costs, slopes = selected_smooth_l1(*locations, positives, beta)
            loc_sum = np.bincount(owners, costs, batch.num_samples).astype(np.float64)  # of nothing, int64
            loc_divisors = loss_divisors(
                *counts, normalize=loc_normalize, zero_positives=zero_positives, argument="loc_normalize"
            )
            loc_loss = normalized_loss(loc_sum, loc_divisors)
            if with_gradients:
                loc_gradient = np.zeros(locations[0].shape, kernel_dtype(locations[0].dtype))
                loc_gradient[positives] = loc_weight * _shares(loc_divisors, loc_sum.size)[owners, None] * slopes
        if with_gradients:
            logits_gradient = _logits_gradient(batch, losses, mined, conf_divisors, class_axis)
    return MultiboxLoss(
        loss=conf_loss + loc_weight * loc_loss,
        conf_loss=conf_loss,
        loc_loss=loc_loss,
        positive_sum=mined.positive_sum,
        negative_sum=mined.negative_sum,
        loc_sum=loc_sum,
        num_pos=mined.num_pos,
        num_neg=mined.num_neg,
        num_kept=mined.num_kept,
        logits_gradient=logits_gradient,
        loc_gradient=loc_gradient,
    )


def _shares(divisors: Divisors, num_samples: int) -> NDArray[np.float64]:
    """Return d loss / d sum of every sample, (B,)."""
    if isinstance(divisors, float):
        return np.full(num_samples, 1.0 / divisors)  # of inf, where the loss is 0, 0
    return np.asarray(1.0 / divisors / num_samples)


def _logits_gradient(
    batch: Batch, losses: LogitLosses, mined: Mined, divisors: Divisors, class_axis: int
) -> NDArray[Any]:
    """Return d loss / d logits, in the shape of the logits."""
    lengths = np.diff(batch.offsets)
    factors = np.repeat(_shares(divisors, lengths.size), lengths)
    if batch.weights is not None:
        weights = batch.weights.reshape(-1)
        factors = np.where(weights == 0, 0.0, factors * weights)  # 0 silences NaN, as it does in the loss
    # What was not selected has the gradient 0, be the divisor NaN.
    factors = np.where(mined.pos_mask | mined.hard_negative_mask, factors, 0.0)
    gradient = losses.gradients(slice(0, losses.shape[0]), factors.reshape(losses.shape))
    if not batch.is_dense:
        return np.asarray(gradient[0])
    return np.asarray(np.moveaxis(gradient, -1, class_axis))
