"""`sm.ohem` against the miners of detectors and of segmentation, transliterated."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.systems.hard_examples import (
    caffe_hard_example,
    detections,
    hrnet_ohem_loss,
    iou,
    maps,
    mmseg_ohem_sampler,
    non_max_suppression,
    selected,
    subsample,
    tf_hard_example_miner,
)


def test_the_oracle_by_hand():
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 1], [5, 5, 6, 6], [0, 0, 2, 2.0], [5, 5, 6, 6]])
    np.testing.assert_allclose(iou(boxes[0], boxes), [1, 0.5, 0, 1, 0])
    loss = np.array([3.0, 2, 1, 5, 4])
    assert non_max_suppression(boxes, loss, 9, 0.5).tolist() == [3, 4, 1]  # 0.5 over is not too much, 1 is
    assert non_max_suppression(boxes, loss, 9, 0.4).tolist() == [3, 4]
    assert non_max_suppression(boxes, loss, 2, 0.5).tolist() == [3, 4]
    # The example of the original's docstring.
    indices, labels = np.array([2, 4, 5, 7, 9, 10]), np.isin(np.arange(12), [2, 5]).astype(int)
    assert subsample(indices, labels, 1, 0).tolist() == [2, 4, 5, 7]
    ignored = np.array([0, -1, 0, -1, 0])
    assert subsample(np.arange(5), ignored, 3, 2).tolist() == [0, 1, 2, 3]  # the ignored ones before the third
    assert caffe_hard_example(loss, 2).tolist() == [3, 4]


@pytest.mark.parametrize("tied", [False, True])
def test_the_largest_losses_of_all_as_in_caffe(tied):
    for number in range(100):
        rng = np.random.default_rng(number)
        loss, _, _ = detections(rng, tied)
        num_hard = int(rng.integers(1, 50))
        got = sm.ohem(loss, num_hard=num_hard)
        for i, row in enumerate(loss):
            expected = caffe_hard_example(row, num_hard)
            assert selected(got, i) == expected.tolist()
            np.testing.assert_array_equal(np.flatnonzero(got.mask[i]), np.sort(expected))
            np.testing.assert_allclose(got.loss_sum[i], row[expected].sum(), rtol=1e-12)
            assert got.threshold[i] == row[expected[-1]]
        assert got.num_kept.tolist() == [min(num_hard, loss.shape[1])] * loss.shape[0]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("threshold", [0.99, 0.7, 0.3])
def test_suppression_before_the_cut_as_in_tf_object_detection(threshold, tied):
    for number in range(60):
        rng = np.random.default_rng(number)
        loss, boxes, labels = detections(rng, tied)
        num_hard = int(rng.integers(1, 50))
        got = sm.ohem(loss, num_hard=num_hard, boxes=boxes, iou_threshold=threshold)
        for i in range(loss.shape[0]):
            expected = tf_hard_example_miner(loss[i], boxes[i], labels[i], num_hard=num_hard, iou_threshold=threshold)
            assert selected(got, i) == expected.tolist()


@pytest.mark.parametrize("threshold", [0.99, 0.5])
def test_the_negatives_are_cut_to_the_positives_that_survived(threshold):
    for number in range(100):
        rng = np.random.default_rng(number)
        loss, boxes, labels = detections(rng)
        num_hard, ratio, least = int(rng.integers(1, 50)), float(rng.choice([0.5, 1.5, 3])), int(rng.integers(0, 4))
        got = sm.ohem(
            loss,
            num_hard=num_hard,
            boxes=boxes,
            iou_threshold=threshold,
            labels=labels,
            background=0,
            neg_pos_ratio=ratio,
            min_negatives=least,
        )
        for i in range(loss.shape[0]):
            expected = tf_hard_example_miner(
                loss[i],
                boxes[i],
                labels[i],
                num_hard=num_hard,
                iou_threshold=threshold,
                ratio=ratio,
                min_negatives=least,
            )
            assert selected(got, i) == expected.tolist()
            np.testing.assert_allclose(got.loss_sum[i], loss[i, expected].sum(), rtol=1e-12, atol=1e-300)


def test_what_is_not_valid_takes_no_place_where_caffe_lets_it():
    loss = np.array([[5.0, 4.0, 3.0, 2.0]])
    valid = np.array([[False, True, True, True]])
    assert selected(sm.ohem(loss, num_hard=2, valid=valid), 0) == [1, 2]
    assert caffe_hard_example(loss[0], 2).tolist() == [0, 1]


def pixels(logits, labels, ignore_index, **keywords):
    """Mine maps as `sm.ohem` does, by the loss of each pixel."""
    loss = sm.softmax_cross_entropy(logits, labels, ignore_index=ignore_index, class_axis=1)
    return sm.ohem(loss, scope="batch", valid=labels != ignore_index, **keywords)


def test_the_oracles_of_segmentation_by_hand():
    probabilities = np.array([[[0.1, 0.9, 0.6], [0.3, 0.8, 0.5]]])
    logits = np.log(np.stack([probabilities, 1 - probabilities], axis=1))
    labels = np.array([[[0, 0, 0], [255, 0, 1]]])  # the last one has the probability 0.5 too
    by = {"ignore_index": 255, "min_kept": 2}
    assert mmseg_ohem_sampler(logits, labels, thresh=0.2, **by).tolist() == [[[1, 0, 0], [0, 0, 1]]]
    assert mmseg_ohem_sampler(logits, labels, thresh=0.85, **by).tolist() == [[[1, 0, 1], [0, 1, 1]]]
    assert mmseg_ohem_sampler(logits, labels, **by).tolist() == [[[1, 0, 0], [0, 0, 1]]]
    expected = -np.log([0.1, 0.5]).mean()
    assert hrnet_ohem_loss(logits, labels, thres=0.2, min_kept=2, ignore_label=255) == pytest.approx(expected)


@pytest.mark.parametrize("thresh", [None, 0.05, 0.4, 0.7, 0.95])
def test_pixels_below_a_probability_or_the_hardest_as_in_mmsegmentation(thresh):
    for number in range(40):
        rng = np.random.default_rng(number)
        logits, labels = maps(rng, 255)
        min_kept = int(rng.integers(1, 40))
        expected = mmseg_ohem_sampler(logits, labels, thresh=thresh, min_kept=min_kept)
        min_loss = None if thresh is None else -np.log(thresh)
        got = pixels(logits, labels, 255, num_hard=min_kept * labels.shape[0], min_loss=min_loss)
        np.testing.assert_array_equal(got.mask, expected)
        assert got.num_kept.tolist() == expected.sum(axis=(1, 2)).tolist()


@pytest.mark.parametrize("thresh", [0.05, 0.4, 0.7, 0.95])
def test_the_mean_over_the_kept_pixels_is_the_loss_of_hrnet(thresh):
    for number in range(40):
        rng = np.random.default_rng(number)
        logits, labels = maps(rng, -1)
        min_kept = int(rng.integers(0, 40))
        expected = hrnet_ohem_loss(logits, labels, thres=thresh, min_kept=min_kept)
        got = pixels(logits, labels, -1, num_hard=max(1, min_kept), min_loss=-np.log(thresh))
        np.testing.assert_allclose(got.loss_sum.sum() / got.num_kept.sum(), expected, rtol=1e-12)


def test_both_drop_the_easiest_pixel_of_too_few_and_ties_at_the_cut():
    logits, labels = maps(np.random.default_rng(0), 255)
    got = pixels(logits, labels, 255, num_hard=10**6, min_loss=-np.log(0.05))
    assert (got.mask == (labels != 255)).all()
    theirs = mmseg_ohem_sampler(logits, labels, thresh=0.05)
    assert got.mask.sum() - theirs.sum() == 1  # the cut is the largest probability, and keeps what is below it
    even = np.zeros((1, 2, 2, 2))
    assert not mmseg_ohem_sampler(even, even[:, 0].astype(int), thresh=0.4, min_kept=2).any()
    assert pixels(even, even[:, 0].astype(int), 255, num_hard=2, min_loss=-np.log(0.4)).mask.sum() == 2
