"""Laws of the rules that mine more than one sample, or more than once."""

import itertools

import numpy as np
import pytest

import ssd_mining as sm

RNG = np.random.default_rng(11)
LOSS = (RNG.integers(0, 40, (6, 90)) / 8).astype(np.float32)
POS = RNG.random(LOSS.shape) < np.array([0, 0.02, 0.05, 0.1, 0, 0.3])[:, None]


def mask(**keywords):
    return sm.hard_negative_mask(LOSS, POS, **keywords)


def test_a_batch_that_is_mined_as_one_is_one_long_sample():
    got = mask(scope="batch")
    expected = sm.hard_negative_mask(LOSS.reshape(1, -1), POS.reshape(1, -1))
    np.testing.assert_array_equal(got.reshape(1, -1), expected)
    res = sm.mine_hard_negatives(LOSS, POS, scope="batch")
    np.testing.assert_array_equal(res.num_kept, got.sum(axis=1))
    np.testing.assert_array_equal(res.num_neg, (~POS).sum(axis=1))
    assert res.num_kept[0] > 0  # a sample without positives lends its negatives
    sums = [float(row[kept].sum(dtype=np.float64)) for row, kept in zip(LOSS, got, strict=True)]
    np.testing.assert_allclose(res.negative_sum, sums, rtol=1e-12)


def test_a_batch_of_sample_quotas_keeps_as_many_as_its_samples_together():
    together = mask(scope="batch_of_sample_quotas")
    assert together.sum() == mask().sum() < mask(scope="batch").sum()  # one sample has too few negatives of its own


def test_the_smallest_quota_of_samples_with_positives_is_that_of_all():
    quotas = sm.mine_hard_negatives(LOSS, POS).num_kept
    res = sm.mine_hard_negatives(LOSS, POS, scope="smallest_sample_quota")
    assert set(res.num_kept) == {quotas[POS.any(axis=1)].min()}
    nothing = np.zeros_like(POS)
    res = sm.mine_hard_negatives(
        LOSS, nothing, scope="smallest_sample_quota", min_negatives=7, min_negatives_when="no_positives"
    )
    assert set(res.num_kept) == {7}


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_skipping_the_hardest_keeps_the_next_ones(scope):
    wider = mask(scope=scope, num_negatives=14)
    skipped = mask(scope=scope, num_negatives=4)
    got = mask(scope=scope, num_negatives=10, skip_hardest=4)
    np.testing.assert_array_equal(got, wider & ~skipped)
    res = sm.mine_hard_negatives(LOSS, POS, num_negatives=10, skip_hardest=1000)
    assert res.num_kept.sum() == 0
    np.testing.assert_array_equal(res.num_neg, (~POS).sum(axis=1))


def test_ties_at_the_cut_are_kept_by_index_dropped_or_kept_all():
    res = sm.mine_hard_negatives(LOSS, POS, num_negatives=20)
    threshold = res.threshold[:, None]
    np.testing.assert_array_equal(mask(num_negatives=20, tie_policy="strict"), ~POS & (threshold < LOSS))
    np.testing.assert_array_equal(mask(num_negatives=20, tie_policy="all"), ~POS & (threshold <= LOSS))


def test_an_omitted_anchor_is_no_tie():
    keywords = {"num_negatives": 1, "tie_policy": "all", "nan_policy": "omit"}
    for loss, rank in (([1.0, np.nan, 1, 1], [5.0, 5, 5, 0]), ([1.0, 1, 1, 1], [0, np.nan, 0, -1])):
        got = sm.hard_negative_mask([loss], np.zeros((1, 4), bool), rank_by=[rank], **keywords)
        assert got.tolist() == [[True, False, True, False]]


def test_a_pool_is_drawn_from_by_its_seed():
    keywords = {"num_negatives": 10, "pool_size": 3}
    first, again, other = (mask(rng=seed, **keywords) for seed in (1, np.random.default_rng(1), 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first.sum(axis=1) == 10).all()
    assert not (first & ~mask(num_negatives=30)).any()
    drawn = sum(mask(rng=seed, **keywords).astype(int) for seed in range(100))
    chances = drawn[mask(num_negatives=30)] / 100
    assert 0.15 < chances.min() < chances.max() < 0.5  # each of the pool has a third


def test_a_pool_of_the_quota_itself_is_the_quota():
    np.testing.assert_array_equal(mask(pool_size=1.0, rng=0), mask())


def test_overlaps_take_negatives_away_and_no_positives():
    overlaps = RNG.random(LOSS.shape)
    got = sm.mine_hard_negatives(LOSS, POS, overlaps=overlaps, neg_overlap=0.3)
    expected = sm.mine_hard_negatives(LOSS, POS, valid=POS | (overlaps < 0.3))
    np.testing.assert_array_equal(got.hard_negative_mask, expected.hard_negative_mask)
    np.testing.assert_array_equal(got.num_pos, POS.sum(axis=1))
    np.testing.assert_array_equal(got.num_neg, (~POS & (overlaps < 0.3)).sum(axis=1))


def test_weights_multiply_the_losses_and_0_silences_nan():
    weights = RNG.integers(0, 3, LOSS.shape).astype(np.float32)
    loss = np.where(weights == 0, np.nan, LOSS).astype(np.float32)
    got = sm.mine_hard_negatives(loss, POS, anchor_weights=weights)
    expected = sm.mine_hard_negatives(np.where(weights == 0, 0, LOSS * weights), POS)
    np.testing.assert_array_equal(got.hard_negative_mask, expected.hard_negative_mask)
    np.testing.assert_array_equal(got.negative_sum, expected.negative_sum)
    np.testing.assert_array_equal(got.num_neg, expected.num_neg)


def test_a_ragged_batch_is_its_samples_one_by_one():
    offsets = np.array([0, 0, 40, 41, 300, 540])
    keywords = {"nan_policy": "omit"}
    loss, pos = LOSS.reshape(-1), POS.reshape(-1)
    res = sm.mine_hard_negatives(loss, pos, sample_offsets=offsets, **keywords)
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
        alone = sm.mine_hard_negatives(loss[None, start:stop], pos[None, start:stop], **keywords)
        np.testing.assert_array_equal(res.hard_negative_mask[start:stop], alone.hard_negative_mask[0])
        for name in ("num_pos", "num_neg", "num_kept", "positive_sum", "negative_sum", "threshold"):
            np.testing.assert_array_equal(getattr(res, name)[i], getattr(alone, name)[0], err_msg=name)


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
def test_fractional_ratios_round_as_asked(rounding):
    expected = getattr(np, rounding)(0.7 * POS.sum(axis=1))
    np.testing.assert_array_equal(mask(neg_pos_ratio=0.7, rounding=rounding).sum(axis=1), expected)


def test_extra_negatives_come_on_top_for_every_sample_of_a_batch():
    per_sample = sm.mine_hard_negatives(LOSS, POS, extra_negatives=2, neg_pos_ratio=1).num_kept
    np.testing.assert_array_equal(per_sample, POS.sum(axis=1) + 2)
    assert mask(scope="batch", extra_negatives=2, neg_pos_ratio=1).sum() == POS.sum() + 12


def test_a_minimum_below_1_is_a_share_of_the_anchors():
    res = sm.mine_hard_negatives(LOSS, POS, min_negatives=0.1, min_negatives_when="no_positives")
    num_pos = POS.sum(axis=1)
    np.testing.assert_array_equal(res.num_kept[:5], np.where(num_pos == 0, 9, 3 * num_pos)[:5])
    assert (num_pos[:5] == 0).any()


@pytest.mark.parametrize("scope", ["batch_of_sample_quotas", "smallest_sample_quota"])
def test_a_sample_of_positives_alone_has_no_quota(scope):
    pos = np.zeros((2, 50), np.bool_)
    pos[0] = True
    least = {"min_negatives": 7, "min_negatives_when": "no_positives"}
    res = sm.mine_hard_negatives(np.ones((2, 50)), pos, scope=scope, **least)
    assert res.num_kept.tolist() == [0, 7]


@pytest.mark.parametrize("num_pos", [1, 4])
def test_a_sample_of_one_negative_has_the_smallest_quota(num_pos):
    pos = np.arange(60) < [[59], [num_pos]]
    res = sm.mine_hard_negatives(np.ones((2, 60)), pos, scope="smallest_sample_quota")
    assert res.num_kept.tolist() == [1, 1]
    pos = np.arange(60) < [[1], [30]]
    res = sm.mine_hard_negatives(np.ones((2, 60)), pos, scope="smallest_sample_quota")
    assert res.num_kept.tolist() == [3, 3]


def test_a_share_is_rounded_like_the_quota():
    res = sm.mine_hard_negatives(np.ones((1, 101)), np.zeros((1, 101), bool), min_negatives=0.01, rounding="ceil")
    assert res.num_kept.tolist() == [2]


def test_a_share_that_all_samples_have_in_common_is_one_of_the_longest():
    loss, nothing = np.ones(40), np.zeros(40, np.bool_)
    keywords = {"scope": "smallest_sample_quota", "min_negatives": 0.1}
    res = sm.mine_hard_negatives(loss, nothing, sample_offsets=[0, 10, 40], **keywords)
    assert res.num_kept.tolist() == [3, 3]


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_nan_ties_with_nan_but_a_quota_of_0_keeps_none(scope):
    losses = [[np.nan, 1.0, np.nan, 2.0], [1.0, np.nan, np.nan, np.nan]]
    keywords = {"nan_policy": "propagate", "tie_policy": "all", "scope": scope, "neg_pos_ratio": 1}
    got = sm.hard_negative_mask(losses, [[False] * 4, [True, False, False, False]], **keywords)
    of_both = [[True, False, True, False], [False, True, True, True]]
    assert got.tolist() == (of_both if scope == "batch" else [[False] * 4, of_both[1]])
    assert not sm.hard_negative_mask(losses, np.zeros((2, 4), bool), **keywords).any()
