"""Turn labels of any form into what a kernel reads: unsigned integers and three codes."""

import functools
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import check_int, refuse
from ssd_mining.choices import AllZeroRows
from ssd_mining.inputs.arrays import as_array, native_dtype, read_only
from ssd_mining.kernels.records import BAD, IGNORED, NEGATIVE, POSITIVE, Mask
from ssd_mining.mining_rule import Mining

Locate = Callable[[int], tuple[int, int]]  # from a row of a block to (sample, anchor)
# From scores, (n, C), the column of background and the role of all-zero rows to the roles of all rows, and how many are
# all zero; None: some row is not one-hot.
OneHotRoles = Callable[[NDArray[Any], int, int], tuple[NDArray[np.uint8], int] | None]

# The sum of a row of soft scores may differ from 1 by this much: 91 float16 scores have three digits each.
SCORE_SUM_TOLERANCE = 1e-2


def check_labels(labels: ArrayLike, shape: tuple[int, ...], mining: Mining) -> NDArray[Any]:
    """Turn labels of any form into an array and check it without reading its values. `shape`: of the losses."""
    array: Any = labels if type(labels) is np.ndarray else as_array("labels", labels)
    axes = ("N,", "B, A", "B, H, W", "B, ...")[min(len(shape), 4) - 1]
    scores = f"({axes.rstrip(',')}, C)"
    if array.shape == shape[: array.ndim] and 1 < array.ndim < len(shape):
        hint = "logits are for mine_logits and multibox_loss"
        refuse("conf_loss", f"one loss for each anchor of labels {array.shape}", f"shape {shape}", hint=hint)
    if array.ndim not in (len(shape), len(shape) + 1):
        refuse("labels", f"a ({axes}) or a {scores} array", f"shape {array.shape}")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        refuse("labels", "integer classes, a bool pos_mask or one-hot scores", f"dtype {array.dtype}", TypeError)
    if array.ndim > len(shape):
        if array.shape[:-1] != shape:
            refuse("labels", f"the shape of conf_loss {shape} and one axis of classes", f"shape {array.shape}")
        _check_scores(array, mining)
        return cast("NDArray[Any]", array)
    if array.shape != shape:
        refuse("labels", f"the shape of conf_loss {shape}", f"shape {array.shape}")
    if array.dtype.kind == "f":
        expected = f"integer classes or a bool pos_mask of shape ({axes}), or one-hot scores of shape {scores}"
        refuse("labels", expected, f"dtype {array.dtype} of shape {array.shape}", TypeError)
    if array.dtype.kind == "b":
        _check_pos_mask(mining)
    return cast("NDArray[Any]", array)


def _check_pos_mask(mining: Mining) -> None:
    for name, given in (("background", mining.background), ("ignore_index", mining.ignore_index)):
        if given is not None:
            got = f"{name}={given} with bool labels, which are a pos_mask; pass integer classes, or drop it"
            refuse(name, "None for a pos_mask", got, TypeError)


def _check_scores(scores: NDArray[Any], mining: Mining) -> None:
    num_classes = scores.shape[-1]
    if num_classes == 0:
        refuse("labels", "at least one class", f"shape {scores.shape}")
    background_column(mining, num_classes)
    if mining.ignore_index is not None:
        got = f'{mining.ignore_index} with one-hot labels; use valid=, or all_zero="ignore"'
        refuse("ignore_index", "None for one-hot labels", got, TypeError)


def background_column(mining: Mining, num_classes: int) -> int:
    """Return the column of background, from 0 on; `num_classes`: there is none, and its rows are all zero."""
    background = mining.background
    if background is None:
        return num_classes if mining.all_zero == "negative" else num_classes - 1
    if not -num_classes <= background <= num_classes:
        expected = f"a class of labels, {-num_classes} to {num_classes - 1}, or {num_classes} without a column for it"
        refuse("background", expected, f"{background}")
    return background + num_classes if background < 0 else background


def role_of_empty(mining: Mining, num_classes: int) -> int:
    """Return the role of an anchor whose row of scores is all zero."""
    if mining.all_zero == "positive" and background_column(mining, num_classes) == num_classes:
        return NEGATIVE
    return _ROLES_OF_EMPTY[mining.all_zero]


_ROLES_OF_EMPTY = {"positive": POSITIVE, "negative": NEGATIVE, "ignore": IGNORED, "raise": BAD}


@functools.lru_cache(maxsize=128)
def codes_of(dtype: np.dtype[Any], background: int | None, ignore_index: int | None) -> NDArray[Any]:
    """Return the `Rows.codes` for bool or integer labels. Refuse a background that such labels cannot have."""
    if dtype == np.bool_:  # any byte but 0 counts as true
        return read_only(np.array([0, 0, 255], np.uint8))
    if background is None:
        got = "None; systems differ between first and last class, so there is no default (often background=0)"
        refuse("background", "the background class, for integer labels", got)
    if background < 0:
        got = f"{background}; integer labels do not tell how many classes there are"
        refuse("background", "a class number of at least 0, for integer labels", got)
    dtype = native_dtype(dtype)
    limits = np.iinfo(dtype)
    if background > limits.max:
        refuse("background", f"a value that labels of dtype {dtype} can hold", f"{background}")
    ignored = background if ignore_index is None or not limits.min <= ignore_index <= limits.max else ignore_index
    return read_only(np.array([background, ignored, limits.max], dtype).view(f"u{dtype.itemsize}"))


def roles_of_labels(
    labels: NDArray[Any],
    mining: Mining,
    valid: Mask | None,
    is_near: Mask | None,
    locate: Locate,
    one_hot_roles: OneHotRoles | None = None,
) -> tuple[NDArray[Any], int]:
    """Return the roles of anchors as labels of `ROLE_CODES`, and how many all-zero rows of scores count as positives.

    `labels` are integers or bools, (n,), or scores, (n, C). `valid`, (n,), marks the anchors that count; `is_near`,
    (n,), those that overlap an object too much to be negatives. `locate` finds the place of an error.
    """
    bad = ignored = empty = None
    if labels.ndim == 2:
        roles, empty = _roles_of_scores(labels, mining, valid, locate, one_hot_roles)
    elif labels.dtype.kind == "b":
        roles = _roles_of(labels.view(np.uint8) != 0)
    else:
        positive = labels != mining.background
        if mining.ignore_index is not None:
            ignored = (labels == mining.ignore_index) & positive
        bad = labels < 0 if ignored is None else (labels < 0) & ~ignored
        roles = _roles_of(positive)
    if is_near is not None:
        roles[is_near & (roles == NEGATIVE)] = IGNORED
    for mask, other in ((bad, BAD), (ignored, IGNORED), (None if valid is None else ~valid, IGNORED)):
        if mask is not None:
            roles[mask] = other
    trapped = 0 if empty is None else int(np.count_nonzero(roles[empty] == POSITIVE))
    return read_only(roles), trapped


def _roles_of(positive: Mask) -> NDArray[np.uint8]:
    return np.where(positive, np.uint8(POSITIVE), np.uint8(NEGATIVE))


def _roles_of_scores(
    scores: NDArray[Any], mining: Mining, valid: Mask | None, locate: Locate, one_hot_roles: OneHotRoles | None
) -> tuple[NDArray[np.uint8], Mask | None]:
    """Return the roles of rows of scores, (n, C), and which rows are all zero; None: none, or they are no positives."""
    column, role = background_column(mining, scores.shape[1]), role_of_empty(mining, scores.shape[1])
    found = None if one_hot_roles is None else one_hot_roles(scores, column, role)
    if found is not None and (found[1] == 0 or role in (NEGATIVE, IGNORED)):
        return found[0], None
    if column < scores.shape[1]:
        empty = check_rows(scores, valid, locate, all_zero=mining.all_zero)
        positive: Mask = scores[:, column] == 0
    else:
        check_targets(scores, valid, locate)
        empty = _empty_rows(scores)[1]
        positive = ~empty
        if role == BAD:
            _refuse_row(scores, empty, valid, locate, "a target above 0 for a class")
    roles = _roles_of(positive)
    if empty.any():
        roles[empty] = role
    return roles, empty if role == POSITIVE else None


def check_rows(scores: NDArray[Any], valid: Mask | None, locate: Locate, *, all_zero: AllZeroRows) -> Mask:
    """Check that the valid rows of scores, (n, C), are one-hot or soft. Return which rows are all zero."""
    sums, empty = _empty_rows(scores)
    wrong: Mask = ~(empty | (np.abs(sums - 1) <= SCORE_SUM_TOLERANCE))
    # A row that adds up to 1 or 0 can still contain a negative score.
    if scores.size and not scores.min() >= 0:  # also true if the minimum is NaN
        wrong |= (scores < 0).any(axis=1)
    if all_zero == "raise":
        wrong |= empty
    hint = "" if all_zero == "raise" else " (or are all zero)"
    _refuse_row(
        scores, wrong, valid, locate, f"one-hot or soft scores, which are never negative and add up to 1{hint}"
    )
    return empty


def _empty_rows(scores: NDArray[Any]) -> tuple[NDArray[np.float32], Mask]:
    """Return the sums of rows of scores, (n, C), and which rows are all zero."""
    # Over short rows einsum is five times as fast as sum.
    sums: NDArray[np.float32] = np.einsum("ac->a", scores, dtype=np.float32, casting="unsafe")  # (n,)
    empty: Mask = sums == 0
    if empty.any():
        empty &= ~scores.any(axis=1)  # scores that float32 rounds to 0 also add up to 0
    return sums, empty


def check_targets(targets: NDArray[Any], valid: Mask | None, locate: Locate) -> None:
    """Check that the valid rows of targets, (n, C), hold numbers from 0 to 1; they need not add up to 1."""
    if targets.size and not (targets.min() >= 0 and targets.max() <= 1):
        wrong = cast("Mask", ~((targets >= 0) & (targets <= 1)).all(axis=1))  # also true for NaN
        _refuse_row(targets, wrong, valid, locate, "a target from 0 to 1 for each class")


def _refuse_row(scores: NDArray[Any], wrong: Mask, valid: Mask | None, locate: Locate, expected: str) -> None:
    """Refuse the first valid row that is wrong, if there is one."""
    if valid is not None:
        wrong = wrong & valid
    if wrong.any():
        first = int(wrong.argmax())
        sample, anchor = locate(first)
        row = np.array2string(scores[first], threshold=8, separator=", ")
        refuse("labels", expected, row, sample=sample, anchor=anchor)


def check_relabelled(labels: ArrayLike, shape: tuple[int, ...], ignore_index: int) -> NDArray[Any]:
    """Check labels that are to be relabelled with `ignore_index`."""
    ignore_index = check_int("ignore_index", ignore_index)
    array = as_array("labels", labels)
    if array.dtype.kind not in "iu":
        refuse("labels", "integer classes", f"dtype {array.dtype}", TypeError)
    if array.shape != shape:
        refuse("labels", f"the shape that was mined {shape}", f"shape {array.shape}")
    limits = np.iinfo(array.dtype)
    if not limits.min <= ignore_index <= limits.max:
        refuse("ignore_index", f"a value that labels of dtype {array.dtype} can hold", f"{ignore_index}")
    return array
