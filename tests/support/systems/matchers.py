"""Matching as other systems do it: oracles, each transliterated to NumPy float32 from the source that it names.

Each takes objects (n, 4) and anchors (A, 4) as corners, float32, and returns the object of every anchor, (A,): its
number, -1 for background, -2 for ignored. They import NumPy only, and keep the tricks and the faults of their system.
"""

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
Matches = NDArray[np.int64]


def box_iou(boxes1: Boxes, boxes2: Boxes) -> NDArray[np.float32]:
    """torchvision/ops/boxes.py: ``box_iou``; the fused ``bbox_overlaps`` of mmdetection with an epsilon is the same."""
    area1 = (boxes1[:, 2] - boxes1[:, 0]) * (boxes1[:, 3] - boxes1[:, 1])
    area2 = (boxes2[:, 2] - boxes2[:, 0]) * (boxes2[:, 3] - boxes2[:, 1])
    lt = np.maximum(boxes1[:, None, :2], boxes2[:, :2])
    rb = np.minimum(boxes1[:, None, 2:], boxes2[:, 2:])
    wh = (rb - lt).clip(min=0)
    inter = wh[:, :, 0] * wh[:, :, 1]
    union = area1[:, None] + area2 - inter
    with np.errstate(invalid="ignore", divide="ignore"):
        return inter / union


def jaccard_overlap(bbox1: Boxes, bbox2: Boxes) -> np.float32:
    """weiliu89/caffe, src/caffe/util/bbox_util.cpp: ``IntersectBBox``, ``BBoxSize`` and ``JaccardOverlap``."""
    if bbox2[0] > bbox1[2] or bbox2[2] < bbox1[0] or bbox2[1] > bbox1[3] or bbox2[3] < bbox1[1]:
        return np.float32(0)
    width = min(bbox1[2], bbox2[2]) - max(bbox1[0], bbox2[0])
    height = min(bbox1[3], bbox2[3]) - max(bbox1[1], bbox2[1])
    if not (width > 0 and height > 0):
        return np.float32(0)
    size = width * height
    size1 = (bbox1[2] - bbox1[0]) * (bbox1[3] - bbox1[1])
    size2 = (bbox2[2] - bbox2[0]) * (bbox2[3] - bbox2[1])
    return size / (size1 + size2 - size)


def caffe(
    gt_bboxes: Boxes,
    pred_bboxes: Boxes,
    overlap_threshold: float = 0.5,
    *,
    per_prediction: bool = True,
    ignore_cross_boundary_bbox: bool = False,
) -> Matches:
    """weiliu89/caffe, branch ssd, src/caffe/util/bbox_util.cpp: ``MatchBBox``."""
    num_pred, num_gt = len(pred_bboxes), len(gt_bboxes)
    match_indices = np.full(num_pred, -1)
    overlaps: dict[int, dict[int, np.float32]] = {}
    for i in range(num_pred):
        if ignore_cross_boundary_bbox and (pred_bboxes[i].min() < 0 or pred_bboxes[i].max() > 1):
            match_indices[i] = -2
            continue
        for j in range(num_gt):
            overlap = jaccard_overlap(pred_bboxes[i], gt_bboxes[j])
            if overlap > 1e-6:
                overlaps.setdefault(i, {})[j] = overlap
    _bipartite(overlaps, list(range(num_gt)), match_indices)
    for i in sorted(overlaps) if per_prediction else []:
        if match_indices[i] != -1:
            continue
        max_gt_idx, max_overlap = -1, np.float32(-1)
        for j in range(num_gt):
            overlap = overlaps[i].get(j)
            if overlap is not None and overlap >= overlap_threshold and overlap > max_overlap:
                max_gt_idx, max_overlap = j, overlap
        if max_gt_idx != -1:
            match_indices[i] = max_gt_idx
    return match_indices


def _bipartite(overlaps: dict[int, dict[int, np.float32]], gt_pool: list[int], match_indices: Matches) -> None:
    """Match free pairs, as the first half of ``MatchBBox`` does."""
    while gt_pool:
        max_idx, max_gt_idx, max_overlap = -1, -1, np.float32(-1)
        for i in sorted(overlaps):
            if match_indices[i] != -1:
                continue
            for j in gt_pool:
                if j in overlaps[i] and overlaps[i][j] > max_overlap:
                    max_idx, max_gt_idx, max_overlap = i, j, overlaps[i][j]
        if max_idx == -1:
            break
        match_indices[max_idx] = max_gt_idx
        gt_pool.remove(max_gt_idx)


def torchvision_matcher(
    gt: Boxes, anchors: Boxes, high: float, low: float, *, allow_low_quality_matches: bool
) -> Matches:
    """torchvision/models/detection/_utils.py: ``Matcher``. Images without objects never reach it."""
    quality = box_iou(gt, anchors)
    matched_vals, matches = quality.max(axis=0), quality.argmax(axis=0)
    all_matches = matches.copy()
    below_low_threshold = matched_vals < np.float32(low)
    between_thresholds = (matched_vals >= np.float32(low)) & (matched_vals < np.float32(high))
    matches[below_low_threshold] = -1
    matches[between_thresholds] = -2
    if allow_low_quality_matches:
        highest_quality_foreach_gt = quality.max(axis=1)
        _, pred_inds_to_update = np.where(quality == highest_quality_foreach_gt[:, None])
        matches[pred_inds_to_update] = all_matches[pred_inds_to_update]
    return matches


def torchvision_ssd(gt: Boxes, anchors: Boxes, threshold: float = 0.5) -> Matches:
    """torchvision/models/detection/_utils.py: ``SSDMatcher``."""
    matches = torchvision_matcher(gt, anchors, threshold, threshold, allow_low_quality_matches=False)
    highest_quality_pred_foreach_gt = box_iou(gt, anchors).argmax(axis=1)
    for number, anchor in enumerate(highest_quality_pred_foreach_gt):  # an assignment by index: the last one stays
        matches[anchor] = number
    return matches


def torchvision_retinanet(gt: Boxes, anchors: Boxes) -> Matches:
    """torchvision/models/detection/retinanet.py: ``det_utils.Matcher(0.5, 0.4, allow_low_quality_matches=True)``."""
    return torchvision_matcher(gt, anchors, 0.5, 0.4, allow_low_quality_matches=True)


def amdegroot(truths: Boxes, priors: Boxes, threshold: float = 0.5) -> Matches:
    """amdegroot/ssd.pytorch, layers/box_utils.py: ``match``."""
    overlaps = box_iou(truths, priors)
    best_prior_idx = overlaps.argmax(axis=1)
    best_truth_overlap, best_truth_idx = overlaps.max(axis=0), overlaps.argmax(axis=0)
    best_truth_overlap[best_prior_idx] = 2
    for j in range(len(best_prior_idx)):
        best_truth_idx[best_prior_idx[j]] = j
    conf = best_truth_idx.copy()
    conf[best_truth_overlap < np.float32(threshold)] = -1
    return conf


def mmdetection(
    gt_bboxes: Boxes,
    bboxes: Boxes,
    gt_bboxes_ignore: Boxes | None = None,
    *,
    pos_iou_thr: float = 0.5,
    neg_iou_thr: float | tuple[float, float] = 0.5,
    min_pos_iou: float = 0.0,
    gt_max_assign_all: bool = False,
    ignore_iof_thr: float = -1,
) -> Matches:
    """open-mmlab/mmdetection, core/bbox/assigners/max_iou_assigner.py: ``MaxIoUAssigner``; defaults of ssd300.py."""
    overlaps = box_iou(gt_bboxes, bboxes)
    if ignore_iof_thr > 0 and gt_bboxes_ignore is not None and len(gt_bboxes_ignore) and len(bboxes):
        lt = np.maximum(bboxes[:, None, :2], gt_bboxes_ignore[:, :2])
        rb = np.minimum(bboxes[:, None, 2:], gt_bboxes_ignore[:, 2:])
        wh = (rb - lt).clip(min=0)
        area1 = (bboxes[:, 2] - bboxes[:, 0]) * (bboxes[:, 3] - bboxes[:, 1])
        ignore_overlaps = wh[..., 0] * wh[..., 1] / np.maximum(area1[:, None], np.float32(1e-6))
        overlaps[:, ignore_overlaps.max(axis=1) > np.float32(ignore_iof_thr)] = -1
    num_gts, num_bboxes = overlaps.shape
    assigned_gt_inds = np.full(num_bboxes, -1)
    if num_gts == 0 or num_bboxes == 0:
        if num_gts == 0:
            assigned_gt_inds[:] = 0
        return _numbers(assigned_gt_inds)
    max_overlaps, argmax_overlaps = overlaps.max(axis=0), overlaps.argmax(axis=0)
    gt_max_overlaps, gt_argmax_overlaps = overlaps.max(axis=1), overlaps.argmax(axis=1)
    low, high = neg_iou_thr if isinstance(neg_iou_thr, tuple) else (0.0, neg_iou_thr)
    assigned_gt_inds[(max_overlaps >= np.float32(low)) & (max_overlaps < np.float32(high))] = 0
    pos_inds = max_overlaps >= np.float32(pos_iou_thr)
    assigned_gt_inds[pos_inds] = argmax_overlaps[pos_inds] + 1
    for i in range(num_gts):
        if gt_max_overlaps[i] >= np.float32(min_pos_iou):
            if gt_max_assign_all:
                assigned_gt_inds[overlaps[i] == gt_max_overlaps[i]] = i + 1
            else:
                assigned_gt_inds[gt_argmax_overlaps[i]] = i + 1
    return _numbers(assigned_gt_inds)


def _numbers(assigned_gt_inds: Matches) -> Matches:
    """Its -1 is ignored, its 0 background, its i + 1 the object i."""
    return np.where(assigned_gt_inds > 0, assigned_gt_inds - 1, np.where(assigned_gt_inds == 0, -1, -2))


def tf_object_detection(
    groundtruth: Boxes,
    anchors: Boxes,
    matched_threshold: float = 0.5,
    unmatched_threshold: float = 0.5,
    *,
    negatives_lower_than_unmatched: bool = True,
    force_match_for_each_row: bool = True,
) -> Matches:
    """tensorflow/models, research/object_detection: ``box_list_ops.iou`` and ``matchers/argmax_matcher.py``."""
    lt = np.maximum(groundtruth[:, None, :2], anchors[:, :2])
    rb = np.minimum(groundtruth[:, None, 2:], anchors[:, 2:])
    sides = np.maximum(np.float32(0), rb - lt)
    intersections = sides[..., 0] * sides[..., 1]
    areas1, areas2 = ((b[:, 3] - b[:, 1]) * (b[:, 2] - b[:, 0]) for b in (groundtruth, anchors))
    unions = areas1[:, None] + areas2[None] - intersections
    with np.errstate(invalid="ignore", divide="ignore"):
        similarity = np.where(intersections == 0, np.float32(0), intersections / unions)
    num_rows, num_columns = similarity.shape
    if num_rows == 0:
        return np.full(num_columns, -1)
    matches, matched_vals = similarity.argmax(axis=0), similarity.max(axis=0)
    below_unmatched = np.float32(unmatched_threshold) > matched_vals
    between = (matched_vals >= np.float32(unmatched_threshold)) & (np.float32(matched_threshold) > matched_vals)
    below, between_value = (-1, -2) if negatives_lower_than_unmatched else (-2, -1)
    matches[below_unmatched], matches[between] = below, between_value
    if force_match_for_each_row:
        indicators = np.eye(num_columns)[similarity.argmax(axis=1)]  # (rows, columns), one 1 in every row
        force_match_row_ids = indicators.argmax(axis=0)
        matches = np.where(indicators.max(axis=0) > 0, force_match_row_ids, matches)
    return matches
