"""The input boundary: what a call was given becomes a checked `Batch`, and every error in its values is raised here.

Nothing reaches a kernel that did not pass `check`: raw Numba checks no shapes and reads out of bounds silently.
What costs a pass over the values (NaN, labels out of range) is counted by the kernel on the way and raised by
`raise_bad_values` before any result leaves.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

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

# The kernels fill shorter rows up to a whole word.
SHORTEST_ROW = 64


@dataclass(frozen=True, eq=False)
class Batch:
    """Arrays that passed `check`: views of the caller's, in their own dtype and layout.

    The anchors are the first two axes, (B, A), of a dense batch, and the first one, (N,), of a ragged one.
    """

    conf_loss: NDArray[Any]  # (B, A) or (N,) float or integer
    labels: NDArray[Any]  # (B, A) or (N,) integer or bool, or (B, A, C) or (N, C)
    rank_by: NDArray[Any] | None  # (B, A) or (N,)
    valid: NDArray[np.bool_] | None  # (B, A) or (N,)
    quotas: NDArray[np.int64]  # (B,), or (0,): the rule decides
    offsets: NDArray[np.int64]  # (B + 1,) sample i owns the anchors offsets[i] to offsets[i + 1]
    dtype: np.dtype[Any]  # float32 or float64: what the kernel computes with
    mining: Mining

    @property
    def is_dense(self) -> bool:
        """Whether every sample has the same number of anchors, the second axis."""
        return self.conf_loss.ndim == 2

    @property
    def num_samples(self) -> int:
        """B."""
        return self.offsets.size - 1

    @property
    def blocks(self) -> Iterator[slice]:
        """Slices of the batch, each of at most `BLOCK_ELEMENTS` losses or scores but for a single sample."""
        most = BLOCK_ELEMENTS // max(1, math.prod(self.labels.shape[self.conf_loss.ndim :]))
        if self.is_dense:
            step = max(1, most // max(self.conf_loss.shape[1], SHORTEST_ROW))
            yield from (slice(i, min(i + step, self.num_samples)) for i in range(0, self.num_samples, step))
            return
        room = np.concatenate([[0], np.cumsum(np.maximum(np.diff(self.offsets), SHORTEST_ROW))])
        start = 0
        while start < self.num_samples:
            stop = max(start + 1, int(np.searchsorted(room, room[start] + most, "right")) - 1)
            yield slice(start, stop)
            start = stop

    def anchors(self, block: slice) -> slice:
        """Return which anchors the samples of a block own."""
        return slice(int(self.offsets[block.start]), int(self.offsets[block.stop]))

    def part(self, array: NDArray[Any], block: slice) -> NDArray[Any]:
        """Return what an array with the axes of the losses holds of a block."""
        return array[block if self.is_dense else self.anchors(block)]

    def rows(self, block: slice) -> Rows:
        """Return the rows of one block as a kernel takes them; a view where dtype and layout allow it."""
        valid = None if self.valid is None else self.part(self.valid, block)
        labels, codes = label_codes(self.part(self.labels, block), valid, self.mining, block.start)
        loss = native(self.part(self.conf_loss, block), self.dtype)
        rank = _NO_RANKS[self.dtype]
        if self.rank_by is not None:
            rank = native(self.part(self.rank_by, block), self.dtype)
        quotas = self.quotas if self.quotas is _NO_QUOTAS else read_only(self.quotas[block])
        offsets, shortest, longest = _block_offsets(self, block)
        return Rows(loss.reshape(-1), rank.reshape(-1), labels.reshape(-1), codes, quotas, offsets, shortest, longest)


@functools.lru_cache(maxsize=16)
def dense_offsets(num_samples: int, num_anchors: int) -> NDArray[np.int64]:
    """Return the offsets of a dense batch."""
    return read_only(np.arange(num_samples + 1) * num_anchors)


def _block_offsets(batch: Batch, block: slice) -> tuple[NDArray[np.int64], int, int]:
    """Return the offsets of a block from its own start, and its shortest and longest row."""
    if batch.is_dense:
        num_anchors = batch.conf_loss.shape[1]
        return dense_offsets(block.stop - block.start, num_anchors), num_anchors, num_anchors
    offsets = batch.offsets[block.start : block.stop + 1] - batch.offsets[block.start]
    lengths = np.diff(offsets)
    return read_only(offsets), int(lengths.min()), int(lengths.max())


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
    return Batch(loss, label_array, rank, valid, quotas, dense_offsets(*loss.shape), dtype, mining)


def raise_bad_values(batch: Batch, block: slice, mined: Mined) -> None:
    """Raise for what the kernel counted in this block: labels out of range, NaN under ``nan_policy="raise"``."""
    if np.count_nonzero(mined.num_bad):
        _refuse_label(batch, block.start + int(np.flatnonzero(mined.num_bad)[0]))
    if batch.mining.nan_policy == "raise" and np.count_nonzero(mined.num_nan):
        _refuse_nan(batch, block.start + int(np.flatnonzero(mined.num_nan)[0]))


def _refuse_label(batch: Batch, sample: int) -> NoReturn:
    alone, ignore_index = slice(sample, sample + 1), batch.mining.ignore_index
    row = batch.part(batch.labels, alone).reshape(-1)
    bad = row < 0
    if ignore_index is not None:
        bad &= row != ignore_index
    if batch.valid is not None:
        bad &= batch.part(batch.valid, alone).reshape(-1)
    anchor = int(bad.argmax())  # 0 if another thread has changed the label since the kernel counted it
    expected = "class numbers of at least 0"
    if ignore_index is not None:
        expected += f" or ignore_index ({ignore_index})"
    hint = "" if ignore_index is not None else "; name the label of ignored anchors in ignore_index"
    refuse("labels", expected, f"{row[anchor]} at (sample {sample}, anchor {anchor}){hint}")


def _refuse_nan(batch: Batch, sample: int) -> None:
    rows = batch.rows(slice(sample, sample + 1))
    counts = (rows.labels != rows.codes[1]) | (rows.codes[0] == rows.codes[1])
    for name, values in (("conf_loss", rows.loss), ("rank_by", rows.rank)):
        anchors = np.flatnonzero(np.isnan(values) & counts[: values.size])
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


_NO_RANKS = {dtype: read_only(np.empty(0, dtype)) for dtype in (FLOAT32, FLOAT64)}
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
