"""Every named matching rule gives every anchor the object that its system gives it."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.batches import examples
from tests.support.boxes import KINDS, draw
from tests.support.systems import matchers

pytestmark = pytest.mark.generated
ROUNDS = examples(60)
ORACLES = {
    "caffe": matchers.caffe,
    "torchvision": matchers.torchvision_ssd,
    "torchvision_retinanet": matchers.torchvision_retinanet,
    "amdegroot": matchers.amdegroot,
    "mmdetection": matchers.mmdetection,
    "mmdetection_retinanet": lambda gt, anchors: matchers.mmdetection(
        gt, anchors, neg_iou_thr=0.4, gt_max_assign_all=True
    ),
    "tf_object_detection": matchers.tf_object_detection,
}
EMPTY_ALLOWED = ("caffe", "mmdetection", "mmdetection_retinanet", "tf_object_detection")


def matched(objects, anchors, rule, **keywords):
    """Match one sample, by the kernel and by the reference; return the object of every anchor."""
    classes = [np.arange(1, len(objects) + 1)]
    got, expected = (
        sm.match_anchors([objects], classes, anchors, rule=rule, backend=backend, **keywords)
        for backend in ("cpu", "reference")
    )
    for name in ("labels", "matched", "overlaps", "num_anchors_of", "best_iou", "unmatched"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name, strict=True)
    return got.matched[0]


def test_every_named_rule_has_an_oracle():
    assert list(sm.matching_rules) == list(ORACLES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ORACLES)
def test_the_rule_gives_the_objects_of_the_system(name, kind):
    for number in range(ROUNDS):
        objects, anchors = draw(kind, np.random.default_rng([list(KINDS).index(kind), number]))
        if len(objects) or name in EMPTY_ALLOWED:
            expected = ORACLES[name](objects, anchors)
            np.testing.assert_array_equal(matched(objects, anchors, name), expected, err_msg=f"{name}, {number}")


@pytest.mark.parametrize("kind", KINDS)
def test_thresholds_and_options_beyond_the_named_rules(kind):
    for number in range(ROUNDS):
        rng = np.random.default_rng([9, list(KINDS).index(kind), number])
        objects, anchors = draw(kind, rng)
        if not len(objects):
            continue
        low, high = np.sort(rng.choice([0.1, 0.25, 0.3, 0.4, 0.6, 0.75], 2, replace=False)).tolist()
        for got, expected in (
            (
                matched(objects, anchors, "caffe", pos_iou=high),
                matchers.caffe(objects, anchors, high),
            ),
            (
                matched(objects, anchors, "mmdetection", pos_iou=high, neg_iou=(low / 2, low), force_iou=low),
                matchers.mmdetection(objects, anchors, pos_iou_thr=high, neg_iou_thr=(low / 2, low), min_pos_iou=low),
            ),
            (
                matched(objects, anchors, "tf_object_detection", pos_iou=high, neg_iou=low),
                matchers.tf_object_detection(objects, anchors, high, low),
            ),
            (
                matched(objects, anchors, "tf_object_detection", pos_iou=high, neg_iou=(low, high), force="none"),
                matchers.tf_object_detection(
                    objects, anchors, high, low, negatives_lower_than_unmatched=False, force_match_for_each_row=False
                ),
            ),
        ):
            np.testing.assert_array_equal(got, expected, err_msg=f"{kind}, {number}")


@pytest.mark.parametrize("kind", KINDS)
def test_bipartite_alone_and_anchors_across_the_border_as_in_caffe(kind):
    for number in range(ROUNDS):
        objects, anchors = draw(kind, np.random.default_rng([3, list(KINDS).index(kind), number]))
        inside = ((anchors >= 0) & (anchors <= 1)).all(axis=1)
        expected = matchers.caffe(objects, anchors, ignore_cross_boundary_bbox=True)
        if len(objects):  # without objects, Caffe looks at no anchor
            np.testing.assert_array_equal(matched(objects, anchors, "caffe", valid=inside), expected)
        expected = matchers.caffe(objects, anchors, per_prediction=False)
        got = matched(objects, anchors, "caffe", pos_iou=1.0, neg_iou=1.0)
        is_pair = expected >= 0
        np.testing.assert_array_equal(got[is_pair], expected[is_pair])


@pytest.mark.parametrize("kind", ["free", "grid", "tiny"])
def test_ignored_regions_as_in_mmdetection(kind):
    num_ignored = 0
    for number in range(ROUNDS):
        rng = np.random.default_rng([5, list(KINDS).index(kind), number])
        objects, anchors = draw(kind, rng)
        regions, _ = draw("free", rng, touching=False)
        expected = matchers.mmdetection(objects, anchors, regions, ignore_iof_thr=0.5)
        if not len(objects):
            continue
        boxes, crowd = np.concatenate([objects, regions]), np.arange(len(objects) + len(regions)) >= len(objects)
        got = matched(boxes, anchors, "mmdetection", crowd=[crowd])
        # There, an object whose every anchor is in a region takes the first anchor that it does not touch.
        fault = (expected != got) & (expected >= 0)
        for anchor in np.flatnonzero(fault):
            assert matchers.box_iou(objects[[expected[anchor]]], anchors[[anchor]])[0, 0] == 0
        np.testing.assert_array_equal(got[~fault], expected[~fault])
        num_ignored += (got == -2).sum()
    assert num_ignored
