"""The input boundary of logits: what a call was given becomes checked `LogitLosses`, or a batch of them to mine."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import refuse
from ssd_mining.classification import Classification, Softmax
from ssd_mining.engine import run as _backends
from ssd_mining.engine.lazy_losses import LogitLosses, RaggedLosses, RankKind, check_class, normalized_background
from ssd_mining.engine.run import Backend
from ssd_mining.inputs.arrays import as_array
from ssd_mining.inputs.batch import Batch
from ssd_mining.inputs.losses import assemble, check_valid, sample_offsets
from ssd_mining.mining_rule import Extras, Mining


def logit_batch(
    logits: ArrayLike,
    labels: ArrayLike,
    mining: Mining,
    extras: Extras,
    classification: Classification | None,
    where: dict[str, Any],
) -> tuple[Batch, LogitLosses]:
    """Check logits as a batch to mine, whose losses are computed as it is walked; return these losses too.

    `where` are the `class_axis`, `backend` and `num_threads` of `check_logits`.
    """
    classification = Softmax() if classification is None else classification
    if not isinstance(classification, Classification):
        expected = "a Softmax, a Sigmoid, a Focal or None"
        refuse("classification", expected, f"{type(classification).__name__}", TypeError)
    given: Any = extras
    valid, offsets = given.get("valid"), given.get("sample_offsets")
    x, y = as_array("logits", logits), as_array("labels", labels)
    known = {"background": mining.background, "ignore_index": mining.ignore_index, "valid": valid, **where}
    losses: LogitLosses | RaggedLosses
    if offsets is None:
        losses = whole = check_logits(x, y, classification, **known)
    else:
        _check_ragged(x, y, where["class_axis"])
        valid = check_valid(valid, x.shape[:1], "the anchors of logits")
        checked_offsets = sample_offsets(offsets, x.shape[0], "logits")
        known["valid"] = None if valid is None else valid[None]
        whole = check_logits(x[None], y[None], classification, **known)
        whole = dataclasses.replace(whole, offsets=checked_offsets)
        losses = RaggedLosses(whole)
    if y.ndim == losses.ndim and whole.background != mining.background:  # with logits, -1 is the last class
        mining = dataclasses.replace(mining, background=whole.background)
    ranks = None
    if mining.rank_by != "loss":
        if mining.rank_by == "foreground_sum" and not isinstance(classification, Softmax):
            expected = "a mode other than 'foreground_sum', for the probabilities of sigmoids do not add up to 1"
            refuse("rank_by", expected, f"it with {type(classification).__name__}")
        # 1 - p and -log p of background have one order; whatever is ranked by the one is ranked by the other.
        kind: RankKind = "foreground_max" if mining.rank_by == "foreground_max" else "background"
        ranks = losses.ranks(kind, -1 if mining.background is None else mining.background)
    if y.ndim > losses.ndim:  # (B, A, C), whatever the axis of the classes was
        y = whole.labels if offsets is None else whole.labels[0]
    return assemble(losses, y, mining, extras, ranks), whole


def _check_ragged(logits: NDArray[Any], labels: NDArray[Any], class_axis: int) -> None:
    """Check the shapes of a ragged batch in its own words, before it becomes one sample."""
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


def check_class_axis(class_axis: Any) -> None:
    """Refuse an axis where no classes can stand."""
    is_whole = isinstance(class_axis, int | np.integer) and not isinstance(class_axis, bool)
    if not is_whole or class_axis not in (1, 2, -1):
        refuse("class_axis", "-1, 2 or 1", f"{class_axis!r}")


def check_logits(
    logits: ArrayLike,
    labels: ArrayLike,
    classification: Classification,
    *,
    background: int | None = None,
    ignore_index: int | None = None,
    valid: ArrayLike | None = None,
    class_axis: int = -1,
    backend: Backend | None = None,
    num_threads: int | None = None,
) -> LogitLosses:
    """Check everything about logits and labels that can be known without a pass over their values."""
    x = as_array("logits", logits)
    check_class_axis(class_axis)
    if x.ndim != 3:
        refuse("logits", "a (B, A, C) array" if class_axis != 1 else "a (B, C, A) array", f"shape {x.shape}")
    if x.dtype.kind != "f" or x.dtype.itemsize > 8:
        refuse("logits", "float16, float32 or float64 values", f"dtype {x.dtype}", TypeError)
    x = np.moveaxis(x, class_axis, -1)
    num_classes = x.shape[2]
    if num_classes == 0:
        refuse("logits", "at least one class", f"shape {x.shape}")
    weights = getattr(classification, "class_weights", None)
    if weights is not None and len(weights) != num_classes:
        refuse("class_weights", f"one weight for each of {num_classes} classes", f"{len(weights)}")
    check_class("ignore_index", ignore_index)
    if background is not None:
        background = normalized_background(background, num_classes, classification)
        if ignore_index == background:
            refuse("ignore_index", "a label other than background", f"{ignore_index} for both")
    y = _check_labels(as_array("labels", labels), x, ignore_index, class_axis)
    mask = check_valid(valid, x.shape[:2], "the anchors of logits")
    _backends.load_logits(backend)
    _backends.check_threads(num_threads)
    return LogitLosses(x, y, classification, background, ignore_index, mask, backend, num_threads)


def _check_labels(
    labels: NDArray[Any], logits: NDArray[Any], ignore_index: int | None, class_axis: int
) -> NDArray[Any]:
    """Check labels of either form; return scores with their classes last."""
    if labels.dtype.kind == "b" and labels.ndim == 2:
        got = "dtype bool, which does not tell the class of a positive; pass integer classes"
        refuse("labels", "integer classes or one-hot scores", got, TypeError)
    if labels.dtype.kind not in "biuf" or labels.dtype.itemsize > 8:
        refuse("labels", "integer classes or one-hot scores", f"dtype {labels.dtype}", TypeError)
    if labels.ndim == 3:
        labels = np.moveaxis(labels, class_axis, -1)
        if labels.shape != logits.shape:
            refuse("labels", f"the shape of logits {logits.shape}, classes last", f"shape {labels.shape}")
        if ignore_index is not None:
            refuse(
                "ignore_index",
                "None for one-hot labels",
                f"{ignore_index} with one-hot labels; use valid=",
                TypeError,
            )
        return labels
    if labels.shape != logits.shape[:2]:
        expected = f"shape {logits.shape[:2]} of the anchors of logits, or one-hot scores {logits.shape}"
        refuse("labels", expected, f"shape {labels.shape}")
    if labels.dtype.kind == "f":
        expected = "integer classes of shape (B, A), or one-hot scores of shape (B, A, C)"
        refuse("labels", expected, f"dtype {labels.dtype} of shape {labels.shape}", TypeError)
    return labels
