"""The seed notebook in plain NumPy, with the same names, so that the two can be compared line by line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Notebook:
    """Every tensor of the seed notebook, by its name, dtype and shape (B samples, A anchors)."""

    total_num: NDArray[np.int64]  # (B,)
    negatives_num: NDArray[np.int64]  # (B,)
    positives_num: NDArray[np.int64]  # (B,)
    positives_num_safe: NDArray[np.float32]  # (B,)
    positives_mask: NDArray[np.bool_]  # (B, A)
    negatives_mask: NDArray[np.bool_]  # (B, A)
    positives_conf: NDArray[np.float32]  # (B, A)
    positives_sum: NDArray[np.float32]  # (B,)
    negatives_conf: NDArray[np.float32]  # (B, A)
    negatives_top: NDArray[np.float32]  # (B, A)
    negatives_num_max: NDArray[np.int64]  # (B,)
    negatives_num_max_t: NDArray[np.int64]  # (B, 1)
    rng: NDArray[np.int32]  # (A,)
    range_row: NDArray[np.int64]  # (1, A)
    negatives_max_mask: NDArray[np.bool_]  # (B, A)
    negatives_max: NDArray[np.float32]  # (B, A)
    negatives_max_sum: NDArray[np.float32]  # (B,)
    confidence_loss: NDArray[np.float32]  # (B,)
    batch_confidence_loss: np.float32


def confidence_loss(gt_cl: ArrayLike, conf: ArrayLike) -> Notebook:
    """Compute the seed notebook, cell by cell, in float32.

    Parameters
    ----------
    gt_cl : array_like, (B, A, C)
        One-hot ground truth; the last class is background.
    conf : array_like, (B, A), converted to float32
        Cross-entropy of every anchor, in nats.

    Returns
    -------
    Notebook
        Every tensor that the notebook names.

    Notes
    -----
    It does what the notebook does, not what :mod:`ssd_mining` does: it sets positives to zero before it sorts, so a
    negative with a loss below zero ranks after them, and it sums in float32.

    Examples
    --------
    >>> import numpy as np
    >>> gt_cl = np.eye(2)[[[0, 1, 1, 1, 1]]]
    >>> float(confidence_loss(gt_cl, [[1.0, 0.125, 0.5, 0.25, 0.25]]).batch_confidence_loss)
    2.0
    """
    gt_cl = np.asarray(gt_cl)
    conf = np.asarray(conf, dtype=np.float32)
    batch_size, num_anchors, _ = gt_cl.shape

    total_num = np.ones([batch_size], dtype=np.int64) * np.int64(num_anchors)
    negatives_num = np.count_nonzero(gt_cl[:, :, -1], axis=1).astype(np.int64)
    positives_num = total_num - negatives_num
    positives_num_safe = np.where(positives_num == 0, np.float32(10e-15), positives_num.astype(np.float32))

    positives_mask = gt_cl[:, :, -1] == 0
    negatives_mask = np.logical_not(positives_mask)

    positives_conf = np.where(positives_mask, conf, np.zeros_like(conf))
    positives_sum = positives_conf.sum(axis=-1)
    negatives_conf = np.where(negatives_mask, conf, np.zeros_like(conf))
    negatives_top = -np.sort(-negatives_conf, axis=-1)
    negatives_num_max = np.minimum(negatives_num, 3 * positives_num)
    negatives_num_max_t = np.expand_dims(negatives_num_max, 1)
    rng = np.arange(0, num_anchors, 1, dtype=np.int32)
    range_row = np.expand_dims(rng, 0).astype(np.int64)
    negatives_max_mask = range_row < negatives_num_max_t
    negatives_max = np.where(negatives_max_mask, negatives_top, np.zeros_like(negatives_top))
    negatives_max_sum = negatives_max.sum(axis=-1)

    loss = positives_sum + negatives_max_sum
    return Notebook(
        total_num=total_num,
        negatives_num=negatives_num,
        positives_num=positives_num,
        positives_num_safe=positives_num_safe,
        positives_mask=positives_mask,
        negatives_mask=negatives_mask,
        positives_conf=positives_conf,
        positives_sum=positives_sum,
        negatives_conf=negatives_conf,
        negatives_top=negatives_top,
        negatives_num_max=negatives_num_max,
        negatives_num_max_t=negatives_num_max_t,
        rng=rng,
        range_row=range_row,
        negatives_max_mask=negatives_max_mask,
        negatives_max=negatives_max,
        negatives_max_sum=negatives_max_sum,
        confidence_loss=loss,
        batch_confidence_loss=loss.mean(dtype=np.float32),
    )
