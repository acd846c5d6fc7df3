"""Systems whose quota is shared by the batch. Arguments and quirks as in `per_sample`; background is class 0."""

import numpy as np

from tests.support.systems.parts import Array, Labels, Result, cross_entropy, descending, one_hot, smooth_l1, softmax


def _log_loss(probabilities: Array, labels: Labels, floor: float) -> Array:
    """Return -log of the labelled class's probability, floored as Keras users do; 0 for an all-zero row."""
    rows = one_hot(labels, probabilities.shape[2])
    return -(rows * np.log(np.maximum(probabilities, floor))).sum(axis=-1)


def ssd_keras(
    logits: Array,
    labels: Labels,
    loc_pred: Array,
    loc_target: Array,
    *,
    ratio: int = 3,
    n_neg_min: int = 0,
) -> Result:
    """Return the loss of pierluigiferrari/ssd_keras (keras_ssd_loss.py).

    The probability is floored at 1e-15. Of the flattened batch, the top min(max(ratio P, n_neg_min), negatives with a
    loss) are scattered back. A label below 0 is its all-zero row. Keras's mean over the samples and the factor
    batch_size cancel.
    """
    classification_loss = _log_loss(softmax(logits), labels, 1e-15)
    localization_loss = smooth_l1(loc_pred, loc_target).sum(axis=-1)
    y_true = one_hot(labels, logits.shape[2])
    negatives, positives = y_true[:, :, 0], y_true[:, :, 1:].max(axis=-1)
    n_positive = positives.sum()
    neg_class_loss_all = (classification_loss * negatives).reshape(-1)
    n_negative_keep = min(max(ratio * int(n_positive), n_neg_min), np.count_nonzero(neg_class_loss_all))
    keep = np.zeros(labels.size, np.bool_)
    keep[descending(neg_class_loss_all)[:n_negative_keep]] = True
    keep = keep.reshape(labels.shape)
    class_loss = (classification_loss * positives).sum(axis=-1) + (classification_loss * keep).sum(axis=-1)
    loc_loss = (localization_loss * positives).sum(axis=-1)
    conf, loc = (part.sum() / max(1.0, n_positive) for part in (class_loss, loc_loss))
    return Result(float(conf), float(loc), keep)


def keras_cv(
    logits: Array,
    labels: Labels,
    loc_pred: Array,
    loc_target: Array,
    *,
    ratio: float = 3.0,
    min_negatives: int = 0,
) -> Result:
    """Return the sum of keras-team/keras-cv, pull request 5, a layer that was never merged.

    Two masks over the batch; the top max(ratio P, min_negatives) of the negative losses. No localization loss.
    """
    del loc_pred, loc_target
    losses, positive = cross_entropy(logits, labels).ravel(), labels.ravel() > 0
    wanted = max(int(ratio * positive.sum()), min_negatives)
    negatives = np.flatnonzero(~positive)
    kept = negatives[descending(losses[negatives])[:wanted]]
    mask = np.zeros(labels.size, np.bool_)
    mask[kept] = True
    return Result(float(losses[positive].sum() + losses[kept].sum()), 0.0, mask.reshape(labels.shape))


def balancap(logits: Array, labels: Labels, loc_pred: Array, loc_target: Array, *, ratio: float = 3.0) -> Result:
    """Return the loss of balancap/SSD-Tensorflow (ssd_vgg_300.py, the flattened ssd_losses).

    Of the lowest background probabilities, the int(ratio P) + B th is the threshold, and only what lies below
    it is a hard negative. TensorFlow fails where the batch has no negative; here nothing is mined.
    """
    batch_size = labels.shape[0]
    loss = cross_entropy(logits, labels)
    pmask = labels > 0
    nmask = ~pmask
    nvalues = np.where(nmask, softmax(logits)[:, :, 0], 1.0)
    n_neg = min(int(ratio * pmask.sum()) + batch_size, int(nmask.sum()))
    if n_neg:
        values = np.sort(nvalues, axis=None)[:n_neg]
        nmask = nmask & (nvalues < values[-1])
    conf = (loss * pmask).sum() / batch_size + (loss * nmask).sum() / batch_size
    loc = (smooth_l1(loc_pred, loc_target) * pmask[..., None]).sum() / batch_size
    return Result(float(conf), float(loc), nmask)


def rykov8(
    logits: Array,
    labels: Labels,
    loc_pred: Array,
    loc_target: Array,
    *,
    ratio: float = 3.0,
    negatives_for_hard: int = 100,
    quirk: bool = False,
) -> Result:
    """Return the loss of rykov8/ssd_keras (ssd_training.py, MultiboxLoss).

    Every sample takes the top k by its largest foreground probability; k is the smallest positive quota of the batch,
    or 100 if none is positive. Confidence is divided by P_b + k, localization by max(1, P_b); Keras takes the mean.
    Quirk: probabilities are multiplied by 0 at the positives, which fill up the k where a sample has fewer negatives
    and are summed again.
    """
    probabilities = softmax(logits)
    conf_loss = _log_loss(probabilities, labels, 1e-15)
    positive = labels > 0
    num_pos = positive.sum(axis=1)
    num_neg = np.minimum(ratio * num_pos, labels.shape[1] - num_pos)
    has_min = float((num_neg > 0).any())
    num_neg = np.append(num_neg, (1 - has_min) * negatives_for_hard)
    num_neg_batch = int(num_neg[num_neg > 0].min())
    max_confs = probabilities[:, :, 1:].max(axis=2) * (1 - positive)
    indices = descending(np.where(positive & (not quirk), -1.0, max_confs))[:, :num_neg_batch]
    mask = np.zeros(labels.shape, np.bool_)
    np.put_along_axis(mask, indices, values=True, axis=1)
    taken = mask if quirk else mask & ~positive
    pos_conf_loss, neg_conf_loss = (conf_loss * positive).sum(axis=1), (conf_loss * taken).sum(axis=1)
    divisor = num_pos + (num_neg_batch if quirk else taken.sum(axis=1))
    conf = (pos_conf_loss + neg_conf_loss) / np.maximum(divisor, 1)
    loc = (smooth_l1(loc_pred, loc_target).sum(axis=-1) * positive).sum(axis=1) / np.where(num_pos != 0, num_pos, 1)
    return Result(float(conf.mean()), float(loc.mean()), taken)


def bubbliiiing(
    logits: Array,
    labels: Labels,
    loc_pred: Array,
    loc_target: Array,
    *,
    ratio: float = 3.0,
    negatives_for_hard: int = 100,
    quirk: bool = False,
) -> Result:
    """Return the loss of bubbliiiing/ssd-pytorch (ssd_training.py).

    The sum of the samples' quotas, or 100 if all are 0, is taken from the flattened batch by the summed foreground
    probability; p is floored at 1e-7; divided by the sum of max(1, P_b). Quirk: the probabilities are multiplied by 0
    at the positives, which fill up what the negatives leave of the 100.
    """
    probabilities = softmax(logits)
    conf_loss = _log_loss(probabilities, labels, 1e-7)
    positive = (labels > 0).astype(float)
    num_pos = positive.sum(axis=1)
    num_neg = np.minimum(ratio * num_pos, labels.shape[1] - num_pos)
    num_neg_batch = int(num_neg.sum()) if (num_neg > 0).any() else negatives_for_hard
    max_confs = (probabilities[:, :, 1:].sum(axis=2) * (1 - positive)).reshape(-1)
    if not quirk:
        max_confs[positive.ravel() == 1] = -1.0
    mask = np.zeros(labels.size, np.bool_)
    mask[descending(max_confs)[:num_neg_batch]] = True
    mask = mask.reshape(labels.shape)
    if not quirk:
        mask &= labels == 0
    divisor = np.where(num_pos != 0, num_pos, 1).sum()
    conf = ((conf_loss * positive).sum() + conf_loss[mask].sum()) / divisor
    loc = (smooth_l1(loc_pred, loc_target).sum(axis=-1) * positive).sum() / divisor
    return Result(float(conf), float(loc), mask)


def db(
    logits: Array,
    labels: Labels,
    loc_pred: Array,
    loc_target: Array,
    *,
    ratio: float = 3.0,
    fallback: int = 0,
    eps: float = 0.0,
) -> Result:
    """Return the loss of MhLiao/DB (balance_cross_entropy_loss.py); with `fallback`, mmocr's MaskedBalancedBCELoss.

    The binary cross-entropy of one map, whose logit is that of class 1 over class 0; the top int(P ratio) of the
    negative losses of the batch; divided by P + k + eps (theirs is 1e-6; 0 / 0 is 0). No localization loss.
    """
    del loc_pred, loc_target
    pred, complement = softmax(logits)[:, :, 1], softmax(logits)[:, :, 0]
    gt = labels.astype(float)
    positive_count, num_negative = int(gt.sum()), int((1 - gt).sum())
    wanted = int(positive_count * ratio) if positive_count else fallback
    negative_count = min(num_negative, wanted)
    loss = -np.log(np.where(gt == 1, pred, complement))
    negative_loss = -np.sort(-(loss * (1 - gt)).reshape(-1))[:negative_count]
    total = (loss * gt).sum() + negative_loss.sum()
    divisor = positive_count + negative_count + eps
    return Result(float(total / divisor) if divisor else 0.0, 0.0, None)
