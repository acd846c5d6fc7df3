"""Matching by hand: the faults of other systems, ties, and boxes that are none."""

import numpy as np
import pytest

import ssd_mining as sm

BACKENDS = ("cpu", "reference")
# Unit squares side by side; an object of half of one overlaps it by 1/2.
ROW = [[x, 0, x + 1, 1] for x in range(4)]


@pytest.fixture(params=BACKENDS)
def match(request):
    """Match one sample: objects, and classes from 1 on unless given."""

    def call(boxes, anchors=ROW, classes=None, **keywords):
        classes = list(range(1, len(boxes) + 1)) if classes is None else classes
        return sm.match_anchors([boxes], [classes], anchors, backend=request.param, **keywords)

    return call


def test_a_later_object_takes_the_forced_anchor_in_some_systems_and_never_in_a_bipartite_rule(match):
    # Both objects have anchor 1 as their best, the first by 0.64, the second by 0.49 (amdegroot#193, lufficc/SSD#36).
    boxes = [[1, 0, 1.8, 0.8], [1.0, 0, 1.7, 0.7]]
    for rule in ("torchvision", "amdegroot", "mmdetection"):
        res = match(boxes, rule=rule)
        assert res.labels.tolist() == [[0, 2, 0, 0]], rule
        assert res.unmatched.tolist() == [0], rule
    assert match(boxes, rule="tf_object_detection").labels.tolist() == [[0, 1, 0, 0]]
    # With a second anchor that both touch, the bipartite rule gives each its own.
    res = match(boxes, [*ROW, [1, 0, 2, 2]], rule="caffe")
    assert res.labels.tolist() == [[0, 1, 0, 0, 2]]
    assert res.num_anchors_of.tolist() == [1, 1]
    assert res.unmatched.size == 0


def test_own_best_gives_an_anchor_to_the_object_that_it_overlaps_most(match):
    # Anchor 0 is the best of object 1 (0.3), but overlaps object 0 more (0.316); object 0 prefers anchor 1.
    boxes = [[0.52, 0, 1.52, 1], [0, 0, 0.3, 1]]
    anchors = [[0, 0, 1, 1], [0.6, 0, 1.6, 1]]
    overlap = match(boxes, anchors).best_iou
    assert overlap[0] > 0.5 > overlap[1]
    assert match(boxes, anchors, rule="torchvision_retinanet").labels.tolist() == [[1, 1]]
    assert match(boxes, anchors, rule="mmdetection_retinanet").labels.tolist() == [[2, 1]]


def test_anchors_between_the_thresholds_are_ignored(match):
    boxes = [[0, 0, 0.6, 1], [1, 0, 1.45, 1], [2, 0, 2.3, 1]]
    res = match(boxes, rule="torchvision_retinanet", force="none")
    assert res.labels.tolist() == [[1, -1, 0, 0]]
    assert res.matched.tolist() == [[0, -2, -1, -1]]
    assert match(boxes, neg_iou=(0.35, 0.5), force="none", ignore_index=255).labels.tolist() == [[1, 0, 255, 255]]
    assert match([], neg_iou=(0.35, 0.5)).labels.tolist() == [[0, 0, 0, 0]]  # no object: all is background


def test_objects_smaller_than_any_anchor_get_one_unless_nothing_is_forced(match):
    tiny = [[0.5, 0.5, 0.51, 0.51], [2.5, 0.5, 2.51, 0.51]]
    for rule in sm.matching_rules:
        assert match(tiny, rule=rule).labels.tolist() == [[1, 0, 2, 0]], rule
    res = match(tiny, force="none")
    assert res.unmatched.tolist() == [0, 1]
    assert res.labels.tolist() == [[0, 0, 0, 0]]
    assert match(tiny, force_iou=0.001).labels.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("rule", list(sm.matching_rules))
def test_a_box_without_an_area_or_far_away_matches_nothing(match, rule):
    line, point, far = [0, 0, 1, 0], [0.5, 0.5, 0.5, 0.5], [7, 7, 8, 8]
    res = match([line, point, far, [3, 0, 4, 1]], rule=rule)
    assert res.labels.tolist() == [[0, 0, 0, 4]]
    assert res.best_iou.tolist() == [0, 0, 0, 1]
    assert res.unmatched.tolist() == [0, 1, 2]
    # An anchor without an area is background; two of them on one spot are not equal.
    res = match([point, [0, 0, 1, 1]], [[0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1]], rule=rule)
    assert res.labels.tolist() == [[0, 2]]
    assert np.isfinite(res.overlaps).all()


@pytest.mark.parametrize("rule", list(sm.matching_rules))
def test_no_objects_no_anchors_no_samples(match, rule):
    res = match([], rule=rule)
    assert res.labels.tolist() == [[0, 0, 0, 0]]
    assert res.matched.tolist() == [[-1, -1, -1, -1]]
    assert res.overlaps.tolist() == [[0, 0, 0, 0]]
    res = match([[0, 0, 1, 1]], np.empty((0, 4)), rule=rule)
    assert res.labels.shape == (1, 0)
    assert res.unmatched.tolist() == [0]
    res = sm.match_anchors([], [], ROW, rule=rule)
    assert res.labels.shape == (0, 4)


def test_more_objects_than_anchors_leave_those_with_the_smallest_overlaps_without_any(match):
    boxes = [[0, 0, 1, side] for side in (0.3, 0.9, 0.5, 0.7)]
    res = match(boxes, [[0, 0, 1, 1], [0, 0, 1, 2]])
    assert res.labels.tolist() == [[2, 4]]
    assert res.unmatched.tolist() == [0, 2]


def test_equal_overlaps_go_to_the_first_anchor_and_the_first_object(match):
    middle = [0.5, 0, 1.5, 1]  # 1/3 with the anchors 0 and 1
    assert match([middle]).labels.tolist() == [[1, 0, 0, 0]]
    assert match([middle, middle]).labels.tolist() == [[1, 2, 0, 0]]
    assert match([middle, middle, middle]).unmatched.tolist() == [2]
    assert match([middle], force="argmax").labels.tolist() == [[1, 0, 0, 0]]
    assert match([middle], force="argmax_all").labels.tolist() == [[1, 1, 0, 0]]
    assert match([middle, middle], force="argmax_all").labels.tolist() == [[2, 2, 0, 0]]
    assert match([middle, middle], force="argmax_all", contested="first").labels.tolist() == [[1, 1, 0, 0]]
    assert match([middle, middle], force="own_best").labels.tolist() == [[1, 1, 0, 0]]
    assert match([[0, 0, 1, 1], [0, 0, 1, 1]], force="none").labels.tolist() == [[1, 0, 0, 0]]


def test_thresholds_count_when_they_are_reached(match):
    half = [0, 0, 1, 0.5]
    assert match([half], force="none").labels.tolist() == [[1, 0, 0, 0]]
    assert match([half], force="none", pos_iou=0.6, neg_iou=0.5).labels.tolist() == [[-1, 0, 0, 0]]
    assert match([half], pos_iou=0.6, force_iou=0.5).labels.tolist() == [[1, 0, 0, 0]]


def test_crowds_ignore_the_background_in_them_or_all_of_their_anchors(match):
    person, crowd = [0, 0, 0.9, 1], [0, 0, 1.6, 1]
    res = match([person, crowd], crowd=[[False, True]])
    assert res.labels.tolist() == [[1, -1, 0, 0]]
    assert res.num_anchors_of.tolist() == [1, 0]
    assert res.unmatched.size == 0  # a crowd is not missed
    np.testing.assert_allclose(res.overlaps, [[0.9, 0, 0, 0]], rtol=1e-6)  # nor an object
    res = match([person, crowd], crowd=[[False, True]], crowd_first=True)
    assert res.labels.tolist() == [[-1, -1, 0, 0]]
    assert res.unmatched.tolist() == [0]
    assert match([crowd], crowd=[[True]], ignore_ioa=0.6).labels.tolist() == [[-1, -1, 0, 0]]
    assert match([crowd], crowd=[[True]], ignore_ioa=0.61).labels.tolist() == [[-1, 0, 0, 0]]
    assert match([[0, 0, 0.5, 1]], crowd=[[True]]).labels.tolist() == [[0, 0, 0, 0]]  # exactly the half is not more


def test_anchors_that_do_not_count_are_ignored_and_never_forced(match):
    valid = [False, True, True, True]
    res = match([[0, 0, 1.2, 1]], valid=valid)
    assert res.labels.tolist() == [[-1, 1, 0, 0]]
    assert res.overlaps[0, 0] > res.best_iou[0] > 0
    twice = sm.match_anchors([[[0, 0, 1, 1]]] * 2, [[1]] * 2, ROW, valid=[valid, [True] * 4])
    assert twice.labels.tolist() == [[-1, 0, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_sample_may_have_anchors_of_its_own(backend):
    anchors = np.array([ROW, ROW[::-1]])
    res = sm.match_anchors([[[0, 0, 1, 1]]] * 2, [[1], [2]], anchors, backend=backend)
    assert res.labels.tolist() == [[1, 0, 0, 0], [0, 0, 0, 2]]


def test_float64_is_computed_in_float64(match):
    box, anchor = [[0, 0, 1, 0.5 - 1e-12]], [[0, 0, 1, 1]]
    assert match(box, anchor, force="none").labels.tolist() == [[0]]
    assert match(np.float32(box), np.float32(anchor), force="none").labels.tolist() == [[1]]
    assert match(np.float32(box), np.float64(anchor), force="none").labels.tolist() == [[1]]  # it was rounded before
    assert match(np.int64([[0, 0, 10, 5]]), np.int16([[0, 0, 10, 10]])).best_iou.tolist() == [0.5]
