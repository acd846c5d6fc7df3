"""Scores without a column for background: one column per class, background rows all zero."""

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining import dask as sm_dask
from ssd_mining import reference

RNG = np.random.default_rng(4)
B, A, C = 3, 90, 5
CLASSES = np.full((B, A), C)
CLASSES[:, ::9] = RNG.integers(0, C, (B, 10))
CLASSES[0, :2] = C - 1  # the last class is an object here
TARGETS = np.eye(C + 1)[CLASSES][..., :C]
LOGITS = RNG.normal(-2, 1, (B, A, C))
LOSS = RNG.random((B, A))
WAYS = [{"background": C}, {"all_zero": "negative"}, {"background": C, "all_zero": "negative"}]


@pytest.fixture(params=WAYS, ids=str)
def way(request):
    return request.param


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_such_labels_mine_as_class_numbers_do(way, dtype, backend):
    got = sm.mine_hard_negatives(LOSS, TARGETS.astype(dtype), **way, backend=backend)
    expected = sm.mine_hard_negatives(LOSS, CLASSES, background=C, backend=backend)
    np.testing.assert_array_equal(got.hard_negative_mask, expected.hard_negative_mask)
    np.testing.assert_array_equal(got.pos_mask, CLASSES != C)
    assert got.positive_sum.tolist() == expected.positive_sum.tolist()


def test_the_judge_splits_them_alike(way):
    roles = reference.roles(TARGETS, **way)
    np.testing.assert_array_equal(roles.pos_mask, CLASSES != C)
    np.testing.assert_array_equal(roles.neg_mask, CLASSES == C)


def test_soft_scores_are_positives_where_any_is_above_zero(way):
    soft = TARGETS * 0.3
    soft[1, 4, :2] = 0.9  # several classes at once
    expected = CLASSES != C
    expected[1, 4] = True
    np.testing.assert_array_equal(sm.mine_hard_negatives(LOSS, soft, **way).pos_mask, expected)


@pytest.mark.parametrize("bad", [1.5, -0.25, np.nan])
def test_a_score_that_is_no_target_is_refused(way, bad):
    wrong = TARGETS.copy()
    wrong[1, 4, 2] = bad
    with pytest.raises(ValueError, match=r"labels: expected a target from 0 to 1 .* at \(sample 1, anchor 4\)"):
        sm.confidence_loss(LOSS, wrong, **way)
    valid = np.ones((B, A), bool)
    valid[1, 4] = False
    assert sm.confidence_loss(LOSS, wrong, **way, valid=valid).num_pos.sum() == (CLASSES != C).sum()


def test_all_zero_still_says_what_such_rows_are():
    mined = sm.mine_hard_negatives(LOSS, TARGETS, background=C, all_zero="ignore")
    assert mined.num_neg.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"labels: expected a target above 0 for a class, .* anchor 2"):
        sm.mine_hard_negatives(LOSS, TARGETS, background=C, all_zero="raise")


def test_zero_rows_beside_a_column_for_background_can_be_negatives():
    scores = np.eye(C + 1)[CLASSES]
    scores[:, 5] = 0
    classes = CLASSES.copy()
    classes[:, 5] = C
    got = sm.mine_hard_negatives(LOSS, scores, background=-1, all_zero="negative")
    np.testing.assert_array_equal(got.pos_mask, classes != C)
    np.testing.assert_array_equal(reference.roles(scores, background=-1, all_zero="negative").neg_mask, classes == C)


@pytest.mark.parametrize("kind", [sm.Sigmoid(), sm.Focal()], ids=["sigmoid", "focal"])
@pytest.mark.parametrize("rank_by", ["loss", "background", "foreground_max"])
def test_the_whole_loss_is_that_of_class_numbers(way, kind, rank_by):
    boxes = RNG.normal(size=(2, B, A, 4))
    call = {"classification": kind, "rank_by": rank_by, "with_gradients": True}
    got = sm.multibox_loss(LOGITS, TARGETS, *boxes, **way, **call)
    expected = sm.multibox_loss(LOGITS, CLASSES, *boxes, background=C, **call)
    assert got.loss == pytest.approx(expected.loss)
    assert got.num_kept.tolist() == expected.num_kept.tolist()
    np.testing.assert_allclose(got.logits_gradient, expected.logits_gradient, atol=1e-15)
    mined = sm.mine_logits(LOGITS, TARGETS, classification=kind, rank_by=rank_by, **way)
    np.testing.assert_array_equal(mined.pos_mask, CLASSES != C)
    transposed = sm.multibox_loss(
        LOGITS.swapaxes(1, 2), TARGETS.swapaxes(1, 2), class_axis=1, **way, **call | {"with_gradients": False}
    )
    assert transposed.conf_loss == pytest.approx(got.conf_loss)


@pytest.mark.parametrize("of", [sm.sigmoid_cross_entropy, sm.focal_loss])
def test_the_losses_of_sigmoids_take_them(of):
    expected = of(LOGITS, CLASSES, background=C)
    np.testing.assert_allclose(of(LOGITS, TARGETS, background=C), expected, rtol=1e-12)


def test_a_softmax_needs_a_logit_for_background(way):
    hint = "a softmax needs a logit for background; a Sigmoid does not"
    for call in (sm.multibox_loss, sm.mine_logits):
        with pytest.raises(ValueError, match=f"background: expected a class of logits, -5 to 4, got 5; {hint}"):
            call(LOGITS, TARGETS, **way)
    with pytest.raises(ValueError, match=hint):
        sm.softmax_cross_entropy(LOGITS, TARGETS, background=C)


def test_an_analysis_and_hard_examples_take_them(way):
    analysis = sm.LossAnalysis(classification=sm.Sigmoid(), **way)
    analysis.update(LOGITS, TARGETS)
    result = analysis.result()
    expected = sm.LossAnalysis(classification=sm.Sigmoid(), background=C)
    expected.update(LOGITS, CLASSES.astype(np.uint8))
    assert (result.num_pos, result.num_kept) == (expected.result().num_pos, expected.result().num_kept)
    assert result.classes.lists() == expected.result().classes.lists()
    assert result.hazards == ()
    call = {"background": C, "neg_pos_ratio": 1, "num_hard": A}
    got, by_number = (sm.ohem(LOSS, labels=labels, **call).mask for labels in (TARGETS, CLASSES))
    np.testing.assert_array_equal(got, by_number)


def test_ragged_batches_take_them(way):
    offsets = [0, 100, 100, B * A]
    got = sm.mine_hard_negatives(LOSS.ravel(), TARGETS.reshape(-1, C), sample_offsets=offsets, **way)
    np.testing.assert_array_equal(got.pos_mask, CLASSES.ravel() != C)


@pytest.mark.extra("dask")
def test_dask_arrays_take_them(way):
    import dask.array as da

    values, labels = da.from_array(LOGITS, chunks=(2, A, C)), da.from_array(TARGETS, chunks=(1, A, C))
    mined = sm_dask.mine_hard_negatives(values, labels, classification=sm.Sigmoid(), **way)
    np.testing.assert_array_equal(mined.pos_mask.compute(scheduler="sync"), CLASSES != C)


# --- the trap: such labels without a word about background


def test_zero_rows_that_become_positives_are_named():
    counted = f"make {(CLASSES == C).sum()} of the {B * A} anchors positives; .*background=C"
    with pytest.warns(sm.HazardWarning, match=f"all-zero rows of labels {counted}") as caught:
        sm.multibox_loss(LOGITS, TARGETS, classification=sm.Sigmoid())
    assert [w.filename for w in caught] == [__file__]
    analysis = sm.LossAnalysis()
    for sample in range(B):
        analysis.update(LOSS[sample : sample + 1], TARGETS[sample : sample + 1])
    with pytest.warns(sm.HazardWarning, match=counted):
        hazards = analysis.result().hazards
    assert len(hazards) == 1
    assert analysis.result().hazards == hazards  # the second time without a warning
    again = sm.LossAnalysis.from_state(analysis.to_state())
    with pytest.warns(sm.HazardWarning, match=counted):
        assert again.result().hazards == hazards


def test_a_few_zero_rows_are_not_named():
    scores = np.eye(C + 1)[CLASSES]
    scores[:, 5] = 0
    assert sm.confidence_loss(LOSS, scores).num_pos.sum() == (CLASSES != C).sum() + B


def test_rows_that_do_not_count_are_not_named():
    assert sm.confidence_loss(LOSS, TARGETS, valid=CLASSES != C).num_pos.sum() == (CLASSES < C - 1).sum()
