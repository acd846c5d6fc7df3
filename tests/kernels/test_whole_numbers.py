"""A product that all but is a whole number is that number, wherever a float times a count is rounded."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ssd_mining as sm
from ssd_mining.kernels import rules
from ssd_mining.reference import mining as judge

COUNTS = st.integers(0, 1_000_000)


def expected_of(factor, count, *, round_up):
    product = factor * count  # exact
    return -(-product.numerator // product.denominator) if round_up else product.numerator // product.denominator


@given(st.integers(1, 9999), st.sampled_from([10, 100, 1000]), COUNTS, st.booleans())
def test_a_decimal_means_the_number_that_was_written(digits, unit, count, round_up):
    expected = expected_of(Fraction(digits, unit), count, round_up=round_up)
    assert rules.whole_number(digits / unit, count, round_up) == expected
    assert judge.whole_number(digits / unit * count, "ceil" if round_up else "floor") == expected


@given(st.integers(1, 999), COUNTS, st.booleans())
def test_a_positive_fraction_becomes_the_ratio_that_it_means(thousandths, count, round_up):
    f, exact = thousandths / 1000, Fraction(thousandths, 1000)
    expected = expected_of((1 - exact) / exact, count, round_up=round_up)
    assert rules.whole_number((1 - f) / f, count, round_up) == expected
    assert judge.whole_number((1 - f) / f * count, "ceil" if round_up else "floor") == expected


@given(st.floats(0, 1e300), st.integers(0, 2**40), st.booleans())
def test_the_rule_is_that_of_the_reference(factor, count, round_up):
    got = rules.whole_number(factor, count, round_up)
    assert got == min(judge.whole_number(factor * count, "ceil" if round_up else "floor"), rules.MOST)


@pytest.mark.parametrize(("ratio", "down", "up"), [(3 - 1e-12, 2, 3), (3 + 1e-12, 3, 4), (3 - 1e-14, 3, 3)])
def test_only_the_last_digits_are_forgiven(ratio, down, up):
    assert (rules.whole_number(ratio, 1, False), rules.whole_number(ratio, 1, True)) == (down, up)
    assert (judge.whole_number(ratio, "floor"), judge.whole_number(ratio, "ceil")) == (down, up)


def labelled(num_pos):
    labels = np.zeros((1, 2000), np.uint8)
    labels[0, :num_pos] = 1
    return np.linspace(2, 1, 2000, dtype=np.float32)[None], labels


# ratio, positives, rounding, kept negatives
QUOTAS = [
    (0.29, 100, "floor", 29),
    (0.57, 100, "floor", 57),
    (0.7 / 0.3, 27, "ceil", 63),
    (1 / 0.7 - 1, 7, "ceil", 3),
]


@pytest.mark.parametrize(("ratio", "num_pos", "rounding", "expected"), QUOTAS)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("scope", ["sample", "batch", "batch_of_sample_quotas", "smallest_sample_quota"])
def test_every_way_to_a_quota_keeps_what_was_meant(ratio, num_pos, rounding, expected, backend, scope):
    call = {"background": 0, "neg_pos_ratio": ratio, "rounding": rounding, "backend": backend, "scope": scope}
    assert sm.confidence_loss(*labelled(num_pos), **call).num_kept.tolist() == [expected]


@pytest.mark.parametrize(("ratio", "num_pos", "rounding", "expected"), QUOTAS)
def test_the_quota_alone_and_an_analysis_agree(ratio, num_pos, rounding, expected):
    how = {"rounding": rounding, "background": 0}
    assert sm.negative_quota(num_pos, 2000, neg_pos_ratio=ratio, rounding=rounding) == expected
    sweep = sm.ratio_sweep(*labelled(num_pos), ratios=[ratio, 1], **how)
    assert sweep.num_kept[0].tolist() == [expected]
    analysis = sm.LossAnalysis(ratios=[ratio], neg_pos_ratio=ratio, **how)
    analysis.update(*labelled(num_pos))
    assert (analysis.result().num_kept, analysis.result().ratio_sweep.num_kept.tolist()) == (expected, [expected])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("rounding", "share", "expected"), [("floor", 0.29, 58), ("ceil", 0.07, 14)])
def test_a_share_of_the_anchors_is_what_was_meant(backend, rounding, share, expected):
    losses, call = np.ones((1, 200)), {"background": 0, "min_negatives": share, "rounding": rounding}
    kept = sm.confidence_loss(losses, np.zeros((1, 200), int), **call, backend=backend).num_kept
    assert kept.tolist() == [expected]
    assert sm.negative_quota(0, 200, min_negatives=share, rounding=rounding) == expected


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_pool_is_as_large_as_was_meant(backend):
    losses, labels = labelled(100)
    kept = set()
    for seed in range(20):  # 100 kept of the 115 hardest, 1.15 * 100 = 114.99999999999999
        call = {"neg_pos_ratio": 1, "pool_size": 1.15, "rng": seed, "backend": backend, "background": 0}
        kept |= set(sm.hard_negative_mask(losses, labels, **call).nonzero()[1].tolist())
    assert kept == set(range(100, 215))


def test_the_ratio_of_hard_examples_is_what_was_meant():
    labels = np.zeros((1, 200), int)
    labels[0, :100] = 1
    loss = np.where(labels, 2.0, 1.0)
    kept = sm.ohem(loss, num_hard=200, labels=labels, background=0, neg_pos_ratio=0.29)
    assert kept.num_kept.tolist() == [129]


def test_a_quantile_is_the_loss_that_was_meant():
    analysis = sm.LossAnalysis(background=0, min_negatives=100, ratios=[])
    analysis.update(2.0 ** np.arange(100)[None], np.zeros((1, 100), np.int8))
    losses = analysis.result().distributions["kept"]
    assert 0.07 * 100 > 7
    assert losses.quantile(0.07) == pytest.approx(2.0**6, rel=0.004)
