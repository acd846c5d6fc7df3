"""Anchor matching in plain NumPy: one matrix of overlaps for each sample, and loops over its objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNMATCHED, LEFT_OUT = -1, -2

Reals = NDArray[Any]  # float32 or float64
Numbers = NDArray[np.int64]
Mask = NDArray[np.bool_]


def areas(boxes: Reals) -> Reals:
    """Return the areas (n,) of boxes (n, 4)."""
    product: Reals = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return product


def are_bad(boxes: Reals) -> bool:
    """Say whether one of some boxes (n, 4) is none: NaN, a negative size, or an area that is not finite."""
    if not np.isfinite(boxes).all() or (boxes[:, 2:] < boxes[:, :2]).any():
        return True
    return any((x2 - x1) * (y2 - y1) > float(np.finfo(boxes.dtype).max) / 4 for x1, y1, x2, y2 in boxes.tolist())


def intersections(boxes: Reals, anchors: Reals) -> Reals:
    """Return the areas (n, A) that boxes (n, 4) have in common with anchors (A, 4)."""
    left_top = np.maximum(boxes[:, None, :2], anchors[None, :, :2])
    right_bottom = np.minimum(boxes[:, None, 2:], anchors[None, :, 2:])
    sides = np.maximum(right_bottom - left_top, boxes.dtype.type(0))
    product: Reals = sides[..., 0] * sides[..., 1]
    return product


def iou_matrix(boxes: Reals, anchors: Reals) -> Reals:
    """Return the intersection over union (n, A), in the dtype of both; 0 where they have no area in common."""
    common = intersections(boxes, anchors)
    union = (areas(anchors)[None] + areas(boxes)[:, None]) - common
    iou: Reals = np.divide(common, union, out=np.zeros_like(common), where=common > 0)
    return iou


def in_a_crowd(regions: Reals, anchors: Reals, share: float) -> Mask:
    """Return which anchors, (A,), have more than this share of their area inside one region."""
    common = intersections(regions, anchors)
    shares = np.divide(common, areas(anchors)[None], out=np.zeros_like(common), where=common > 0)
    mask: Mask = (shares > shares.dtype.type(share)).any(axis=0)
    return mask


def forced_pairs(iou: Reals, force: str, force_iou: float, *, first: bool) -> list[tuple[int, int]]:
    """Return the pairs (anchor, object) that are forced, in the order in which later ones overwrite earlier ones.

    `iou` is (n, A), 0 for anchors that do not count.
    """
    if force == "none":
        return []
    best = iou.max(axis=1, initial=0)
    wanting = [i for i in range(len(best)) if best[i] > 0 and best[i] >= iou.dtype.type(force_iou)]
    if force == "bipartite":
        return greedy_pairs(iou, force_iou)
    if force == "own_best":
        return [(a, int(iou[:, a].argmax())) for i in wanting for a in np.flatnonzero(iou[i] == best[i]).tolist()]
    pairs = []
    for i in reversed(wanting) if first else wanting:
        if force == "argmax":
            pairs.append((int(iou[i].argmax()), i))
        if force == "argmax_all":
            pairs += [(a, i) for a in np.flatnonzero(iou[i] == best[i]).tolist()]
    return pairs


def greedy_pairs(iou: Reals, force_iou: float) -> list[tuple[int, int]]:
    """Return the best pair of a free anchor and a free object, again and again."""
    pairs: list[tuple[int, int]] = []
    free = iou.T.copy()  # (A, n): of equal pairs, that with the first anchor, then the first object
    while free.size:
        anchor, number = np.unravel_index(int(free.argmax()), free.shape)
        if not free[anchor, number] > 0 or free[anchor, number] < iou.dtype.type(force_iou):
            break
        pairs.append((int(anchor), int(number)))
        free[anchor], free[:, number] = 0, 0
    return pairs


def match_sample(
    boxes: Reals,
    anchors: Reals,
    crowd: Mask,
    valid: Mask,
    *,
    pos_iou: float = 0.5,
    neg_iou: tuple[float, float] = (0.0, 0.5),
    force: str = "bipartite",
    first: bool = False,
    force_iou: float = 0.0,
    ignore_ioa: float = 0.5,
    crowd_first: bool = False,
) -> tuple[Numbers, NDArray[np.float32], NDArray[np.float64]]:
    """Match one sample: boxes (n, 4) and anchors (A, 4) as x1, y1, x2, y2, of one dtype; crowd (n,), valid (A,).

    Return the object of every anchor (A,), UNMATCHED or LEFT_OUT; the largest overlap of every anchor (A,); and the
    largest overlap of every object (n,) with an anchor that counts.
    """
    real = boxes.dtype.type
    objects = np.flatnonzero(~crowd)
    iou = iou_matrix(boxes[objects], anchors)
    crowded = in_a_crowd(boxes[crowd], anchors, ignore_ioa)
    counts = valid & ~crowded if crowd_first else valid.copy()
    overlaps = iou.max(axis=0, initial=0)
    matched = np.full(len(anchors), LEFT_OUT)
    is_low = (overlaps >= real(neg_iou[0])) & (overlaps < real(neg_iou[1])) | (len(objects) == 0)
    matched[is_low & ~crowded] = UNMATCHED
    positive = overlaps >= real(pos_iou)
    matched[positive] = objects[iou[:, positive].argmax(axis=0)] if len(objects) else UNMATCHED
    matched[~counts] = LEFT_OUT
    counted = np.where(counts, iou, real(0))
    for anchor, number in forced_pairs(counted, force, force_iou, first=first):
        matched[anchor] = objects[number]
    best = np.zeros(len(boxes))
    best[objects] = counted.max(axis=1, initial=0)
    return matched, overlaps.astype(np.float32), best


def labels_of(matched: Numbers, classes: Numbers, background: int, ignore_index: int) -> Numbers:
    """Return the labels (A,) of anchors with these objects."""
    labels = np.where(matched == LEFT_OUT, ignore_index, background)
    labels[matched >= 0] = classes[matched[matched >= 0]]
    return labels


def encode(box: Sequence[float], anchor: Sequence[float], variances: Sequence[float]) -> list[float]:
    """Return the offsets of a box x1, y1, x2, y2 from an anchor: of its centre, and of the logarithm of its size."""
    offsets = []
    for low, high in ((0, 2), (1, 3)):
        size, own = box[high] - box[low], anchor[high] - anchor[low]
        shift = (box[low] + box[high]) / 2 - (anchor[low] + anchor[high]) / 2
        offsets.append((shift / (own * variances[low]), math.log(size / own) / variances[high]))
    return [offsets[0][0], offsets[1][0], offsets[0][1], offsets[1][1]]
