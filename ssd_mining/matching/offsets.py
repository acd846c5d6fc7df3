"""Boxes as offsets from anchors, the targets of the localization loss, and back: `encode_boxes`, `decode_boxes`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import check_choice, check_number, refuse
from ssd_mining.choices import BOX_FORMATS, BoxFormat
from ssd_mining.inputs.arrays import as_array, as_real_array, kernel_dtype
from ssd_mining.inputs.boxes import check_anchors, check_boxes, refuse_anchors, refuse_boxes, refuse_on_device


def encode_boxes(
    boxes: ArrayLike | Sequence[ArrayLike],
    anchors: ArrayLike,
    matched: ArrayLike,
    *,
    variances: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
    box_format: BoxFormat = "xyxy",
    anchor_format: BoxFormat = "xyxy",
    box_offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return the offset of every anchor to its object: ``loc_target`` of `multibox_loss`.

    The centre moves by ``(c - c_a) / (s_a * v)``, and the size grows by ``log(s / s_a) / v``, where ``s_a`` is the size
    of the anchor and ``v`` a variance.

    Parameters
    ----------
    boxes, anchors, box_format, anchor_format, box_offsets
        As in `match_anchors`.
    matched : array_like of integers, (B, A)
        The number of the object of every anchor in its sample, as `match_anchors` says; below 0: none.
    variances : four floats
        Of the centre and the size: x, y, width, height. torchvision's weights 10, 10, 5, 5 are the variances 0.1, 0.1,
        0.2, 0.2; its RetinaNet has 1, 1, 1, 1.

    Returns
    -------
    ndarray, (B, A, 4), float32 or float64
        The offsets, 0 for an anchor without an object; float64 if boxes or anchors need it.

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If a shape or a value is wrong, or a matched box or anchor has no area.
    NotImplementedError
        If an array lies on a GPU.

    References
    ----------
    Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, equation 2; weiliu89/caffe, ``EncodeBBox``.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> boxes, anchors = [[[0.25, 0.25, 0.75, 0.75]]], [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]
    >>> sm.encode_boxes(boxes, anchors, [[0, -1]]).tolist()
    [[[5.0, 5.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]
    """
    refuse_on_device("encode_boxes", boxes=boxes, anchors=anchors, matched=matched)
    shares = _variances(variances)
    objects = check_boxes(boxes, box_offsets, box_format)
    num_samples = objects.offsets.size - 1
    corners = check_anchors(anchors, anchor_format, num_samples)
    numbers = as_array("matched", matched)
    if numbers.dtype.kind not in "iu":
        refuse("matched", "whole numbers", f"dtype {numbers.dtype}", TypeError)
    if numbers.shape != (num_samples, corners.shape[1]):
        refuse(
            "matched", f"a ({num_samples}, {corners.shape[1]}) array, as boxes and anchors", f"shape {numbers.shape}"
        )
    sample, anchor = np.nonzero(numbers >= 0)
    number = numbers[sample, anchor].astype(np.int64)
    too_large = np.flatnonzero(number >= np.diff(objects.offsets)[sample])
    if too_large.size:
        first = too_large[0]
        expected = f"the number of one of {np.diff(objects.offsets)[sample[first]]} boxes"
        refuse("matched", expected, f"{number[first]}", sample=int(sample[first]), anchor=int(anchor[first]))
    box = objects.offsets[sample] + number
    owner = sample if corners.shape[0] > 1 else np.zeros_like(sample)
    real = np.promote_types(objects.corners.dtype, corners.dtype)
    ours, theirs = corners[owner, anchor].astype(real), objects.corners[box].astype(real)
    for name, values in (("anchors", ours), ("boxes", theirs)):
        flat = np.flatnonzero(~(values[:, 2:] > values[:, :2]).all(axis=1))
        if flat.size:
            refuse_anchors(anchors, corners, anchor_format)  # it may be NaN
            refuse_boxes(objects)
            expected, got = "matched boxes with a width and a height above 0", f"{values[flat[0]].tolist()}"
            refuse(name, expected, got, sample=int(sample[flat[0]]), anchor=int(anchor[flat[0]]))
    target = np.zeros((*numbers.shape, 4), real)
    centre, size = _centre_and_size(theirs)
    anchor_centre, anchor_size = _centre_and_size(ours)
    target[sample, anchor, :2] = (centre - anchor_centre) / (anchor_size * shares[:2].astype(real))
    target[sample, anchor, 2:] = np.log(size / anchor_size) / shares[2:].astype(real)
    return target


def decode_boxes(
    offsets: ArrayLike,
    anchors: ArrayLike,
    *,
    variances: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
    anchor_format: BoxFormat = "xyxy",
    box_format: BoxFormat = "xyxy",
    max_growth: float | None = None,
) -> NDArray[Any]:
    """Return the boxes that lie at these offsets from the anchors; the inverse of `encode_boxes`.

    Parameters
    ----------
    offsets : array_like, (B, A, 4), float16, float32, float64 or integer
        For example ``loc_pred`` of a detector.
    anchors, anchor_format
        As in `match_anchors`.
    variances : four floats
        As in `encode_boxes`.
    box_format : {"xyxy", "cxcywh", "xywh"}
        What the four numbers of the boxes are to be.
    max_growth : float, optional
        No box is more than this many times as wide or as high as its anchor. torchvision has ``1000 / 16``.

    Returns
    -------
    ndarray, (B, A, 4), float32 or float64
        The boxes, not clipped; float64 if offsets or anchors need it.

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If a shape or a value is wrong, or an anchor has a negative size.
    NotImplementedError
        If an array lies on a GPU.

    Notes
    -----
    NaN and infinities in offsets follow IEEE 754.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> sm.decode_boxes([[[5.0, 5.0, 0.0, 0.0]]], [[0.0, 0.0, 0.5, 0.5]]).round(6).tolist()
    [[[0.25, 0.25, 0.75, 0.75]]]
    """
    refuse_on_device("decode_boxes", offsets=offsets, anchors=anchors)
    shares = _variances(variances)
    check_choice("box_format", box_format, BOX_FORMATS)
    if max_growth is not None:
        check_number("max_growth", max_growth, lowest=1)
    moves = as_real_array("offsets", offsets)
    if moves.ndim != 3 or moves.shape[2] != 4:
        refuse("offsets", "a (B, A, 4) array", f"shape {moves.shape}")
    corners = check_anchors(anchors, anchor_format, moves.shape[0])
    if corners.shape[1] != moves.shape[1]:
        refuse("anchors", f"{moves.shape[1]} anchors, as offsets", f"{corners.shape[1]}")
    refuse_anchors(anchors, corners, anchor_format)
    real = np.promote_types(kernel_dtype(moves.dtype), corners.dtype)
    centre, size = _centre_and_size(corners.astype(real))
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = moves.astype(real) * shares.astype(real)
        growth = np.exp(scaled[..., 2:])
        if max_growth is not None:
            growth = np.minimum(growth, real.type(max_growth))
        centre = centre + scaled[..., :2] * size
        size = size * growth
        half = size / 2
        if box_format == "cxcywh":
            return np.concatenate([centre, size], axis=-1)
        return np.concatenate([centre - half, size if box_format == "xywh" else centre + half], axis=-1)


def _centre_and_size(corners: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    low, high = corners[..., :2], corners[..., 2:]
    return (low + high) / 2, high - low


def _variances(variances: Any) -> NDArray[np.float64]:
    values = as_real_array("variances", variances)
    if values.shape != (4,):
        refuse("variances", "four numbers, of x, y, width and height", f"shape {values.shape}")
    for value in values.tolist():
        check_number("variances", value, lowest=float(np.finfo(np.float32).tiny), words="above 0, finite")
    return values.astype(np.float64)
