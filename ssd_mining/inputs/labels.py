"""Labels of every form become unsigned integers and three codes, all that a kernel asks of them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import check_int, refuse
from ssd_mining.inputs.arrays import as_array, native, read_only
from ssd_mining.mining_rule import AllZeroRows, Mining

# A row of soft scores may miss 1 by this much: float16 keeps three digits, and 91 of them add up.
SCORE_SUM_TOLERANCE = 1e-2

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
NEGATIVE, IGNORED, BAD = 0, 2, 255  # label codes, where we make them ourselves; 1 is a positive


def as_labels(labels: ArrayLike, shape: tuple[int, ...], mining: Mining) -> NDArray[Any]:
    """Turn labels of any form into a checked array, without a pass over its values; `shape` is that of the losses."""
    array = as_array("labels", labels)
    axes = "B, A" if len(shape) == 2 else "N,"
    if array.ndim not in (len(shape), len(shape) + 1):
        refuse("labels", f"a ({axes}) or a ({axes.rstrip(',')}, C) array", f"shape {array.shape}")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        refuse("labels", "integer classes, a bool pos_mask or one-hot scores", f"dtype {array.dtype}", TypeError)
    is_scores = array.ndim > len(shape)
    if array.shape[: len(shape)] != shape:
        expected = f"the shape of conf_loss {shape}" + (" and one axis of classes" if is_scores else "")
        refuse("labels", expected, f"shape {array.shape}")
    if is_scores:
        _check_scores(array, mining)
    elif array.dtype.kind == "f":
        scores = f"({axes.rstrip(',')}, C)"
        expected = f"integer classes or a bool pos_mask of shape ({axes}), or one-hot scores of shape {scores}"
        refuse("labels", expected, f"dtype {array.dtype} of shape {array.shape}", TypeError)
    elif array.dtype.kind == "b":
        _check_pos_mask(mining)
    else:
        _check_classes(array, mining.background)
    return array


def _check_pos_mask(mining: Mining) -> None:
    for name, given in (("background", mining.background), ("ignore_index", mining.ignore_index)):
        if given is not None:
            got = f"{name}={given} with bool labels, which are a pos_mask; pass integer classes, or drop it"
            refuse(name, "None for a pos_mask", got, TypeError)


def _check_classes(classes: NDArray[Any], background: int | None) -> None:
    if background is None:
        got = "None; systems differ between first and last class, so there is no default (often background=0)"
        refuse("background", "the background class, for integer labels", got)
    if background < 0:
        got = f"{background}; integer labels do not tell how many classes there are"
        refuse("background", "a class number of at least 0, for integer labels", got)
    if background > _limits(classes.dtype).max:
        refuse("background", f"a value that labels of dtype {classes.dtype} can hold", f"{background}")


def _check_scores(scores: NDArray[Any], mining: Mining) -> None:
    num_classes = scores.shape[-1]
    if num_classes == 0:
        refuse("labels", "at least one class", f"shape {scores.shape}")
    background = -1 if mining.background is None else mining.background
    if not -num_classes <= background < num_classes:
        refuse("background", f"a class of labels, {-num_classes} to {num_classes - 1}", f"{background}")
    if mining.ignore_index is not None:
        got = f'{mining.ignore_index} with one-hot labels; use valid=, or all_zero="ignore"'
        refuse("ignore_index", "None for one-hot labels", got, TypeError)


class Roles(NamedTuple):
    """What decides the roles of n anchors: their labels, and what the caller says about them."""

    labels: NDArray[Any]  # (n,) integer or bool, or (n, C)
    valid: NDArray[np.bool_] | None  # (n,)
    is_near: NDArray[np.bool_] | None  # (n,) overlaps an object too much to be a negative


def label_codes(roles: Roles, mining: Mining, locate: Callable[[int], str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return labels as unsigned integers, and the codes of background, ignored and highest legal.

    `locate` says where an anchor is, for the errors.
    """
    labels, valid, is_near = roles
    is_bare = valid is None and is_near is None
    if labels.ndim == 2:
        empty = check_rows(roles, locate, all_zero=mining.all_zero)
        background = -1 if mining.background is None else mining.background
        return _own_codes(labels[:, background] == 0, empty if mining.all_zero == "ignore" else None, roles)
    if labels.dtype.kind == "b":
        if is_bare:  # any byte but 0 is true, whoever wrote it
            return native(labels, labels.dtype).view(np.uint8), _class_codes(np.dtype(np.uint8), 0, 0)
        return _own_codes(labels.view(np.uint8) != 0, None, roles)
    background = cast("int", mining.background)  # as_labels refused None
    ignore = background if mining.ignore_index is None else mining.ignore_index
    if not is_bare:
        ignored = (labels == ignore) & (labels != background)
        return _own_codes(labels != background, ignored, roles, bad=(labels < 0) & ~ignored)
    # Equality is all that the kernel asks of a label, so the bits of any integer type serve.
    dtype = labels.dtype if labels.dtype.isnative else labels.dtype.newbyteorder("=")
    return native(labels, dtype).view(_UNSIGNED[dtype.itemsize]), _class_codes(dtype, background, ignore)


_limits = functools.cache(np.iinfo)


@functools.lru_cache(maxsize=128)
def _class_codes(dtype: np.dtype[Any], background: int, ignore: int) -> NDArray[Any]:
    """Return the codes of background, ignored and highest legal label, as the bits of integers of that dtype."""
    limits = _limits(dtype)
    if not limits.min <= ignore <= limits.max:
        ignore = background  # no label of this dtype can be the ignored one
    return read_only(np.array([background, ignore, limits.max], dtype).view(_UNSIGNED[dtype.itemsize]))


def _own_codes(
    pos_mask: NDArray[np.bool_],
    ignored: NDArray[np.bool_] | None,
    roles: Roles,
    bad: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return label codes made from masks."""
    own = pos_mask.astype(np.uint8)
    near = None if roles.is_near is None else roles.is_near & ~pos_mask
    invalid = None if roles.valid is None else ~roles.valid
    for mask, code in ((bad, BAD), (ignored, IGNORED), (near, IGNORED), (invalid, IGNORED)):
        if mask is not None:
            own[mask] = code
    # Codes beyond the highest of int8 are bad.
    return read_only(own), _class_codes(np.dtype(np.int8), NEGATIVE, IGNORED)


def own_codes(labels: NDArray[Any], codes: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Translate labels and codes of any width into our own, of a byte, in a fresh array."""
    background, ignored, highest = codes
    own = np.ones(labels.shape, np.uint8)
    for mask, code in ((labels > highest, BAD), (labels == ignored, IGNORED), (labels == background, NEGATIVE)):
        own[mask] = code
    return own, _class_codes(np.dtype(np.int8), NEGATIVE, IGNORED)


def check_rows(roles: Roles, locate: Callable[[int], str], *, all_zero: AllZeroRows) -> NDArray[np.bool_]:
    """Check that every row of scores that counts is one-hot or soft; return which rows are all zero."""
    scores = roles.labels
    # Over short rows einsum is five times as fast as sum.
    sums = np.einsum("ac->a", scores, dtype=np.float32, casting="unsafe")  # (n,)
    empty = sums == 0
    if empty.any():
        empty &= ~scores.any(axis=1)  # scores below float32 add up to 0 too
    wrong = ~(empty | (np.abs(sums - 1) <= SCORE_SUM_TOLERANCE))
    # A row that adds up to 1 or 0 can still hide a negative score: one pass over all values rules that out.
    if scores.size and not scores.min() >= 0:  # also true of NaN, which hides the negative ones
        wrong |= (scores < 0).any(axis=1)
    if all_zero == "raise":
        wrong |= empty
    if roles.valid is not None:
        wrong &= roles.valid
    if wrong.any():
        anchor = int(wrong.argmax())
        row = np.array2string(scores[anchor], threshold=8, separator=", ")
        hint = "" if all_zero == "raise" else " (or are all zero)"
        expected = f"one-hot or soft scores, which are never negative and add up to 1{hint}"
        refuse("labels", expected, f"{row} at {locate(anchor)}")
    return cast("NDArray[np.bool_]", empty)


def check_targets(roles: Roles, locate: Callable[[int], str]) -> None:
    """Check that every row of targets that counts holds numbers from 0 to 1, whatever they add up to."""
    targets = roles.labels
    if not targets.size or (targets.min() >= 0 and targets.max() <= 1):
        return
    wrong = ~((targets >= 0) & (targets <= 1)).all(axis=1)  # also true of NaN
    if roles.valid is not None:
        wrong &= roles.valid
    if wrong.any():
        anchor = int(wrong.argmax())
        row = np.array2string(targets[anchor], threshold=8, separator=", ")
        refuse("labels", "a target from 0 to 1 for each class", f"{row} at {locate(anchor)}")


def integer_labels(labels: ArrayLike, shape: tuple[int, ...], ignore_index: object) -> NDArray[Any]:
    """Check labels that are to be relabelled with `ignore_index`."""
    check_int("ignore_index", ignore_index)
    array = as_array("labels", labels)
    if array.dtype.kind not in "iu":
        refuse("labels", "integer classes", f"dtype {array.dtype}", TypeError)
    if array.shape != shape:
        refuse("labels", f"the shape that was mined {shape}", f"shape {array.shape}")
    limits = np.iinfo(array.dtype)
    if not limits.min <= cast("int", ignore_index) <= limits.max:
        refuse("ignore_index", f"a value that labels of dtype {array.dtype} can hold", f"{ignore_index}")
    return array
