"""Systems that mine every sample for itself.

Arguments of every function: logits (B, A, C), labels (B, A), loc_pred and loc_target (B, A, 4). Background is class 0
unless the docstring says that it is the last one. `ratio` is the system's negatives per positive. Where a system has
a bug, ``quirk=True`` keeps it; ``quirk=False`` is what the system means, and what our recipe reproduces.
"""

import numpy as np

from tests.support.systems.parts import (
    Array,
    Labels,
    Mask,
    Result,
    ascending_rank,
    cross_entropy,
    descending,
    descending_rank,
    log_softmax,
    one_hot,
    quotient,
    smooth_l1,
    softmax,
)


def _notebook(logits: Array, labels: Labels) -> tuple[Array, Array]:
    """Return the seed notebook's ``confidence_loss`` and ``positives_num``, (B,) each, cell by cell."""
    gt_cl = one_hot(labels, logits.shape[2])
    conf = -(gt_cl * log_softmax(logits)).sum(axis=-1)
    num_anchors = conf.shape[1]
    negatives_num = np.count_nonzero(gt_cl[:, :, -1], axis=1)
    positives_num = num_anchors - negatives_num
    positives_mask = gt_cl[:, :, -1] == 0
    positives_sum = np.where(positives_mask, conf, 0.0).sum(axis=-1)
    negatives_top = -np.sort(-np.where(positives_mask, 0.0, conf), axis=-1)
    negatives_num_max = np.minimum(negatives_num, 3 * positives_num)
    negatives_max_mask = np.arange(num_anchors)[None] < negatives_num_max[:, None]
    negatives_max = np.where(negatives_max_mask, negatives_top, 0.0)
    return positives_sum + negatives_max.sum(axis=-1), positives_num


def seed(logits: Array, labels: Labels, loc_pred: Array, loc_target: Array) -> Result:
    """Return the loss of the seed notebook: background last, mean over the samples, no localization loss."""
    del loc_pred, loc_target
    confidence_loss, _ = _notebook(logits, labels)
    return Result(float(confidence_loss.mean()), 0.0, None)


def ljanyst(logits: Array, labels: Labels, loc_pred: Array, loc_target: Array) -> Result:
    """Return the loss of ljanyst/ssd-tensorflow (ssdvgg.py): background last, divided by sample."""
    confidence_loss, positives_num = _notebook(logits, labels)
    positives_mask = labels != logits.shape[2] - 1
    localization_loss = np.where(positives_mask, smooth_l1(loc_pred, loc_target).sum(axis=-1), 0.0).sum(axis=-1)
    safe = np.where(positives_num == 0, 10e-15, positives_num)
    conf, loc = (np.where(positives_num < 1, 0.0, part / safe) for part in (confidence_loss, localization_loss))
    return Result(float(conf.mean()), float(loc.mean()), None)


def mlperf(logits: Array, labels: Labels, loc_pred: Array, loc_target: Array, *, quirk: bool = False) -> Result:
    """Return the loss of MLPerf SSD (single_stage_detector, base_model.py).

    Quirk: it adds two masks as floats, so a positive that ranks among the first 3P counts twice. NVIDIA's copy
    (DeepLearningExamples, ssd/model.py) joins the masks: the same formula without the quirk.
    """
    mask = labels > 0
    pos_num = mask.sum(axis=1)
    sl1 = (mask * smooth_l1(loc_pred, loc_target).sum(axis=2)).sum(axis=1)
    con = cross_entropy(logits, labels)
    con_neg = np.where(mask, 0.0, con)
    if not quirk:
        con_neg[mask] = -np.inf
    neg_mask = descending_rank(con_neg) < np.minimum(3 * pos_num, mask.shape[1])[:, None]
    weight = mask.astype(float) + neg_mask if quirk else (mask | neg_mask).astype(float)
    closs = (con * weight).sum(axis=1)
    num_mask, divisor = pos_num > 0, np.maximum(pos_num, 1e-6)
    conf, loc = ((part * num_mask / divisor).mean() for part in (closs, sl1))
    return Result(float(conf), float(loc), neg_mask if quirk else neg_mask & ~mask)


def caffe(
    logits: Array,
    labels: Labels,
    loc_pred: Array,
    loc_target: Array,
    *,
    overlaps: Array,
    neg_overlap: float = 0.5,
    ratio: float = 3.0,
    normalization: str = "VALID",
) -> Result:
    """Return the loss of weiliu89/caffe, branch ssd, with MAX_NEGATIVE (bbox_util.cpp, multibox_loss_layer.cpp).

    Pairs of (loss, index) of the unmatched anchors that overlap no object by `neg_overlap`; after sorting, the first
    int(P ratio) of them. An image without objects is skipped.
    """
    conf_loss, loc = cross_entropy(logits, labels), smooth_l1(loc_pred, loc_target).sum(axis=2)
    picked = np.zeros(labels.shape, np.bool_)
    for i, matches in enumerate(labels):
        if not (matches > 0).any():
            continue  # an image without objects is skipped
        pairs = [
            (conf_loss[i, m], m) for m in range(matches.size) if matches[m] == 0 and overlaps[i, m] < neg_overlap
        ]
        num_sel = min(int((matches > 0).sum() * ratio), len(pairs))
        for _, m in sorted(pairs, key=lambda pair: -pair[0])[:num_sel]:
            picked[i, m] = True
    num, num_priors = labels.shape
    normalizer = {
        "FULL": num * num_priors,
        "VALID": int((labels > 0).sum()),
        "BATCH_SIZE": num,
        "NONE": 1,
    }[normalization]
    normalizer = max(1, normalizer)
    conf = conf_loss[(labels > 0) | picked].sum() / normalizer
    return Result(float(conf), float(loc[labels > 0].sum() / normalizer), picked)


def amdegroot(
    logits: Array,
    labels: Labels,
    loc_pred: Array,
    loc_target: Array,
    *,
    ratio: float = 3,
    quirk: bool = False,
) -> Result:
    """Return the loss of amdegroot/ssd.pytorch (multibox_loss.py).

    With the well-known fix: zero the positives after reshaping, divide by the integer sum. NaN without positives.
    Quirk: its log-sum-exp subtracts the maximum of the whole batch, so that a row far below it gets -inf and is
    never mined.
    """
    pos = labels > 0
    batch_conf = logits.reshape(-1, logits.shape[2])
    largest = batch_conf.max() if quirk else batch_conf.max(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        log_sum_exp = np.log(np.exp(batch_conf - largest).sum(axis=1, keepdims=True)) + largest
    loss_c = log_sum_exp - np.take_along_axis(batch_conf, labels.reshape(-1, 1), axis=1)
    loss_c = np.where(pos, 0.0 if quirk else -np.inf, loss_c.reshape(pos.shape))
    num_neg = np.minimum(ratio * pos.sum(axis=1, keepdims=True), pos.shape[1] - 1)
    neg = descending_rank(loss_c) < num_neg
    loss = cross_entropy(logits, labels)[pos | neg].sum()
    n = pos.sum()
    loc = smooth_l1(loc_pred, loc_target)[pos].sum()
    return Result(quotient(loss, n), quotient(loc, n), neg if quirk else neg & ~pos)


def sgrvinod(logits: Array, labels: Labels, loc_pred: Array, loc_target: Array, *, ratio: float = 3) -> Result:
    """Return the loss of sgrvinod/a-PyTorch-Tutorial-to-Object-Detection (model.py).

    It sorts the losses themselves and cuts by position; its localization loss is the mean absolute difference over
    the positives' coordinates. NaN without positives.
    """
    positive = labels != 0
    conf_loss_all = cross_entropy(logits, labels)
    conf_loss_neg = -np.sort(-np.where(positive, 0.0, conf_loss_all), axis=1)
    hardness_ranks = np.broadcast_to(np.arange(labels.shape[1]), labels.shape)
    hard = conf_loss_neg[hardness_ranks < ratio * positive.sum(axis=1, keepdims=True)]
    n_positives = positive.sum()
    conf = quotient(hard.sum() + conf_loss_all[positive].sum(), n_positives)
    return Result(conf, quotient(np.abs(loc_pred - loc_target)[positive].sum(), 4 * n_positives), None)


def torchcv(logits: Array, labels: Labels, loc_pred: Array, loc_target: Array, *, ratio: float = 3) -> Result:
    """Return the loss of kuangliu/torchcv (ssd_loss.py).

    It ranks ``loss * (positive - 1)`` from below; labels below 0 get the loss 0. NaN without positives.
    """
    pos = labels > 0
    cls_loss = np.where(labels < 0, 0.0, cross_entropy(logits, labels))
    neg = ascending_rank(cls_loss * (pos.astype(float) - 1)) < ratio * pos.sum(axis=1)[:, None]
    loc = smooth_l1(loc_pred, loc_target)[pos].sum()
    conf = quotient(cls_loss[pos | neg].sum(), pos.sum())
    return Result(conf, quotient(loc, pos.sum()), neg & ~pos & (labels == 0))


def lufficc(
    logits: Array,
    labels: Labels,
    loc_pred: Array,
    loc_target: Array,
    *,
    ratio: float = 3,
    quirk: bool = False,
) -> Result:
    """Return the loss of lufficc/SSD and qfgaohao/pytorch-ssd (hard_negative_mining, MultiBoxLoss): one formula.

    They rank by -log p of background. NaN without positives. Quirk: labels below 0 are mined as background.
    """
    pos_mask = labels > 0
    rank_by = -log_softmax(logits)[:, :, 0]
    rank_by[pos_mask] = -np.inf
    if not quirk:
        rank_by[labels < 0] = -np.inf
    neg_mask = descending_rank(rank_by) < pos_mask.sum(axis=1, keepdims=True) * ratio
    if not quirk:
        neg_mask &= labels == 0
    conf = cross_entropy(logits, labels)[pos_mask | neg_mask].sum()
    loc = smooth_l1(loc_pred[pos_mask], loc_target[pos_mask]).sum()
    return Result(quotient(conf, pos_mask.sum()), quotient(loc, pos_mask.sum()), neg_mask & ~pos_mask)


def torchvision(
    logits: Array,
    labels: Labels,
    loc_pred: Array,
    loc_target: Array,
    *,
    ratio: float = 3.0,
    quirk: bool = False,
) -> Result:
    """Return the loss of pytorch/vision (models/detection/ssd.py, compute_loss).

    Quirk: positives that rank before the quota ends are summed a second time, wherever the quota exceeds the
    negatives.
    """
    foreground = labels > 0
    cls_loss = cross_entropy(logits, labels)
    num_negative = ratio * foreground.sum(axis=1, keepdims=True)
    background = descending_rank(np.where(foreground, -np.inf, cls_loss)) < num_negative
    if not quirk:
        background &= ~foreground
    n = max(1, int(foreground.sum()))
    loc = smooth_l1(loc_pred[foreground], loc_target[foreground]).sum() / n
    return Result(float((cls_loss[foreground].sum() + cls_loss[background].sum()) / n), float(loc), background)


def chainercv(logits: Array, labels: Labels, loc_pred: Array, loc_target: Array, *, ratio: float = 3) -> Result:
    """Return the loss of chainer/chainercv (multibox_loss.py): ranks ``loss * (positive - 1)``, may be 0."""
    positive = labels > 0
    n_positive = int(positive.sum())
    if n_positive == 0:
        return Result(0.0, 0.0, np.zeros(labels.shape, np.bool_))
    loc_loss = (smooth_l1(loc_pred, loc_target).sum(axis=-1) * positive).sum() / n_positive
    conf_loss = cross_entropy(logits, labels)
    hard_negative = ascending_rank(conf_loss * (positive.astype(float) - 1)) < (positive.sum(axis=1) * ratio)[:, None]
    conf = (conf_loss * (positive | hard_negative)).sum() / n_positive
    return Result(float(conf), float(loc_loss), hard_negative & ~positive)


def gluoncv(
    logits: Array,
    labels: Labels,
    loc_pred: Array,
    loc_target: Array,
    *,
    ratio: float = 3,
    min_hard_negatives: int = 0,
    quirk: bool = False,
) -> Result:
    """Return the loss of dmlc/gluon-cv (loss.py, SSDMultiBoxLoss), summed over its per-sample losses.

    It ranks as chainercv does and keeps at least `min_hard_negatives` per sample. Quirk: anchors labelled -1 are
    mined, and ``pick`` gives them the loss of background.
    """
    pos = labels > 0
    num_pos_all = int(pos.sum())
    if num_pos_all < 1 and min_hard_negatives < 1:
        return Result(0.0, 0.0, np.zeros(labels.shape, np.bool_))
    cls_loss = cross_entropy(logits, labels)
    sort_by = cls_loss * (pos.astype(float) - 1)
    if not quirk:
        sort_by[pos | (labels < 0)] = np.inf
    hard_negative = ascending_rank(sort_by) < np.maximum(min_hard_negatives, pos.sum(axis=1) * ratio)[:, None]
    if not quirk:
        hard_negative &= labels == 0
    cls_losses = np.where(pos | hard_negative, cls_loss, 0.0).sum(axis=1) / max(1.0, num_pos_all)
    box_losses = (smooth_l1(loc_pred, loc_target) * pos[..., None]).sum(axis=(1, 2)) / max(1.0, num_pos_all)
    return Result(float(cls_losses.sum()), float(box_losses.sum()), hard_negative & ~pos)


def mmdetection(
    logits: Array,
    labels: Labels,
    loc_pred: Array,
    loc_target: Array,
    *,
    label_weights: Array,
    ratio: int = 3,
) -> Result:
    """Return the loss of open-mmlab/mmdetection (ssd_head.py, loss_by_feat_single, with PseudoSampler).

    Background last. Each image takes the top of its weighted negative losses; all divide by the sum over the images
    of max(1, positives).
    """
    num_classes = logits.shape[2] - 1
    avg_factor = int(np.maximum(1, ((labels >= 0) & (labels < num_classes)).sum(axis=1)).sum())
    picked = np.zeros(labels.shape, np.bool_)
    loss_cls, loss_bbox = [], []
    for i in range(labels.shape[0]):
        loss_cls_all = cross_entropy(logits[i], labels[i]) * label_weights[i]
        pos_inds = np.flatnonzero((labels[i] >= 0) & (labels[i] < num_classes))
        neg_inds = np.flatnonzero(labels[i] == num_classes)
        num_neg_samples = min(ratio * pos_inds.size, neg_inds.size)
        top = descending(loss_cls_all[neg_inds])[:num_neg_samples]
        picked[i, neg_inds[top]] = True
        loss_cls.append((loss_cls_all[pos_inds].sum() + loss_cls_all[neg_inds][top].sum()) / avg_factor)
        loss_bbox.append(smooth_l1(loc_pred[i, pos_inds], loc_target[i, pos_inds]).sum() / avg_factor)
    return Result(float(sum(loss_cls)), float(sum(loss_bbox)), picked)


def paddledetection(
    logits: Array, labels: Labels, loc_pred: Array, loc_target: Array, *, ratio: float = 3.0
) -> Result:
    """Return the loss of PaddlePaddle/PaddleDetection (ssd_loss.py).

    Background last. Losses are zeroed at the positives and sorted twice; where the quota is 0, it is 1 % of the
    anchors instead. Divided by at least one positive.
    """
    bg_index = logits.shape[2] - 1
    conf_loss = cross_entropy(logits, labels)
    pos, neg = labels != bg_index, labels == bg_index
    idx_rank = descending_rank(np.where(neg, conf_loss, -np.inf))
    num_negs = []
    for cur_num_pos in pos.sum(axis=1):
        num_neg = min(cur_num_pos * ratio, labels.shape[1])
        num_negs.append(num_neg if num_neg > 0 else labels.shape[1] * 0.01)
    neg_mask = idx_rank < np.array(num_negs)[:, None]
    normalizer = max(1, int(pos.sum()))
    loc = smooth_l1(loc_pred[pos], loc_target[pos]).sum()
    return Result(float(conf_loss[neg_mask | pos].sum() / normalizer), float(loc / normalizer), neg_mask & neg)


def tf_object_detection(
    logits: Array,
    labels: Labels,
    loc_pred: Array,
    loc_target: Array,
    *,
    ratio: float = 3.0,
    min_negatives: int = 0,
) -> Result:
    """Return the losses of tensorflow/models, object_detection, HardExampleMiner.

    As its docstring replicates SSD, num_hard_examples None and IoU threshold 1: anchors by falling classification
    loss; of them all positives, and the first negatives by cumulative sum.
    """
    cls_losses = cross_entropy(logits, labels)
    location_losses = smooth_l1(loc_pred, loc_target).sum(axis=2) * (labels > 0)
    picked = np.zeros(labels.shape, np.bool_)
    cls_total = loc_total = 0.0
    for i, matched in enumerate(labels > 0):
        indices = descending(cls_losses[i])
        positives_indicator = matched[indices]
        max_negatives = max(min_negatives, int(ratio * positives_indicator.sum()))
        first_negatives = np.cumsum(~positives_indicator) <= max_negatives
        selected = indices[positives_indicator | first_negatives]
        picked[i, selected] = True
        cls_total += cls_losses[i, selected].sum()
        loc_total += location_losses[i, selected].sum()
    return Result(float(cls_total), float(loc_total), picked & (labels == 0))


def monai_num_negatives(num_pos: int, positive_fraction: float, min_neg: int) -> int:
    """Return how many negatives MONAI and nnDetection draw beside `num_pos` drawn positives."""
    return max(int(max(1, num_pos) * abs(1 - 1 / positive_fraction)), min_neg)


def monai(logits: Array, labels: Labels, num_negatives: Labels, pool_size: float) -> list[Mask]:
    """Return the pools (A,) of MONAI (hard_negative_sampler.py) and nnDetection (sampler.py): one formula.

    Per sample, the int(num_neg pool_size) background anchors with the highest foreground probability; num_neg of
    them are drawn.
    """
    pools = []
    for scores, label, wanted in zip(softmax(logits), labels, num_negatives, strict=True):
        fg_probs, negative = scores[:, 1:].max(axis=1), np.flatnonzero(label == 0)
        pool = min(negative.size, int(min(negative.size, wanted) * pool_size))
        pools.append(np.isin(np.arange(label.size), negative[descending(fg_probs[negative])[:pool]]))
    return pools
