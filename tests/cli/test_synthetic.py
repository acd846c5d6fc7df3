"""The synthetic data: SSD300's geometry, SSD's matching, seeds that reproduce, look-alikes that are hard."""

import functools
import math

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.cli import synthetic

NUM_ANCHORS = 8732


@functools.cache
def data():
    samples = [synthetic.sample(seed=0, index=i) for i in range(40)]
    return samples, np.stack([s.conf_loss for s in samples]), np.stack([s.labels for s in samples])


def overlap_one_by_one(box, other):
    """Intersection over union of two boxes, from their corners."""
    edges = [(b[i] - b[i + 2] / 2, b[i] + b[i + 2] / 2) for b in (box, other) for i in (0, 1)]
    width = min(edges[0][1], edges[2][1]) - max(edges[0][0], edges[2][0])
    height = min(edges[1][1], edges[3][1]) - max(edges[1][0], edges[3][0])
    common = max(width, 0) * max(height, 0)
    return common / (box[2] * box[3] + other[2] * other[3] - common)


def test_the_default_boxes_are_those_of_ssd300():
    boxes = synthetic.default_boxes()
    assert boxes.shape == (NUM_ANCHORS, 4)
    assert boxes.dtype == np.float64
    start = 0
    for cells, small, large, ratios in [
        (38, 30, 60, [1, 2, 1 / 2]),
        (19, 60, 111, [1, 2, 1 / 2, 3, 1 / 3]),
        (10, 111, 162, [1, 2, 1 / 2, 3, 1 / 3]),
        (5, 162, 213, [1, 2, 1 / 2, 3, 1 / 3]),
        (3, 213, 264, [1, 2, 1 / 2]),
        (1, 264, 315, [1, 2, 1 / 2]),
    ]:
        sides = [[small * math.sqrt(r) / 300, small / math.sqrt(r) / 300] for r in ratios]
        sides.insert(1, [math.sqrt(small * large) / 300] * 2)
        for row in range(cells):
            for column in range(cells):
                got = boxes[start : start + len(sides)]
                centre = [(column + 0.5) / cells, (row + 0.5) / cells]
                np.testing.assert_allclose(got, [centre + side for side in sides], rtol=1e-14)
                start += len(sides)
    assert start == NUM_ANCHORS


def test_a_sample_depends_on_its_seed_and_its_number_alone():
    samples, _, _ = data()
    again = synthetic.sample(seed=0, index=3)
    for got, expected in zip(again, samples[3], strict=True):
        np.testing.assert_array_equal(got, expected, strict=True)
    for other in (synthetic.sample(seed=1, index=3), synthetic.sample(seed=0, index=4)):
        assert not np.array_equal(other.conf_loss, again.conf_loss)
    # A seed and a number must not run together, as the words of [2**32 + 5, 0] and [5, 1] do.
    assert not np.array_equal(synthetic.sample(2**32 + 5, 0).conf_loss, synthetic.sample(5, 1).conf_loss)


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1)])
def test_a_negative_seed_or_number_is_refused(seed, index):
    with pytest.raises(ValueError, match=f"seed and index: expected numbers of at least 0, got {seed} and {index}"):
        synthetic.sample(seed, index)


def test_losses_and_labels_have_the_types_and_ranges_of_losses_and_labels():
    samples, losses, labels = data()
    assert losses.shape == labels.shape == (len(samples), NUM_ANCHORS)
    assert (losses.dtype, labels.dtype) == (np.float32, np.uint8)
    assert np.isfinite(losses).all()
    assert losses.min() >= 0
    assert labels.max() == synthetic.NUM_CLASSES - 1
    for sample in samples:
        assert 0 <= len(sample.boxes) == len(sample.classes) <= 8
        for boxes in (sample.boxes, sample.look_alikes):
            assert (boxes[:, :2] - boxes[:, 2:] / 2 >= -1e-12).all()
            assert (boxes[:, :2] + boxes[:, 2:] / 2 <= 1 + 1e-12).all()


def test_positives_are_as_rare_as_in_ssd():
    samples, _, labels = data()
    shares = (labels > 0).mean(axis=1)
    occupied = np.array([len(sample.boxes) > 0 for sample in samples])
    assert 0.0005 < shares.mean() < 0.03
    assert shares.max() < 0.03
    assert 0.05 < 1 - occupied.mean() < 0.25
    np.testing.assert_array_equal(shares > 0, occupied)


def test_anchors_are_matched_by_overlap_and_every_object_has_one_of_its_own():
    samples, _, _ = data()
    anchors = synthetic.default_boxes()
    num_forced = 0
    for sample in samples[:25]:
        overlaps = np.array([[overlap_one_by_one(b, a) for a in anchors.tolist()] for b in sample.boxes.tolist()])
        if not len(sample.boxes):
            assert not sample.labels.any()
            continue
        np.testing.assert_allclose(synthetic.iou(sample.boxes, anchors), overlaps, atol=1e-12)
        clear = overlaps.max(axis=0) >= 0.5
        expected = np.where(clear, sample.classes[overlaps.argmax(axis=0)], 0)
        forced = np.flatnonzero(sample.labels != expected)
        num_forced += forced.size
        # What the overlap does not explain is the best anchor of an object that had to have one.
        best = (overlaps >= overlaps.max(axis=1, keepdims=True) - 1e-12).any(
            axis=0
        )  # several may be, but for rounding
        assert set(forced) <= set(np.flatnonzero(best | clear))
        assert forced.size <= len(sample.boxes)
        assert set(sample.classes) <= set(sample.labels.tolist())
    assert num_forced > 0


def test_the_cross_entropy_is_that_of_the_definition_and_survives_huge_logits():
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, -1000.0], [-1000.0, -1001.0, -1000.0]])
    got = synthetic._cross_entropy(logits, np.array([0, 1, 1], np.uint8))
    first = -math.log(math.exp(1) / (math.exp(1) + math.exp(2) + math.exp(3)))
    np.testing.assert_allclose(got, [first, 1000.0, math.log(2 + math.exp(-1)) + 1], rtol=1e-14)


def test_look_alikes_make_hard_negatives():
    samples, losses, labels = data()
    anchors = synthetic.default_boxes()
    kept = sm.hard_negative_mask(losses, labels, background=0, backend="reference")
    near = np.stack([(synthetic.iou(s.look_alikes, anchors) >= 0.3).any(axis=0) for s in samples])
    negative = labels == 0
    assert near[kept].mean() > 5 * near[negative].mean()
    assert losses[near & negative].mean() > 5 * losses[~near & negative].mean()


def test_positives_are_harder_than_background():
    _, losses, labels = data()
    assert np.median(losses[labels > 0]) > 10 * np.median(losses[labels == 0])
