"""MONAI and nnDetection draw from a pool: one of the quota leaves nothing to chance, else membership holds."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.systems.cases import SAMPLERS, selection
from tests.support.systems.draws import KINDS, TIED, draw
from tests.support.systems.parts import cross_entropy
from tests.support.systems.per_sample import monai, monai_num_negatives

UNTIED = [kind for kind in KINDS if kind not in TIED]


def question(kind, number, pool_size):
    """Draw a batch, and return it with MONAI's quota and pool."""
    rng = np.random.default_rng([list(KINDS).index(kind), number])
    batch = draw(kind, rng)
    fraction, min_neg = float(rng.choice([0.5, 0.3, 0.25])), int(rng.integers(0, 4))
    num_pos = (batch.labels > 0).sum(axis=1)
    wanted = np.array([monai_num_negatives(int(p), fraction, min_neg) for p in num_pos])
    ratio = abs(1 - 1 / fraction)
    rule = {"neg_pos_ratio": ratio, "min_negatives": max(min_neg, int(ratio)), "pool_size": pool_size}
    return batch, wanted, monai(batch.logits, batch.labels, wanted, pool_size), rule


def keywords(name, rule, seed):
    return {**sm.recipes[name], **rule, "rng": seed, "normalize": "none"}


@pytest.mark.parametrize(("name", "fraction", "min_neg"), [("monai", 0.3, 16), ("nndetection", 0.33, 1)])
def test_the_recipes_ask_for_as_many_as_the_samplers(name, fraction, min_neg):
    rule = {key: sm.recipes[name][key] for key in ("neg_pos_ratio", "min_negatives")}
    for num_pos in range(200):
        expected = monai_num_negatives(num_pos, fraction, min_neg)
        assert sm.negative_quota(num_pos, 10_000, **rule) == expected


@pytest.mark.parametrize("kind", UNTIED)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_pool_of_the_quota_is_the_quota(name, kind):
    for number in range(35):
        batch, _, pool, rule = question(kind, number, 1)
        ours = keywords(name, rule, number)
        got = sm.multibox_loss(*batch.arrays, **ours)
        kept = (batch.labels > 0) | np.array(pool)
        total = cross_entropy(batch.logits, batch.labels)[kept].sum()
        np.testing.assert_allclose(got.conf_loss, total, rtol=1e-9, atol=1e-12)
        assert got.num_kept.tolist() == np.sum(pool, axis=1).tolist()
        ours = selection(ours)
        mask = sm.mine_logits(batch.logits, batch.labels, **ours).hard_negative_mask
        np.testing.assert_array_equal(mask, pool)


@pytest.mark.parametrize("kind", UNTIED)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_draw_stays_in_the_pool_and_fills_the_quota(name, kind):
    for number in range(35):
        batch, wanted, pool, rule = question(kind, number, 4)
        ours = keywords(name, rule, number)
        ours = selection(ours)
        mask = sm.mine_logits(batch.logits, batch.labels, **ours).hard_negative_mask
        assert not (mask & ~np.array(pool)).any()
        num_neg = (batch.labels == 0).sum(axis=1)
        assert mask.sum(axis=1).tolist() == np.minimum(wanted, num_neg).tolist()


@pytest.mark.parametrize("name", SAMPLERS)
def test_many_draws_reach_the_whole_pool_evenly(name):
    rng = np.random.default_rng(8)
    logits, labels = rng.normal(size=(1, 50, 3)), np.zeros((1, 50), np.int64)
    (pool,) = monai(logits, labels, np.array([5]), 4)
    ours = selection({**sm.recipes[name], "num_negatives": 5, "min_negatives": 0, "pool_size": 4})
    drawn = sum(
        sm.mine_logits(logits, labels, **{**ours, "rng": seed}).hard_negative_mask[0].astype(int)
        for seed in range(400)
    )
    assert pool.sum() == 20
    assert (drawn[~pool] == 0).all()
    assert (np.abs(drawn[pool] - 100) < 5 * np.sqrt(400 * 0.25 * 0.75)).all()  # five standard deviations
