"""The systems' formulas with the frameworks' own operations, against the NumPy oracles and against our recipes.

An optional room: each half needs its framework, and says so where it is skipped.
"""

import importlib.util

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.benchmarks import peers
from tests.support.systems import per_sample, whole_batch
from tests.support.systems.draws import KINDS, draw
from tests.support.systems.hard_examples import detections, selected, tf_hard_example_miner
from tests.support.systems.parts import cross_entropy

if importlib.util.find_spec("torch"):
    import torch
    import torch.nn.functional as tnf
if importlib.util.find_spec("tensorflow"):
    import tensorflow as tf

needs_torch, needs_tensorflow = pytest.mark.framework("torch"), pytest.mark.framework("tensorflow")


def place(values):
    """Return the place of every element of a row, the largest first: two sorts."""
    return values.sort(dim=1, descending=True, stable=True).indices.sort(dim=1).indices


def losses_of(logits, labels):
    """Return torch's cross-entropy (B, A)."""
    return tnf.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)


def torchvision_formula(logits, labels, loc_pred, loc_target, ratio=3.0):
    loss, positive = losses_of(logits, labels), labels > 0
    mined = place(loss.masked_fill(positive, -torch.inf)) < ratio * positive.sum(1, keepdim=True)
    divisor = max(1, int(positive.sum()))
    offsets = tnf.smooth_l1_loss(loc_pred[positive], loc_target[positive], reduction="sum")
    return (loss[positive].sum() + loss[mined].sum()) / divisor, offsets / divisor


def amdegroot_formula(logits, labels, loc_pred, loc_target, ratio=3):
    positive = labels > 0
    num_pos = positive.long().sum(1, keepdim=True)
    largest = logits.max()
    rank_by = (logits - largest).exp().sum(2).log() + largest - logits.gather(2, labels[..., None])[..., 0]
    rank_by[positive] = 0
    mined = place(rank_by) < torch.clamp(ratio * num_pos, max=labels.shape[1] - 1)
    chosen = positive | mined
    loss = tnf.cross_entropy(logits[chosen], labels[chosen], reduction="sum")
    offsets = tnf.smooth_l1_loss(loc_pred[positive], loc_target[positive], reduction="sum")
    return loss / num_pos.sum(), offsets / num_pos.sum()


def lufficc_formula(logits, labels, loc_pred, loc_target, ratio=3):
    positive = labels > 0
    rank_by = -tnf.log_softmax(logits, dim=2)[..., 0]
    rank_by[positive] = -torch.inf
    chosen = positive | (place(rank_by) < ratio * positive.sum(1, keepdim=True))
    loss = tnf.cross_entropy(logits[chosen], labels[chosen], reduction="sum")
    offsets = tnf.smooth_l1_loss(loc_pred[positive], loc_target[positive], reduction="sum")
    return loss / positive.sum(), offsets / positive.sum()


def mlperf_formula(logits, labels, loc_pred, loc_target):
    loss, positive = losses_of(logits, labels), labels > 0
    num_pos = positive.sum(1)
    mined = place(loss.masked_fill(positive, 0)) < torch.clamp(3 * num_pos, max=labels.shape[1])[:, None]
    both = (loss * (positive.double() + mined.double())).sum(1)
    offsets = (tnf.smooth_l1_loss(loc_pred, loc_target, reduction="none").sum(2) * positive).sum(1)
    return tuple((part * (num_pos > 0) / num_pos.clamp(min=1e-6)).mean() for part in (both, offsets))


def bubbliiiing_formula(logits, labels, loc_pred, loc_target, ratio=3.0):
    positive = (labels > 0).double()
    chance = torch.softmax(logits, -1)
    loss = -(tnf.one_hot(labels, logits.shape[2]) * chance.clamp(min=1e-7).log()).sum(-1)
    num_pos = positive.sum(-1)
    quotas = torch.minimum(ratio * num_pos, labels.shape[1] - num_pos)
    wanted = int(quotas.sum()) if (quotas > 0).any() else 100
    rank_by = (chance[..., 1:].sum(2) * (1 - positive)).view(-1)
    mined = rank_by.sort(descending=True, stable=True).indices[:wanted]  # its topk takes any of the zeros
    divisor = torch.where(num_pos != 0, num_pos, torch.ones_like(num_pos)).sum()
    offsets = (tnf.smooth_l1_loss(loc_pred, loc_target, reduction="none").sum(-1) * positive).sum()
    return ((loss * positive).sum() + loss.view(-1)[mined].sum()) / divisor, offsets / divisor


def quota_fits(batch):
    num_pos = (batch.labels > 0).sum(axis=1)
    return bool((3 * num_pos <= batch.labels.shape[1] - num_pos).all())


def always(batch):
    return batch.labels.size > 0


TORCH = {  # the formula, the oracle with its bug, and where the bug does not show
    "torchvision": ("torchvision_formula", per_sample.torchvision, quota_fits),
    "mlperf": ("mlperf_formula", per_sample.mlperf, lambda batch: batch.kind != "zero_loss" and quota_fits(batch)),
    "amdegroot": ("amdegroot_formula", per_sample.amdegroot, always),
    "lufficc": ("lufficc_formula", per_sample.lufficc, always),
    "bubbliiiing": ("bubbliiiing_formula", whole_batch.bubbliiiing, lambda batch: (batch.labels > 0).any()),
}


def in_torch(name, kind, number):
    """Draw a batch, and compute the formula in torch."""
    batch = draw(kind, np.random.default_rng([number, list(KINDS).index(kind)]))
    conf, loc = globals()[TORCH[name][0]](*map(torch.from_numpy, batch.arrays))
    return batch, float(conf), float(loc)


@needs_torch
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TORCH)
def test_the_oracle_is_the_formula_in_torch(name, kind):
    for number in range(26):
        batch, conf, loc = in_torch(name, kind, number)
        theirs = TORCH[name][1](*batch.arrays, quirk=True)
        np.testing.assert_allclose(theirs.conf_loss, conf, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(theirs.loc_loss, loc, rtol=1e-9, atol=1e-12)


@needs_torch
@pytest.mark.parametrize("kind", ["random", "some_empty", "no_positives", "exhausted", "ties", "zero_loss"])
@pytest.mark.parametrize("name", TORCH)
def test_the_recipe_is_the_formula_in_torch_where_its_bug_does_not_show(name, kind):
    for number in range(26):
        batch, conf, loc = in_torch(name, kind, number)
        if TORCH[name][2](batch):
            got = sm.multibox_loss(*batch.arrays, **sm.recipes[name])
            np.testing.assert_allclose(got.loss, conf + loc, rtol=1e-9, atol=1e-12)


@needs_torch
def test_the_bug_of_torchvision_shows_where_the_quota_does_not_fit():
    shown = 0
    for number in range(26):
        batch, conf, loc = in_torch("torchvision", "exhausted", number)
        if not quota_fits(batch):
            got = sm.multibox_loss(*batch.arrays, **sm.recipes["torchvision"])
            shown += got.loss < conf + loc - 1e-9
    assert shown > 10


def rykov8_formula(logits, labels, loc_pred, loc_target):
    """MultiboxLoss.compute_loss, with its gather by flat indices."""
    positive = tf.cast(labels > 0, tf.float64)
    chance = tf.nn.softmax(logits)
    floored = tf.maximum(tf.minimum(chance, 1 - 1e-15), 1e-15)
    loss = -tf.reduce_sum(tf.one_hot(labels, logits.shape[2], dtype=tf.float64) * tf.math.log(floored), -1)
    num_pos = tf.reduce_sum(positive, -1)
    quotas = tf.minimum(3.0 * num_pos, labels.shape[1] - num_pos)
    fallback = (1 - tf.cast(tf.reduce_any(quotas > 0), tf.float64)) * 100
    quotas = tf.concat([quotas, [fallback]], 0)
    shared = tf.cast(tf.reduce_min(tf.boolean_mask(quotas, quotas > 0)), tf.int32)
    _, anchors = tf.nn.top_k(tf.reduce_max(chance[:, :, 1:], 2) * (1 - positive), shared)
    mined = tf.reduce_sum(tf.gather(loss, anchors, batch_dims=1), 1)
    conf = (tf.reduce_sum(loss * positive, 1) + mined) / (num_pos + tf.cast(shared, tf.float64))
    distance = tf.abs(loc_pred - loc_target)
    offsets = tf.reduce_sum(tf.where(distance < 1, 0.5 * distance**2, distance - 0.5), -1)
    loc = tf.reduce_sum(offsets * positive, 1) / tf.where(num_pos != 0, num_pos, tf.ones_like(num_pos))
    return float(tf.reduce_mean(conf)), float(tf.reduce_mean(loc))


@needs_tensorflow
@pytest.mark.parametrize("kind", ["random", "some_empty", "exhausted", "one_full"])
def test_the_oracle_of_rykov8_is_the_formula_in_tensorflow(kind):
    for number in range(20):
        batch = draw(kind, np.random.default_rng(number), num_anchors=40)
        if (batch.labels > 0).any(axis=1).any() and (batch.labels == 0).any(axis=1).all():
            conf, loc = rykov8_formula(*batch.arrays)
            theirs = whole_batch.rykov8(*batch.arrays, quirk=True)
            np.testing.assert_allclose(theirs.conf_loss, conf, rtol=1e-9)
            np.testing.assert_allclose(theirs.loc_loss, loc, rtol=1e-9)


@needs_tensorflow
@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_is_its_notebook_in_tensorflow(kind):
    for number in range(10):
        batch = draw(kind, np.random.default_rng(number), last=True)
        losses = cross_entropy(batch.logits, batch.labels)
        notebook = peers.tensorflow_notebook(losses, (batch.labels != batch.background).astype(np.int64)).mean()
        np.testing.assert_allclose(per_sample.seed(*batch.arrays).loss, notebook, rtol=1e-9, atol=1e-12)


@needs_tensorflow
@pytest.mark.parametrize("kind", KINDS)
def test_the_recipe_of_the_seed_is_its_notebook_in_tensorflow(kind):
    for number in range(10):
        batch = draw(kind, np.random.default_rng(number), last=True)
        losses = cross_entropy(batch.logits, batch.labels)
        notebook = peers.tensorflow_notebook(losses, (batch.labels != batch.background).astype(np.int64)).mean()
        got = sm.multibox_loss(*batch.arrays, **sm.recipes["seed"]).conf_loss
        np.testing.assert_allclose(got, notebook, rtol=1e-9, atol=1e-12)


def miner_formula(loss, boxes, labels, *, num_hard, threshold, ratio, least):
    """Suppress, then keep the positives and the negatives that a cumulative sum allows."""
    indices = tf.image.non_max_suppression(boxes, loss, num_hard, threshold)
    if ratio is None:
        return indices.numpy().tolist()
    positive, negative = tf.gather(labels > 0, indices), tf.gather(labels == 0, indices)
    num_pos = tf.reduce_sum(tf.cast(positive, tf.float32))
    most = tf.maximum(least, tf.cast(ratio * num_pos, tf.int32))
    first = tf.cumsum(tf.cast(negative, tf.int32)) <= most
    return tf.boolean_mask(indices, positive | first).numpy().tolist()


def mining_questions():
    """Draw losses and boxes in single precision, which is what TensorFlow's suppression computes in."""
    for number in range(60):
        rng = np.random.default_rng(number)
        loss, boxes, labels = detections(rng)
        keywords = {"num_hard": int(rng.integers(1, 50)), "ratio": [None, 0.5, 1.5, 3.0][number % 4]}
        threshold, least = float(rng.choice([0.99, 0.7, 0.3])), int(rng.integers(0, 4))
        yield loss.astype(np.float32), boxes.astype(np.float32), labels, keywords, threshold, least


@needs_tensorflow
def test_the_oracle_of_the_hard_example_miner_is_the_formula_in_tensorflow():
    for loss, boxes, labels, keywords, threshold, least in mining_questions():
        for row in zip(loss, boxes, labels, strict=True):
            theirs = tf_hard_example_miner(*row, iou_threshold=threshold, min_negatives=least, **keywords)
            assert theirs.tolist() == miner_formula(*row, threshold=threshold, least=least, **keywords)


@needs_tensorflow
def test_ohem_is_the_hard_example_miner_in_tensorflow():
    for loss, boxes, labels, keywords, threshold, least in mining_questions():
        num_hard, ratio = keywords["num_hard"], keywords["ratio"]
        negatives = {"labels": labels, "background": 0, "neg_pos_ratio": ratio, "min_negatives": least}
        got = sm.ohem(loss, num_hard=num_hard, boxes=boxes, iou_threshold=threshold, **(negatives if ratio else {}))
        for i, row in enumerate(zip(loss, boxes, labels, strict=True)):
            assert selected(got, i) == miner_formula(*row, threshold=threshold, least=least, **keywords)
