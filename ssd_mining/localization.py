"""The localization loss: `smooth_l1`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import check_number, refuse
from ssd_mining.inputs.arrays import as_real_array, kernel_dtype
from ssd_mining.kernels.loss_rules import smooth_l1_cost


def smooth_l1(loc_pred: ArrayLike, loc_target: ArrayLike, *, beta: float = 1.0) -> NDArray[Any]:
    """Compute the smooth L1 loss of every anchor, summed over its coordinates.

    A difference ``d`` costs ``d**2 / (2 * beta)`` where ``|d| < beta``, else ``|d| - beta / 2``.

    Parameters
    ----------
    loc_pred, loc_target : array_like, (B, A, 4), float16, float32, float64 or integer
        Predicted and target offsets of every anchor; any number of coordinates from 1 on.
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
    NaN and infinities follow IEEE 754. An infinite difference costs inf.

    References
    ----------
    Girshick, "Fast R-CNN", ICCV 2015, equation 3; Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> sm.smooth_l1([[[0.5, 3.0, 0.0, 0.0]]], [[[0.0, 0.0, 0.0, 0.0]]])
    array([[2.625]])
    """
    beta = check_number("beta", beta)
    pred, target = as_real_array("loc_pred", loc_pred), as_real_array("loc_target", loc_target)
    if pred.ndim < 3 or pred.shape[-1] == 0:
        refuse("loc_pred", "a (B, A, 4) array", f"shape {pred.shape}")
    if target.shape != pred.shape:
        refuse("loc_target", f"the shape of loc_pred {pred.shape}", f"shape {target.shape}")
    dtype = np.promote_types(kernel_dtype(pred.dtype), kernel_dtype(target.dtype))
    with np.errstate(invalid="ignore", over="ignore"):
        size: NDArray[Any] = np.abs(np.subtract(pred, target, dtype=dtype))
        if beta and not 0 < dtype.type(beta) < np.inf:  # it would round to 0 or inf
            return np.asarray(smooth_l1_cost(size.astype(np.float64), beta).astype(dtype).sum(axis=-1))
        return np.asarray(smooth_l1_cost(size, dtype.type(beta)).sum(axis=-1))
