"""The input boundary: array-likes become checked arrays here, and every input error is raised here.

Nothing reaches a kernel that did not pass `check`: raw Numba checks no shapes and reads out of bounds silently.
What costs a pass over the values (NaN, labels out of range) is counted by the kernel on the way and raised by
`raise_bad_values` before any result leaves.
"""

import functools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining._spec import Mined, Mining, Rows

# Rows are handed to a kernel in blocks: converted copies stay small, and Ctrl-C arrives between two blocks.
BLOCK_ELEMENTS = 2_000_000

# A row of soft scores may miss 1 by this much: float16 keeps three digits, and 91 of them add up.
SCORE_SUM_TOLERANCE = 1e-2

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_NEGATIVE, _IGNORED, _BAD = 0, 2, 255  # label codes, where we make them ourselves; 1 is a positive
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


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
        labels, codes = _label_codes(self, block)
        loss = _native(self.conf_loss[block], self.dtype)
        rank = _NO_ROWS[self.dtype] if self.rank_by is None else _native(self.rank_by[block], self.dtype)
        quotas = self.quotas if self.quotas is _NO_QUOTAS else _read_only(self.quotas[block])
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
    loss = _real_array("conf_loss", conf_loss)
    if loss.ndim != 2:
        _refuse("conf_loss", "a (B, A) array", f"shape {loss.shape}")
    label_array = _label_array(labels, loss.shape, mining)
    rank = None
    if rank_by is not None:
        rank = _real_array("rank_by", rank_by)
        _check_shape("rank_by", rank, loss.shape)
    if valid is not None:
        valid = _array("valid", valid)
        if valid.dtype != np.bool_:
            _refuse("valid", "a bool array, True where the anchor counts", f"dtype {valid.dtype}", TypeError)
        _check_shape("valid", valid, loss.shape)
    dtype = _kernel_dtype(loss.dtype)
    if rank is not None:
        dtype = np.promote_types(dtype, _kernel_dtype(rank.dtype))
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
        _refuse("labels", expected, f"{row[anchor]} at (sample {sample}, anchor {anchor}){hint}")
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
                _refuse(name, 'no NaN (nan_policy="raise"; "omit" and "propagate" allow it)', got)


def _refuse(name: str, expected: str, got: str, error: type[Exception] = ValueError) -> NoReturn:
    message = f"{name}: expected {expected}, got {got}"
    raise error(message)


def _array(name: str, value: ArrayLike) -> NDArray[Any]:
    """Turn an array-like into an ndarray, without a copy where it holds one."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        hint = "a masked array; pass its .data, and valid=~np.ma.getmaskarray(...)"
        _refuse(name, "an array without a mask", hint, TypeError)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        _check_tensor(name, value, torch)
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"{name}: expected an array, got {type(value).__name__} that NumPy cannot convert ({error})"
        raise TypeError(message) from error


def _check_tensor(name: str, tensor: Any, torch: Any) -> None:
    if tensor.requires_grad:
        _refuse(name, "a tensor without gradient", "one that requires grad; pass tensor.detach()", TypeError)
    if tensor.device.type != "cpu":
        _refuse(name, "a tensor on the CPU", f"one on {tensor.device}; pass tensor.cpu()", TypeError)
    if tensor.dtype == torch.bfloat16:
        _refuse(name, "a dtype that NumPy has", "torch.bfloat16; pass tensor.float()", TypeError)


def _real_array(name: str, value: ArrayLike) -> NDArray[Any]:
    array = _array(name, value)
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        expected = "float16, float32, float64 or integer values"
        _refuse(name, expected, f"dtype {array.dtype}", TypeError)
    return array


def _label_array(labels: ArrayLike, shape: tuple[int, ...], mining: Mining) -> NDArray[Any]:
    array = _array("labels", labels)
    if array.ndim not in (2, 3):
        _refuse("labels", "a (B, A) or a (B, A, C) array", f"shape {array.shape}")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        _refuse("labels", "integer classes, a bool pos_mask or one-hot scores", f"dtype {array.dtype}", TypeError)
    if array.shape[:2] != shape:
        expected = f"the shape of conf_loss {shape}" + (" and one axis of classes" if array.ndim == 3 else "")
        _refuse("labels", expected, f"shape {array.shape}")
    if array.ndim == 3:
        _check_scores(array, mining)
    elif array.dtype.kind == "f":
        expected = "integer classes or a bool pos_mask of shape (B, A), or one-hot scores of shape (B, A, C)"
        _refuse("labels", expected, f"dtype {array.dtype} of shape {array.shape}", TypeError)
    elif array.dtype.kind == "b":
        _check_pos_mask(mining)
    else:
        _check_classes(array, mining.background)
    return array


def _check_pos_mask(mining: Mining) -> None:
    for name, given in (("background", mining.background), ("ignore_index", mining.ignore_index)):
        if given is not None:
            got = f"{name}={given} with bool labels, which are a pos_mask; pass integer classes, or drop it"
            _refuse(name, "None for a pos_mask", got, TypeError)


def _check_classes(classes: NDArray[Any], background: int | None) -> None:
    if background is None:
        got = "None; systems differ between first and last class, so there is no default (often background=0)"
        _refuse("background", "the background class, for integer labels", got)
    if background < 0:
        got = f"{background}; integer labels do not tell how many classes there are"
        _refuse("background", "a class number of at least 0, for integer labels", got)
    if background > _limits(classes.dtype).max:
        _refuse("background", f"a value that labels of dtype {classes.dtype} can hold", f"{background}")


def _check_scores(scores: NDArray[Any], mining: Mining) -> None:
    num_classes = scores.shape[2]
    if num_classes == 0:
        _refuse("labels", "at least one class", f"shape {scores.shape}")
    background = -1 if mining.background is None else mining.background
    if not -num_classes <= background < num_classes:
        _refuse("background", f"a class of labels, {-num_classes} to {num_classes - 1}", f"{background}")
    if mining.ignore_index is not None:
        got = f'{mining.ignore_index} with one-hot labels; use valid=, or all_zero="ignore"'
        _refuse("ignore_index", "None for one-hot labels", got, TypeError)


def _check_shape(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        _refuse(name, f"the shape of conf_loss {shape}", f"shape {array.shape}")


def _quotas(num_negatives: ArrayLike | None, num_samples: int) -> NDArray[np.int64]:
    if num_negatives is None:
        return _NO_QUOTAS
    array = _array("num_negatives", num_negatives)
    if array.dtype.kind not in "iu":
        _refuse("num_negatives", "whole numbers", f"dtype {array.dtype}", TypeError)
    if array.shape not in ((), (num_samples,)):
        _refuse("num_negatives", f"one number, or one per sample ({num_samples},)", f"shape {array.shape}")
    if (array < 0).any():
        sample = int(np.flatnonzero(array < 0)[0])
        _refuse("num_negatives", "numbers of at least 0", f"{array.flat[sample]} for sample {sample}")
    return np.array(np.broadcast_to(_saturated(array), (num_samples,)))


def _saturated(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Return counts as int64, those beyond it as its largest value."""
    if counts.dtype.kind == "u" and counts.dtype.itemsize == 8:
        counts = np.minimum(counts, np.uint64(np.iinfo(np.int64).max))
    return counts.astype(np.int64)


def _kernel_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Say what the kernel computes with: float32 where it holds every value exactly, else float64."""
    exact = dtype.itemsize <= 4 if dtype.kind == "f" else dtype.itemsize <= 2
    return _FLOAT32 if exact else _FLOAT64


def _native(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if array.dtype != dtype or not (array.flags.c_contiguous and array.flags.aligned):
        array = np.require(array, dtype, ("C_CONTIGUOUS", "ALIGNED"))
    return _read_only(array)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that is read-only, so that Numba sees one type whatever the caller's flags are."""
    view = array.view()
    view.flags.writeable = False
    return view


_NO_ROWS = {dtype: _read_only(np.empty((0, 0), dtype)) for dtype in (_FLOAT32, _FLOAT64)}
_NO_QUOTAS = _read_only(np.empty(0, np.int64))


def _label_codes(batch: Batch, block: slice) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the labels of a block as unsigned integers, and the codes of background, ignored and highest legal."""
    labels, mining = batch.labels[block], batch.mining
    valid = None if batch.valid is None else batch.valid[block]
    if labels.ndim == 3:
        empty = _check_rows(labels, mining, block.start)
        background = -1 if mining.background is None else mining.background
        return _own_codes(labels[:, :, background] == 0, empty if mining.all_zero == "ignore" else None, valid)
    if labels.dtype.kind == "b":
        if valid is None:  # any byte but 0 is true, whoever wrote it
            return _native(labels, labels.dtype).view(np.uint8), _class_codes(np.dtype(np.uint8), 0, 0)
        return _own_codes(labels.view(np.uint8) != 0, None, valid)
    background = cast("int", mining.background)  # _label_array refused None
    ignore = background if mining.ignore_index is None else mining.ignore_index
    if valid is not None:
        ignored = (labels == ignore) & (labels != background)
        return _own_codes(labels != background, ignored, valid, bad=(labels < 0) & ~ignored)
    # Equality is all that the kernel asks of a label, so the bits of any integer type serve.
    native = labels.dtype if labels.dtype.isnative else labels.dtype.newbyteorder("=")
    return _native(labels, native).view(_UNSIGNED[native.itemsize]), _class_codes(native, background, ignore)


_limits = functools.cache(np.iinfo)


@functools.lru_cache(maxsize=128)
def _class_codes(dtype: np.dtype[Any], background: int, ignore: int) -> NDArray[Any]:
    """Return the codes of background, ignored and highest legal label, as the bits of integers of that dtype."""
    limits = _limits(dtype)
    if not limits.min <= ignore <= limits.max:
        ignore = background  # no label of this dtype can be the ignored one
    return _read_only(np.array([background, ignore, limits.max], dtype).view(_UNSIGNED[dtype.itemsize]))


def _own_codes(
    pos_mask: NDArray[np.bool_],
    ignored: NDArray[np.bool_] | None,
    valid: NDArray[np.bool_] | None,
    bad: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return label codes made from masks."""
    codes = _class_codes(np.dtype(np.int8), _NEGATIVE, _IGNORED)  # beyond the highest of int8: bad
    own = pos_mask.astype(np.uint8, order="C")
    for mask, code in ((bad, _BAD), (ignored, _IGNORED), (None if valid is None else ~valid, _IGNORED)):
        if mask is not None:
            own[mask] = code
    return _read_only(own), codes


def _check_rows(scores: NDArray[Any], mining: Mining, start: int) -> NDArray[np.bool_]:
    """Check that every row of scores is one-hot or soft; return which are all zero."""
    # Over short rows einsum is five times as fast as sum.
    sums = np.einsum("bac->ba", scores, dtype=np.float32, casting="unsafe")  # (b, A)
    empty = sums == 0
    wrong = ~(empty | (np.abs(sums - 1) <= SCORE_SUM_TOLERANCE))
    # A row that adds up to 1 or 0 can still hide a negative score: one pass over all values rules that out.
    if scores.size and not scores.min() >= 0:  # also true of NaN, which hides the negative ones
        wrong |= (scores < 0).any(axis=2)
    if mining.all_zero == "raise":
        wrong |= empty
    if wrong.any():
        sample, anchor = (int(i) for i in np.argwhere(wrong)[0])
        row = np.array2string(scores[sample, anchor], threshold=8, separator=", ")
        hint = "" if mining.all_zero == "raise" else " (or are all zero)"
        expected = f"one-hot or soft scores, which are never negative and add up to 1{hint}"
        _refuse("labels", expected, f"{row} at (sample {start + sample}, anchor {anchor})")
    return cast("NDArray[np.bool_]", empty)


def integer_labels(labels: ArrayLike, shape: tuple[int, ...], ignore_index: int) -> NDArray[Any]:
    """Check labels that are to be relabelled with `ignore_index`."""
    array = _array("labels", labels)
    if array.dtype.kind not in "iu":
        _refuse("labels", "integer classes", f"dtype {array.dtype}", TypeError)
    if array.shape != shape:
        _refuse("labels", f"the shape that was mined {shape}", f"shape {array.shape}")
    limits = np.iinfo(array.dtype)
    if not limits.min <= ignore_index <= limits.max:
        _refuse("ignore_index", f"a value that labels of dtype {array.dtype} can hold", f"{ignore_index}")
    return array


def check_counts(**named: ArrayLike) -> list[NDArray[np.int64]]:
    """Check arrays of counts and broadcast them against each other."""
    arrays = []
    for name, value in named.items():
        array = _array(name, value)
        if array.dtype.kind not in "iu":
            _refuse(name, "whole numbers", f"dtype {array.dtype}", TypeError)
        if (array < 0).any():
            _refuse(name, "numbers of at least 0", f"{array.min()}")
        arrays.append(_saturated(array))
    try:
        return list(np.broadcast_arrays(*arrays))
    except ValueError:
        _refuse(" and ".join(named), "shapes that broadcast", " and ".join(str(a.shape) for a in arrays))
