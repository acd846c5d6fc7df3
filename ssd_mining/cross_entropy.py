"""The classification losses from logits: `softmax_cross_entropy`, `sigmoid_cross_entropy` and `focal_loss`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import ArrayLike, NDArray

from ssd_mining.classification import Classification, Focal, Sigmoid, Softmax
from ssd_mining.engine.lazy_losses import losses
from ssd_mining.engine.run import Backend, call_of
from ssd_mining.inputs.arrays import is_on_device
from ssd_mining.inputs.logits import check_logits


def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    background: int | None = None,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    prob_floor: float = 0.0,
    ignore_index: int | None = None,
    valid: ArrayLike | None = None,
    class_axis: int = -1,
    backend: Backend | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute the softmax cross-entropy of every anchor. Small losses keep their digits.

    With integer labels the loss is ``-log(p)`` of the label, times the weight of its class. With scores it is the sum
    over the classes of ``weight * score * -log(p)``.

    Parameters
    ----------
    logits : array_like, (B, A, C), float16, float32 or float64
        Unnormalised scores of C classes for every anchor. -inf masks a class. Instead of A, here and in all that has
        its shape, there may be several axes, as in maps (B, H, W, C) (docs/semantics.md).
    labels : array_like, (B, A) integer, or (B, A, C) of real dtypes of up to 64 bits
        Classes 0 to C - 1, or one-hot or soft scores. Without smoothing, a row of zeros has the loss 0.
    background : int, optional
        The background class, from -C to C - 1. It is checked, but a softmax does not depend on it.
    class_weights : sequence of float, (C,), optional
        Weight of every class, finite and at least 0. A class of weight 0 adds 0, whatever its logit.
    label_smoothing : float
        Share of the target, 0 to 1, that is spread evenly over all classes: scores ``q`` become
        ``(1 - label_smoothing) * q + label_smoothing / C``.
    prob_floor : float
        Smaller probabilities count as this one, 0 to below 1: every ``-log(p)`` is at most ``-log(prob_floor)``.
    ignore_index : int, optional
        Integer label of anchors to ignore: their loss is 0.
    valid : array_like of bool, (B, A), optional
        False marks anchors to ignore; their labels are not read.
    class_axis : {-1, 2, 1}
        The axis of the classes; 1 says that logits, and scores, are (B, C, A), (B, C, H, W) and the like.
    backend : {None, "cpu", "cuda", "reference"}
        Where to compute. None: where the arrays are. ``"reference"`` is slow, plain NumPy.
    num_threads : int, optional
        Threads to use, at most Numba's own number (the default). The results do not depend on it.

    Returns
    -------
    ndarray, (B, A), float32; float64 from float64 logits
        The loss of every anchor, in nats.

    Raises
    ------
    TypeError
        If an argument has a wrong type: logits that are not floats, bool labels, an `ignore_index` with scores.
    ValueError
        If a shape or a value is wrong: logits that are not (B, A, C), a label out of range, scores that do not add up
        to 1, a weight too many. The message names the argument, what was expected, and the first (sample, anchor).
    RuntimeError
        If ``backend="cuda"`` and the package, the driver or the GPU is missing.
    NotImplementedError
        If device arrays come with one-hot scores, or more classes than a GPU's shared memory holds (docs/cuda.md).

    Notes
    -----
    A float32 loss has a relative error of at most 3e-7, down to 1e-38: losses that other formulas round to 0 keep
    their order. Scores are rounded to float32 if the losses are float32. The loss is NaN if a logit is NaN or +inf, or
    all are -inf; it is inf if the logit of the label is -inf.

    References
    ----------
    Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, equation 3. Szegedy et al., "Rethinking the Inception
    Architecture for Computer Vision", CVPR 2016, section 7 (label smoothing).

    Examples
    --------
    >>> import ssd_mining as sm
    >>> sm.softmax_cross_entropy([[[0.0, 0.0], [30.0, 0.0]]], [[1, 0]])
    array([[6.93147181e-01, 9.35762297e-14]])
    """
    spec = Softmax(class_weights=class_weights, label_smoothing=label_smoothing, prob_floor=prob_floor)
    how = _How(background, ignore_index, valid, class_axis)
    return _computed(logits, labels, spec, how, backend=backend, num_threads=num_threads)


def sigmoid_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    background: int | None = None,
    class_weights: Sequence[float] | None = None,
    ignore_index: int | None = None,
    valid: ArrayLike | None = None,
    class_axis: int = -1,
    backend: Backend | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute the sigmoid cross-entropy of every anchor: the sum of one binary cross-entropy per class.

    Parameters
    ----------
    logits : array_like, (B, A, C), float16, float32 or float64
        Unnormalised scores of C classes for every anchor.
    labels : array_like, (B, A) integer, or (B, A, C) of real dtypes of up to 64 bits
        Classes 0 to C - 1: the label has the target 1, the other classes have 0. Or a target from 0 to 1 for each
        class; several of them may be 1.
    background : int, optional
        The background class. C: background has no logit, and an anchor with this label has the target 0 for every
        class. From -C to C - 1 it is a class like any other.
    class_weights : sequence of float, (C,), optional
        Weight of every class, finite and at least 0. A class of weight 0 adds 0, whatever its logit.
    ignore_index, valid, class_axis, backend, num_threads
        As in `softmax_cross_entropy`.

    Returns
    -------
    ndarray, (B, A), float32; float64 from float64 logits
        The loss of every anchor, in nats.

    Raises
    ------
    TypeError, ValueError, RuntimeError, NotImplementedError
        As in `softmax_cross_entropy`.

    Notes
    -----
    Logits of +inf and -inf are certain answers: they cost 0 or inf. NaN gives NaN.

    References
    ----------
    Redmon and Farhadi, "YOLOv3: An Incremental Improvement", 2018, section 2.2.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> sm.sigmoid_cross_entropy([[[0.0, 0.0], [0.0, -30.0]]], [[1, 2]], background=2)
    array([[1.38629436, 0.69314718]])
    """
    spec, how = Sigmoid(class_weights=class_weights), _How(background, ignore_index, valid, class_axis)
    return _computed(logits, labels, spec, how, backend=backend, num_threads=num_threads)


def focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    background: int | None = None,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    ignore_index: int | None = None,
    valid: ArrayLike | None = None,
    class_axis: int = -1,
    backend: Backend | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute the sigmoid focal loss of every anchor, summed over the classes.

    Each class costs ``alpha_t * (1 - p_t)**gamma * cross_entropy``, where ``p_t`` is the probability of the target:
    ``p`` for a target of 1 and ``1 - p`` for a target of 0.

    Parameters
    ----------
    logits, labels, background
        As in `sigmoid_cross_entropy`.
    alpha : float, optional
        Weight of a target of 1, from 0 to 1; a target of 0 has ``1 - alpha``. None: both have 1.
    gamma : float
        Focusing exponent, finite and at least 0; 0 gives the cross-entropy.
    ignore_index, valid, class_axis, backend, num_threads
        As in `softmax_cross_entropy`.

    Returns
    -------
    ndarray, (B, A), float32; float64 from float64 logits
        The loss of every anchor, in nats.

    Raises
    ------
    TypeError, ValueError, RuntimeError, NotImplementedError
        As in `softmax_cross_entropy`.

    Notes
    -----
    A soft target ``t`` has ``p_t = p * t + (1 - p) * (1 - t)`` and the weight ``alpha * t + (1 - alpha) * (1 - t)``.

    References
    ----------
    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> sm.focal_loss([[[0.0, 0.0]]], [[1]])
    array([[0.1732868]])
    """
    spec, how = Focal(alpha=alpha, gamma=gamma), _How(background, ignore_index, valid, class_axis)
    return _computed(logits, labels, spec, how, backend=backend, num_threads=num_threads)


class _How(NamedTuple):
    """What the three losses are told about logits and labels, by the names of `check_logits`."""

    background: int | None
    ignore_index: int | None
    valid: ArrayLike | None
    class_axis: int


def _computed(
    logits: ArrayLike,
    labels: ArrayLike,
    classification: Classification,
    how: _How,
    *,
    backend: Backend | None,
    num_threads: int | None,
) -> NDArray[Any]:
    """Compute the losses (B, A), where the logits are."""
    if is_on_device(logits, backend):
        from ssd_mining.device import losses as device

        on_device: NDArray[Any] = device.losses(logits, labels, classification, **how._asdict())
        return on_device
    checked = check_logits(logits, labels, classification, **how._asdict())
    return losses(checked, call_of(backend, num_threads)).reshape(checked.mask_shape)
