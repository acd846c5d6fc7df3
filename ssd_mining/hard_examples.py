"""Online hard example mining, `ohem`: positives and negatives compete for the same places."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import check_choice, check_int, check_number, refuse
from ssd_mining.engine.result import Result
from ssd_mining.engine.run import Backend
from ssd_mining.inputs.arrays import as_array, as_real_array, check_valid, kernel_dtype
from ssd_mining.kernels.rules import whole_number
from ssd_mining.mining import mine_hard_negatives

Anchors = NDArray[np.int64]

# Beyond this, the area of a box could overflow float64.
FARTHEST = 1e150


@dataclass(frozen=True, eq=False, repr=False)
class HardExamples(Result):
    """The hardest anchors of a batch of B samples with A anchors each.

    Attributes
    ----------
    mask : ndarray of bool, (B, A), or the shape of the losses
        The kept anchors.
    num_kept : ndarray of int64, (B,)
        How many anchors are kept.
    threshold : ndarray of float64, (B,)
        Loss of the easiest kept anchor; NaN where none is kept.
    loss_sum : ndarray of float64, (B,)
        Sum of the losses of the kept anchors.
    """

    mask: NDArray[np.bool_]
    num_kept: NDArray[np.int64]
    threshold: NDArray[np.float64]
    loss_sum: NDArray[np.float64]
    _anchors: Anchors = field(repr=False)  # (K,) by sample, hardest first

    def indices(self) -> tuple[Anchors, Anchors]:
        """Return the kept anchors as CSR indices, hardest first.

        Returns
        -------
        offsets : ndarray of int64, (B + 1,)
            Sample ``b`` owns ``anchors[offsets[b]:offsets[b + 1]]``.
        anchors : ndarray of int64, (K,)
            Anchor indices in descending order of loss; equal losses in ascending order of index.

        Examples
        --------
        >>> import ssd_mining as sm
        >>> sm.ohem([[0.1, 3.0, 2.0, 0.5]], num_hard=2).indices()
        (array([0, 2]), array([1, 2]))
        """
        return np.concatenate([[0], np.cumsum(self.num_kept)]), self._anchors.copy()


def ohem(
    loss: ArrayLike,
    *,
    num_hard: int = 64,
    min_loss: float | None = None,
    scope: Literal["sample", "batch"] = "sample",
    boxes: ArrayLike | None = None,
    iou_threshold: float | None = None,
    labels: ArrayLike | None = None,
    background: int | None = None,
    ignore_index: int | None = None,
    neg_pos_ratio: float | None = None,
    min_negatives: int = 0,
    valid: ArrayLike | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
) -> HardExamples:
    """Keep the hardest anchors of every sample, whatever their labels.

    With `min_loss`, all losses beyond it are kept, and `num_hard` is the least number: the OHEM of segmentation. With
    `boxes`, an anchor that overlaps a harder kept one too much is skipped, so that the places go to different parts of
    the image. With `neg_pos_ratio`, the easiest of the kept negatives are dropped afterwards, until the ratio to the
    kept positives holds.

    Parameters
    ----------
    loss : array_like, (B, A), float16, float32, float64 or integer
        Loss of every anchor: of classification, of localization, or their sum. Maps (B, H, W) are welcome, and more
        axes; all other arrays then have them too.
    num_hard : int
        Places per sample, or of the batch with ``scope="batch"``; at least 1.
    min_loss : float, optional
        Every anchor whose loss exceeds this has a place, however many they are. ``-log(0.7)`` keeps the anchors whose
        label has a probability below 0.7. Not with `boxes`.
    scope : {"sample", "batch"}
        Whether anchors compete with those of their own sample, or of the batch; then without `boxes` and
        `neg_pos_ratio`.
    boxes : array_like, (B, A, 4), optional
        Corners x1, y1, x2, y2 of every anchor, with ``x1 <= x2`` and ``y1 <= y2``, none beyond 1e150. The boxes of
        ignored anchors are not read. A box without area overlaps nothing.
    iou_threshold : float, optional
        Largest intersection over union with a kept anchor, 0 to 1. Required with `boxes`, and only then.
    labels : array_like, (B, A) integer or bool, or (B, A, C), optional
        As in `mine_hard_negatives`. Required with `neg_pos_ratio`.
    background, ignore_index : int, optional
        As in `Mining`, with `labels` only. Anchors with the label `ignore_index` are ignored.
    neg_pos_ratio : float, optional
        Keep at most this many negatives per kept positive, rounded down.
    min_negatives : int
        With `neg_pos_ratio`: keep at least this many of the negatives that have places.
    valid : array_like of bool, (B, A), optional
        False marks anchors to ignore; their losses and labels are not read.
    backend, num_threads
        As in `mine_hard_negatives`.

    Returns
    -------
    HardExamples
        Mask, counts, thresholds, sums.

    Raises
    ------
    TypeError
        If an argument has a wrong type, or is missing although another one needs it.
    ValueError
        If a shape or a value is wrong; see `mine_hard_negatives`. Also if a loss is NaN, or a box is not finite or
        has its corners swapped.
    RuntimeError
        If ``backend="cuda"`` and the package, the driver or the GPU is missing.

    References
    ----------
    Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example Mining", CVPR 2016. The rules
    are those of HARD_EXAMPLE in Caffe's SSD and of the HardExampleMiner of TensorFlow Object Detection, except that
    ignored anchors take places there; `min_loss` is that of mmsegmentation's OHEMPixelSampler and of the
    OhemCrossEntropy of HRNet (docs/recipes.md).

    Examples
    --------
    >>> import ssd_mining as sm
    >>> boxes = [[[0, 0, 4, 4], [0, 0, 4, 3], [5, 5, 9, 9], [0, 6, 2, 8]]]
    >>> sm.ohem([[3.0, 2.0, 1.0, 0.5]], num_hard=2, boxes=boxes, iou_threshold=0.7).mask
    array([[ True, False,  True, False]])
    >>> sm.ohem([[[0.1, 0.6], [0.2, 0.9]]], num_hard=1, min_loss=0.5).mask
    array([[[False,  True],
            [False,  True]]])
    """
    how = _checked(num_hard, min_loss, scope, neg_pos_ratio, min_negatives)
    for_labels = {"background": background, "ignore_index": ignore_index, "neg_pos_ratio": neg_pos_ratio}
    if labels is None:
        _refuse_beside(for_labels, "labels", "labels, for {} is given", "None")
    if scope == "batch":
        _refuse_beside(
            {"boxes": boxes, "neg_pos_ratio": neg_pos_ratio}, "scope", '"sample", for {} is given', "'batch'"
        )
    if min_loss is not None:
        _refuse_beside({"boxes": boxes}, "min_loss", "None, for {} is given", f"{min_loss}")
    array = as_real_array("loss", loss)
    mask_shape = array.shape
    if len(mask_shape) < 2:
        refuse("loss", "a (B, A) array", f"shape {mask_shape}")
    where: Any = {"backend": backend, "num_threads": num_threads}
    candidates, pos_mask = check_valid(valid, mask_shape, "loss"), np.zeros(mask_shape, np.bool_)
    if labels is not None:
        known: Any = {"background": background, "ignore_index": ignore_index, "valid": candidates}
        pos_mask, candidates = _roles(labels, mask_shape, known | where)
    corners = _corners(boxes, iou_threshold, mask_shape, candidates)
    _check_nan(array, candidates)
    shape = mask_shape[0], math.prod(mask_shape[1:])
    array, pos_mask = array.reshape(shape), pos_mask.reshape(shape)  # from here on, anchors have one axis
    if candidates is not None:
        candidates = candidates.reshape(shape)
    # Without boxes, the hardest anchors take the places; with boxes, any anchor may get one.
    places = _places(array, candidates, how) if corners is None else shape[1]
    ranking: Any = {"valid": candidates, "num_negatives": places, "scope": scope}
    line_up = mine_hard_negatives(array, np.zeros_like(pos_mask), **ranking, **where)
    offsets, anchors = line_up.indices()
    kept = []
    for sample in range(shape[0]):
        line = anchors[offsets[sample] : offsets[sample + 1]]
        if corners is not None and iou_threshold is not None:
            line = line[_spread(corners[sample, line], how.num_hard, iou_threshold)]
        if how.neg_pos_ratio is not None:
            line = line[_balanced(pos_mask[sample, line], how.neg_pos_ratio, how.min_negatives)]
        kept.append(line)
    return _described(array, kept, mask_shape)


class _How(NamedTuple):
    """How many anchors are kept, and among which."""

    num_hard: int
    min_loss: float | None
    scope: str
    neg_pos_ratio: float | None
    min_negatives: int


def _checked(num_hard: Any, min_loss: Any, scope: Any, neg_pos_ratio: Any, min_negatives: Any) -> _How:
    scope = check_choice("scope", scope, ("sample", "batch"))
    num_hard = check_int("num_hard", num_hard, lowest=1)
    min_negatives = check_int("min_negatives", min_negatives, lowest=0)
    if neg_pos_ratio is not None:
        neg_pos_ratio = check_number("neg_pos_ratio", neg_pos_ratio)
    elif min_negatives:
        refuse("neg_pos_ratio", "a number, for min_negatives is given", "None", TypeError)
    if min_loss is not None:
        min_loss = check_number("min_loss", min_loss, lowest=-sys.float_info.max, words="that is finite")
    return _How(num_hard, min_loss, scope, neg_pos_ratio, min_negatives)


def _refuse_beside(options: dict[str, Any], argument: str, expected: str, got: str) -> None:
    """Refuse an argument if one of the options is given beside it; `expected` names the first of them."""
    for name, value in options.items():
        if value is not None:
            refuse(argument, expected.format(name), got, TypeError)


def _roles(labels: ArrayLike, shape: tuple[int, ...], known: Any) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which anchors are positives, and which are positives or negatives."""
    array = as_array("labels", labels)
    if array.shape[: len(shape)] != shape:
        refuse("labels", f"the shape of loss {shape}, or that and one axis of classes", f"shape {array.shape}")
    roles = mine_hard_negatives(np.zeros(shape), array, num_negatives=math.prod(shape[1:]), **known)
    return roles.pos_mask, roles.pos_mask | roles.hard_negative_mask


def _corners(
    boxes: ArrayLike | None,
    iou_threshold: float | None,
    shape: tuple[int, ...],
    candidates: NDArray[np.bool_] | None,
) -> NDArray[np.float64] | None:
    """Check boxes, and the threshold that goes with them. Return the boxes as (B, A, 4)."""
    if boxes is None and iou_threshold is None:
        return None
    if boxes is None or iou_threshold is None:
        missing, given = ("boxes", "iou_threshold") if boxes is None else ("iou_threshold", "boxes")
        refuse(missing, f"a value, for {given} is given", "None", TypeError)
    check_number("iou_threshold", iou_threshold)
    if iou_threshold > 1:
        refuse("iou_threshold", "a number from 0 to 1", f"{iou_threshold}")
    array = as_real_array("boxes", boxes)
    if array.shape != (*shape, 4):
        refuse("boxes", f"shape {(*shape, 4)}", f"shape {array.shape}")
    corners = array.astype(np.float64)
    is_box = (np.abs(corners) <= FARTHEST).all(axis=-1) & (corners[..., :2] <= corners[..., 2:]).all(axis=-1)
    wrong = np.logical_not(is_box)  # also true for NaN
    if candidates is not None:
        wrong &= candidates
    corners = corners.reshape(shape[0], math.prod(shape[1:]), 4)
    if wrong.any():
        sample, anchor = _first(wrong)
        expected = f"corners with x1 <= x2 and y1 <= y2, none beyond {FARTHEST:.0e}"
        refuse("boxes", expected, f"{corners[sample, anchor].tolist()}", sample=sample, anchor=anchor)
    return corners


def _check_nan(loss: NDArray[Any], candidates: NDArray[np.bool_] | None) -> None:
    nan: NDArray[np.bool_] = np.isnan(loss)
    if candidates is not None:
        nan &= candidates
    if nan.any():
        sample, anchor = _first(nan)
        refuse("loss", "no NaN", "NaN", sample=sample, anchor=anchor)


def _first(wrong: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the sample and the anchor of the first true place."""
    return divmod(int(wrong.argmax()), math.prod(wrong.shape[1:]))


def _places(loss: NDArray[Any], candidates: NDArray[np.bool_] | None, how: _How) -> Any:
    """Return how many anchors of every sample, or of the batch, have a place: one number, or (B,)."""
    if how.min_loss is None:
        return how.num_hard
    limits = np.finfo(kernel_dtype(loss.dtype))  # `min_loss` is rounded to the dtype of the losses
    exceeds = loss > limits.dtype.type(np.clip(how.min_loss, limits.min, limits.max))
    if candidates is not None:
        exceeds &= candidates
    counts = np.count_nonzero(exceeds, axis=1 if how.scope == "sample" else None)
    return np.maximum(min(how.num_hard, loss.size), counts)


def _spread(corners: NDArray[np.float64], num_hard: int, iou_threshold: float) -> Anchors:
    """Return which boxes, (n, 4), hardest first, get a place: those that overlap no harder one too much."""
    areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    waiting = np.ones(areas.size, np.bool_)
    taken: list[int] = []
    while len(taken) < num_hard and waiting.any():
        first = int(waiting.argmax())
        taken.append(first)
        waiting[first] = False
        rest = np.flatnonzero(waiting)
        low = np.maximum(corners[first, :2], corners[rest, :2])
        high = np.minimum(corners[first, 2:], corners[rest, 2:])
        common = np.prod(np.maximum(high - low, 0.0), axis=1)
        union = areas[first] + areas[rest] - common
        overlap = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
        waiting[rest[overlap > iou_threshold]] = False
    return np.array(taken, np.int64)


def _balanced(is_positive: NDArray[np.bool_], neg_pos_ratio: float, min_negatives: int) -> NDArray[np.bool_]:
    """Return which anchors stay: the positives, and the hardest negatives."""
    most = max(min_negatives, whole_number(neg_pos_ratio, int(is_positive.sum()), round_up=False))
    return is_positive | (np.cumsum(~is_positive) <= most)


def _described(loss: NDArray[Any], kept: list[Anchors], mask_shape: tuple[int, ...]) -> HardExamples:
    mask, threshold, loss_sum = np.zeros(loss.shape, np.bool_), np.full(len(kept), np.nan), np.zeros(len(kept))
    for sample, line in enumerate(kept):
        mask[sample, line] = True
        losses = loss[sample, line].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN
            loss_sum[sample] = losses.sum()
        if line.size:
            threshold[sample] = losses[-1] + 0.0  # -0.0 becomes 0.0
    return HardExamples(
        mask=mask.reshape(mask_shape),
        num_kept=np.array([line.size for line in kept], np.int64),
        threshold=threshold,
        loss_sum=loss_sum,
        _anchors=np.concatenate([np.empty(0, np.int64), *kept]),
    )
