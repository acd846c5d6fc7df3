"""What the whole loss and mining from logits mean at the edges, and what they leave alone."""

import dataclasses

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.losses import NORMALIZE
from tests.support.layouts import LAYOUTS
from tests.support.multibox import CLASSIFICATIONS, NUM_CLASSES, Call, draw

ZERO_POSITIVES = ("clamp", "zero", "nan", "raise")
LOG2 = np.log(2)


def test_by_hand():
    # Two classes of equal logits cost log 2 each; one positive, a quota of three, four negatives.
    out = sm.multibox_loss(
        np.zeros((1, 5, 2)),
        [[1, 0, 0, 0, 0]],
        [[[0.5, 2, 0, 0]] + [[9.0] * 4] * 4],
        np.zeros((1, 5, 4)),
        background=0,
        loc_weight=2,
        beta=0.5,
        loc_normalize="batch",
        normalize="selected",
        with_gradients=True,
    )
    np.testing.assert_allclose(out.positive_sum, [LOG2])
    np.testing.assert_allclose(out.negative_sum, [3 * LOG2])
    np.testing.assert_allclose(out.confidence_loss, [4 * LOG2])
    assert out.loc_sum.tolist() == [0.25 + 1.75]
    np.testing.assert_allclose(out.conf_loss, LOG2)
    assert out.loc_loss == 2
    np.testing.assert_allclose(out.loss, LOG2 + 4)
    signs = [[1, -1], [-1, 1], [-1, 1], [-1, 1], [0, 0]]  # of equal losses, the last one is not kept
    assert (8 * out.logits_gradient[0]).tolist() == signs
    assert out.loc_gradient[0].tolist() == [[2, 2, 0, 0]] + [[0] * 4] * 4
    assert (out.num_pos.tolist(), out.num_neg.tolist(), out.num_kept.tolist()) == ([1], [4], [3])


@pytest.mark.parametrize("zero_positives", ZERO_POSITIVES)
@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("is_ragged", [False, True])
def test_an_empty_batch_has_the_loss_0_and_empty_gradients(normalize, zero_positives, is_ragged):
    shape = (0,) if is_ragged else (0, 5)
    keywords = {"sample_offsets": [0]} if is_ragged else {}
    out = sm.multibox_loss(
        np.zeros((*shape, 3)),
        np.zeros(shape, int),
        np.zeros((*shape, 4)),
        np.zeros((*shape, 4)),
        background=0,
        normalize=normalize,
        zero_positives=zero_positives,
        with_gradients=True,
        **keywords,
    )
    assert (out.loss, out.conf_loss, out.loc_loss) == (0, 0, 0)
    assert out.logits_gradient.shape == (*shape, 3)
    assert out.loc_gradient.shape == (*shape, 4)
    assert out.confidence_loss.shape == out.loc_sum.shape == (0,)


@pytest.mark.parametrize("scope", ["sample", "batch", "batch_of_sample_quotas", "smallest_sample_quota"])
@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (3, 0)])
def test_samples_without_anchors_keep_none(shape, scope):
    got = sm.mine_logits(np.zeros((*shape, 3)), np.zeros(shape, int), background=0, scope=scope, min_negatives=2)
    assert got.num_kept.tolist() == [0] * shape[0]
    assert got.hard_negative_mask.shape == shape
    out = sm.multibox_loss(
        np.zeros((*shape, 3)), np.zeros(shape, int), background=0, scope=scope, with_gradients=True
    )
    assert out.loss == 0
    assert out.logits_gradient.shape == (*shape, 3)


@pytest.mark.parametrize("rank_by", ["loss", "background", "foreground_max", "foreground_sum"])
def test_one_class_is_background_and_its_softmax_costs_nothing(rank_by):
    out = sm.multibox_loss(
        np.arange(6.0).reshape(2, 3, 1),
        np.zeros((2, 3), int),
        background=-1,
        min_negatives=2,
        rank_by=rank_by,
        with_gradients=True,
    )
    assert out.loss == 0
    assert out.num_kept.tolist() == [2, 2]
    assert (out.logits_gradient == 0).all()


def test_one_class_and_a_background_without_a_column_is_a_yes_or_no_question():
    x = np.array([[[0.5], [-1.0], [2.0], [0.0]]])
    out = sm.multibox_loss(
        x, [[0, 1, 1, 1]], background=1, classification=sm.Sigmoid(), rank_by="foreground_max", neg_pos_ratio=2
    )
    softplus = np.log1p(np.exp(x[0, :, 0] * [-1, 1, 1, 1]))
    np.testing.assert_allclose(out.loss, softplus[[0, 2, 3]].sum(), rtol=1e-14)


@pytest.mark.parametrize("how", ["valid", "ignore_index", "weights"])
def test_a_batch_that_is_ignored_as_a_whole_costs_nothing(how):
    call = draw(1, positives=(2, 1), with_gradients=True)
    call.logits[:] = np.nan
    if how == "valid":
        call.keywords["valid"] = np.zeros((2, 14), bool)
        call.labels[:] = 99  # is not looked at either
    elif how == "ignore_index":
        call.keywords["ignore_index"] = 7
        call.labels[:] = 7
    else:
        call.keywords["anchor_weights"] = np.zeros((2, 14))
    out = call.loss()
    assert out.conf_loss == 0
    assert (out.logits_gradient == 0).all()
    if how != "weights":
        assert out.loss == 0
        assert out.num_neg.tolist() == [0, 0]
        assert (out.loc_gradient == 0).all()


def test_what_is_not_valid_is_not_looked_at():
    call = draw(2, with_gradients=True)
    call.keywords["valid"] = valid = np.random.default_rng(0).random((3, 14)) < 0.7
    expected = call.loss()
    call.logits[~valid], call.labels[~valid] = np.nan, -5
    call.loc_pred[~valid] = np.nan
    got = call.loss()
    assert got.loss == expected.loss
    for name in ("logits_gradient", "loc_gradient"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
    scores = np.where(valid[..., None], np.eye(NUM_CLASSES)[np.where(valid, call.labels, 0)], 7.0)
    one_hot = sm.multibox_loss(call.logits, scores, call.loc_pred, call.loc_target, **call.keywords)
    assert one_hot.loss == expected.loss
    ragged = Call(*(array.reshape(42, *array.shape[2:]) for array in call.arrays), call.keywords)
    assert ragged.loss(sample_offsets=[0, 14, 28, 42], valid=valid.reshape(-1)).loss == expected.loss


def test_locations_of_negatives_are_not_looked_at_and_nan_of_a_positive_is_nan():
    call = draw(3, nan_policy="omit", with_gradients=True)
    expected = call.loss()
    call.loc_pred[call.labels == 0] = np.nan
    call.loc_target[call.labels == 0] = np.inf
    assert call.loss().loss == expected.loss
    sample, anchor = np.argwhere(call.labels > 0)[0]
    call.loc_pred[sample, anchor, 2] = np.nan
    got = call.loss()
    assert np.isnan(got.loss)
    assert got.conf_loss == expected.conf_loss
    assert np.isnan(got.loc_sum).tolist() == [i == sample for i in range(3)]
    assert np.argwhere(np.isnan(got.loc_gradient)).tolist() == [[sample, anchor, 2]]


def test_an_infinite_difference_costs_inf_and_has_the_slope_of_the_line():
    call = draw(4, with_gradients=True, loc_normalize="none", beta=0.5)
    sample, anchor = np.argwhere(call.labels > 0)[0]
    call.loc_pred[sample, anchor] = [np.inf, -np.inf, 1e308, 0]
    call.loc_target[sample, anchor] = [0, 0, -1e308, 0]
    out = call.loss()
    assert out.loss == np.inf
    assert out.loc_gradient[sample, anchor].tolist() == [1, -1, 1, 0]
    call.loc_target[sample, anchor, 0] = np.inf  # inf - inf
    assert np.isnan(call.loss().loss)


@pytest.mark.parametrize("policy", ["propagate", "omit"])
def test_nan_follows_its_policy(policy):
    call = draw(5, nan_policy=policy, normalize="sample_positives", with_gradients=True)
    clean = call.loss()
    negative = int(np.flatnonzero(call.labels[1] == 0)[0])
    call.logits[1, negative, 0] = np.nan
    got = call.loss()
    if policy == "omit":
        assert np.isfinite(got.loss)
        assert got.num_neg[1] == clean.num_neg[1] - 1
        assert np.isfinite(got.logits_gradient).all()
        return
    assert call.mined().hard_negative_mask[1, negative]  # NaN is the hardest
    assert np.isnan(got.confidence_loss).tolist() == [False, True, False]
    assert np.isnan(got.loss)
    assert np.argwhere(np.isnan(got.logits_gradient).any(axis=2)).tolist() == [[1, negative]]


def test_nan_of_the_rank_decides_the_order_and_nan_of_the_loss_the_sum():
    loss = [[1.0, np.nan, 2.0, 3.0]]
    mined = {"background": 0, "nan_policy": "propagate", "neg_pos_ratio": 1}
    by_rank = sm.mine_hard_negatives(loss, [[1, 0, 0, 0]], rank_by=[[0.0, 1.0, np.nan, 2.0]], **mined)
    assert by_rank.hard_negative_mask.tolist() == [[False, False, True, False]]
    assert by_rank.negative_sum.tolist() == [2.0]
    unlucky = sm.mine_hard_negatives(loss, [[1, 0, 0, 0]], rank_by=[[0.0, 9.0, 1.0, 2.0]], **mined)
    assert unlucky.hard_negative_mask.tolist() == [[False, True, False, False]]
    assert np.isnan(unlucky.negative_sum).tolist() == [True]
    mined["nan_policy"] = "omit"
    neither = sm.mine_hard_negatives(loss, [[1, 0, 0, 0]], rank_by=[[0.0, 9.0, np.nan, 2.0]], **mined)
    assert neither.num_neg.tolist() == [1]
    assert neither.hard_negative_mask.tolist() == [[False, False, False, True]]


@pytest.mark.parametrize("name", CLASSIFICATIONS)
def test_extreme_logits_leak_no_warning(name):
    spec = CLASSIFICATIONS[name]
    rng = np.random.default_rng(6)
    for values in ([np.inf, 0.0, 1.0], [-np.inf, 0.0, 1.0], [1e308, -1e308, 0.0], [-np.inf, np.inf, np.nan]):
        for dtype in ("float32", "float64"):
            with np.errstate(over="ignore"):
                logits = rng.choice(values, (2, 12, NUM_CLASSES)).astype(dtype)
            labels = rng.integers(0, 2, (2, 12))
            for normalize in ("batch", "sample_selected"):
                out = sm.multibox_loss(
                    logits,
                    labels,
                    background=0,
                    classification=spec,
                    nan_policy="propagate",
                    normalize=normalize,
                    anchor_weights=rng.choice([0, 1e300, 3], labels.shape),
                    with_gradients=True,
                )
                assert out.logits_gradient.dtype == dtype


def test_a_weight_multiplies_the_gradient_and_0_silences_even_nan():
    call = draw(7, with_gradients=True, normalize="none")
    weights = np.full((3, 14), 2.0)
    doubled = call.loss(anchor_weights=weights)
    expected = call.loss()
    np.testing.assert_allclose(doubled.logits_gradient, 2 * expected.logits_gradient, rtol=1e-15)
    np.testing.assert_array_equal(doubled.loc_gradient, expected.loc_gradient)  # the confidence alone is weighed
    assert doubled.loc_loss == expected.loc_loss
    weights[:] = 1
    weights[0, 3], call.logits[0, 3] = 0, np.nan
    silenced = call.loss(anchor_weights=weights)
    assert np.isfinite(silenced.loss)
    assert (silenced.logits_gradient[0, 3] == 0).all()
    nothing = draw(7, positives=(0, 2), min_negatives=2, zero_positives="nan", normalize="sample_positives")
    out = nothing.loss(anchor_weights=np.zeros((2, 14)), with_gradients=True)
    assert np.isnan(out.loss)
    assert (out.logits_gradient == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_and_nothing_is_written(layout):
    call = draw(8, with_gradients=True, nan_policy="omit", rank_by="background")
    call.keywords |= {"anchor_weights": np.full((3, 14), 0.5), "valid": np.arange(42).reshape(3, 14) % 5 > 0}
    call.logits[1, 2, 0] = np.nan
    expected = call.loss()
    given = dataclasses.replace(
        call,
        **{name: LAYOUTS[layout](getattr(call, name)) for name in ("logits", "labels", "loc_pred", "loc_target")},
    )
    given.keywords = call.keywords | {
        name: LAYOUTS[layout](call.keywords[name]) for name in ("anchor_weights", "valid")
    }
    before = [np.array(array) for array in (*given.arrays, given.keywords["anchor_weights"], given.keywords["valid"])]
    got = given.loss()
    assert got.loss == expected.loss
    for name in ("logits_gradient", "loc_gradient", "positive_sum", "negative_sum", "loc_sum", "num_kept"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
    given.mined()
    after = (*given.arrays, given.keywords["anchor_weights"], given.keywords["valid"])
    for ours, theirs in zip(before, after, strict=True):
        np.testing.assert_array_equal(ours, np.array(theirs))


def test_read_only_inputs_are_enough_and_the_gradients_are_the_callers_own():
    call = draw(9)
    for array in call.arrays:
        array.flags.writeable = False
    out = call.loss(with_gradients=True)
    out.logits_gradient[:] = 0
    out.loc_gradient[:] = 0
    assert not any(np.shares_memory(a, b) for a in (out.logits_gradient, out.loc_gradient) for b in call.arrays)


@pytest.mark.parametrize("dtype", ["bool", "int8", "float16", "float32"])
def test_one_hot_labels_of_every_type_are_the_integer_labels(dtype):
    call = draw(10, with_gradients=True)
    expected = call.loss()
    call.labels = np.eye(NUM_CLASSES)[call.labels].astype(dtype)
    got = call.loss()
    assert got.loss == expected.loss
    np.testing.assert_array_equal(got.logits_gradient, expected.logits_gradient)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "uint64", ">i4"])
def test_integer_labels_of_every_type_mean_the_same(dtype):
    call = draw(11, positives=(4, 2))
    expected = call.loss().loss
    call.labels = call.labels.astype(dtype)
    assert call.loss().loss == expected
    assert call.loss(background=np.int16(0), class_axis=np.int64(-1)).loss == expected


def test_scores_of_a_positive_have_no_background_and_an_all_zero_row_is_one():
    scores = np.array([[[0.0, 0.5, 0.5], [0.9, 0.1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]]])
    got = sm.mine_logits(np.zeros((1, 5, 3)), scores, background=0)
    assert got.pos_mask.tolist() == [[True, False, True, False, False]]
    ignored = sm.mine_logits(np.zeros((1, 5, 3)), scores, background=0, all_zero="ignore", neg_pos_ratio=9)
    assert ignored.pos_mask.tolist() == [[True, False, False, False, False]]
    assert ignored.hard_negative_mask.tolist() == [[False, True, False, True, True]]


def test_permuting_samples_permutes_the_parts_and_keeps_the_loss():
    call = draw(12, with_gradients=True, normalize="sample_selected")
    out, order = call.loss(), [2, 0, 1]
    moved = Call(*(array[order] for array in call.arrays), call.keywords).loss()
    np.testing.assert_allclose(moved.loss, out.loss, rtol=1e-15)
    for name in ("positive_sum", "negative_sum", "loc_sum", "num_kept", "logits_gradient", "loc_gradient"):
        np.testing.assert_array_equal(getattr(moved, name), getattr(out, name)[order])


def test_the_gradient_is_the_same_under_another_scale_of_the_loss():
    call = draw(13, with_gradients=True, normalize="none")
    out, halved = call.loss(), call.loss(normalize="batch", loc_weight=3)
    np.testing.assert_allclose(halved.logits_gradient * 3, out.logits_gradient, rtol=1e-15)
    np.testing.assert_allclose(halved.loc_gradient, out.loc_gradient, rtol=1e-15)


def test_results_are_frozen_and_their_columns_have_one_length():
    out = draw(14).loss()
    columns = out.to_dict()
    sums, counts = ("confidence_loss", "positive_sum", "negative_sum", "loc_sum"), ("num_pos", "num_neg", "num_kept")
    assert (*columns,) == sums + counts
    assert out.per_sample is out.confidence_loss
    assert {column.shape for column in columns.values()} == {(3,)}
    assert {name: str(column.dtype) for name, column in columns.items()} == {
        **dict.fromkeys(sums, "float64"),
        **dict.fromkeys(counts, "int64"),
    }
    assert isinstance(out.loss, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        out.loss = 0.0  # type: ignore[misc]


def test_a_spec_and_its_fields_as_keywords_mean_the_same():
    call = draw(15)
    spec = sm.Mining(background=-NUM_CLASSES, neg_pos_ratio=1.5, rounding="ceil", scope="batch", rank_by="background")
    fields = {"background": 0, "neg_pos_ratio": 1.5, "rounding": "ceil", "scope": "batch", "rank_by": "background"}
    assert sm.multibox_loss(*call.arrays, mining=spec).loss == sm.multibox_loss(*call.arrays, **fields).loss
    one, two = (sm.mine_logits(call.logits, call.labels, **k) for k in ({"mining": spec}, fields))
    np.testing.assert_array_equal(one.hard_negative_mask, two.hard_negative_mask)


def test_the_kept_ranks_outlive_the_callers_array():
    call = draw(16, rank_by="background")
    got = call.mined()
    before = got.indices()
    call.logits[:] = 0
    for ours, theirs in zip(got.indices(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(got.relabel(call.labels)[~(got.pos_mask | got.hard_negative_mask)], -1)
