"""Online hard example mining: positives and negatives compete for the places. Oracles for `sm.ohem`.

Of detectors, one sample each: losses (A,), boxes (A, 4) as x1, y1, x2, y2, labels (A,) with background 0 and ignored
anchors below 0. Of segmentation, a batch: logits (B, C, H, W), labels (B, H, W).
"""

import numpy as np
from numpy.typing import NDArray

from tests.support.systems.parts import Array, Labels, Mask, descending

Indices = NDArray[np.int64]


def iou(box: Array, boxes: Array) -> Array:
    """Return the overlap of one box with each of the boxes; a box without area overlaps nothing."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - common
    return np.where(common > 0, common / np.where(union > 0, union, 1), 0.0)


def non_max_suppression(boxes: Array, scores: Array, most: int, threshold: float) -> Indices:
    """Return at most `most` boxes by falling score, each no more than `threshold` over any taken before it."""
    taken: list[int] = []
    for candidate in descending(scores):
        if len(taken) == most:
            break
        if not taken or (iou(boxes[candidate], boxes[taken]) <= threshold).all():
            taken.append(int(candidate))
    return np.array(taken, np.int64)


def subsample(indices: Indices, labels: Labels, ratio: float, min_negatives: int) -> Indices:
    """Keep of the `indices` all positives and the first max(min_negatives, int(ratio P)) negatives.

    P counts the positives among the indices. An ignored anchor stays while the negatives before it are within the
    quota: that is what a comparison of a cumulative sum says.
    """
    positives, negatives = labels[indices] > 0, labels[indices] == 0
    most = max(min_negatives, int(ratio * positives.sum()))
    return indices[positives | (np.cumsum(negatives) <= most)]


def tf_hard_example_miner(
    loss: Array,
    boxes: Array,
    labels: Labels,
    *,
    num_hard: int = 64,
    iou_threshold: float = 0.7,
    ratio: float | None = None,
    min_negatives: int = 0,
) -> Indices:
    """Return what tensorflow/models, object_detection/core/losses.py, HardExampleMiner selects, hardest first."""
    selected = non_max_suppression(boxes, loss, num_hard, iou_threshold)
    return selected if ratio is None else subsample(selected, labels, ratio, min_negatives)


def caffe_hard_example(loss: Array, sample_size: int = 64) -> Indices:
    """Return what weiliu89/caffe, branch ssd, selects with HARD_EXAMPLE and no NMS: the largest losses of all."""
    return descending(loss)[: min(sample_size, loss.size)]


def of_label(logits: Array, labels: Labels, ignore_index: int) -> tuple[Array, Mask]:
    """Return the probability of the label of every pixel (of class 0 where it is ignored), and which are valid."""
    valid = labels != ignore_index
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return np.take_along_axis(probabilities, np.where(valid, labels, 0)[:, None], axis=1)[:, 0], valid


def mmseg_ohem_sampler(
    logits: Array, labels: Labels, *, thresh: float | None = None, min_kept: int = 100000, ignore_index: int = 255
) -> Mask:
    """Return the pixels to which open-mmlab/mmsegmentation, ohem_pixel_sampler.py, gives the weight 1, (B, H, W)."""
    batch_kept = min_kept * labels.shape[0]
    probability, valid = of_label(logits, labels, ignore_index)
    chosen = np.zeros(np.count_nonzero(valid), np.bool_)
    if thresh is not None:
        ascending = np.sort(probability[valid])
        least = ascending[min(batch_kept, ascending.size - 1)] if ascending.size else 0.0
        chosen[probability[valid] < max(least, thresh)] = True
    else:
        chosen[descending(-np.log(probability[valid]))[:batch_kept]] = True
    weight = np.zeros(labels.shape, np.bool_)
    weight[valid] = chosen
    return weight


def hrnet_ohem_loss(
    logits: Array, labels: Labels, *, thres: float = 0.7, min_kept: int = 100000, ignore_label: int = -1
) -> float:
    """Return the loss of HRNet-Semantic-Segmentation, lib/core/criterion.py, OhemCrossEntropy without weights."""
    probability, valid = of_label(logits, labels, ignore_label)
    probability, losses = probability[valid], -np.log(probability[valid])
    order = np.argsort(probability, kind="stable")
    ascending = probability[order]
    least = ascending[min(max(1, min_kept), ascending.size - 1)]
    return float(losses[order][ascending < max(least, thres)].mean())


def maps(rng, ignore_index, size=8):
    """Draw logits (B, C, H, W) of a fair network, and labels (B, H, W), some of them ignored."""
    shape, num_classes = (int(rng.integers(1, 4)), size, size + 1), int(rng.integers(2, 6))
    labels = rng.integers(0, num_classes, shape)
    logits = rng.normal(0, 1.5, (shape[0], num_classes, *shape[1:]))
    np.put_along_axis(logits, labels[:, None], rng.normal(2, 1.5, (shape[0], 1, *shape[1:])), axis=1)
    return logits, np.where(rng.random(shape) < 0.2, ignore_index, labels)


def detections(rng, tied=False):
    """Draw losses (B, A), crowded boxes (B, A, 4) and labels (B, A): background 0, some ignored (-1)."""
    shape = int(rng.integers(1, 4)), int(rng.integers(1, 40))
    loss = rng.gamma(0.5, 1.0, shape)
    if tied:
        loss = np.round(loss, 1)
    corner, size = rng.random((*shape, 2)), rng.random((*shape, 2)) * 0.8 + 0.05
    labels = np.where(rng.random(shape) < 0.2, rng.integers(1, 4, shape), 0)
    return loss, np.concatenate([corner, corner + size], axis=-1), labels


def selected(result, sample):
    offsets, anchors = result.indices()
    return anchors[offsets[sample] : offsets[sample + 1]].tolist()
