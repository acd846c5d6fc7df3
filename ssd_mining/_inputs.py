"""The input boundary: what a call was given becomes a checked `Batch`, and every error in its values is raised here.

Nothing reaches a kernel that did not pass `check`: raw Numba checks no shapes and reads out of bounds silently.
What costs a pass over the values (NaN, labels out of range) is counted by the kernel on the way and raised by
`raise_bad_values` before any result leaves.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining._arrays import (
    FLOAT32,
    FLOAT64,
    as_array,
    as_real_array,
    check_shape,
    kernel_dtype,
    native,
    read_only,
    refuse,
)
from ssd_mining._labels import as_labels, label_codes
from ssd_mining._spec import Mined, Mining, Rows

# Rows are handed to a kernel in blocks: converted copies stay small, and Ctrl-C arrives between two blocks.
BLOCK_ELEMENTS = 2_000_000


@dataclass(frozen=True, eq=False)
class Batch:
    """Arrays that passed `check`: views of the caller's, in their own dtype and layout."""

    conf_loss: NDArray[Any]  # (B, A) float or integer
    labels: NDArray[Any]  # (B, A) integer or bool, or (B, A, C)
    rank_by: NDArray[Any] | None  # (B, A)
    valid: NDArray[np.bool_] | None  # (B, A)
    quotas: NDArray[np.int64]  # (B,), or (0,): the rule decides
    dtype: np.dtype[Any]  # float32 or float64: what the kernel computes with
    mining: Mining

    @property
    def blocks(self) -> Iterator[slice]:
        """Slices of the batch, each of at most `BLOCK_ELEMENTS` losses or scores but for a single sample."""
        per_sample = math.prod(self.labels.shape[1:])
        step = max(1, BLOCK_ELEMENTS // max(1, per_sample))
        for start in range(0, self.conf_loss.shape[0], step):
            yield slice(start, min(start + step, self.conf_loss.shape[0]))

    def rows(self, block: slice) -> Rows:
        """Return the rows of one block as a kernel takes them; a view where dtype and layout allow it."""
        valid = None if self.valid is None else self.valid[block]
        labels, codes = label_codes(self.labels[block], valid, self.mining, block.start)
        loss = native(self.conf_loss[block], self.dtype)
        rank = _NO_ROWS[self.dtype] if self.rank_by is None else native(self.rank_by[block], self.dtype)
        quotas = self.quotas if self.quotas is _NO_QUOTAS else read_only(self.quotas[block])
        return Rows(loss, rank, labels, codes, quotas)


def check(
    conf_loss: ArrayLike,
    labels: ArrayLike,
    mining: Mining,
    *,
    valid: ArrayLike | None = None,
    num_negatives: ArrayLike | None = None,
    rank_by: ArrayLike | None = None,
) -> Batch:
    """Check everything about the inputs that can be known without a pass over their values."""
    loss = as_real_array("conf_loss", conf_loss)
    if loss.ndim != 2:
        refuse("conf_loss", "a (B, A) array", f"shape {loss.shape}")
    label_array = as_labels(labels, loss.shape, mining)
    rank = None
    if rank_by is not None:
        rank = as_real_array("rank_by", rank_by)
        check_shape("rank_by", rank, loss.shape)
    if valid is not None:
        valid = as_array("valid", valid)
        if valid.dtype != np.bool_:
            refuse("valid", "a bool array, True where the anchor counts", f"dtype {valid.dtype}", TypeError)
        check_shape("valid", valid, loss.shape)
    dtype = kernel_dtype(loss.dtype)
    if rank is not None:
        dtype = np.promote_types(dtype, kernel_dtype(rank.dtype))
    quotas = _quotas(num_negatives, loss.shape[0])
    return Batch(loss, label_array, rank, valid, quotas, dtype, mining)


def raise_bad_values(batch: Batch, block: slice, mined: Mined) -> None:
    """Raise for what the kernel counted in this block: labels out of range, NaN under ``nan_policy="raise"``."""
    if np.count_nonzero(mined.num_bad):
        sample = block.start + int(np.flatnonzero(mined.num_bad)[0])
        row = batch.labels[sample]
        bad = row < 0
        if batch.mining.ignore_index is not None:
            bad &= row != batch.mining.ignore_index
        if batch.valid is not None:
            bad &= batch.valid[sample]
        anchor = int(bad.argmax())  # 0 if another thread has changed the label since the kernel counted it
        expected = "class numbers of at least 0"
        if batch.mining.ignore_index is not None:
            expected += f" or ignore_index ({batch.mining.ignore_index})"
        hint = "" if batch.mining.ignore_index is not None else "; name the label of ignored anchors in ignore_index"
        refuse("labels", expected, f"{row[anchor]} at (sample {sample}, anchor {anchor}){hint}")
    if batch.mining.nan_policy == "raise" and np.count_nonzero(mined.num_nan):
        first = int(np.flatnonzero(mined.num_nan)[0])
        sample = block.start + first
        rows = batch.rows(slice(sample, sample + 1))
        counts = rows.labels[0] != rows.codes[1]
        if rows.codes[0] == rows.codes[1]:
            counts[:] = True
        for name, values in (("conf_loss", batch.conf_loss), ("rank_by", batch.rank_by)):
            if values is None:
                continue
            anchors = np.flatnonzero(np.isnan(values[sample]) & counts)
            if anchors.size:
                got = f"NaN at (sample {sample}, anchor {anchors[0]})"
                refuse(name, 'no NaN (nan_policy="raise"; "omit" and "propagate" allow it)', got)


def _quotas(num_negatives: ArrayLike | None, num_samples: int) -> NDArray[np.int64]:
    if num_negatives is None:
        return _NO_QUOTAS
    array = as_array("num_negatives", num_negatives)
    if array.dtype.kind not in "iu":
        refuse("num_negatives", "whole numbers", f"dtype {array.dtype}", TypeError)
    if array.shape not in ((), (num_samples,)):
        refuse("num_negatives", f"one number, or one per sample ({num_samples},)", f"shape {array.shape}")
    if (array < 0).any():
        sample = int(np.flatnonzero(array < 0)[0])
        refuse("num_negatives", "numbers of at least 0", f"{array.flat[sample]} for sample {sample}")
    return np.array(np.broadcast_to(_saturated(array), (num_samples,)))


def _saturated(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Return counts as int64, those beyond it as its largest value."""
    if counts.dtype.kind == "u" and counts.dtype.itemsize == 8:
        counts = np.minimum(counts, np.uint64(np.iinfo(np.int64).max))
    return counts.astype(np.int64)


_NO_ROWS = {dtype: read_only(np.empty((0, 0), dtype)) for dtype in (FLOAT32, FLOAT64)}


_NO_QUOTAS = read_only(np.empty(0, np.int64))


def check_counts(**named: ArrayLike) -> list[NDArray[np.int64]]:
    """Check arrays of counts and broadcast them against each other."""
    arrays = []
    for name, value in named.items():
        array = as_array(name, value)
        if array.dtype.kind not in "iu":
            refuse(name, "whole numbers", f"dtype {array.dtype}", TypeError)
        if (array < 0).any():
            refuse(name, "numbers of at least 0", f"{array.min()}")
        arrays.append(_saturated(array))
    try:
        return list(np.broadcast_arrays(*arrays))
    except ValueError:
        refuse(" and ".join(named), "shapes that broadcast", " and ".join(str(a.shape) for a in arrays))
