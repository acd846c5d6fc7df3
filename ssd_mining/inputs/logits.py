"""Check logits and their labels: `Logits`, which hands rows to a kernel."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import check_class_axis, check_int, refuse
from ssd_mining.choices import AllZeroRows
from ssd_mining.classification import Classification, Sigmoid, Softmax
from ssd_mining.inputs.arrays import as_array, check_valid, kernel_dtype, native, read_only
from ssd_mining.inputs.labels import check_rows, check_targets
from ssd_mining.kernels.records import LogitRows, SigmoidRule, SoftmaxRule

RankKind = Literal["background", "foreground_max"]

_SOFTMAX = Softmax()
_NO_SCORES = {np.dtype(dtype): read_only(np.empty((0, 0, 0), dtype)) for dtype in (np.float32, np.float64)}


@dataclass(frozen=True, eq=False)
class Logits:
    """Checked logits of B samples, or of a ragged batch, whose N anchors count as one sample here.

    `check_logits` has refused wrong shapes and types. A label that is not a class is refused when it is read.
    """

    values: NDArray[Any]  # (B, A, C) or (1, N, C) in the caller's dtype; a view of its array where strides allow it
    labels: NDArray[Any]  # (B, A) integers or (B, A, C) scores, likewise
    dtype: np.dtype[Any]  # of the losses: float64 from float64 logits, else float32
    classification: Classification
    rule: SoftmaxRule | SigmoidRule  # the numbers of the classification
    background: int | None  # 0 to C; C: a sigmoid head whose background has no logit
    ignore_index: int | None
    valid: NDArray[np.bool_] | None  # (B, A)
    mask_shape: tuple[int, ...]  # (B, A), or (B, H, W) and the like: of the caller's anchors
    offsets: NDArray[np.int64] | None = None  # (S + 1,) of a ragged batch
    ranked: RankKind | None = None  # compute ranks of this kind, not losses

    def ranks(self, kind: RankKind, background: int) -> "Logits":
        """Return the same logits, to compute ranks instead of losses.

        ``"background"``: the unweighted loss of the anchor as background, for a softmax ``-log(p_background)``.
        ``"foreground_max"``: the logarithm of the largest probability among all other classes.
        """
        background = normalized_background(background, self.values.shape[2], self.classification)
        unweighted = _SOFTMAX if isinstance(self.classification, Softmax) else Sigmoid()
        return replace(
            self,
            labels=np.broadcast_to(np.int64(background), self.values.shape[:2]),
            classification=unweighted,
            rule=unweighted.rule._replace(excluded=background if kind == "foreground_max" else -1),
            background=background,
            ignore_index=None,
            valid=None,
            ranked=kind,
        )

    def of_anchors(self, anchors: NDArray[np.int64]) -> "Logits":
        """Return copies of some anchors, (K,), counted in C order: each as a sample of its own."""
        place = np.divmod(anchors, self.values.shape[1])
        chosen: dict[str, Any] = {}
        for name, array in (("values", self.values), ("labels", self.labels), ("valid", self.valid)):
            if array is not None and array.flags.c_contiguous:  # in a fifth of the time
                chosen[name] = array.reshape(-1, *array.shape[2:]).take(anchors, axis=0)[:, None]
            elif array is not None:
                chosen[name] = array[place][:, None]
        return replace(self, **chosen)

    def rows(self, samples: slice, anchors: slice) -> LogitRows:
        """Return the rows of some anchors of some samples as a kernel takes them: views where possible."""
        values: NDArray[Any] = np.ascontiguousarray(self.values[samples, anchors], self.dtype)
        if not values.flags.aligned:
            values = values.copy()
        values.flags.writeable = False  # our own view or copy
        labels, valid = self.labels[samples, anchors], None if self.valid is None else self.valid[samples, anchors]
        scores = _NO_SCORES[self.dtype]
        if labels.ndim == 3:
            self._check_scores(labels, valid, samples, anchors)
            scores, labels = native(labels, self.dtype), np.zeros(labels.shape[:2], np.int64)
        if valid is not None or self.ignore_index is not None:
            labels = np.where(self._are_ignored(labels, valid), -1, labels.astype(np.int64))
        labels = np.ascontiguousarray(labels, np.int64)
        if not labels.flags.aligned:
            labels = labels.copy()
        labels.flags.writeable = False
        return LogitRows(values, labels, scores, weights_of(self.classification, self.values.shape[2], self.dtype))

    def _check_scores(self, scores: NDArray[Any], valid: NDArray[np.bool_] | None, *place: slice) -> None:
        rows = scores.reshape(-1, self.values.shape[2])
        valid_rows, where = None if valid is None else valid.reshape(-1), self._locator(*place)
        if isinstance(self.classification, Softmax):
            check_rows(rows, valid_rows, where, all_zero="positive")
        else:  # each class has its own target
            check_targets(rows, valid_rows, where)

    def _are_ignored(self, labels: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        ignored = np.zeros(labels.shape, np.bool_) if valid is None else ~valid
        if self.ignore_index is not None:
            ignored |= labels == self.ignore_index
        return ignored

    def _locator(self, samples: slice, anchors: slice) -> Callable[[int], tuple[int, int]]:
        """Return the function that finds the sample and the anchor of a row of this block."""
        num_anchors = len(range(*anchors.indices(self.values.shape[1])))

        def where(row: int) -> tuple[int, int]:
            sample, anchor = divmod(row, num_anchors)
            if self.offsets is None:
                return (samples.start or 0) + sample, anchor
            return locate(self.offsets, (anchors.start or 0) + anchor)

        return where

    def check_classes(self, samples: slice, anchors: slice) -> None:
        """Refuse labels that are neither classes nor ignored."""
        labels, valid = self.labels[samples, anchors], None if self.valid is None else self.valid[samples, anchors]
        if labels.ndim == 3:
            return
        known = self.values.shape[2] + (self.background == self.values.shape[2])
        bad = ((labels < 0) | (labels >= known)) & ~self._are_ignored(labels, valid)
        if bad.any():
            first = int(bad.argmax())
            sample, anchor = self._locator(samples, anchors)(first)
            expected = f"class numbers from 0 to {known - 1}"
            refuse_label(expected, f"{labels.flat[first]}", self.ignore_index, sample, anchor)


@functools.lru_cache(maxsize=32)
def weights_of(classification: Classification, num_classes: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the weights of the classes, (C,)."""
    weights = getattr(classification, "class_weights", None) or (1.0,) * num_classes
    return read_only(np.array(weights, dtype))


def refuse_label(expected: str, got: str, ignore_index: int | None, sample: int, anchor: int) -> None:
    """Refuse a label that is not a class, with a hint at `ignore_index` unless the caller uses it."""
    if ignore_index is not None:
        expected += f" or ignore_index ({ignore_index})"
    hint = "" if ignore_index is not None else "name the label of ignored anchors in ignore_index"
    refuse("labels", expected, got, sample=sample, anchor=anchor, hint=hint)


def locate(offsets: NDArray[np.int64], anchor: int) -> tuple[int, int]:
    """Return the sample of an anchor of a ragged batch, and its index in that sample."""
    sample = int(np.searchsorted(offsets, anchor, "right")) - 1
    return sample, anchor - int(offsets[sample])


def check_logits(
    logits: ArrayLike,
    labels: ArrayLike,
    classification: Classification,
    *,
    background: int | None = None,
    ignore_index: int | None = None,
    valid: ArrayLike | None = None,
    class_axis: int = -1,
    all_zero: AllZeroRows = "positive",
) -> Logits:
    """Check everything about logits and labels that does not need their values."""
    x: Any = logits if type(logits) is np.ndarray else as_array("logits", logits)
    class_axis, ignore_index = _whole_numbers(class_axis, ignore_index, x.ndim)
    if x.ndim < 3:
        refuse("logits", "a (B, A, C) array" if class_axis != 1 else "a (B, C, A) array", f"shape {x.shape}")
    if x.dtype.kind != "f" or x.dtype.itemsize > 8:
        refuse("logits", "float16, float32 or float64 values", f"dtype {x.dtype}", TypeError)
    x = x if class_axis == -1 else np.moveaxis(x, class_axis, -1)
    mask_shape, num_classes = x.shape[:-1], x.shape[-1]
    if num_classes == 0:
        refuse("logits", "at least one class", f"shape {x.shape}")
    weights = getattr(classification, "class_weights", None)
    if weights is not None and len(weights) != num_classes:
        refuse("class_weights", f"one weight for each of {num_classes} classes", f"{len(weights)}")
    y = _check_labels(labels, x, ignore_index, class_axis)
    if background is None and y.ndim == x.ndim and all_zero == "negative":
        background = num_classes
    if background is not None:
        background = normalized_background(background, num_classes, classification)
        if ignore_index == background:
            refuse("ignore_index", "a label other than background", f"{ignore_index} for both")
    if valid is not None:
        valid = check_valid(valid, mask_shape, "the anchors of logits")
    if x.ndim > 3:  # the axes between samples and classes become one: a view, also of classes that were second
        shape = x.shape[0], math.prod(mask_shape[1:])
        x, y = x.reshape(*shape, num_classes), y.reshape(shape + y.shape[len(mask_shape) :])
        valid = None if valid is None else valid.reshape(shape)
    rule = classification.rule
    return Logits(x, y, kernel_dtype(x.dtype), classification, rule, background, ignore_index, valid, mask_shape)


def _whole_numbers(class_axis: int, ignore_index: int | None, num_axes: int) -> tuple[int, int | None]:
    """Check an axis of classes and a label; the usual ones, -1 and None, need no call."""
    if type(class_axis) is not int or class_axis != -1:
        class_axis = check_class_axis(class_axis)
        if class_axis == 2 and num_axes > 3:
            refuse("class_axis", f"-1 or 1 for logits of {num_axes} axes", "2")
    return class_axis, None if ignore_index is None else check_int("ignore_index", ignore_index, optional=True)


def _check_labels(given: ArrayLike, logits: NDArray[Any], ignore_index: int | None, class_axis: int) -> NDArray[Any]:
    """Check labels of either form. Return scores with the classes on the last axis."""
    labels: Any = given if type(given) is np.ndarray else as_array("labels", given)
    if labels.dtype.kind == "b" and labels.ndim < logits.ndim:
        got = "dtype bool, which does not tell the class of a positive; pass integer classes"
        refuse("labels", "integer classes or one-hot scores", got, TypeError)
    if labels.dtype.kind not in "biuf" or labels.dtype.itemsize > 8:
        refuse("labels", "integer classes or one-hot scores", f"dtype {labels.dtype}", TypeError)
    if labels.ndim == logits.ndim:
        labels = np.moveaxis(labels, class_axis, -1)
        if labels.shape != logits.shape:
            refuse("labels", f"the shape of logits {logits.shape}, classes last", f"shape {labels.shape}")
        if ignore_index is not None:
            got = f"{ignore_index} with one-hot labels; use valid="
            refuse("ignore_index", "None for one-hot labels", got, TypeError)
    elif labels.shape != logits.shape[:-1]:
        expected = f"shape {logits.shape[:-1]} of the anchors of logits, or one-hot scores {logits.shape}"
        refuse("labels", expected, f"shape {labels.shape}")
    elif labels.dtype.kind == "f":
        expected = "integer classes of shape (B, A), or one-hot scores of shape (B, A, C)"
        refuse("labels", expected, f"dtype {labels.dtype} of shape {labels.shape}", TypeError)
    return labels  # type: ignore[no-any-return]


def check_ragged(logits: NDArray[Any], labels: NDArray[Any], class_axis: int) -> None:
    """Check the shapes of a ragged batch before it becomes one sample, so that errors name the given shapes."""
    check_class_axis(class_axis)
    if class_axis != -1:
        refuse("class_axis", "-1 with sample_offsets", f"{class_axis}")
    if logits.ndim != 2 or logits.shape[1] == 0:
        refuse("logits", "an (N, C) array of at least one class with sample_offsets", f"shape {logits.shape}")
    if labels.shape not in (logits.shape[:1], logits.shape):
        expected = f"shape {logits.shape[:1]} of the anchors of logits, or one-hot scores {logits.shape}"
        refuse("labels", expected, f"shape {labels.shape}")
    if labels.ndim == 1 and labels.dtype.kind == "f":
        expected = "integer classes of shape (N,), or one-hot scores of shape (N, C)"
        refuse("labels", expected, f"dtype {labels.dtype} of shape {labels.shape}", TypeError)


def check_classification(classification: Classification | None) -> Classification:
    """Return the given classification, or `Softmax` for None."""
    if classification is not None and not isinstance(classification, Classification):
        expected = "a Softmax, a Sigmoid, a Focal or None"
        refuse("classification", expected, type(classification).__name__, TypeError)
    return _SOFTMAX if classification is None else classification


def normalized_background(background: int, num_classes: int, classification: Classification) -> int:
    """Return the background as a class from 0 to C - 1, or C for a sigmoid head without a logit for background."""
    if type(background) is not int:
        background = check_int("background", background, optional=True)
    last = num_classes - isinstance(classification, Softmax)
    if not -num_classes <= background <= last:
        hint = "a softmax needs a logit for background; a Sigmoid does not" if background == num_classes else ""
        refuse("background", f"a class of logits, {-num_classes} to {last}", f"{background}", hint=hint)
    return background + num_classes if background < 0 else background
