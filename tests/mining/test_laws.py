"""The laws of mining, on every backend."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ssd_mining as sm
from tests.support.batches import LOSSES, losses

BACKENDS = ["cpu", "reference"]


def draw(kind, seed, shape=(3, 60)):
    rng = np.random.default_rng(seed)
    return losses(kind, shape, rng), rng.random(shape) < 0.1


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


drawn = given(st.sampled_from([k for k in LOSSES if k != "special"]), st.integers(0, 2**32))


@drawn
def test_a_batch_equals_its_samples_one_by_one(kind, seed):
    conf_loss, pos_mask = draw(kind, seed)
    whole = sm.mine_hard_negatives(conf_loss, pos_mask)
    for i in range(conf_loss.shape[0]):
        one = sm.mine_hard_negatives(conf_loss[i : i + 1], pos_mask[i : i + 1])
        np.testing.assert_array_equal(one.hard_negative_mask[0], whole.hard_negative_mask[i])
        for name, column in whole.to_dict().items():
            np.testing.assert_array_equal(one.to_dict()[name][0], column[i], err_msg=name)


@drawn
def test_permuting_the_samples_permutes_the_results(kind, seed):
    conf_loss, pos_mask = draw(kind, seed)
    order = np.random.default_rng(seed).permutation(conf_loss.shape[0])
    got = sm.mine_hard_negatives(conf_loss[order], pos_mask[order])
    expected = sm.mine_hard_negatives(conf_loss, pos_mask)
    np.testing.assert_array_equal(got.hard_negative_mask, expected.hard_negative_mask[order])


@given(st.integers(0, 2**32))
def test_permuting_the_anchors_permutes_the_mask_and_keeps_the_sum(seed):
    conf_loss, pos_mask = draw("gamma", seed)  # without ties: a tie goes to the lower index
    order = np.random.default_rng(seed).permutation(conf_loss.shape[1])
    got = sm.mine_hard_negatives(conf_loss[:, order], pos_mask[:, order])
    expected = sm.mine_hard_negatives(conf_loss, pos_mask)
    np.testing.assert_array_equal(got.hard_negative_mask, expected.hard_negative_mask[:, order])
    np.testing.assert_allclose(got.negative_sum, expected.negative_sum, rtol=1e-14)


@drawn
def test_a_larger_ratio_keeps_all_that_a_smaller_one_kept(kind, seed):
    conf_loss, pos_mask = draw(kind, seed)
    conf_loss = np.abs(conf_loss)
    smaller = None
    for ratio in (0, 0.5, 1, 2, 3, 10, 1e9):
        larger = sm.mine_hard_negatives(conf_loss, pos_mask, neg_pos_ratio=ratio)
        if smaller is not None:
            assert not (smaller.hard_negative_mask & ~larger.hard_negative_mask).any()
            assert (larger.negative_sum >= smaller.negative_sum).all()
        smaller = larger


@drawn
def test_ratio_0_keeps_the_positives_only(kind, seed):
    conf_loss, pos_mask = draw(kind, seed)
    out = sm.confidence_loss(conf_loss, pos_mask, neg_pos_ratio=0)
    assert not out.num_kept.any()
    np.testing.assert_array_equal(out.confidence_loss, out.positive_sum)


@drawn
def test_every_kept_negative_is_at_least_every_dropped_one(kind, seed):
    conf_loss, pos_mask = draw(kind, seed)
    res = sm.mine_hard_negatives(conf_loss, pos_mask)
    for i, threshold in enumerate(res.threshold):
        kept = conf_loss[i, res.hard_negative_mask[i]]
        dropped = conf_loss[i, ~res.hard_negative_mask[i] & ~pos_mask[i]]
        if kept.size:
            assert kept.min() == threshold
            assert dropped.size == 0 or dropped.max() <= threshold


@drawn
def test_background_anchors_of_loss_zero_change_nothing(kind, seed):
    conf_loss, pos_mask = draw(kind, seed)
    conf_loss = np.abs(conf_loss)
    more = np.zeros((conf_loss.shape[0], 40), np.float32)
    got = sm.confidence_loss(np.hstack([conf_loss, more]), np.hstack([pos_mask, more > 0]))
    expected = sm.confidence_loss(conf_loss, pos_mask)
    np.testing.assert_array_equal(got.confidence_loss, expected.confidence_loss)


@drawn
def test_scaling_by_a_power_of_two_is_exact(kind, seed):
    conf_loss, pos_mask = draw(kind, seed)
    got = sm.confidence_loss(conf_loss * np.float32(8), pos_mask)
    expected = sm.confidence_loss(conf_loss, pos_mask)
    np.testing.assert_array_equal(got.confidence_loss, expected.confidence_loss * 8)


def test_of_equal_losses_the_lower_anchor_indices_are_kept(backend):
    res = sm.mine_hard_negatives(np.ones((1, 9)), [[0, 0, 0, 0, 1, 0, 0, 0, 0]], background=0, backend=backend)
    assert np.flatnonzero(res.hard_negative_mask).tolist() == [0, 1, 2]


def test_minus_zero_ties_with_zero(backend):
    res = sm.mine_hard_negatives([[1.0, -0.0, 0.0, -0.0, 0.0]], [[1, 0, 0, 0, 0]], background=0, backend=backend)
    assert np.flatnonzero(res.hard_negative_mask).tolist() == [1, 2, 3]
    assert str(res.threshold[0]) == "0.0"


def test_infinities_are_ordinary_losses(backend):
    conf_loss = [[1.0, -np.inf, np.inf, 0.0, -np.inf]]
    out = sm.mine_hard_negatives(conf_loss, [[1, 0, 0, 0, 0]], background=0, backend=backend)
    assert np.flatnonzero(out.hard_negative_mask).tolist() == [1, 2, 3]
    assert out.threshold == [-np.inf]
    assert np.isnan(out.negative_sum)  # inf - inf
    one = sm.confidence_loss(conf_loss, [[1, 0, 0, 0, 0]], background=0, neg_pos_ratio=1, backend=backend)
    assert one.loss == np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_threshold_can_be_infinite(dtype, backend):
    conf_loss = np.full((1, 200), np.inf, dtype)
    res = sm.mine_hard_negatives(conf_loss, np.arange(200)[None] == 7, backend=backend)
    assert res.threshold == [np.inf]
    assert np.flatnonzero(res.hard_negative_mask).tolist() == [0, 1, 2]


def test_a_minus_infinite_negative_is_kept_and_an_ignored_anchor_is_not(backend):
    conf_loss = [[-np.inf, -np.inf, 1.0, -np.inf]]
    res = sm.mine_hard_negatives(conf_loss, [[-1, 1, 0, 0]], background=0, ignore_index=-1, backend=backend)
    assert res.hard_negative_mask.tolist() == [[False, False, True, True]]


def test_nan_raises_propagates_or_is_ignored(backend):
    conf_loss = [[1.0, np.nan, 2.0, 3.0], [1.0, 0.5, 2.0, 3.0]]
    call = {"labels": [[1, 0, 0, 0]] * 2, "background": 0, "backend": backend}
    with pytest.raises(ValueError, match=r"conf_loss: expected no NaN .* got NaN at \(sample 0, anchor 1\)"):
        sm.confidence_loss(conf_loss, **call)
    spread = sm.mine_hard_negatives(conf_loss, **call, neg_pos_ratio=2, nan_policy="propagate")
    assert spread.hard_negative_mask.tolist() == [[False, True, False, True], [False, False, True, True]]
    assert np.isnan(spread.negative_sum).tolist() == [True, False]
    omitted = sm.mine_hard_negatives(conf_loss, **call, nan_policy="omit")
    assert omitted.num_neg.tolist() == [2, 3]
    assert omitted.negative_sum.tolist() == [5.0, 5.5]


def test_nan_among_the_ranks_counts_as_nan_among_the_losses(backend):
    call = {"conf_loss": [[1.0, 2.0, 3.0, 4.0]], "labels": [[1, 0, 0, 0]], "background": 0, "backend": backend}
    rank_by = [[0.0, np.nan, 1.0, 2.0]]
    with pytest.raises(ValueError, match=r"rank_by: expected no NaN .* got NaN at \(sample 0, anchor 1\)"):
        sm.confidence_loss(**call, rank_by=rank_by)
    assert sm.confidence_loss(**call, rank_by=rank_by, nan_policy="omit").negative_sum == [7.0]
    hardest = sm.confidence_loss(**call, rank_by=rank_by, nan_policy="propagate", neg_pos_ratio=1)
    assert hardest.negative_sum == [2.0]  # NaN ranks hardest; its loss is a number


def test_nan_of_an_ignored_anchor_never_matters(backend):
    out = sm.confidence_loss(
        [[1.0, np.nan, 2.0]], [[1, 0, 0]], background=0, valid=[[True, False, True]], backend=backend
    )
    assert out.loss == 3.0


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_an_empty_batch_and_zero_anchors_have_the_loss_zero(shape, backend):
    res = sm.mine_hard_negatives(np.ones(shape), np.zeros(shape, np.int64), background=0, backend=backend)
    assert res.hard_negative_mask.shape == shape
    assert res.num_kept.shape == shape[:1]
    assert res.indices()[1].size == 0
    out = sm.confidence_loss(np.ones(shape), np.zeros(shape, np.int64), background=0, backend=backend)
    assert out.loss == 0.0
    assert out.confidence_loss.shape == shape[:1]


def test_with_one_class_every_anchor_is_a_negative(backend):
    res = sm.mine_hard_negatives([[1.0, 2.0]], np.ones((1, 2, 1)), min_negatives=1, backend=backend)
    assert res.num_neg == [2]
    assert res.hard_negative_mask.tolist() == [[False, True]]


def test_without_positives_nothing_is_kept_unless_min_negatives_says_so(backend):
    call = {"conf_loss": [[1.0, 2.0, 3.0]], "labels": [[0, 0, 0]], "background": 0, "backend": backend}
    assert sm.confidence_loss(**call).loss == 0.0
    assert sm.confidence_loss(**call, min_negatives=2).loss == 5.0
    assert sm.confidence_loss(**call, min_negatives=2, min_negatives_when="no_positives").loss == 5.0


def test_a_huge_ratio_saturates_at_all_negatives(backend):
    out = sm.confidence_loss([[1.0, 2.0, 3.0]], [[1, 0, 0]], background=0, neg_pos_ratio=1e308, backend=backend)
    assert out.num_kept == [2]
    most = sm.confidence_loss([[1.0, 2.0, 3.0]], [[1, 0, 0]], background=0, num_negatives=2**62, backend=backend)
    assert most.num_kept == [2]
    lowest = sm.confidence_loss([[1.0, 2.0, 3.0]], [[1, 0, 0]], background=0, min_negatives=2**70, backend=backend)
    assert lowest.num_kept == [2]


def test_a_fractional_quota_is_the_number_that_was_meant(backend):
    pos = np.arange(200) < 100
    out = sm.confidence_loss(np.ones((1, 200)), pos[None], neg_pos_ratio=0.29, backend=backend)
    assert out.num_kept == [29]  # although 0.29 * 100 is 28.999999999999996 in float64
