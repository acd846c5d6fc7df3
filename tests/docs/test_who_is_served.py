"""Every row of the README's table of who is served, executed."""

import numpy as np
import pytest

import ssd_mining as sm

RNG = np.random.default_rng(0)
LABELS = np.where(RNG.random((2, 300)) < 0.05, RNG.integers(1, 4, (2, 300)), 0)
LOGITS = RNG.normal(size=(2, 300, 4)).astype(np.float32)
WITHOUT = np.where(LABELS == 0, 3, LABELS - 1)  # three classes, background has no column
ROWS = {
    "SSD": (LOGITS, LABELS, {"classification": sm.Softmax(), "background": 0}),
    "RetinaNet": (LOGITS[..., 1:], WITHOUT, {"classification": sm.Focal(), "background": 3, "min_negatives": 10**9}),
    "YOLO": (LOGITS[..., 1:], WITHOUT, {"classification": sm.Sigmoid(), "background": 3}),
    "DETR": (LOGITS, np.where(LABELS == 0, 3, LABELS - 1), {"classification": sm.Softmax(), "background": -1}),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_detector_is_analysed_and_its_loss_computed(name):
    logits, labels, how = ROWS[name]
    loss = sm.multibox_loss(logits, labels, **how).loss
    report = sm.LossReport(**how)
    report.update(logits, labels)
    found = report.result()
    assert np.isfinite(loss)
    assert found.num_pos == (LABELS > 0).sum()
    assert found.num_kept == (found.num_neg if name == "RetinaNet" else 3 * found.num_pos)


def test_padded_queries_are_left_out():
    valid = np.arange(300)[None] < np.array([[300], [100]])
    logits, labels, how = ROWS["DETR"]
    report = sm.LossReport(**how)
    columns = report.update(logits, labels, valid=valid)
    assert (columns["num_pos"] + columns["num_neg"]).tolist() == [300, 100]


def test_segmentation_keeps_the_hard_pixels():
    maps, logits = LABELS.reshape(2, 15, 20), np.moveaxis(LOGITS.reshape(2, 15, 20, 4), -1, 1)
    losses = sm.softmax_cross_entropy(logits, maps, background=0, class_axis=1)
    assert sm.ohem(losses, num_hard=50, min_loss=2.0, scope="batch").mask.shape == (2, 15, 20)
