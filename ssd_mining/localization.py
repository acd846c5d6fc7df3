"""The localisation loss: `smooth_l1`, and the loss and gradient of selected anchors alone."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import refuse
from ssd_mining.inputs.arrays import as_array, as_real_array, kernel_dtype
from ssd_mining.inputs.batch import Batch


def smooth_l1(loc_pred: ArrayLike, loc_target: ArrayLike, *, beta: float = 1.0) -> NDArray[Any]:
    """Compute the smooth L1 loss of every anchor, summed over its coordinates.

    A difference ``d`` costs ``d**2 / (2 * beta)`` where ``|d| < beta``, else ``|d| - beta / 2``.

    Parameters
    ----------
    loc_pred, loc_target : array_like, (B, A, 4), float16, float32, float64 or integer
        Predicted and target offsets of every anchor; any number of coordinates of at least 1.
    beta : float
        Where the parabola ends, finite and at least 0; 0 is the L1 loss.

    Returns
    -------
    ndarray, (B, A), float32 or float64
        The loss of every anchor: float64 if either input is float64 or an integer of more than 16 bits, else float32.

    Raises
    ------
    TypeError
        If an input has another dtype, or `beta` is no number.
    ValueError
        If the shapes differ or are not (B, A, 4)-like, or `beta` is negative or not finite.

    Notes
    -----
    NaN and infinities follow IEEE 754; an infinite difference costs inf.

    References
    ----------
    Girshick, "Fast R-CNN", ICCV 2015, equation 3; Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> sm.smooth_l1([[[0.5, 3.0, 0.0, 0.0]]], [[[0.0, 0.0, 0.0, 0.0]]])
    array([[2.625]])
    """
    pred, target = check_locations(loc_pred, loc_target, beta)
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.abs(_difference(pred, target))
        return np.asarray(_costs(size, beta).sum(axis=2))


def selected_smooth_l1(
    pred: NDArray[Any], target: NDArray[Any], chosen: tuple[NDArray[np.int64], ...], beta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the losses of K chosen anchors alone, (K,), and their slopes, d loss / d pred, (K, 4)."""
    off = pred[chosen].astype(np.float64) - target[chosen].astype(np.float64)
    slopes = np.sign(off) if beta == 0 else np.clip(off / beta, -1.0, 1.0)
    return _costs(np.abs(off), beta).sum(axis=1), slopes


def check_locations(loc_pred: ArrayLike, loc_target: ArrayLike, beta: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Check predicted and target offsets, and the `beta` that goes with them."""
    check_beta(beta)
    pred, target = as_real_array("loc_pred", loc_pred), as_real_array("loc_target", loc_target)
    if pred.ndim != 3 or pred.shape[2] == 0:
        refuse("loc_pred", "a (B, A, 4) array", f"shape {pred.shape}")
    if target.shape != pred.shape:
        refuse("loc_target", f"the shape of loc_pred {pred.shape}", f"shape {target.shape}")
    return pred, target


def paired_locations(
    batch: Batch, loc_pred: ArrayLike | None, loc_target: ArrayLike | None, beta: float
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Check the locations of a batch, (B, A, 4) or (N, 4), if there are any."""
    if loc_pred is None and loc_target is None:
        return None
    if loc_pred is None or loc_target is None:
        missing, given = ("loc_pred", "loc_target") if loc_pred is None else ("loc_target", "loc_pred")
        refuse(missing, f"an array, for {given} is given", "None", TypeError)
    pred, target = as_array("loc_pred", loc_pred), as_array("loc_target", loc_target)
    anchors = batch.conf_loss.shape
    if pred.shape[:-1] != anchors or pred.shape[-1] == 0:
        refuse("loc_pred", f"one box for each of the anchors {anchors}", f"shape {pred.shape}")
    if target.shape != pred.shape:
        refuse("loc_target", f"the shape of loc_pred {pred.shape}", f"shape {target.shape}")
    if batch.is_dense:
        return check_locations(pred, target, beta)
    pred, target = check_locations(pred[None], target[None], beta)
    return pred[0], target[0]


def check_beta(beta: float) -> None:
    """Refuse an end of the parabola that is no length."""
    if isinstance(beta, bool | np.bool_) or not isinstance(beta, int | float | np.integer | np.floating):
        refuse("beta", "a finite number of at least 0", f"{beta!r}", TypeError)
    if not 0 <= beta < np.inf:
        refuse("beta", "a finite number of at least 0", f"{beta}")


def _difference(pred: NDArray[Any], target: NDArray[Any]) -> NDArray[Any]:
    dtype = np.promote_types(kernel_dtype(pred.dtype), kernel_dtype(target.dtype))
    return np.asarray(np.subtract(pred, target, dtype=dtype))


def _costs(size: NDArray[Any], beta: float) -> NDArray[Any]:
    """Compute the loss of absolute differences, each by itself."""
    if beta == 0:
        return size
    scale = size.dtype.type(beta)
    if not 0 < scale < np.inf:  # beyond this type
        return _costs(size.astype(np.float64), beta).astype(size.dtype)
    inside = np.minimum(size, scale)  # of an infinite difference, the square alone would be inf - inf
    return np.asarray(inside * (inside / scale) / 2 + (size - inside))  # the square could be inf too
