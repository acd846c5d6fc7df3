"""The laws of `ohem`: who takes a place, who is passed over, and who is dropped afterwards."""

import dataclasses

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.layouts import LAYOUTS


def drawn(seed, shape=(3, 30)):
    """Draw losses without ties, crowded boxes, labels with a quarter of positives, and which anchors count."""
    rng = np.random.default_rng(seed)
    corner, size = rng.random((*shape, 2)), 0.05 + rng.random((*shape, 2)) / 2
    boxes = np.concatenate([corner, corner + size], axis=2)
    labels = np.where(rng.random(shape) < 0.25, rng.integers(1, 4, shape), 0)
    return rng.gamma(0.5, 1.0, shape), boxes, labels, rng.random(shape) < 0.8


def overlap(a, b):
    common = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common)


def places(result, sample):
    offsets, anchors = result.indices()
    return anchors[offsets[sample] : offsets[sample + 1]].tolist()


@pytest.mark.parametrize("num_hard", [1, 2, 7, 29, 30, 31, 10**30])
def test_the_places_go_to_the_hardest(num_hard):
    loss, *_ = drawn(0)
    got = sm.ohem(loss, num_hard=num_hard)
    for sample, row in enumerate(loss):
        expected = np.argsort(-row)[: min(num_hard, 30)]
        assert places(got, sample) == expected.tolist()
        assert got.num_kept[sample] == expected.size
        assert got.threshold[sample] == row[expected].min()
        np.testing.assert_allclose(got.loss_sum[sample], row[expected].sum(), rtol=1e-15)
        assert np.flatnonzero(got.mask[sample]).tolist() == sorted(expected)


def test_of_equal_losses_the_lower_index_takes_the_place_with_and_without_boxes():
    loss = np.array([[1.0, 2.0, -0.0, 2.0, 0.0, 2.0]])
    far = np.arange(6)[None, :, None] * 10 + np.array([0, 0, 1, 1])
    for keywords in ({}, {"boxes": far, "iou_threshold": 0.5}):
        assert places(sm.ohem(loss, num_hard=2, **keywords), 0) == [1, 3]
        got = sm.ohem(loss, num_hard=5, **keywords)
        assert places(got, 0) == [1, 3, 5, 0, 2]
        assert got.threshold.tolist() == [0.0]
        assert not np.signbit(got.threshold).any()


@pytest.mark.parametrize("threshold", [0, 0.1, 0.4, 0.7, 1])
def test_suppression_spreads_the_places(threshold):
    loss, boxes, *_ = drawn(1)
    got = sm.ohem(loss, num_hard=12, boxes=boxes, iou_threshold=threshold)
    for sample in range(3):
        kept = places(got, sample)
        losses = loss[sample, kept]
        assert (np.diff(losses) < 0).all()
        for anchor in np.argsort(-loss[sample]):
            harder = [k for k in kept if loss[sample, k] > loss[sample, anchor]]
            too_close = any(overlap(boxes[sample, k], boxes[sample, anchor]) > threshold for k in harder)
            if too_close:
                assert anchor not in kept
            elif len(harder) < 12:
                assert anchor in kept
    if threshold == 1:  # nothing overlaps more than itself
        np.testing.assert_array_equal(got.mask, sm.ohem(loss, num_hard=12).mask)


def test_an_overlap_of_exactly_the_threshold_is_not_too_much():
    boxes = np.array([[[0, 0, 2, 2], [0, 0, 2, 1], [0, 0, 2, 2]]])
    kept = {"loss": [[3.0, 2.0, 1.0]], "boxes": boxes}
    assert sm.ohem(**kept, iou_threshold=0.5).mask.tolist() == [[True, True, False]]
    assert sm.ohem(**kept, iou_threshold=0.49).mask.tolist() == [[True, False, False]]
    assert sm.ohem(**kept, iou_threshold=1).mask.tolist() == [[True, True, True]]


def test_a_box_without_area_overlaps_nothing():
    boxes = np.zeros((1, 3, 4))
    assert sm.ohem([[3.0, 2.0, 1.0]], boxes=boxes, iou_threshold=0).mask.all()
    boxes[:, 1:] = [0, 0, 2, 2]
    assert sm.ohem([[3.0, 2.0, 1.0]], boxes=boxes, iou_threshold=0).mask.tolist() == [[True, True, False]]


def test_boxes_at_the_limit_leak_no_warning():
    boxes = np.array([[[-1e150, -1e150, 1e150, 1e150]] * 2 + [[0, 0, 1e-300, 1e-300]]])
    assert sm.ohem([[3.0, 2.0, 1.0]], boxes=boxes, iou_threshold=0.5).mask.tolist() == [[True, False, True]]


@pytest.mark.parametrize("with_boxes", [False, True])
def test_what_does_not_count_takes_no_place_and_suppresses_nobody(with_boxes):
    for seed in range(20):
        loss, boxes, labels, valid = drawn(seed)
        labels[np.random.default_rng(seed).random(labels.shape) < 0.2] = -1
        keywords = {"boxes": boxes, "iou_threshold": 0.3} if with_boxes else {}
        got = sm.ohem(loss, num_hard=9, labels=labels, background=0, ignore_index=-1, valid=valid, **keywords)
        counts = valid & (labels != -1)
        for sample in range(3):
            chosen = np.flatnonzero(counts[sample])
            alone = {"boxes": boxes[None, sample, chosen], "iou_threshold": 0.3} if with_boxes else {}
            expected = sm.ohem(loss[None, sample, chosen], num_hard=9, **alone)
            assert places(got, sample) == chosen[places(expected, 0)].tolist()
        # ... and neither its loss, nor its box, nor its label is looked at.
        loss[~counts], labels[~valid], boxes[~counts] = np.nan, -7, np.inf
        again = sm.ohem(loss, num_hard=9, labels=labels, background=0, ignore_index=-1, valid=valid, **keywords)
        np.testing.assert_array_equal(again.mask, got.mask)


@pytest.mark.parametrize(("ratio", "least"), [(0, 0), (0.5, 0), (1, 0), (1.5, 2), (3, 0), (0, 3), (1e308, 0)])
@pytest.mark.parametrize("threshold", [None, 0.4])
def test_a_ratio_drops_the_easiest_negatives_that_have_a_place(ratio, least, threshold):
    for seed in range(20):
        loss, boxes, labels, valid = drawn(seed)
        keywords = {"num_hard": 10, "valid": valid}
        if threshold is not None:
            keywords |= {"boxes": boxes, "iou_threshold": threshold}
        before = sm.ohem(loss, **keywords)
        got = sm.ohem(loss, labels=labels, background=0, neg_pos_ratio=ratio, min_negatives=least, **keywords)
        for sample in range(3):
            line = places(before, sample)
            num_pos = sum(int(labels[sample, anchor] > 0) for anchor in line)
            most = max(least, int(min(ratio * num_pos, 30)))
            negatives = [anchor for anchor in line if labels[sample, anchor] == 0][:most]
            expected = [anchor for anchor in line if labels[sample, anchor] > 0 or anchor in negatives]
            assert places(got, sample) == expected
            if not expected:
                assert np.isnan(got.threshold[sample])
                assert got.loss_sum[sample] == 0


@pytest.mark.parametrize("form", ["bool", "one-hot", "last"])
def test_labels_of_every_form_mean_the_same(form):
    loss, _, labels, _ = drawn(3)
    expected = sm.ohem(loss, num_hard=10, labels=labels, background=0, neg_pos_ratio=1)
    one_hot = np.eye(4)[labels]
    given, background = {
        "bool": (labels > 0, None),
        "one-hot": (one_hot, 0),
        "last": (np.roll(one_hot, -1, axis=2), None),
    }[form]
    got = sm.ohem(loss, num_hard=10, labels=given, background=background, neg_pos_ratio=1)
    np.testing.assert_array_equal(got.mask, expected.mask)


def test_negatives_and_positives_compete_alike():
    loss, _, labels, _ = drawn(4)
    np.testing.assert_array_equal(
        sm.ohem(loss, num_hard=8, labels=labels, background=0).mask, sm.ohem(loss, num_hard=8).mask
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint16", "int64"])
def test_losses_of_every_type_are_ranked_as_they_are(dtype):
    loss = (100 * drawn(5)[0]).astype(dtype)
    got = sm.ohem(loss, num_hard=6)
    for sample, row in enumerate(loss.astype(float)):
        expected = np.argsort(-row, kind="stable")[:6]
        assert places(got, sample) == expected.tolist()
        assert got.loss_sum[sample] == row[expected].sum()
    assert got.loss_sum.dtype == got.threshold.dtype == np.float64


@pytest.mark.parametrize("num_hard", [1, 5, 60, 10**30])
@pytest.mark.parametrize("min_loss", [-1, 0.05, 0.7, 3.0, 1e300])
def test_losses_beyond_the_minimum_have_places_and_num_hard_is_the_least(min_loss, num_hard):
    loss, _, _, valid = drawn(8)
    got = sm.ohem(loss, num_hard=num_hard, min_loss=min_loss, valid=valid)
    for sample, row in enumerate(np.where(valid, loss, -np.inf)):
        line = np.argsort(-row)[: valid[sample].sum()]
        expected = [anchor for place, anchor in enumerate(line) if place < num_hard or row[anchor] > min_loss]
        assert places(got, sample) == expected
    whole = sm.ohem(loss, num_hard=num_hard, min_loss=min_loss, valid=valid, scope="batch")
    alone = sm.ohem(loss.reshape(1, -1), num_hard=num_hard, min_loss=min_loss, valid=valid.reshape(1, -1))
    np.testing.assert_array_equal(whole.mask.reshape(1, -1), alone.mask)
    assert whole.loss_sum.shape == (3,)
    for sample, row in enumerate(loss):
        kept = places(whole, sample)
        assert sorted(kept) == np.flatnonzero(whole.mask[sample]).tolist()
        assert (np.diff(row[kept]) < 0).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
def test_a_loss_of_exactly_the_minimum_does_not_exceed_it(dtype):
    loss = np.array([[1, 2, 2, 3]]).astype(dtype)
    assert sm.ohem(loss, num_hard=1, min_loss=2).mask.tolist() == [[False, False, False, True]]
    assert sm.ohem(loss, num_hard=1, min_loss=1.5).mask.tolist() == [[False, True, True, True]]
    pair = np.full((1, 2), np.float32(1 / 3))
    assert sm.ohem(pair, num_hard=1, min_loss=1 / 3).num_kept.tolist() == [1]
    assert sm.ohem(pair.astype(np.float64), num_hard=1, min_loss=1 / 3).num_kept.tolist() == [2]


@pytest.mark.parametrize("form", ["plain", "boxes", "ratio", "minimum", "batch"])
def test_maps_are_mined_as_on_one_axis(form):
    loss, boxes, labels, valid = drawn(9)
    keywords = {
        "plain": {"valid": valid},
        "boxes": {"boxes": boxes, "iou_threshold": 0.4, "valid": valid},
        "ratio": {"labels": labels, "background": 0, "neg_pos_ratio": 1, "valid": valid},
        "minimum": {"min_loss": 0.7, "valid": valid},
        "batch": {"min_loss": 0.7, "scope": "batch"},
    }[form]
    shape = (3, 5, 6)
    maps = {
        name: value.reshape(shape + value.shape[2:]) if isinstance(value, np.ndarray) else value
        for name, value in keywords.items()
    }
    expected, got = sm.ohem(loss, num_hard=8, **keywords), sm.ohem(loss.reshape(shape), num_hard=8, **maps)
    np.testing.assert_array_equal(got.mask, expected.mask.reshape(shape))
    for ours, theirs in zip(got.indices(), expected.indices(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(got.threshold, expected.threshold)
    loss[1, 7] = np.nan
    with pytest.raises(ValueError, match=r"loss: expected no NaN, got NaN at \(sample 1, anchor 7\)"):
        sm.ohem(loss.reshape(shape))


def test_infinite_losses_are_ordinary():
    got = sm.ohem([[np.inf, 1.0, -np.inf, np.inf]], num_hard=4)
    assert places(got, 0) == [0, 3, 1, 2]
    assert np.isnan(got.loss_sum).all()
    assert got.threshold.tolist() == [-np.inf]


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_nothing_takes_no_place(shape):
    labels = np.zeros(shape, int)
    for keywords in ({}, {"boxes": np.zeros((*shape, 4)), "iou_threshold": 0.5}):
        got = sm.ohem(np.zeros(shape), labels=labels, background=0, neg_pos_ratio=3, **keywords)
        assert got.mask.shape == shape
        assert got.num_kept.tolist() == [0] * shape[0]
        offsets, anchors = got.indices()
        assert offsets.tolist() == [0] * (shape[0] + 1)
        assert anchors.size == 0
        assert offsets.dtype == anchors.dtype == np.int64


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_and_nothing_is_written(layout):
    loss, boxes, labels, valid = drawn(6)
    keywords = {"num_hard": 9, "iou_threshold": 0.4, "background": 0, "neg_pos_ratio": 1}
    expected = sm.ohem(loss, boxes=boxes, labels=labels, valid=valid, **keywords)
    given = [LAYOUTS[layout](array) for array in (loss, boxes, labels, valid)]
    got = sm.ohem(given[0], boxes=given[1], labels=given[2], valid=given[3], **keywords)
    np.testing.assert_array_equal(got.mask, expected.mask)
    for ours, theirs in zip(given, (loss, boxes, labels, valid), strict=True):
        np.testing.assert_array_equal(np.array(ours), theirs)


def test_backends_and_threads_agree_and_the_result_is_frozen():
    loss, boxes, labels, _ = drawn(7)
    keywords = {"boxes": boxes, "iou_threshold": 0.5, "labels": labels, "background": 0, "neg_pos_ratio": 2}
    expected = sm.ohem(loss, **keywords)
    for where in ({"backend": "reference"}, {"num_threads": 1}, {"num_threads": 2}):
        np.testing.assert_array_equal(sm.ohem(loss, **keywords, **where).mask, expected.mask)
    with pytest.raises(dataclasses.FrozenInstanceError):
        expected.mask = None  # type: ignore[misc]
    _, anchors = expected.indices()
    anchors[:] = -1  # a copy
    assert (expected.indices()[1] >= 0).all()
    assert "_anchors" not in repr(expected)
