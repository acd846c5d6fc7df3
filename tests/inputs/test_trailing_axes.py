"""Anchors may have several axes, as the pixels of a map: the same numbers as on one axis, in the caller's shape."""

import math

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.inputs.batch import check_logit_batch, check_losses
from ssd_mining.inputs.logits import check_logits
from ssd_mining.mining_rule import NO_EXTRAS, Mining

NUM_CLASSES = 4
SHAPES = [(3, 6, 9), (2, 3, 4, 5), (1, 7, 1), (0, 3, 2), (2, 0, 3)]


class Maps:
    """Losses, labels, weights ... of pixels, and the same of anchors on one axis."""

    def __init__(self, shape):
        rng, self.shape, self.flat = np.random.default_rng(5), shape, (shape[0], math.prod(shape[1:]))
        self.loss = (rng.integers(0, 40, shape) / 8).astype(np.float32)
        self.labels = np.where(rng.random(shape) < 0.15, rng.integers(1, NUM_CLASSES, shape), 0)
        self.one_hot = np.eye(NUM_CLASSES, dtype=np.float32)[self.labels]
        self.logits = rng.normal(0, 2, (*shape, NUM_CLASSES)).astype(np.float32)
        self.locations = rng.normal(0, 1, (2, *shape, 4)).astype(np.float32)
        self.extras = {
            "valid": rng.random(shape) < 0.9,
            "overlaps": rng.random(shape) * 0.6,
            "anchor_weights": rng.integers(0, 3, shape).astype(np.float32),
            "rank_by": rng.random(shape).astype(np.float32),
        }

    def on_one_axis(self, array):
        return array.reshape(self.flat + array.shape[len(self.shape) :])

    def flat_extras(self):
        return {name: self.on_one_axis(array) for name, array in self.extras.items()}

    def forms(self):
        """Yield labels of every form, with the keywords that they need."""
        yield self.labels, {"background": 0}
        yield self.labels != 0, {}
        yield self.one_hot, {"background": 0}


def assert_same(got, expected, shape):
    for name in ("hard_negative_mask", "pos_mask"):
        mask = getattr(got, name)
        assert mask.shape == shape
        np.testing.assert_array_equal(mask, getattr(expected, name).reshape(shape), err_msg=name)
    for name, column in got.to_dict().items():
        np.testing.assert_array_equal(column, expected.to_dict()[name], err_msg=name)
    for ours, theirs in zip(got.indices(), expected.indices(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("shape", SHAPES)
def test_losses_are_mined_as_on_one_axis(shape, backend):
    maps = Maps(shape)
    for labels, keywords in maps.forms():
        keywords = keywords | {"backend": backend, "min_negatives": 1}
        for of_maps, of_rows in (
            ({}, {}),
            (maps.extras, maps.flat_extras()),
            ({"scope": "batch"}, {"scope": "batch"}),
        ):
            here, there = keywords | of_maps, keywords | of_rows
            rows = maps.on_one_axis(maps.loss), maps.on_one_axis(labels)
            got, expected = sm.mine_hard_negatives(maps.loss, labels, **here), sm.mine_hard_negatives(*rows, **there)
            assert_same(got, expected, shape)
            np.testing.assert_array_equal(
                sm.hard_negative_mask(maps.loss, labels, **here), expected.hard_negative_mask.reshape(shape)
            )
            ours = sm.confidence_loss(maps.loss, labels, normalize="anchors", **here)
            theirs = sm.confidence_loss(*rows, normalize="anchors", **there)
            assert (ours.loss, ours.confidence_loss.tolist()) == (theirs.loss, theirs.confidence_loss.tolist())


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("class_axis", [-1, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_losses_from_logits_have_the_shape_of_the_labels(shape, class_axis, backend):
    maps = Maps(shape)
    where = {"class_axis": class_axis, "backend": backend}
    logits = np.ascontiguousarray(np.moveaxis(maps.logits, -1, class_axis))
    rows, (pred, target) = maps.on_one_axis(maps.logits), maps.locations
    flat_pred, flat_target = maps.on_one_axis(pred), maps.on_one_axis(target)
    for labels, scores in ((maps.labels, maps.labels), (maps.one_hot, np.moveaxis(maps.one_hot, -1, class_axis))):
        valid, loss_of = maps.extras["valid"], sm.softmax_cross_entropy
        got = loss_of(logits, scores, valid=valid, **where)
        expected = loss_of(rows, maps.on_one_axis(labels), valid=maps.on_one_axis(valid), backend=backend)
        assert got.shape == shape
        np.testing.assert_array_equal(got, expected.reshape(shape))
        mined = sm.mine_logits(logits, scores, background=0, **where, **maps.extras)
        there = {"background": 0, "backend": backend}
        assert_same(mined, sm.mine_logits(rows, maps.on_one_axis(labels), **there, **maps.flat_extras()), shape)
        there |= {"with_gradients": True, "min_negatives": 2, "rank_by": "foreground_max"}
        out = sm.multibox_loss(logits, scores, pred, target, **there, class_axis=class_axis)
        judge = sm.multibox_loss(rows, maps.on_one_axis(labels), flat_pred, flat_target, **there)
        assert out.loss == judge.loss
        assert (out.logits_gradient.shape, out.loc_gradient.shape) == (logits.shape, pred.shape)
        np.testing.assert_array_equal(
            maps.on_one_axis(np.moveaxis(out.logits_gradient, class_axis, -1)), judge.logits_gradient
        )
        np.testing.assert_array_equal(maps.on_one_axis(out.loc_gradient), judge.loc_gradient)
    np.testing.assert_array_equal(sm.smooth_l1(pred, target), sm.smooth_l1(flat_pred, flat_target).reshape(shape))


def test_maps_that_lie_one_after_the_other_are_not_copied():
    maps = Maps((2, 6, 9))
    batch = check_losses(maps.loss, maps.one_hot, Mining(background=0))
    assert np.shares_memory(batch.conf_loss, maps.loss)
    assert np.shares_memory(batch.labels, maps.one_hot)
    for class_axis in (-1, 1):
        logits, scores = (np.ascontiguousarray(np.moveaxis(a, -1, class_axis)) for a in (maps.logits, maps.one_hot))
        checked = check_logits(logits, scores, sm.Softmax(), class_axis=class_axis)
        assert np.shares_memory(checked.values, logits)
        assert np.shares_memory(checked.labels, scores)
        batch = check_logit_batch(logits, maps.labels, Mining(background=0), NO_EXTRAS, None, class_axis)
        assert np.shares_memory(batch.labels, maps.labels)
        assert (batch.shape, batch.mask_shape) == ((2, 54), (2, 6, 9))


def test_maps_of_any_layout_are_read_and_none_is_written():
    maps = Maps((2, 6, 9))
    expected = sm.mine_hard_negatives(maps.loss, maps.labels, background=0)
    for change in (
        np.asfortranarray,
        lambda a: a[:, ::-1].copy()[:, ::-1],
        lambda a: np.repeat(a, 2, axis=2)[..., ::2],
    ):
        loss, labels = change(maps.loss), change(maps.labels)
        for array in (loss, labels):
            array.flags.writeable = False
        assert_same(sm.mine_hard_negatives(loss, labels, background=0), expected, (2, 6, 9))


def test_three_axes_of_numbers_stay_scores_beside_two_of_losses():
    one_hot = np.eye(3)[[[1, 0, 0, 0, 2]]]
    got = sm.mine_hard_negatives(np.arange(5.0)[None], one_hot, background=0)
    assert got.pos_mask.tolist() == [[True, False, False, False, True]]
    labels = one_hot.astype(int)  # beside as many axes of losses, the same numbers are classes
    assert sm.mine_hard_negatives(one_hot, labels, background=0).pos_mask.tolist() == (labels == 1).tolist()


def test_a_result_relabels_maps():
    maps = Maps((3, 6, 9))
    got = sm.mine_hard_negatives(maps.loss, maps.labels, background=0).relabel(maps.labels)
    rows = maps.on_one_axis(maps.loss), maps.on_one_axis(maps.labels)
    expected = sm.mine_hard_negatives(*rows, background=0).relabel(rows[1])
    np.testing.assert_array_equal(got, expected.reshape(maps.shape))


def test_an_analysis_of_maps_is_that_of_their_pixels():
    maps = Maps((3, 6, 9))
    results = [sm.LossAnalysis(background=0, levels=[50, 4]) for _ in range(2)]
    results[0].update(maps.loss, maps.labels)
    results[1].update(maps.on_one_axis(maps.loss), maps.on_one_axis(maps.labels))
    ours, theirs = (analysis.result() for analysis in results)
    assert ours.loss == theirs.loss
    for table in ("top_anchors", "top_samples", "levels", "classes"):
        for name, column in getattr(theirs, table).to_dict().items():
            np.testing.assert_array_equal(getattr(ours, table).to_dict()[name], column, err_msg=name)


def test_errors_name_the_shapes_of_the_caller_and_the_pixel_by_its_index():
    maps = Maps((2, 3, 4))
    loss, labels = maps.loss.copy(), maps.labels.copy()
    loss[1, 2, 1], labels[0, 1, 3] = np.nan, -7
    for call, message in (
        (
            lambda: sm.confidence_loss(loss, maps.labels, background=0),
            r"conf_loss: .* got NaN at \(sample 1, anchor 9\)",
        ),
        (lambda: sm.confidence_loss(maps.loss, labels, background=0), r"labels: .* got -7 at \(sample 0, anchor 7\)"),
        (
            lambda: sm.confidence_loss(maps.loss, labels[:, :2], background=0),
            r"labels: expected the shape of conf_loss \(2, 3, 4\), got shape \(2, 2, 4\)",
        ),
        (
            lambda: sm.confidence_loss(maps.loss, labels[0], background=0),
            r"labels: expected a \(B, H, W\) or a \(B, H, W, C\) array, got shape \(3, 4\)",
        ),
        (
            lambda: sm.confidence_loss(maps.loss, maps.labels, background=0, valid=np.ones((2, 12), bool)),
            r"valid: expected the shape of conf_loss \(2, 3, 4\), got shape \(2, 12\)",
        ),
        (
            lambda: sm.mine_logits(maps.logits, maps.labels, background=0, rank_by=np.ones((2, 12))),
            r"rank_by: expected the shape of the anchors of logits \(2, 3, 4\), got shape \(2, 12\)",
        ),
        (
            lambda: sm.softmax_cross_entropy(maps.logits, labels),
            r"labels: .* from 0 to 3, got -7 at \(sample 0, anchor 7\)",
        ),
        (
            lambda: sm.softmax_cross_entropy(maps.logits, maps.labels[0]),
            r"labels: expected shape \(2, 3, 4\) of the anchors of logits, or one-hot scores \(2, 3, 4, 4\)",
        ),
        (
            lambda: sm.softmax_cross_entropy(maps.logits, maps.labels, class_axis=2),
            r"class_axis: expected -1 or 1 for logits of 4 axes, got 2",
        ),
        (
            lambda: sm.multibox_loss(
                maps.logits, maps.labels, np.ones((2, 12, 4)), np.ones((2, 12, 4)), background=0
            ),
            r"loc_pred: expected one box for each of the anchors \(2, 3, 4\), got shape \(2, 12, 4\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
